"""RFC 9293 section 3.1 over RFC 791 and RFC 8200: the Python twin of segments in IP packets."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from tcpcrypt._fast._py_buffers import readable
from tcpcrypt._fast._py_options import checksum
from tcpcrypt.errors import LocalError, PeerError, PeerReason
from tcpcrypt.registry import TCP_OPTIONS_MAX

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["parse_segment", "rebuild_segment"]

_PROTOCOL_TCP: Final = 6
_TCP_LEN: Final = 20
"""TCP header without options."""
_TCP_START: Final = struct.Struct("!HHIIBB")
_LENGTH_MAX: Final = 0xFFFF
"""The length field of IPv4 counts the packet, that of IPv6 what follows its header."""

# RFC 791 section 3.1.
_IPV4_LEN: Final = 20
_IPV4_MORE_FRAGMENTS_AND_OFFSET: Final = 0x3FFF

# RFC 8200 sections 3 and 4.
_IPV6_LEN: Final = 40
_IPV6_HOP_BY_HOP: Final = 0
_IPV6_ROUTING: Final = 43
_IPV6_FRAGMENT: Final = 44
_IPV6_DESTINATION: Final = 60
_IPV6_EXTENSIONS: Final = (_IPV6_HOP_BY_HOP, _IPV6_ROUTING, _IPV6_DESTINATION)


def parse_segment(
    packet: ReadableBuffer,
) -> tuple[int, int, int, int, bytes, int, bytes, int, int, int, int]:
    """Find the TCP segment in an IP packet; see the stub."""
    view = readable(packet)
    if not len(view):
        raise PeerError(PeerReason.SEGMENT_TRUNCATED, "no bytes")
    version = view[0] >> 4
    if version == 4:
        tcp, end = _find_in_ipv4(view)
    elif version == 6:
        tcp, end = _find_in_ipv6(view)
    else:
        raise PeerError(PeerReason.SEGMENT_MALFORMED, f"IP version {version}")
    if end - tcp < _TCP_LEN:
        raise PeerError(PeerReason.SEGMENT_TRUNCATED, "TCP header")
    source_port, destination_port, seq, ack, offset, flags = _TCP_START.unpack_from(view, tcp)
    data_offset = offset >> 4 << 2
    if data_offset < _TCP_LEN:
        raise PeerError(PeerReason.SEGMENT_MALFORMED, "TCP data offset")
    if data_offset > end - tcp:
        raise PeerError(PeerReason.SEGMENT_TRUNCATED, "TCP options")
    addresses = _addresses(view, version)
    half = len(addresses) // 2
    return (
        *(version, tcp, end, data_offset),
        *(addresses[:half], source_port, addresses[half:], destination_port),
        *(seq, ack, flags),
    )


def rebuild_segment(
    packet: ReadableBuffer, tcp: int, region: ReadableBuffer, payload: ReadableBuffer
) -> bytes:
    """The packet with other options and another payload; see the stub."""
    before, options, data = readable(packet), readable(region), readable(payload)
    version = before[0] >> 4 if len(before) else 0
    at_least = {4: _IPV4_LEN, 6: _IPV6_LEN}.get(version)
    if at_least is None or tcp < at_least or len(before) - tcp < _TCP_LEN:
        raise ValueError("no TCP header is there")
    if len(options) > TCP_OPTIONS_MAX or len(options) % 4:
        raise LocalError(f"{len(options)} bytes of TCP options are no whole region")
    made = bytearray().join((before[: tcp + _TCP_LEN], options, data))
    length = len(made) if version == 4 else len(made) - _IPV6_LEN
    if length > _LENGTH_MAX:
        raise LocalError(f"IP length field cannot hold {length}")
    if version == 4:
        made[2:4] = length.to_bytes(2, "big")
        made[10:12] = bytes(2)
        made[10:12] = _inverted(checksum(made[:tcp]))
    else:
        made[4:6] = length.to_bytes(2, "big")
    # The low half of the byte is not the data offset's.
    made[tcp + 12] = made[tcp + 12] & 0x0F | (_TCP_LEN + len(options)) << 2
    made[tcp + 16 : tcp + 18] = bytes(2)
    # One form of the pseudo header serves both (RFC 9293 section 3.1, RFC 8200
    # section 8.1): the fields differ in width, not in their 16-bit sum.
    pseudo = _addresses(before, version) + struct.pack("!II", len(made) - tcp, _PROTOCOL_TCP)
    made[tcp + 16 : tcp + 18] = _inverted(checksum(made[tcp:], checksum(pseudo)))
    return bytes(made)


def _addresses(view: memoryview, version: int) -> bytes:
    first, last = (12, 20) if version == 4 else (8, 40)
    return view[first:last].tobytes()


def _find_in_ipv4(view: memoryview) -> tuple[int, int]:
    """Where TCP begins and the packet ends (RFC 791 section 3.1)."""
    if len(view) < _IPV4_LEN:
        raise PeerError(PeerReason.SEGMENT_TRUNCATED, "IPv4 header")
    tcp = (view[0] & 0x0F) << 2
    end = int.from_bytes(view[2:4], "big")
    if not _IPV4_LEN <= tcp <= end:
        raise PeerError(PeerReason.SEGMENT_MALFORMED, "IPv4 lengths")
    if end > len(view):
        raise PeerError(PeerReason.SEGMENT_TRUNCATED, f"{len(view)} of {end} bytes")
    if int.from_bytes(view[6:8], "big") & _IPV4_MORE_FRAGMENTS_AND_OFFSET:
        raise PeerError(PeerReason.SEGMENT_FRAGMENT)
    if view[9] != _PROTOCOL_TCP:
        raise PeerError(PeerReason.SEGMENT_NOT_TCP, f"IPv4 protocol {view[9]}")
    return tcp, end


def _find_in_ipv6(view: memoryview) -> tuple[int, int]:
    """Where TCP begins and the packet ends (RFC 8200 sections 3 and 4)."""
    if len(view) < _IPV6_LEN:
        raise PeerError(PeerReason.SEGMENT_TRUNCATED, "IPv6 header")
    end = _IPV6_LEN + int.from_bytes(view[4:6], "big")
    if end > len(view):
        raise PeerError(PeerReason.SEGMENT_TRUNCATED, f"{len(view)} of {end} bytes")
    header = view[6]
    at = _IPV6_LEN
    while header in _IPV6_EXTENSIONS:
        # No extension header is shorter than 8 bytes.
        if end - at < 8:
            raise PeerError(PeerReason.SEGMENT_TRUNCATED, "IPv6 extension header")
        # With segments left the destination is a way point, while the TCP
        # checksum covers the final one (RFC 8200 section 8.1).
        if header == _IPV6_ROUTING and view[at + 3]:
            raise PeerError(PeerReason.SEGMENT_MALFORMED, "routing segments left")
        # May step past `end`; whatever comes next then finds too few bytes.
        header, at = view[at], at + (view[at + 1] + 1) * 8
    if header == _IPV6_FRAGMENT:
        raise PeerError(PeerReason.SEGMENT_FRAGMENT)
    if header != _PROTOCOL_TCP:
        raise PeerError(PeerReason.SEGMENT_NOT_TCP, f"IPv6 next header {header}")
    return at, end


def _inverted(total: int) -> bytes:
    return (~total & 0xFFFF).to_bytes(2, "big")
