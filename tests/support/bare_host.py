"""A host whose queue and peers the tests play: no kernel decides, nobody answers by itself."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

from support.queues import VerdictOnEach
from tcpcrypt.auth.identity import Identity
from tcpcrypt.auth.known_peers import KnownPeers
from tcpcrypt.auth.psk import PskStore
from tcpcrypt.auth.trust import Trust
from tcpcrypt.core.negotiation import Negotiation
from tcpcrypt.core.policy import Policy
from tcpcrypt.runtime.context import Settings
from tcpcrypt.runtime.host import Host
from tcpcrypt.runtime.netlink import Hook, QueuedPacket
from tcpcrypt.runtime.outgoing import OpenedByApplication
from tcpcrypt.runtime.privileges import tcp_socket
from tcpcrypt.runtime.ruleset import hold_queue


class Sockets:
    """Privileges without any."""

    def opener(self, family: int, mark: int = 0) -> socket.socket:
        assert not mark
        return tcp_socket(family)

    def service(self, family: int) -> socket.socket:
        return tcp_socket(family)

    def finish(self, sock: socket.socket, mark: int = 0) -> None:
        assert sock.fileno() >= 0
        assert not mark


@dataclass
class Site:
    queue: VerdictOnEach
    host: Host
    identity: Identity
    reports: list[tuple[str, dict[str, object]]]

    def trust(self, known: KnownPeers) -> Trust:
        return Trust(known, PskStore(), self.identity, hybrid=True)

    def opens(self, port: int) -> None:
        """The SYN of an application waits in a queue."""
        tcp = struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 0x50, 0x02, 65535, 0, 0)
        head = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 6, 0)
        loopback = socket.inet_aton("127.0.0.1")
        packet = head + loopback * 2 + tcp
        queued = QueuedPacket(hold_queue(0, 0), 1, Hook.OUTPUT, 0, memoryview(packet))
        self.host._hold.take(queued)

    @property
    def opening(self) -> OpenedByApplication:
        (connection,) = self.host.connections
        assert isinstance(connection, OpenedByApplication)
        return connection

    @property
    def negotiation(self) -> Negotiation:
        negotiation = self.opening._negotiation
        assert negotiation is not None
        return negotiation


@contextlib.contextmanager
def bare_host(policy: Policy) -> Iterator[Site]:
    queue, identity = VerdictOnEach(), Identity.generate()
    reports: list[tuple[str, dict[str, object]]] = []
    steering = SimpleNamespace(name="none", peer_listeners=(), application_listeners=())
    host = Host(
        Settings(policies=(policy,)),
        lambda event, facts: reports.append((event, facts)),
        steering=steering,
        queue=queue,  # type: ignore[arg-type]
        privileges=Sockets(),
        trust=Trust(KnownPeers(), PskStore(), identity, hybrid=True),
    )
    host.retire = lambda: None  # type: ignore[method-assign]
    host._take_queues()
    yield Site(queue, host, identity, reports)
    host.close()
