"""A host whose memory has run out takes on nothing new, and forgets nothing that it holds."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from support.bare_host import Site, bare_host

from tcpcrypt.core.policy import Mode, Policy
from tcpcrypt.runtime.netlink import Verdict
from tcpcrypt.runtime.rules import MARK_DIRECT

REQUIRE = Policy(Mode.REQUIRE)
OPPORTUNISTIC = Policy(Mode.OPPORTUNISTIC)


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with bare_host(request.param) as site:
        yield site


@pytest.fixture
def shortage(site: Site, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No reserve is left, and none to be had until this is undone."""

    def none_left() -> tuple[bytearray, ...]:
        raise MemoryError

    monkeypatch.setattr("tcpcrypt.runtime.loop._reserve", none_left)
    site.host.loop._reserve = ()
    return monkeypatch


def events(site: Site) -> list[tuple[str, object]]:
    return [(event, facts.get("reason")) for event, facts in site.reports]


@pytest.mark.usefixtures("shortage")
@pytest.mark.parametrize(
    ("site", "verdict"),
    [(REQUIRE, (Verdict.DROP, None)), (OPPORTUNISTIC, (Verdict.REPEAT, MARK_DIRECT))],
    ids=["require", "opportunistic"],
    indirect=["site"],
)
def test_required_connections_wait_where_there_is_no_memory(
    site: Site, verdict: tuple[Verdict, int | None]
) -> None:
    site.opens(80)
    assert site.queue.decided == {1: verdict}
    assert len(site.host._hold) == 0
    assert not site.host.connections
    assert events(site) == [("exhausted", "out of memory")]


@pytest.mark.parametrize("site", [REQUIRE], indirect=True)
def test_who_connects_waits_in_the_kernel_until_there_is_memory(
    site: Site, shortage: pytest.MonkeyPatch
) -> None:
    shortage.setattr("tcpcrypt.runtime.host._ACCEPT_PAUSE", 0.01)
    came: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        site.host._accept_from(listener, came.append, site.host._lack)
        with socket.create_connection(listener.getsockname()):
            for _ in range(5):
                site.host.loop.step(0.05)
            assert not came
            assert set(events(site)) == {("exhausted", "out of memory")}
            shortage.undo()
            end = time.monotonic() + 5
            while not came and time.monotonic() < end:
                site.host.loop.step(0.05)
            assert len(came) == 1
        site.host.loop.forget(listener.fileno())
    came[0].close()


@pytest.mark.parametrize("site", [REQUIRE], indirect=True)
def test_what_could_not_be_begun_is_neither_held_nor_kept(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repetition of its SYN is asked about anew; what was accepted is closed."""

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("tcpcrypt.runtime.host.OpenedByApplication", fail)
        with pytest.raises(MemoryError):
            site.opens(80)
    assert site.queue.decided == {1: (Verdict.DROP, None)}
    assert len(site.host._hold) == 0
    one, other = socket.socketpair()
    with one:
        monkeypatch.setattr("tcpcrypt.runtime.host.AcceptedByPeer.start", fail)
        with pytest.raises(MemoryError):
            site.host._peer_came(other)
        assert not site.host.connections
        assert one.recv(1) == b""


@pytest.mark.parametrize("site", [REQUIRE], indirect=True)
def test_what_cannot_be_told_is_ended_all_the_same(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        site.opens(listener.getsockname()[1])
        opening = site.opening

        def fail(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr(opening._context, "report", fail)
        with pytest.raises(MemoryError):
            opening.reset()
    assert not site.host.connections
    assert not site.host._waiting
    assert len(site.host._hold) == 0
