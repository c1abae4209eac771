"""A host that believes by keys, with a queue and peers that the tests play."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from tcpcrypt.auth.fingerprint import fingerprint
from tcpcrypt.auth.identity import Identity
from tcpcrypt.auth.known_peers import KnownPeer, KnownPeers, TrustLevel
from tcpcrypt.auth.psk import PskStore
from tcpcrypt.auth.trust import Trust
from tcpcrypt.core.negotiation import Negotiation
from tcpcrypt.core.policy import Mode, Policy
from tcpcrypt.runtime.context import Settings
from tcpcrypt.runtime.host import Host
from tcpcrypt.runtime.netlink import Hook, QueuedPacket, Verdict
from tcpcrypt.runtime.outgoing import OpenedByApplication
from tcpcrypt.runtime.privileges import tcp_socket
from tcpcrypt.runtime.rules import MARK_MASK, MARK_REFUSED, MARK_STEERED
from tcpcrypt.runtime.ruleset import hold_queue

KEY = fingerprint(bytes([7]) * 32)
TOFU = Policy(Mode.OPPORTUNISTIC, auth="tofu", pq="prefer")


class Queue:
    """Stands where the kernel is, and keeps what was decided about each packet."""

    def __init__(self) -> None:
        self.decided: dict[int, tuple[Verdict, int]] = {}

    def verdict(
        self,
        packet: QueuedPacket,
        what: Verdict,
        _payload: bytes | None = None,
        mark: int | None = None,
    ) -> None:
        assert packet.identifier not in self.decided
        self.decided[packet.identifier] = (what, (mark or 0) & MARK_MASK)


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


def peers(scope: str, trust: TrustLevel = TrustLevel.PINNED) -> KnownPeers:
    known = KnownPeers()
    known.put(KnownPeer(KEY, scope, 0, None, trust))
    return known


@dataclass
class Site:
    queue: Queue
    host: Host
    identity: Identity
    reports: list[tuple[str, dict[str, object]]] = field(default_factory=list)

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


@pytest.fixture
def site() -> Iterator[Site]:
    queue, identity = Queue(), Identity.generate()
    reports: list[tuple[str, dict[str, object]]] = []
    steering = SimpleNamespace(name="none", peer_listeners=(), application_listeners=())
    host = Host(
        Settings(policies=(TOFU,)),
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


def test_no_service_has_port_0_and_who_asks_for_it_waits_for_nothing(site: Site) -> None:
    """Or any user could fill what holds the SYNs of all."""
    site.opens(0)
    assert site.queue.decided == {1: (Verdict.REPEAT, MARK_REFUSED)}
    assert len(site.host._hold) == 0
    assert [event for event, _ in site.reports] == ["failed"]


@pytest.mark.parametrize("known_before", [False, True])
def test_a_host_that_becomes_known_while_it_is_asked_gets_nothing_in_the_clear(
    site: Site, known_before: bool
) -> None:
    """Whether it is a first contact is not decided by the SYN alone."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        scope = f"127.0.0.1:{port}"
        if known_before:
            site.host.trust(site.trust(peers(scope)))
        site.opens(port)
        negotiation, opening = site.negotiation, site.opening
        assert negotiation.option_to_send(True, False, 40)
        site.host.trust(site.trust(peers(scope)))
        negotiation.segment_received(True, True, b"")  # the peer answers without the option
        opening._on_outer(0)
    assert site.queue.decided == {1: (Verdict.REPEAT, MARK_REFUSED)}
    assert [event for event, _ in site.reports] == ["refused"]
    assert KEY in str(site.reports[0][1]["reason"])
    assert not site.host._context.paths.is_plain(socket.inet_aton("127.0.0.1"), port, "rfc8548")


def test_a_host_that_becomes_known_gets_nothing_by_a_tep_that_proves_nothing(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        site.opens(port)
        negotiation, opening = site.negotiation, site.opening
        assert negotiation.option_to_send(True, False, 40)
        site.host.trust(site.trust(peers(f"127.0.0.1:{port}")))
        negotiation.segment_received(True, True, b"\x45\x04\x01\x23")
        assert negotiation.option_to_send(False, True, 40)
        opening._on_outer(0)
    assert site.queue.decided == {1: (Verdict.REPEAT, MARK_REFUSED)}
    assert [event for event, _ in site.reports] == ["refused"]


def test_a_first_contact_may_be_plain_under_opportunistic(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        site.opens(listener.getsockname()[1])
        negotiation, opening = site.negotiation, site.opening
        assert negotiation.option_to_send(True, False, 40)
        site.host.trust(site.trust(peers("192.0.2.7:443")))  # another one
        negotiation.segment_received(True, True, b"")
        opening._on_outer(0)
    assert site.queue.decided == {1: (Verdict.REPEAT, MARK_STEERED)}
    assert [event for event, _ in site.reports] == ["remembered", "fallback"]
