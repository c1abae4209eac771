"""What lanes are given and take back, and the queue that they take packets from."""

from __future__ import annotations

import errno
import gc
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from segment import path as paths
from segment.model import Engine
from segment.path import Path, Setup

from tcpcrypt import _fast
from tcpcrypt.core.config import Config
from tcpcrypt.segment.opening import Side
from tcpcrypt.wire.segment import Segment, TcpFlags

INNER_QUEUE, OUTER_QUEUE = 101, 102
OUTPUT, INPUT = 3, 1
NUMBER = struct.Struct("=HHIBx")


@pytest.fixture(autouse=True)
def twin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "make_lanes", _fast.make_lanes)


def queued(number: int, identifier: int, hook: int, packet: bytes) -> bytes:
    """A datagram of nfnetlink_queue."""

    def attribute(kind: int, value: bytes) -> bytes:
        return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)

    body = struct.pack("!BBH", 2, 0, number)
    body += attribute(1, struct.pack("!IHB", identifier, 0x0800, hook))
    body += attribute(10, packet)
    return struct.pack("=IHHII", 16 + len(body), 3 << 8, 0, 0, 0) + body


def verdicts(octets: bytes) -> list[tuple[int, int, int, bytes]]:
    """Queue, identifier, verdict and packet of each."""
    found = []
    assert _fast.check_verdicts(octets, {INNER_QUEUE, OUTER_QUEUE}) == ""
    while octets:
        (length,) = struct.unpack_from("=I", octets)
        (number,) = struct.unpack_from("!H", octets, 18)
        what, identifier = struct.unpack_from("!II", octets, 24)
        packet = b""
        if length > 32:
            (size,) = struct.unpack_from("=H", octets, 32)
            packet = octets[36 : 32 + size]
        found.append((number, identifier, what, packet))
        octets = octets[length:]
    return found


class Queue:
    """Lanes whose kernel is the test."""

    def __init__(self, lanes: _fast.Lanes) -> None:
        self.lanes = lanes
        self.kernel, self.mine = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.raw = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)  # it sends nothing to IP
        self.buffer = bytearray(1 << 17)
        for end in (self.kernel, self.mine):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            end.setblocking(False)
        raw = self.raw.fileno()
        lanes.serve(self.mine.fileno(), raw, raw, INNER_QUEUE, OUTER_QUEUE)

    def ask(
        self, datagram: bytes, before: bytearray | None = None
    ) -> tuple[int, list[tuple[int, int, int, bytes]]]:
        """What `receive` says of it, and the verdicts that left."""
        self.kernel.send(datagram)
        count, size = self.lanes.receive(self.buffer, 1, bytearray() if before is None else before)
        assert count == 1
        found = []
        while True:
            try:
                found += verdicts(self.kernel.recv(1 << 18))
            except BlockingIOError:
                return size, found

    def close(self) -> None:
        for sock in (self.kernel, self.mine, self.raw):
            sock.close()


class QueueEngine(Engine):
    """An engine that is shown packets by way of the queue first."""

    queue: Queue
    taken = 0

    def input(self, side: Side, packet: bytes) -> None:
        number, hook = ((INNER_QUEUE, OUTPUT), (OUTER_QUEUE, INPUT))[side]
        size, found = self.queue.ask(queued(number, 7, hook, packet))
        if size:
            assert not found
            assert self.queue.buffer[:size].endswith(packet + bytes(-len(packet) % 4))
            super().input(side, packet)
            return
        self.taken += 1
        [(queue, identifier, what, changed)] = found
        assert (queue, identifier) == (number, 7)
        assert what == (1 if changed else 0)
        if changed:
            self.outputs[side.other](changed)
        for _key, due in self.queue.lanes.take_armed():
            self.world.after(due - self.world.now, self._wake)


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(paths, "Engine", QueueEngine)
    made = Path(Setup(config=(Config(), Config())))
    for mine, engine in made.engines.items():
        assert isinstance(engine, QueueEngine)
        lanes = made.lanes[mine]
        assert lanes is not None
        engine.queue = Queue(lanes)
    yield made
    for engine in made.engines.values():
        assert isinstance(engine, QueueEngine)
        engine.queue.close()


def engine_of(path: Path, mine: bool) -> QueueEngine:
    engine = path.engines[mine]
    assert isinstance(engine, QueueEngine)
    return engine


def opened(path: Path) -> Queue:
    """A connection that is lent at both engines; the client's queue."""
    path.open()
    path.client.write(b"one")
    path.server.write(b"two")
    path.world.run(2)
    queue = engine_of(path, True).queue
    assert len(queue.lanes) == 1
    return queue


def of_client(path: Path, data: bytes) -> bytes:
    """The next segment of the client's, which gets no further."""
    found: list[bytes] = []
    output, path.client.output = path.client.output, found.append
    path.client.write(data)
    path.client.output = output
    return found[0]


def test_packets_of_a_queue_are_sealed_opened_and_decided(path: Path) -> None:
    up, down = bytes(range(256)) * 300, bytes(range(255, -1, -1)) * 200
    path.open()
    path.client.write(up)
    path.server.write(down)
    path.world.run(60)
    assert bytes(path.server.received) == up
    assert bytes(path.client.received) == down
    for mine in (True, False):
        engine = engine_of(path, mine)
        assert engine.taken > 60
        assert engine.queue.lanes.taken == engine.taken
    path.client.close()
    path.server.close()
    path.world.run(60)
    assert path.client.peer_closed
    assert path.server.peer_closed
    assert path.flow(True).over


def test_what_was_decided_before_leaves_before(path: Path) -> None:
    queue = opened(path)
    earlier = _fast.build_verdict(INNER_QUEUE, 6, 0, None, None)
    before = bytearray(earlier)
    packet = of_client(path, b"later")
    _, found = queue.ask(queued(INNER_QUEUE, 8, OUTPUT, packet), before)
    assert [(identifier, what) for _, identifier, what, _ in found] == [(6, 0), (8, 1)]
    assert before == b""
    # Nothing is sent for what is not decided here.
    before += earlier
    size, found = queue.ask(queued(INNER_QUEUE + 9, 8, OUTPUT, packet), before)
    assert (size > 0, found, before) == (True, [], earlier)


def test_damage_is_not_covered_by_a_new_checksum(path: Path) -> None:
    queue = opened(path)
    packet = bytearray(of_client(path, b"damaged"))
    packet[-1] ^= 1
    size, found = queue.ask(queued(INNER_QUEUE, 8, INPUT, bytes(packet)))
    assert size > 0
    assert not found


@pytest.mark.parametrize(
    "change",
    [
        lambda datagram: datagram[:19],
        lambda datagram: datagram[:4] + b"\x01\x04" + datagram[6:],
        lambda datagram: struct.pack("=I", len(datagram) + 4) + datagram[4:],
        lambda datagram: datagram[:20] + b"\x03\x00" + datagram[22:],
        lambda datagram: datagram[:20] + b"\xff\xff" + datagram[22:],
        lambda datagram: datagram[:22] + b"\x63\x00" + datagram[24:],
        lambda datagram: datagram[:34] + b"\x63\x00" + datagram[36:],
        lambda datagram: datagram[:32] + b"\xff\xff" + datagram[34:],
        lambda datagram: datagram[:36] + b"\x46" + datagram[37:],
        lambda datagram: datagram[:36] + b"\x44" + datagram[37:],
        lambda datagram: datagram[:38] + b"\xff\xff" + datagram[40:],
        lambda datagram: datagram[:42] + b"\x20\x00" + datagram[44:],
        lambda datagram: datagram[:45] + b"\x11" + datagram[46:],
        lambda datagram: datagram[:68] + b"\x40" + datagram[69:],
        lambda datagram: datagram[:68] + b"\xf0" + datagram[69:],
    ],
)
def test_what_does_not_parse_is_left_to_python(path: Path, change: Any) -> None:
    queue = opened(path)
    packet = of_client(path, b"x")
    datagram = queued(INNER_QUEUE, 8, OUTPUT, packet)
    assert datagram[36] == 0x45
    size, found = queue.ask(change(datagram))
    assert size > 0
    assert not found
    assert queue.ask(datagram)[0] == 0


@pytest.mark.parametrize(
    "flags", [TcpFlags.SYN, TcpFlags.FIN, TcpFlags.RST, TcpFlags.URG, TcpFlags.ACK]
)
def test_what_is_not_usual_is_left_to_python(path: Path, flags: TcpFlags) -> None:
    queue = opened(path)
    packet = bytearray(of_client(path, b"x"))
    packet[Segment.parse(packet).header_at + 13] ^= flags
    assert queue.ask(queued(INNER_QUEUE, 8, OUTPUT, bytes(packet)))[0] > 0


def test_nothing_waits_and_no_queue(path: Path) -> None:
    queue = opened(path)
    assert queue.lanes.receive(queue.buffer, 5, bytearray()) == (1, -1)
    lanes = _fast.make_lanes()
    assert lanes is not None
    with pytest.raises(RuntimeError, match="no queue"):
        lanes.receive(queue.buffer, 1, bytearray())
    queue.mine.close()
    with pytest.raises(OSError, match="no packets") as caught:
        queue.lanes.receive(queue.buffer, 1, bytearray())
    assert caught.value.errno == errno.EBADF


def test_a_connection_comes_back_once(path: Path) -> None:
    queue = opened(path)
    flow = path.flow(True)
    lane = flow._lending._lane
    assert lane is not None
    crypt = flow._crypt
    assert crypt is not None
    with pytest.raises(RuntimeError, match="in use"):
        crypt.wipe()
    flow._recall()
    assert len(queue.lanes) == 0
    with pytest.raises(RuntimeError, match="taken back"):
        lane.recall()
    with pytest.raises(RuntimeError, match="taken back"):
        lane.take(0, b"", 0.0)
    assert queue.ask(queued(INNER_QUEUE, 8, OUTPUT, of_client(path, b"x")))[0] > 0


def test_a_plane_that_is_dropped_with_a_connection_lent_lets_go_of_its_keys() -> None:
    """Lanes know each other: it is the garbage collector that finds them."""
    path = Path()
    path.open()
    path.client.write(b"one")
    path.server.write(b"two")
    path.world.run(2)
    crypt = path.flow(True)._crypt
    assert crypt is not None
    assert path.flow(True)._lending._lane is not None
    sender = crypt.session._sender
    assert sender is not None
    sealer = sender._sealer
    del path, crypt, sender
    gc.collect()
    sealer.wipe()  # which is refused while somebody uses it


def test_only_what_can_be_is_lent(path: Path) -> None:
    opened(path)
    flow = path.flow(True)
    flow._recall()
    crypt, lanes = flow._crypt, path.lanes[True]
    assert crypt is not None
    assert lanes is not None
    lease = crypt.lend()
    assert lease is not None
    assert lease.sealing is not None
    assert lease.opening is not None
    mine, theirs = flow._streams[Side.INNER], flow._streams[Side.OUTER]
    end = (1, 7, bytes(4), False, 1400, 1400)
    good: dict[str, Any] = {
        "sealer": lease.sealing.sealer, "seal_at": 0, "seal_end": 1 << 30, "frames_left": 9,
        "frame_data": 1400, "opener": lease.opening.opener, "open_at": 0, "begun": b"",
        "rto": 1.0, "due": 0.0, "tries": 0, "last_heard": 0.0,
    }  # fmt: skip
    key = (bytes(4), 1, bytes(4), 2)

    def lend(
        key: tuple[bytes, int, bytes, int] = key,
        streams: tuple[Any, Any] = (mine, theirs),
        first: tuple[int, int, bytes, bool, int, int] = end,
        **changed: Any,
    ) -> _fast.Lane:
        return lanes.lend(key, *streams, (first, end), True, **(good | changed))

    wrongs: tuple[dict[str, Any], ...] = (
        {"streams": (theirs, mine)},
        {"key": (bytes(16), 1, bytes(4), 2)},
        {"key": (bytes(4), 1, bytes(3), 2)},
        {"first": (1, 15, bytes(4), False, 1400, 1400)},
        {"first": (1, 7, b"", False, 1400, 1400)},
        {"frame_data": 0},
        {"frame_data": 65_519},
        {"begun": bytes(1 << 17)},
    )
    for wrong in wrongs:
        with pytest.raises(ValueError, match=r"stream|end of|timestamp|frame"):
            lend(**wrong)
    lane = lend()
    with pytest.raises(RuntimeError, match="lent"):
        lend()
    lane.recall()
    lend().recall()


def test_a_lane_that_fails_ends_its_connection_and_no_other(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(path.client, "joined", 40)
    monkeypatch.setattr(path.client, "flight", 60_000)
    queue = opened(path)
    packet = of_client(path, bytes(45_000))
    assert len(packet) > 1 << 15  # so long that its verdict leaves at once
    queue.kernel.send(queued(INNER_QUEUE, 8, OUTPUT, packet))
    queue.kernel.close()
    assert queue.lanes.receive(queue.buffer, 1, bytearray()) == (1, 0)
    [(key, error)] = queue.lanes.take_failed()
    assert isinstance(error, OSError)
    assert queue.lanes.take_failed() == []
    flow = path.flow(True)
    assert key == flow._lending._key
    outcome = flow.give_up(error)
    assert {Segment.parse(made).flags for _, made in outcome.packets} == {
        TcpFlags.RST | TcpFlags.ACK
    }
    assert flow.dead
    assert path.names(True)[-1] == "failed"
    assert len(queue.lanes) == 0
