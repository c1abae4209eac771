"""RFC 8548 section 3.5: the session cache, full, by both twins."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

CAPACITY = 4096
pytestmark = pytest.mark.benchmark(max_time=0.3)


def identifiers(number: int) -> tuple[bytes, ...]:
    return tuple(b"\xa3" + (number << 8 | index).to_bytes(9, "big") for index in range(4))


@pytest.fixture
def cache(fast: Any) -> Any:
    made = fast.SessionCache(CAPACITY)
    for number in range(CAPACITY):
        made.insert(b"peer %d" % number, identifiers(number), bytes(32), b"meta")
    return made


def measure(
    benchmark: Any, report: Callable[..., None], fast: Any, row: str, call: Callable[[], object]
) -> None:
    benchmark(call)
    if benchmark.stats is None:  # --benchmark-disable
        return
    rate = 1 / benchmark.stats.stats.median
    benchmark.extra_info["per_s"] = rate
    report(
        f"session cache with {CAPACITY} records of 4 identifiers",
        row,
        **{f"{fast.IMPLEMENTATION} /s": f"{rate:,.0f}"},
    )


def test_lookup(benchmark: Any, report: Callable[..., None], fast: Any, cache: Any) -> None:
    known = itertools.cycle([identifiers(number)[2] for number in range(0, CAPACITY, 7)])
    measure(benchmark, report, fast, "lookup, found", lambda: cache.lookup(next(known)))


def test_lookup_of_strangers(
    benchmark: Any, report: Callable[..., None], fast: Any, cache: Any
) -> None:
    unknown = itertools.cycle([identifiers(number)[2] for number in range(10**6, 10**6 + 1000)])
    measure(benchmark, report, fast, "lookup, not found", lambda: cache.lookup(next(unknown)))


def test_insert(benchmark: Any, report: Callable[..., None], fast: Any, cache: Any) -> None:
    """Every one evicts the oldest record and wipes its secret."""
    numbers = itertools.count(CAPACITY)
    secret = bytes(32)

    def insert() -> None:
        number = next(numbers)
        cache.insert(b"peer %d" % number, identifiers(number), secret, b"meta")

    measure(benchmark, report, fast, "insert with eviction", insert)


def test_read(benchmark: Any, report: Callable[..., None], fast: Any, cache: Any) -> None:
    handle, secret = cache.newest(b"peer 7"), bytearray(32)
    measure(benchmark, report, fast, "read", lambda: cache.read(handle, secret))
