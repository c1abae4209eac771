"""Packets of a flow: made anew from a header that came, or from nothing.

What stands in a header is the engine's to say; a header that came lends its
lower layers (time to live, type of service, flow label) alone.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tcpcrypt import _fast
from tcpcrypt.registry import (
    TCP_OPTION_NOP,
    TCP_OPTION_SACK,
    TCP_OPTION_SACK_PERMITTED,
    TCP_OPTION_TIMESTAMPS,
    TCP_OPTION_WINDOW_SCALE,
)
from tcpcrypt.wire.segment import Segment, TcpFlags
from tcpcrypt.wire.tcpopt import parse_options

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = [
    "ECN_CE",
    "Header",
    "Options",
    "ecn",
    "make_packet",
    "read_options",
    "timestamps_and_blocks",
]

_SCALE_MAX: Final = 14
"""RFC 7323 section 2.3."""
_TTL: Final = 64
_TCP_FIXED: Final = struct.Struct("!HHIIBBHHH")
_DONT_FRAGMENT: Final = 0x4000
_PROTOCOL_TCP: Final = 6
ECN_CE: Final = 3


@dataclass(slots=True)
class Options:
    """The options of one segment that mean something to the engine."""

    timestamps: bytes = b""
    """TSval and TSecr, 8 bytes, or nothing."""
    blocks: tuple[tuple[int, int], ...] = ()
    """SACK: sequence numbers."""
    scale: int | None = None
    sack_permitted: bool = False
    others: bool = False
    """There are options that nobody here knows, an authentication perhaps."""


def read_options(region: ReadableBuffer) -> Options:
    """RFC 9293, RFC 7323 and RFC 2018.  Raises `PeerError` for what does not parse."""
    found = Options()
    for option in parse_options(region):
        data = option.data
        if option.kind == TCP_OPTION_TIMESTAMPS and len(data) == 8:
            found.timestamps = data
        elif option.kind == TCP_OPTION_SACK and len(data) % 8 == 0:
            numbers = struct.unpack(f"!{len(data) // 4}I", data)
            found.blocks = tuple(zip(numbers[::2], numbers[1::2], strict=True))
        elif option.kind == TCP_OPTION_WINDOW_SCALE and len(data) == 1:
            found.scale = min(data[0], _SCALE_MAX)
        elif option.kind == TCP_OPTION_SACK_PERMITTED:
            found.sack_permitted = True
        elif option.kind > TCP_OPTION_TIMESTAMPS:
            found.others = True
    return found


def timestamps_and_blocks(
    timestamps: bytes, blocks: list[tuple[int, int]], room: int = 40
) -> bytes:
    """A region with both, laid out as usual, and as many blocks as there is room for."""
    region = b""
    if timestamps:
        region = bytes((TCP_OPTION_NOP, TCP_OPTION_NOP, TCP_OPTION_TIMESTAMPS, 10)) + timestamps
    fitting = max((room - len(region) - 4) // 8, 0)
    if blocks[:fitting]:
        data = b"".join(struct.pack("!II", *block) for block in blocks[:fitting])
        region += bytes((TCP_OPTION_NOP, TCP_OPTION_NOP, TCP_OPTION_SACK, 2 + len(data))) + data
    return region


def ecn(packet: ReadableBuffer) -> int:
    """RFC 3168 section 5: the two bits of an IP header."""
    first = memoryview(packet)[:2]
    return first[1] & 3 if first[0] >> 4 == 4 else first[1] >> 4 & 3


@dataclass(slots=True, kw_only=True)
class Header:
    """What the engine says of a packet."""

    seq: int
    ack: int
    flags: TcpFlags | int
    window: int
    """As the field has it."""
    urgent: int = 0
    options: bytes = b""
    lasting: bool = False
    """It lives long enough, however short the life of the one that came was: a router
    at which an opened packet dies quotes it to its sender, in clear."""
    congestion: bool = False
    """Some router has marked what this packet tells of (RFC 3168, CE)."""


def make_packet(
    flow: tuple[bytes, int, bytes, int],
    header: Header,
    payload: ReadableBuffer = b"",
    like: Segment | None = None,
    packet: ReadableBuffer | None = None,
) -> bytes:
    """The whole packet, checksums and all; `like` is `packet` parsed, and lends its IP header."""
    fixed = _TCP_FIXED.pack(
        flow[1],
        flow[3],
        header.seq & 0xFFFFFFFF,
        header.ack & 0xFFFFFFFF if header.flags & TcpFlags.ACK else 0,
        5 << 4,
        int(header.flags),
        header.window,
        0,
        header.urgent,
    )
    if like is not None and packet is not None:
        beneath = bytes(memoryview(packet)[: like.header_at])
    elif len(flow[0]) == 4:
        beneath = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 0, 0, _DONT_FRAGMENT, _TTL, _PROTOCOL_TCP, 0, flow[0], flow[2]
        )
    else:
        beneath = struct.pack("!IHBB16s16s", 6 << 28, 0, _PROTOCOL_TCP, _TTL, flow[0], flow[2])
    if header.congestion or header.lasting:
        changed = bytearray(beneath)
        old = beneath[0] >> 4 == 4
        if header.congestion:
            changed[1] |= ECN_CE if old else ECN_CE << 4
        if header.lasting:
            life = 8 if old else 7
            changed[life] = max(changed[life], _TTL)
        beneath = bytes(changed)
    return _fast.rebuild_segment(beneath + fixed, len(beneath), header.options, payload)
