"""Bandwidth and pauses, by a clock of the test's own."""

from __future__ import annotations

import threading
from collections import deque
from types import SimpleNamespace

import pytest

from tcpcrypt.transfer import client
from tcpcrypt.transfer.limits import BACKOFF_CAP, BACKOFF_FIRST, Backoff, Bandwidth
from tcpcrypt.transfer.rules import IDLE_TIMEOUT


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.slept = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds


def test_pauses_double_to_a_cap_and_are_counted() -> None:
    most: list[float] = []

    def uniform(low: float, high: float) -> float:
        assert low == 0.0
        most.append(high)
        return high

    backoff = Backoff(9, uniform=uniform)
    pauses = [backoff.pause() for _ in range(10)]
    assert pauses[-1] is None
    assert most == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert (BACKOFF_FIRST, BACKOFF_CAP) == (0.5, 30.0)


def test_pauses_are_random_over_the_whole_range() -> None:
    pauses = [Backoff(1).pause() for _ in range(200)]
    assert all(pause is not None and 0 <= pause <= BACKOFF_FIRST for pause in pauses)
    assert len(set(pauses)) > 100


def test_what_got_through_makes_trouble_a_new_one() -> None:
    backoff = Backoff(1, uniform=lambda _low, high: high)
    for _ in range(3):
        assert backoff.pause() == 0.5
        assert backoff.pause() is None
        backoff.succeeded()


def test_no_retries_no_pause() -> None:
    assert Backoff(0).pause() is None


@pytest.mark.parametrize("rate", [1000.0, 1e9])
def test_a_rate_is_kept_in_the_long_run(rate: float) -> None:
    clock = Clock()
    bandwidth = Bandwidth(rate, clock=clock, sleep=clock.sleep)
    piece = bandwidth.piece
    assert piece is not None
    for _ in range(100):
        bandwidth.take(piece)
    assert clock.slept == pytest.approx(100 * piece / rate - 0.1, abs=0.11)


def test_what_was_not_used_is_not_to_be_had_later() -> None:
    clock = Clock()
    bandwidth = Bandwidth(1000, clock=clock, sleep=clock.sleep)
    clock.now += 3600
    for _ in range(50):
        bandwidth.take(100)
    assert clock.slept >= 4.7


def test_a_slow_rate_still_moves() -> None:
    assert Bandwidth(1).piece == 1


def test_no_limit_costs_nothing() -> None:
    clock = Clock()
    bandwidth = Bandwidth(None, clock=clock, sleep=clock.sleep)
    bandwidth.take(1 << 40)
    assert bandwidth.piece is None
    assert clock.slept == 0


def test_threads_share_one_rate() -> None:
    bandwidth = Bandwidth(1000, clock=lambda: 0.0, sleep=(waits := []).append)
    threads = [threading.Thread(target=bandwidth.take, args=(100,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(waits) == pytest.approx([0.1, 0.2, 0.3])


class _Slow:
    """A secure socket over a link of 3,000 bytes a second, behind a buffer of the kernel's."""

    def __init__(self) -> None:
        self.now = self.longest = 0.0
        self.sizes: list[int] = []
        self._queued = 0.0

    def sendall(self, view: memoryview) -> None:
        self._queued += len(view)
        took = max(self._queued - 87_040, 0) / 3000
        self.now, self._queued = self.now + took, min(self._queued, 87_040)
        self.longest = max(self.longest, took)
        self.sizes.append(len(view))


def test_no_write_takes_longer_than_silence_may(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = _Slow()
    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=lambda: slow.now))
    talk = client._Talk(slow, deque(), Bandwidth(None), print)  # type: ignore[arg-type]
    monkeypatch.setattr(talk, "_events", lambda: None)
    talk._send(memoryview(bytes(4 << 20)))
    assert sum(slow.sizes) == 4 << 20
    assert slow.longest < IDLE_TIMEOUT


def test_on_a_fast_link_writes_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    fast = SimpleNamespace(sendall=lambda view: sizes.append(len(view)))
    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=lambda: 0.0))
    talk = client._Talk(fast, deque(), Bandwidth(None), print)  # type: ignore[arg-type]
    monkeypatch.setattr(talk, "_events", lambda: None)
    talk._send(memoryview(bytes(4 << 20)))
    assert max(sizes) == 512 << 10
    assert len(sizes) <= 12
