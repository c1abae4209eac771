"""A host that believes by keys, with a queue and peers that the tests play."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from support.bare_host import Site, bare_host

from tcpcrypt.auth.fingerprint import fingerprint
from tcpcrypt.auth.known_peers import KnownPeer, KnownPeers, TrustLevel
from tcpcrypt.core.policy import Mode, Policy
from tcpcrypt.runtime.netlink import Verdict
from tcpcrypt.runtime.rules import MARK_REFUSED, MARK_STEERED

KEY = fingerprint(bytes([7]) * 32)
TOFU = Policy(Mode.OPPORTUNISTIC, auth="tofu", pq="prefer")


def peers(scope: str, trust: TrustLevel = TrustLevel.PINNED) -> KnownPeers:
    known = KnownPeers()
    known.put(KnownPeer(KEY, scope, 0, None, trust))
    return known


@pytest.fixture
def site() -> Iterator[Site]:
    with bare_host(TOFU) as site:
        yield site


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
