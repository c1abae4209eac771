"""How a firewall rule knows the TCP-ENO option of a dialect (`WireProfile`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tcpcrypt.wire.profile import WireProfile

__all__ = ["option_matches"]

_TCP_HEADER_MIN: Final = 20
_TCP_HEADER_MAX: Final = 60
_IPV6_HEADER: Final = 40


def option_matches(profile: WireProfile, family: int) -> Iterator[tuple[str, ...]]:
    """The match for the option of a dialect.

    What tells an option of kind 253 from others is the identifier in it, and where
    in the header it stands only u32 can be told: at which multiples of four.
    """
    kind = ("--tcp-option", str(profile.option_kind))
    if not profile.option_exid:
        yield kind
        return
    head = profile.option_kind << 24 | int.from_bytes(profile.option_exid, "big")
    for at in range(_TCP_HEADER_MIN, _TCP_HEADER_MAX, 4):
        length, start = _of_tcp_header(family, 12), _of_tcp_header(family, at)
        yield (
            *(*kind, "-m", "u32", "--u32"),
            f'"{length}>>26&0x3c={at + 4}:{_TCP_HEADER_MAX}&&{start}&0xff00ffff={head:#x}"',
        )


def _of_tcp_header(family: int, at: int) -> str:
    """Where u32 finds four bytes of the TCP header; IPv6 without extension headers."""
    return f"0>>22&0x3c@{at}" if family == 4 else f"{_IPV6_HEADER + at}"
