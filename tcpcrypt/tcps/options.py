"""The TCP options of TCP/S, all of kind 253 (RFC 4727).

| | bytes | stands in | holds |
|---|---|---|---|
| TC | 36 | SYN, SYN-ACK | ephemeral public key (32) |
| TM | 20 | segments with data or FIN | tag (16) |
| TI | 40 | segments without either | static public key (32), tag (4) |

A *region* is as in `tcpcrypt.wire.tcpopt`.  It is read as TCP/S reads it, which
ends at what it does not understand and never fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from tcpcrypt.registry import (
    TCP_OPTION_END,
    TCP_OPTION_EXPERIMENT,
    TCP_OPTION_MSS,
    TCP_OPTION_NOP,
    TCP_OPTION_SACK_PERMITTED,
    TCP_OPTION_WINDOW_SCALE,
    TCP_OPTIONS_MAX,
    TCPS_EXID,
    TCPS_IDENTITY_EXID,
    TCPS_TAG_EXID,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = [
    "NO_TAG",
    "TAG_OPTION_LEN",
    "Shown",
    "find_identity",
    "find_key",
    "find_tag",
    "identity_region",
    "syn_region",
    "tagged_region",
    "untagged_region",
]

_KEY_OPTION_LEN: Final = 36
TAG_OPTION_LEN: Final = 20
_IDENTITY_OPTION_LEN: Final = 40
_HEAD: Final = 4
_PUBLIC_LEN: Final = 32
NO_TAG: Final = bytes(4)
"""Stands for the tag of a TI option where the sender does not know its peer's key."""
_SURVIVES: Final = ((TCP_OPTION_MSS, 4), (TCP_OPTION_SACK_PERMITTED, 2),
                    (TCP_OPTION_WINDOW_SCALE, 3))  # fmt: skip
"""Kinds and lengths of which the first that a SYN has stays."""


class Shown(NamedTuple):
    """What a TI option holds."""

    public: bytes
    tag: bytes


def find_key(region: ReadableBuffer) -> bytes | None:
    """The ephemeral public key in a TC option."""
    return _find(region, TCPS_EXID, _KEY_OPTION_LEN)


def find_tag(region: ReadableBuffer) -> bytes | None:
    """The tag in a TM option."""
    return _find(region, TCPS_TAG_EXID, TAG_OPTION_LEN)


def find_identity(region: ReadableBuffer) -> Shown | None:
    """What a TI option shows."""
    found = _find(region, TCPS_IDENTITY_EXID, _IDENTITY_OPTION_LEN)
    return None if found is None else Shown(found[:_PUBLIC_LEN], found[_PUBLIC_LEN:])


def syn_region(region: ReadableBuffer, public: bytes) -> bytes:
    """The options of a SYN with a TC option in place of all but one of them.

    The maximum segment size, if that is the one, makes room for the tags.
    """
    octets = memoryview(region).tobytes()
    kept = b""
    options = {octets[start:end][:2]: octets[start:end] for start, end in _walk(octets)}
    for kind, length in _SURVIVES:
        kept = options.get(bytes((kind, length)), b"")
        if kept:
            break
    if kept[:1] == bytes((TCP_OPTION_MSS,)):
        value = int.from_bytes(kept[2:], "big")
        value -= TAG_OPTION_LEN if value > TAG_OPTION_LEN else 0
        kept = kept[:2] + value.to_bytes(2, "big")
    made = kept + _option(TCPS_EXID, public)
    return made + bytes((TCP_OPTION_NOP,)) * (-len(made) % 4)


def tagged_region(region: ReadableBuffer, tag: bytes) -> bytes | None:
    """`region` with a TM option behind it; None: there is no room."""
    made = memoryview(region).tobytes() + _option(TCPS_TAG_EXID, tag)
    return made if len(made) <= TCP_OPTIONS_MAX else None


def untagged_region(region: ReadableBuffer) -> bytes:
    """`region` without its TM option, for a kernel that has no use for it."""
    octets = memoryview(region).tobytes()
    for start, end in _walk(octets):
        if _is(octets[start:end], TCPS_TAG_EXID, TAG_OPTION_LEN):
            return octets[:start] + octets[end:]
    return octets


def identity_region(public: bytes, tag: bytes) -> bytes:
    """A TI option, which leaves no room for others."""
    return _option(TCPS_IDENTITY_EXID, public + tag)


def _option(exid: bytes, data: bytes) -> bytes:
    return bytes((TCP_OPTION_EXPERIMENT, _HEAD + len(data))) + exid + data


def _find(region: ReadableBuffer, exid: bytes, length: int) -> bytes | None:
    octets = memoryview(region).tobytes()
    for start, end in _walk(octets):
        if _is(octets[start:end], exid, length):
            return octets[start + _HEAD : end]
    return None


def _is(option: bytes, exid: bytes, length: int) -> bool:
    return len(option) == length and option[:_HEAD] == (
        bytes((TCP_OPTION_EXPERIMENT, length)) + exid
    )


def _walk(octets: bytes) -> Iterator[tuple[int, int]]:
    """Where options begin and end, as far as they can be read."""
    at = 0
    while at + 1 < len(octets) and octets[at] != TCP_OPTION_END:
        if octets[at] == TCP_OPTION_NOP:
            at += 1
            continue
        end = at + octets[at + 1]
        if end < at + 2 or end > len(octets):
            return
        yield at, end
        at = end
