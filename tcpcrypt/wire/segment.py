"""RFC 9293 section 3.1 over RFC 791 and RFC 8200: a TCP segment in its IP packet.

A `Segment` is a view: it copies nothing and its `options` and `payload` are
slices of the packet it was parsed from.  Changes make new packets with every
length and checksum computed anew, so that a checksum that an interface left
for its hardware to fill in does no harm.
"""

from __future__ import annotations

import enum
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from tcpcrypt import _fast
from tcpcrypt.errors import LocalError, PeerError, PeerReason
from tcpcrypt.registry import TCP_OPTIONS_MAX

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Segment", "TcpFlags"]

_PROTOCOL_TCP: Final = 6
_TCP_LEN: Final = 20
"""TCP header without options."""
_LENGTH_MAX: Final = 0xFFFF
"""The length field of IPv4 counts the packet, that of IPv6 what follows its header."""
_CHECKSUM_GOOD: Final = 0xFFFF
"""The one's-complement sum of data with a right checksum in them (RFC 1071)."""

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


class TcpFlags(enum.IntFlag):
    """RFC 9293 section 3.1: the control bits, with CWR and ECE of RFC 3168."""

    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    PSH = 0x08
    ACK = 0x10
    URG = 0x20
    ECE = 0x40
    CWR = 0x80

    @property
    def fin(self) -> bool:
        return TcpFlags.FIN in self

    @property
    def syn(self) -> bool:
        return TcpFlags.SYN in self

    @property
    def rst(self) -> bool:
        return TcpFlags.RST in self

    @property
    def psh(self) -> bool:
        return TcpFlags.PSH in self

    @property
    def ack(self) -> bool:
        return TcpFlags.ACK in self


class Segment:
    """RFC 9293 section 3.1: a TCP segment, IPv4 or IPv6, headers and all."""

    __slots__ = ("_end", "_packet", "_tcp", "data_offset", "version")

    version: int
    """4 or 6."""
    data_offset: int
    """Bytes of the TCP header, options included: 20 to 60."""

    def __init__(self, packet: memoryview, version: int, tcp: int, end: int) -> None:
        """Use `Segment.parse`.  TCP begins at `tcp`; the packet ends at `end`."""
        self._packet = packet
        self._tcp = tcp
        self._end = end
        self.version = version
        self.data_offset = packet[tcp + 12] >> 4 << 2

    @classmethod
    def parse(cls, packet: ReadableBuffer) -> Segment:
        """View `packet`, which begins with its IP header, as a TCP segment.

        IPv6 hop-by-hop options, routing and destination options headers are
        skipped; bytes behind the IP packet (link padding) are left out.
        Raises `PeerError` with SEGMENT_TRUNCATED, SEGMENT_MALFORMED (lengths
        that contradict each other, an IPv6 routing header whose packet is
        still under way), SEGMENT_FRAGMENT or SEGMENT_NOT_TCP.
        """
        view = memoryview(packet)
        if not view.nbytes:
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
        segment = cls(view, version, tcp, end)
        if segment.data_offset < _TCP_LEN:
            raise PeerError(PeerReason.SEGMENT_MALFORMED, "TCP data offset")
        if segment.data_offset > end - tcp:
            raise PeerError(PeerReason.SEGMENT_TRUNCATED, "TCP options")
        return segment

    @property
    def source(self) -> IPv4Address | IPv6Address:
        """Address of the sender; `.packed` gives its bytes."""
        addresses = self._addresses
        return _address(addresses[: len(addresses) // 2])

    @property
    def destination(self) -> IPv4Address | IPv6Address:
        """Address of the receiver; `.packed` gives its bytes."""
        addresses = self._addresses
        return _address(addresses[len(addresses) // 2 :])

    @property
    def source_port(self) -> int:
        return self._number(0, 2)

    @property
    def destination_port(self) -> int:
        return self._number(2, 2)

    @property
    def seq(self) -> int:
        """Sequence number, 32 bits."""
        return self._number(4, 4)

    @property
    def ack(self) -> int:
        """Acknowledgement number, 32 bits; means something only with `flags.ack`."""
        return self._number(8, 4)

    @property
    def flags(self) -> TcpFlags:
        return TcpFlags(self._packet[self._tcp + 13])

    @property
    def options(self) -> memoryview:
        """The option region, 0 to 40 bytes, padding included."""
        return self._packet[self._tcp + _TCP_LEN : self._tcp + self.data_offset]

    @property
    def payload(self) -> memoryview:
        return self._packet[self._tcp + self.data_offset : self._end]

    def checksum_ok(self) -> bool:
        """RFC 9293 section 3.1, RFC 791 section 3.1: all checksums are right."""
        tcp = self._packet[self._tcp : self._end]
        pseudo = _pseudo_header(self._addresses, len(tcp))
        if _fast.checksum(tcp, _fast.checksum(pseudo)) != _CHECKSUM_GOOD:
            return False
        return self.version == 6 or _fast.checksum(self._packet[: self._tcp]) == _CHECKSUM_GOOD

    def with_options(self, region: ReadableBuffer) -> bytes:
        """The packet with `region` in place of its TCP options.

        `region` is padded already: a multiple of 4 bytes, at most 40.  Raises
        `LocalError` otherwise, and for a packet that IP's length field cannot hold.
        """
        return self._rebuilt(memoryview(region).tobytes(), self.payload)

    def with_payload_dropped(self) -> bytes:
        """The packet without its TCP payload (RFC 8547 section 4.7, SYN data)."""
        return self._rebuilt(self.options, memoryview(b""))

    @property
    def _addresses(self) -> bytes:
        """Source and destination address, as in IP and pseudo header."""
        first, last = (12, 20) if self.version == 4 else (8, 40)
        return self._packet[first:last].tobytes()

    def _number(self, offset: int, size: int) -> int:
        start = self._tcp + offset
        return int.from_bytes(self._packet[start : start + size], "big")

    def _rebuilt(self, region: bytes | memoryview, payload: memoryview) -> bytes:
        if len(region) > TCP_OPTIONS_MAX or len(region) % 4:
            raise LocalError(f"{len(region)} bytes of TCP options are no whole region")
        tcp = self._tcp
        header = self._packet[: tcp + _TCP_LEN]
        packet = bytearray().join((header, region, payload))
        length = len(packet) if self.version == 4 else len(packet) - _IPV6_LEN
        if length > _LENGTH_MAX:
            raise LocalError(f"IP length field cannot hold {length}")
        if self.version == 4:
            packet[2:4] = length.to_bytes(2, "big")
            packet[10:12] = bytes(2)
            packet[10:12] = _inverted(_fast.checksum(packet[:tcp]))
        else:
            packet[4:6] = length.to_bytes(2, "big")
        # The low half of the byte is not the data offset's.
        packet[tcp + 12] = packet[tcp + 12] & 0x0F | (_TCP_LEN + len(region)) << 2
        packet[tcp + 16 : tcp + 18] = bytes(2)
        pseudo = _pseudo_header(self._addresses, len(packet) - tcp)
        with memoryview(packet) as view, view[tcp:] as segment:
            total = _fast.checksum(segment, _fast.checksum(pseudo))
        packet[tcp + 16 : tcp + 18] = _inverted(total)
        return bytes(packet)


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


def _address(packed: bytes) -> IPv4Address | IPv6Address:
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def _pseudo_header(addresses: bytes, tcp_len: int) -> bytes:
    """RFC 9293 section 3.1, RFC 8200 section 8.1.

    One form serves both: the fields differ in width, not in their 16-bit sum.
    """
    return addresses + tcp_len.to_bytes(4, "big") + _PROTOCOL_TCP.to_bytes(4, "big")


def _inverted(total: int) -> bytes:
    return (~total & 0xFFFF).to_bytes(2, "big")
