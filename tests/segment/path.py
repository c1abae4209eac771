"""Two model hosts, engines between them, and a network that misbehaves."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

from segment.model import Engine, Faults, Tcp, World, cut

from tcpcrypt import _fast
from tcpcrypt.core.config import Config
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.segment.flow import Flow
from tcpcrypt.segment.memory import Memory
from tcpcrypt.segment.opening import Side
from tcpcrypt.wire.segment import Segment

CLIENT, SERVER = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
CLIENT6, SERVER6 = bytes(15) + b"\1", bytes(15) + b"\2"
Filter = Callable[[bool, bytes], list[bytes]]


@dataclasses.dataclass
class Setup:
    """How the path is; a host without an engine speaks plain TCP."""

    seed: int = 1
    family: int = 4
    wire: Faults = dataclasses.field(default_factory=Faults)
    inner: Faults = dataclasses.field(default_factory=lambda: Faults(delay=0.0001))
    forwards: bool = False
    crossed: bool = False
    """Both hosts open at once."""
    isn: tuple[int, int] = (1_000, 0xFFFFFF00)
    config: tuple[Config | None, Config | None] = (Config(), Config())
    caches: tuple[ResumptionCache | None, ResumptionCache | None] = (None, None)
    memory: int | None = None
    """Bytes that an engine's connections may keep."""


def make_lanes() -> _fast.Lanes | None:
    """As the run wants them; see conftest.py."""
    return None


class Path:
    """client - [engine] - wire - [engine] - server"""

    def __init__(self, setup: Setup | None = None, **of_hosts: object) -> None:
        self.setup = setup = setup or Setup()
        self.world = World(setup.seed)
        if setup.family == 6:
            of_hosts.setdefault("mss", 1440)
        one, other = (CLIENT, SERVER) if setup.family == 4 else (CLIENT6, SERVER6)
        there, back = (one, 4000, other, 80), (other, 80, one, 4000)
        self.client = Tcp(self.world, there, setup.isn[0], **of_hosts)  # type: ignore[arg-type]
        self.server = Tcp(self.world, back, setup.isn[1], **of_hosts)  # type: ignore[arg-type]
        self.wire: list[tuple[bool, bytes]] = []
        """Packets on the wire, and whether the client's."""
        self.meddle: Filter = lambda _from_client, packet: [packet]
        self.events: dict[bool, list[tuple[str, dict[str, object]]]] = {True: [], False: []}
        self.engines: dict[bool, Engine | None] = {}
        self.lanes = {mine: make_lanes() for mine in (True, False)}
        self.memories = {mine: Memory(setup.memory) for mine in (True, False)}
        for mine, lanes in self.lanes.items():
            if lanes is not None:
                lanes.memory.most = self.memories[mine].most
                self.memories[mine] = lanes.memory
        for mine, config, cache in zip((True, False), setup.config, setup.caches, strict=True):
            host = self.client if mine else self.server
            if config is None:
                self.engines[mine] = None
                host.output = lambda packet, mine=mine: self._on_wire(mine, packet)
                continue
            flow = Flow(
                there if mine else back,
                Side.INNER if mine or setup.crossed else Side.OUTER,
                config,
                resumption=cache,
                forwards=setup.forwards,
                lanes=self.lanes[mine],
                memory=self.memories[mine],
                report=lambda event, fields, mine=mine: self.events[mine].append((event, fields)),
                clock=self.world.clock,
            )
            engine = self.engines[mine] = Engine(
                self.world,
                flow,
                {
                    Side.INNER: lambda packet, host=host: self._transport(
                        setup.inner, packet, host.input
                    ),
                    Side.OUTER: lambda packet, mine=mine: self._on_wire(mine, packet),
                },
            )
            host.output = lambda packet, engine=engine: self._transport(
                setup.inner, packet, lambda got, engine=engine: engine.input(Side.INNER, got)
            )

    def _transport(self, faults: Faults, packet: bytes, to: Callable[[bytes], None]) -> None:
        random = self.world.random
        if random.random() < faults.lose:
            return
        for _ in range(2 if random.random() < faults.repeat else 1):
            late = faults.delay * (1 + 3 * random.random()) if random.random() < faults.swap else 0
            self.world.after(faults.delay + late, lambda: to(packet))

    def _on_wire(self, from_client: bool, packet: bytes) -> None:
        segment = Segment.parse(packet)
        assert segment.checksum_ok()
        host = self.client if from_client else self.server
        # Whoever has joined segments has told the interface how long they were.
        pieces = [packet] if host.joined == 1 else cut(packet, host._size())
        assert max(map(len, pieces)) <= 1500
        for each in itertools.chain(*(self.meddle(from_client, piece) for piece in pieces)):
            self.wire.append((from_client, each))
            self._transport(
                self.setup.wire, each, lambda got: self.arrive(from_client=from_client, packet=got)
            )

    def arrive(self, *, from_client: bool, packet: bytes) -> None:
        """Let `packet` come from the wire at the other host."""
        engine = self.engines[not from_client]
        if engine is None:
            (self.server if from_client else self.client).input(packet)
        else:
            engine.input(Side.OUTER, packet)

    def flow(self, of_client: bool) -> Flow:
        engine = self.engines[of_client]
        assert engine is not None
        return engine.flow

    def open(self) -> None:
        if self.setup.crossed:
            self.server.connect()
        else:
            self.server.listen()
        self.client.connect()
        self.world.run(60, lambda: self.client.state == self.server.state == "open")
        assert self.client.state == self.server.state == "open"

    def exchange(self, up: bytes, down: bytes, seconds: float = 600) -> None:
        """Both hosts send, and close when they have heard all."""
        self.open()
        self.client.write(up)
        self.server.write(down)
        self.client.close()
        self.server.close()
        self.world.run(seconds, lambda: self.client.peer_closed and self.server.peer_closed)
        assert bytes(self.server.received) == up
        assert bytes(self.client.received) == down
        assert self.client.peer_closed
        assert self.server.peer_closed

    def names(self, of_client: bool) -> list[str]:
        return [name for name, _ in self.events[of_client]]

    def in_clear(self) -> bytes:
        """All payload that was on the wire."""
        return b"".join(bytes(Segment.parse(packet).payload) for _, packet in self.wire)
