"""Bandwidth and pauses, by a clock of the test's own."""

from __future__ import annotations

import threading

import pytest

from tcpcrypt.transfer.limits import BACKOFF_CAP, BACKOFF_FIRST, Backoff, Bandwidth


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
