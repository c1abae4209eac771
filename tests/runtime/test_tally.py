"""What a host counts of its connections."""

from __future__ import annotations

import errno
import socket
from dataclasses import asdict

import pytest
from conftest import PURE_PYTHON
from support.relays import Chain, receive, until

from tcpcrypt.core.config import Config
from tcpcrypt.errors import PeerReason
from tcpcrypt.runtime.figures import connection_slots
from tcpcrypt.runtime.tally import BOUNDS, Durations, Tally, errno_word, word


def test_reasons_add_up_to_the_counter() -> None:
    tally = Tally()
    for reason in ("frame_tag", "truncated", "frame_tag"):
        tally.count("aborted", reason)
    tally.count("closed")
    assert asdict(tally.counters)["aborted"] == 3
    assert tally.reasons == {
        ("aborted", "frame_tag"): 2,
        ("aborted", "truncated"): 1,
        ("closed", ""): 1,
    }


def test_a_duration_is_in_the_first_class_that_holds_it() -> None:
    times = Durations()
    for seconds in (0.0, BOUNDS[0], BOUNDS[0] * 1.01, BOUNDS[-1], BOUNDS[-1] + 1):
        times.add(seconds)
    assert [n for n, count in enumerate(times.counts) if count] == [0, 1, 14, 15]
    assert sum(times.counts) == 5
    assert times.total == pytest.approx(0.0005 * 2.01 + 61)


def test_words() -> None:
    assert word(PeerReason.FRAME_TAG) == "frame_tag"
    assert errno_word(errno.ECONNREFUSED) == "econnrefused"
    assert errno_word(0) == errno_word(9999) == "unknown"


def test_each_connection_needs_two_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, slots in ((1024, 362), (303, 1), (301, 0), (256, 0)):
        monkeypatch.setattr("resource.getrlimit", lambda _what, limit=limit: (limit, limit))
        assert connection_slots() == slots


@pytest.mark.parametrize("pumps", [False, True], ids=["loop", "pump"])
def test_frames_are_counted_wherever_they_are_sealed(pumps: bool) -> None:
    if pumps and PURE_PYTHON:
        pytest.skip("the Python twin has no pump")
    with Chain(pumps=pumps, config=Config(frame_data=1000)) as both:
        if pumps:
            both.warm_up()
        relay = both.client.relay
        before = both.call(lambda: relay.frames)
        both.client.app.sendall(bytes(500_000))
        assert len(receive(both.server.app, 500_000)) == 500_000
        both.call(relay.take_back)
        after = both.call(lambda: relay.frames)
        # A read of the application need not end where a frame is full.
        assert 500 <= after - before <= 1000


@pytest.mark.parametrize("pumps", [False, True], ids=["loop", "pump"])
@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (b"", PeerReason.TRUNCATED),
        (bytes((0, 0, 40)) + bytes(40), PeerReason.FRAME_TAG),
        (bytes((0, 0, 16)) + bytes(16), PeerReason.FRAME_TOO_SHORT),
    ],
    ids=["truncated", "tag", "short"],
)
def test_what_the_peer_did_is_known_when_it_has_ended_the_connection(
    pumps: bool, wire: bytes, reason: PeerReason
) -> None:
    if pumps and PURE_PYTHON:
        pytest.skip("the Python twin has no pump")
    with Chain(pumps=pumps) as both:
        if pumps:
            both.warm_up()
        for one, other in ((both.client, both.server), (both.server, both.client)):
            one.app.sendall(b"?")
            assert receive(other.app, 1) == b"?"
        assert both.client.relay.fault is None
        if wire:
            both.wire[1].send(wire)
        else:
            both.wire[1].shutdown(socket.SHUT_WR)
        until(lambda: both.client.endings)
        assert both.client.relay.fault is reason
