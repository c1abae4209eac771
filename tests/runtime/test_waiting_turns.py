"""Connections that wait for their turn: what they learn of a peer that they have not asked."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from support.bare_host import Site, bare_host

from tcpcrypt.core.policy import Mode, Policy
from tcpcrypt.runtime.netlink import Verdict
from tcpcrypt.runtime.outgoing import OpenedByApplication
from tcpcrypt.runtime.rules import MARK_DIRECT

STANFORD = Policy(Mode.OPPORTUNISTIC, profile="stanford")
HERE = socket.inet_aton("127.0.0.1")
LONG = 1000.0


@pytest.fixture
def site() -> Iterator[Site]:
    with bare_host(STANFORD) as site:
        yield site


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def noted(site: Site, port: int) -> list[bool]:
    """What is kept of the service: whether its path was silent."""
    return [known.unanswered for _address, number, known in site.host._context.paths
            if number == port]  # fmt: skip


def waiting(site: Site, port: int) -> OpenedByApplication:
    """One that has not had its turn, to a service that is known to encrypt."""
    context = site.host._context
    context.paths.note(HERE, port, "encrypted", profile="stanford", allowed="stanford")
    site.opens(port)
    assert site.opening._outer is None
    return site.opening


def test_who_only_waited_for_a_turn_has_not_heard_silence(site: Site, port: int) -> None:
    opening = waiting(site, port)
    opening.look_after(opening.began + LONG)
    assert noted(site, port) == [False]
    assert site.queue.decided == {1: (Verdict.DROP, None)}
    assert [event for event, _ in site.reports] == ["failed"]
    assert not site.host.connections
    site.host.loop.step(0)  # its turn does not come any more
    assert not site.host.connections


def test_a_turn_that_came_late_was_no_silence_either(site: Site, port: int) -> None:
    opening = waiting(site, port)
    opening.began -= LONG
    site.host.loop.step(0)
    assert opening._outer is not None
    opening.look_after(opening.began + LONG + 1)
    assert noted(site, port) == [False]


def test_who_asked_and_heard_nothing_has(site: Site, port: int) -> None:
    opening = waiting(site, port)
    site.host.loop.step(0)
    opening.look_after(opening.began + 1)
    assert site.opening is opening
    opening.look_after(opening.began + LONG)
    assert noted(site, port) == [True]


def test_a_peer_that_has_become_known_to_be_plain_is_left_alone(site: Site, port: int) -> None:
    """By those that waited, too, and not asked once more by each of them."""
    waiting(site, port)
    paths = site.host._context.paths
    for _ in range(2):
        paths.note(HERE, port, "plain", "no ENO", profile="stanford", allowed="stanford")
    assert paths.is_plain(HERE, port, "stanford")
    site.host.loop.step(0)
    assert site.queue.decided == {1: (Verdict.REPEAT, MARK_DIRECT)}
    assert not site.host.connections
    assert not site.host._waiting
    assert not site.host._context.turns._services
    assert site.host.tally.counters.direct == 1
