"""Many connections at once through one pair of daemons and one box, each with a fault of its own.

A cell is one fault, one kind of connection and one mode of policy.  It has an
address of its own on either side, so that no cell shares secrets of resumption
or trust with another.

client ---- veth1 ---- middle ---- veth2 ---- server
10.97.0.0/16            box                   10.98.0.0/16      all of them, local
fd97::/112                                    fd98::/112
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import socket
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from middlebox.box import Box
from middlebox.fault import Fault, Kind, Mode, Outcome
from netns.network import Network
from netns.trusting import Pair, pair_of, policy

from tcpcrypt.daemon.client import Client
from tcpcrypt.tools.netns import Capture

CLIENTS, SERVERS = (
    {4: bytes((10, number)), 6: bytes((0xFD, 0x90 + number % 10)) + bytes(12)}
    for number in (97, 98)
)
"""How their addresses begin; two bytes are left for the number of a cell."""
_KINDS = {4: socket.AF_INET, 6: socket.AF_INET6}
_ENDS = {4: (slice(12, 16), slice(16, 20)), 6: (slice(8, 24), slice(24, 40))}
"""Where the addresses are in a packet."""
AT_ONCE = 24
PATIENCE = 25.0
"""Seconds after which an application gives up; no cell may come to that."""
_PORTS = {
    (False, Mode.OPPORTUNISTIC): 8001,
    (False, Mode.REQUIRE): 8002,
    (True, Mode.OPPORTUNISTIC): 8003,
    (True, Mode.REQUIRE): 8004,
}
"""By whether the peer has to prove who it is."""
_IN_CLEAR = b" in the clear;"
"""What an eavesdropper finds in any fifty bytes that an application said."""


_SIDES = ("client", "server")


@dataclass(frozen=True)
class Cell:
    """One fault under one policy, `number` in its lab."""

    fault: type[Fault]
    kind: Kind
    mode: Mode
    number: int
    family: int = 4

    @property
    def name(self) -> str:
        over = "" if self.family == 4 else "-ipv6"
        return f"{self.fault.__name__}-{self.kind.value}-{self.mode.value}{over}"

    @property
    def client(self) -> bytes:
        return CLIENTS[self.family] + self.number.to_bytes(2)

    @property
    def server(self) -> bytes:
        return SERVERS[self.family] + self.number.to_bytes(2)

    @property
    def port(self) -> int:
        return _PORTS[self.kind is Kind.AUTHENTICATED, self.mode]

    def said(self, forward: bool, size: int | None = None) -> bytes:
        """What the application of this direction says; no two places are alike."""
        size = self.fault.size if size is None else size
        side = b"client" if forward else b"server"
        line = b"%d %s %%06d%s" % (self.number, side, _IN_CLEAR)
        data = b"".join(line % at for at in range(size // len(line % 0) + 1))
        return data[:size]


@dataclass
class End:
    """What an application saw of a connection."""

    port: int = 0
    """The client's, as this end has it; on the wire it can be another."""
    got: bytes = field(default=b"", repr=False)
    ended: str = ""
    """`eof`, the error, or `never`."""


@dataclass
class Result:
    """What came of a cell."""

    client: End
    server: End | None
    """None: no connection reached the service."""
    fault: Fault
    enabled: dict[bool, dict[str, str] | None]
    """What each daemon told of it when it was encrypted: True is the client's."""
    leaked: dict[bool, bool]
    """Whether a byte of this host's application was on the wire."""
    reasons: list[str]
    """What the daemons said of its end."""

    def __str__(self) -> str:
        ends = (self.client, self.server)
        seen = [f"{len(end.got)} bytes, {end.ended}" if end else "nothing" for end in ends]
        encrypted = [side for side, line in zip(_SIDES, self.enabled.values(), strict=True) if line]
        clear = [side for side, leaked in zip(_SIDES, self.leaked.values(), strict=True) if leaked]
        return (
            f"client got {seen[0]}; server got {seen[1]}; encrypted at {encrypted}; "
            f"in clear from {clear}; done {self.fault.done} times; {self.reasons}"
        )


class Service:
    """Reads a stream to its end, then answers; what it saw, by the client's address."""

    def __init__(self, network: Network, cells: Sequence[Cell], family: int) -> None:
        self._kind = _KINDS[family]
        self.ends: defaultdict[bytes, list[End]] = defaultdict(list)
        self._cells = {cell.client: cell for cell in cells}
        self._threads: list[threading.Thread] = []
        self._listeners = []
        for port in _PORTS.values():
            listener = network.server.socket(self._kind, socket.SOCK_STREAM)
            listener.bind(("", port))
            listener.listen(512)
            self._listeners.append(listener)
            self._start(self._accept, listener)

    def _start(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, address = listener.accept()
            except OSError:
                return
            self._start(self._serve, sock, address)

    def _serve(self, sock: socket.socket, address: tuple[str, int]) -> None:
        client = socket.inet_pton(self._kind, address[0])
        end = End(address[1])
        self.ends[client].append(end)
        cell = self._cells[client]
        with sock:
            sock.settimeout(PATIENCE)
            _read(sock, end)
            if end.ended == "eof":
                with contextlib.suppress(OSError):
                    # As much as was asked for: a first contact is short.
                    sock.sendall(cell.said(False, len(end.got)))

    def close(self) -> None:
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def _read(sock: socket.socket, end: End) -> None:
    parts = []
    try:
        while part := sock.recv(1 << 16):
            parts.append(part)
        end.ended = "eof"
    except OSError as error:
        end.ended = errno.errorcode.get(error.errno or 0, "never")
    end.got = b"".join(parts)


class Middle:
    """One lab with both daemons, the box and a service on each port; all over one IP version."""

    def __init__(
        self, network: Network, directory: Path, cells: Sequence[Cell], family: int = 4
    ) -> None:
        self._network = network
        self._cells = cells
        self._family = family
        client, server = network.client, network.server
        for host, net in ((client, CLIENTS), (server, SERVERS)):
            host.run("ip", "route", "add", "local", self._prefix(net), "dev", "lo")
            # What is local by a route alone may be bound with IPv4 anyhow.
            host.sysctl("net.ipv6.ip_nonlocal_bind", "1")
            # A path that takes less than it says is found out, as most hosts do today.
            host.sysctl("net.ipv4.tcp_mtu_probing", "1")
            host.sysctl("net.ipv4.tcp_retries1", "1")
        # The fourth SYN is the last; then TCP tells of a timeout.
        client.sysctl("net.ipv4.tcp_syn_retries", "3")
        assert network.middle is not None
        for net, end in ((CLIENTS, network.client_end), (SERVERS, network.server_end)):
            via = end.v4 if family == 4 else end.v6
            network.middle.run("ip", "route", "add", self._prefix(net), "via", via)
        for end in (network.client_end, network.server_end, *network.middle_ends):
            # One segment a packet: the box is to see what is on the wire.
            end.host.run("ip", "link", "set", end.device, "gso_max_segs", "1")
        self.hosts: Pair = pair_of(network, directory)
        self.hosts.start(
            "".join(
                policy("tofu" if proving else "none", mode.value, ports=port)
                for (proving, mode), port in _PORTS.items()
            )
        )

    def _prefix(self, net: dict[int, bytes]) -> str:
        start = socket.inet_ntop(_KINDS[self._family], net[self._family] + bytes(2))
        return f"{start}/{16 if self._family == 4 else 112}"

    def run(self) -> dict[Cell, Result]:
        """Every cell, some at a time."""
        middle = self._network.middle
        assert middle is not None
        service = Service(self._network, self._cells, self._family)
        captures = [Capture(end) for end in (self._network.client_end, self._network.server_end)]
        clients = CLIENTS[self._family]
        with Box(middle, clients, self._family) as box, captures[0] as near, captures[1] as far:
            known = [cell for cell in self._cells if cell.kind is Kind.AUTHENTICATED]
            self._all(known, self._meet)
            for side in (self.hosts.client, self.hosts.server):
                with Client(side.control) as control:
                    control.flush()
            faults: dict[Cell, Fault] = {}
            ends: dict[Cell, End] = {}
            met: dict[Cell, int] = {}

            def run(cell: Cell) -> None:
                if cell.kind is Kind.RESUMED:
                    self._meet(cell)
                met[cell] = len(service.ends[cell.client])
                faults[cell] = box.faults[cell.client] = cell.fault(box.later)
                ends[cell] = self._talk(cell, cell.fault.size)

            self._all(self._cells, run)
            service.close()
            near.settled()
        assert not box.problems, box.problems
        assert near.dropped == far.dropped == 0
        source, destination = _ENDS[self._family]
        leaks = {
            forward: {
                (packet[source], packet[destination])
                for packet in capture.packets
                if _IN_CLEAR in packet
            }
            for forward, capture in ((True, near), (False, far))
        }
        told = {True: self._enabled(self.hosts.client), False: self._enabled(self.hosts.server)}
        lines = [
            line
            for side in (self.hosts.client, self.hosts.server)
            for line in side.daemon.events("fallback", "refused", "aborted", "failed", "closed")
        ]
        reasons: defaultdict[str, list[str]] = defaultdict(list)
        for line in lines:
            text = line.get("reason", line.get("how", ""))
            reasons[line["client"].rpartition(":")[0]].append(f"{line['event']}: {text}")
        return {
            cell: Result(
                ends[cell],
                next(iter(service.ends[cell.client][met[cell] :]), None),
                faults[cell],
                {
                    True: told[True].get(_name(cell, ends[cell].port)),
                    False: told[False].get(_name(cell, faults[cell].port)),
                },
                {
                    True: (cell.client, cell.server) in leaks[True],
                    False: (cell.server, cell.client) in leaks[False],
                },
                reasons[_name(cell).rpartition(":")[0]],
            )
            for cell in self._cells
        }

    def _all(self, cells: Iterable[Cell], run: object) -> None:
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            for done in [pool.submit(run, cell) for cell in cells]:  # type: ignore[arg-type]
                done.result()

    def _meet(self, cell: Cell) -> None:
        """A connection to which nothing is done: secrets and keys are remembered after it."""
        end = self._talk(cell, 100)
        assert end.ended == "eof", (cell.name, end)
        assert end.got == cell.said(False, 100)

    def _talk(self, cell: Cell, size: int) -> End:
        end = End()
        kind = _KINDS[cell.family]
        with self._network.client.socket(kind, socket.SOCK_STREAM) as sock:
            sock.settimeout(PATIENCE)
            sock.bind((socket.inet_ntop(kind, cell.client), 0))
            end.port = sock.getsockname()[1]
            try:
                sock.connect((socket.inet_ntop(kind, cell.server), cell.port))
                sock.sendall(cell.said(True, size))
                sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                end.ended = errno.errorcode.get(error.errno or 0, "never")
                return end
            _read(sock, end)
        return end

    @staticmethod
    def _enabled(side: object) -> dict[str, dict[str, str]]:
        return {line["client"]: line for line in side.daemon.events("enabled")}  # type: ignore[attr-defined]


def _name(cell: Cell, port: int | None = None) -> str:
    address = socket.inet_ntop(_KINDS[cell.family], cell.client)
    return f"{address}:{port}" if cell.family == 4 else f"[{address}]:{port}"


def outcome(cell: Cell, result: Result) -> Outcome:
    """What came of a cell.  Fails where something came of it that may not, whatever was done."""
    sides = {
        True: (result.server, cell.said(True)),
        False: (result.client, cell.said(False)),
    }
    """By direction: who read it, and what it should have read."""
    whole = True
    for forward, (end, said) in sides.items():
        if end is None:
            whole = False
            continue
        garbled = cell.fault.garbles and forward and result.enabled[False] is None
        garbled = garbled and cell.mode is Mode.OPPORTUNISTIC
        assert garbled or said.startswith(end.got), f"heard what nobody said: {result}"
        assert garbled or end.ended != "eof" or end.got == said, f"no end: {result}"
        assert end.ended != "never", f"neither an end nor an error: {result}"
        whole = whole and end.ended == "eof"
    encrypted = [line for line in result.enabled.values() if line is not None]
    for forward, leaked in result.leaked.items():
        secret = cell.mode is Mode.REQUIRE or result.enabled[forward] is not None
        assert not (secret and leaked), f"{forward}: in clear on the wire"
    assert result.fault.done, "the fault never came about"
    if not whole:
        return Outcome.FAILED
    if not encrypted:
        return Outcome.PLAIN
    assert len(encrypted) == 2, f"only one side is encrypted: {encrypted}"
    assert encrypted[0]["session"] == encrypted[1]["session"]
    assert encrypted[0]["start"] == ("resumed" if cell.kind is Kind.RESUMED else "fresh")
    return Outcome.ENCRYPTED
