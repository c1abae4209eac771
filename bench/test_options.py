"""RFC 8547 section 4.1: options parsed a second, by both twins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

# A SYN of Linux with a resumption offer: no byte of the 40 is left.
RESUMPTION = bytes.fromhex("00 a3") + bytes(range(17))
SYN = bytes.fromhex("020405b4 0402 080a0102030400000000 030307 4515a3") + bytes(range(18))
SEGMENT = bytes(range(256)) * 5 + bytes(180)


pytestmark = pytest.mark.benchmark(max_time=0.3)


@pytest.mark.parametrize(
    ("name", "octets", "row"),
    [
        ("parse_eno", RESUMPTION, "ENO option with a resumption offer"),
        ("walk_options", SYN, "walk over 40 bytes of options"),
        ("checksum", SEGMENT, "checksum of 1460 bytes"),
    ],
)
def test_options(  # noqa: PLR0917 (fixtures come by name)
    benchmark: Any, report: Callable[..., None], fast: Any, name: str, octets: bytes, row: str
) -> None:
    benchmark(getattr(fast, name), octets)
    if benchmark.stats is None:  # --benchmark-disable
        return
    rate = 1 / benchmark.stats.stats.median
    benchmark.extra_info["per_s"] = rate
    report("options", row, **{f"{fast.IMPLEMENTATION} /s": f"{rate:,.0f}"})
