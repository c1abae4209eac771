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

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Segment", "TcpFlags"]

_PROTOCOL_TCP: Final = 6
_TCP_LEN: Final = 20
"""TCP header without options."""
_CHECKSUM_GOOD: Final = 0xFFFF
"""The one's-complement sum of data with a right checksum in them (RFC 1071)."""


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
        return self._value_ & 0x01 != 0

    @property
    def syn(self) -> bool:
        return self._value_ & 0x02 != 0

    @property
    def rst(self) -> bool:
        return self._value_ & 0x04 != 0

    @property
    def psh(self) -> bool:
        return self._value_ & 0x08 != 0

    @property
    def ack(self) -> bool:
        return self._value_ & 0x10 != 0


_FLAGS: Final = tuple(TcpFlags(octet) for octet in range(256))


class Segment:
    """RFC 9293 section 3.1: a TCP segment, IPv4 or IPv6, headers and all."""

    __slots__ = (
        "_destination",
        "_end",
        "_flags",
        "_packet",
        "_source",
        "_tcp",
        "ack",
        "data_offset",
        "destination_port",
        "seq",
        "source_port",
        "version",
    )

    _packet: memoryview
    _tcp: int
    _end: int
    _source: bytes
    _destination: bytes
    _flags: int
    version: int
    """4 or 6."""
    data_offset: int
    """Bytes of the TCP header, options included: 20 to 60."""
    source_port: int
    destination_port: int
    seq: int
    """Sequence number, 32 bits."""
    ack: int
    """Acknowledgement number, 32 bits; means something only with `flags.ack`."""

    @classmethod
    def parse(cls, packet: ReadableBuffer) -> Segment:
        """View `packet`, which begins with its IP header, as a TCP segment.

        IPv6 hop-by-hop options, routing and destination options headers are
        skipped; bytes behind the IP packet (link padding) are left out.
        Raises `PeerError` with SEGMENT_TRUNCATED, SEGMENT_MALFORMED (lengths
        that contradict each other, an IPv6 routing header whose packet is
        still under way), SEGMENT_FRAGMENT or SEGMENT_NOT_TCP.
        """
        segment = cls.__new__(cls)
        segment._packet = memoryview(packet)
        (
            segment.version,
            segment._tcp,
            segment._end,
            segment.data_offset,
            segment._source,
            segment.source_port,
            segment._destination,
            segment.destination_port,
            segment.seq,
            segment.ack,
            segment._flags,
        ) = _fast.parse_segment(packet)
        return segment

    @property
    def source(self) -> IPv4Address | IPv6Address:
        """Address of the sender."""
        return _address(self._source)

    @property
    def destination(self) -> IPv4Address | IPv6Address:
        """Address of the receiver."""
        return _address(self._destination)

    @property
    def flow(self) -> tuple[bytes, int, bytes, int]:
        """Address and port of the sender, then of the receiver; addresses are packed."""
        return self._source, self.source_port, self._destination, self.destination_port

    @property
    def flags(self) -> TcpFlags:
        return _FLAGS[self._flags]

    @property
    def header_at(self) -> int:
        """Where in the packet the TCP header begins."""
        return self._tcp

    @property
    def window(self) -> int:
        """The window field, not scaled."""
        return int.from_bytes(self._packet[self._tcp + 14 : self._tcp + 16], "big")

    @property
    def urgent_pointer(self) -> int:
        """Means something only with URG."""
        return int.from_bytes(self._packet[self._tcp + 18 : self._tcp + 20], "big")

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
        pseudo = _pseudo_header(self._source + self._destination, len(tcp))
        if _fast.checksum(tcp, _fast.checksum(pseudo)) != _CHECKSUM_GOOD:
            return False
        return self.version == 6 or _fast.checksum(self._packet[: self._tcp]) == _CHECKSUM_GOOD

    def checksum_left(self) -> bool:
        """Whether the TCP checksum is left for an interface to complete.

        The field then holds the sum of the pseudo header alone; the packet comes
        from a kernel of this machine, which has it whole.
        """
        pseudo = _pseudo_header(self._source + self._destination, self._end - self._tcp)
        field = self._packet[self._tcp + 16 : self._tcp + 18]
        return int.from_bytes(field, "big") == _fast.checksum(pseudo)

    def with_options(self, region: ReadableBuffer) -> bytes:
        """The packet with `region` in place of its TCP options.

        `region` is padded already: a multiple of 4 bytes, at most 40.  Raises
        `LocalError` otherwise, and for a packet that IP's length field cannot hold.
        """
        return _fast.rebuild_segment(self._packet, self._tcp, region, self.payload)

    def altered(
        self,
        region: ReadableBuffer,
        payload: ReadableBuffer,
        *,
        flags: int | None = None,
        seq: int | None = None,
        window: int | None = None,
    ) -> bytes:
        """The packet with other TCP options and payload, and header fields as given.

        Raises `LocalError` as `with_options` does.
        """
        packet = bytearray(self._packet[: self._end])
        if flags is not None:
            packet[self._tcp + 13] = flags
        if seq is not None:
            packet[self._tcp + 4 : self._tcp + 8] = seq.to_bytes(4, "big")
        if window is not None:
            packet[self._tcp + 14 : self._tcp + 16] = window.to_bytes(2, "big")
        return _fast.rebuild_segment(packet, self._tcp, region, payload)

    def with_payload_dropped(self) -> bytes:
        """The packet without its TCP payload (RFC 8547 section 4.7, SYN data)."""
        return _fast.rebuild_segment(self._packet, self._tcp, self.options, b"")


def _address(packed: bytes) -> IPv4Address | IPv6Address:
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def _pseudo_header(addresses: bytes, tcp_len: int) -> bytes:
    """RFC 9293 section 3.1, RFC 8200 section 8.1.

    One form serves both: the fields differ in width, not in their 16-bit sum.
    """
    return addresses + tcp_len.to_bytes(4, "big") + _PROTOCOL_TCP.to_bytes(4, "big")
