"""RFC 9293 section 3.1: the option region of a TCP header and its 40 bytes.

A *region* is what lies between the fixed 20 bytes of a TCP header and the
payload.  The functions that edit one take and return whole regions; what they
return is a multiple of 4 bytes, at most 40, with the order of options kept.
All of them raise `PeerError` with OPTION_LENGTH for a region that does not
parse, and `LocalError` for what the caller may not ask.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tcpcrypt import _fast
from tcpcrypt.errors import LocalError
from tcpcrypt.registry import (
    TCP_OPTION_END,
    TCP_OPTION_MSS,
    TCP_OPTION_NOP,
    TCP_OPTIONS_MAX,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = [
    "TcpOption",
    "build_options",
    "insert_option",
    "mss",
    "parse_options",
    "remove_option",
    "replace_mss",
    "room",
]

_HEAD_LEN: Final = 2
"""Kind and length byte."""
_MSS_LEN: Final = 4


@dataclass(frozen=True, slots=True)
class TcpOption:
    """RFC 9293 section 3.1: one option with a length byte.

    `data` excludes kind and length, 0 to 38 bytes.  NOP and end-of-options
    (kinds 0 and 1) are padding, not options.
    """

    kind: int
    data: bytes

    def __post_init__(self) -> None:
        if not TCP_OPTION_NOP < self.kind <= 0xFF:
            raise LocalError(f"TCP option kind {self.kind} has no length byte")
        if len(self.data) > TCP_OPTIONS_MAX - _HEAD_LEN:
            raise LocalError(f"TCP option with {len(self.data)} data bytes fits no header")

    def build(self) -> bytes:
        """Kind, length and data."""
        return bytes((self.kind, _HEAD_LEN + len(self.data))) + self.data


def parse_options(region: ReadableBuffer) -> tuple[TcpOption, ...]:
    """RFC 9293 section 3.1: the options of `region` in order, padding left out."""
    octets = memoryview(region).tobytes()
    return tuple(
        TcpOption(kind, octets[start + _HEAD_LEN : end])
        for kind, start, end in _fast.walk_options(octets)
    )


def build_options(options: Iterable[TcpOption]) -> bytes:
    """RFC 9293 section 3.1: a region with `options` in order, padded at the end.

    Raises `LocalError` for more than 40 bytes.
    """
    octets = b"".join(option.build() for option in options)
    if len(octets) > TCP_OPTIONS_MAX:
        raise LocalError(f"{len(octets)} bytes of TCP options, a header holds {TCP_OPTIONS_MAX}")
    return _padded(octets)


def room(region: ReadableBuffer) -> int:
    """Bytes that one more option may have once padding is compacted away."""
    return TCP_OPTIONS_MAX - sum(end - start for _, start, end in _fast.walk_options(region))


def insert_option(region: ReadableBuffer, option: bytes) -> bytes | None:
    """`region` with the raw `option` (kind, length, data) behind its last option.

    The layout of the other options, their alignment by NOPs included, stays
    where the result fits 40 bytes; otherwise the NOPs go.  None where `option`
    does not fit even so.  `LocalError` for an `option` that is not exactly one.
    """
    if not _is_one_option(option):
        raise LocalError("what is inserted must be exactly one TCP option")
    octets = memoryview(region).tobytes()
    walk = _fast.walk_options(octets)
    # Padding behind the last option aligns nothing; it is made anew.
    kept = octets[: walk[-1][2]] if walk else b""
    if len(kept) + len(option) > TCP_OPTIONS_MAX:
        kept = b"".join(octets[start:end] for _, start, end in walk)
    if len(kept) + len(option) > TCP_OPTIONS_MAX:
        return None
    return _padded(kept + option)


def remove_option(region: ReadableBuffer, kind: int, exid: bytes = b"") -> bytes:
    """`region` with every option of `kind` overwritten by NOPs.

    With `exid` only options whose data begin with it (RFC 6994).  The length
    of the region and the place of the other options do not change.
    """
    octets = bytearray(memoryview(region).tobytes())
    for found, start, end in _fast.walk_options(octets):
        if found == kind and octets[start + _HEAD_LEN : end].startswith(exid):
            octets[start:end] = bytes((TCP_OPTION_NOP,)) * (end - start)
    return bytes(octets)


def mss(region: ReadableBuffer) -> int | None:
    """RFC 9293 section 3.7.1: the maximum segment size in `region`, in bytes.

    Of several the last counts, as it does for Linux; None if there is none.
    """
    octets = memoryview(region).tobytes()
    value = None
    for kind, start, end in _fast.walk_options(octets):
        if kind == TCP_OPTION_MSS and end - start == _MSS_LEN:
            value = int.from_bytes(octets[start + _HEAD_LEN : end], "big")
    return value


def replace_mss(region: ReadableBuffer, mss: int) -> bytes:
    """RFC 9293 section 3.7.1: `region` with `mss` in its MSS option.

    A region without the option comes back as it is: a missing MSS means the
    default of 536 or 1220 bytes, which nobody needs to lower.
    """
    if not 0 <= mss <= 0xFFFF:
        raise LocalError(f"MSS {mss} is not a 16-bit number")
    octets = bytearray(memoryview(region).tobytes())
    for kind, start, end in _fast.walk_options(octets):
        if kind == TCP_OPTION_MSS and end - start == _MSS_LEN:
            octets[start + _HEAD_LEN : end] = mss.to_bytes(2, "big")
    return bytes(octets)


def _is_one_option(option: bytes) -> bool:
    return (
        _HEAD_LEN <= len(option) <= TCP_OPTIONS_MAX
        and option[0] > TCP_OPTION_NOP
        and option[1] == len(option)
    )


def _padded(octets: bytes) -> bytes:
    return octets + bytes((TCP_OPTION_END,)) * (-len(octets) % 4)
