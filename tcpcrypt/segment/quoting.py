"""ICMP errors quote the packet that they are about (RFC 792, RFC 4443 section 2.4 (c)).

A packet that the engine has opened for a host is in clear: who sends an error about
it to the peer would tell the wire what nobody there is to read.  One that it has
sealed has the wire's sequence number, which its sender does not know: an error about it is
believed only with the number that it has inside (RFC 5927 section 4.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tcpcrypt import _fast

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Quotation", "quoted"]

_ICMP: Final = 1
_ICMPV6: Final = 58
_TCP: Final = 6
_ERRORS: Final = {_ICMP: (3, 4, 5, 11, 12), _ICMPV6: tuple(range(128))}
_QUOTES_AT: Final = 8
_FRAGMENT: Final = 44
_EXTENSIONS: Final = frozenset({0, 43, 60, _FRAGMENT})
"""RFC 8200 section 4: headers that may stand before TCP."""
_TOO_BIG: Final = {4: (3, 4), 6: (2, 0)}
"""Type and code of "fragmentation needed" (RFC 1191) and "packet too big" (RFC 4443)."""
_MTU_MIN: Final = {4: 552, 6: 1280}
"""What a path is believed to take at least: Linux's `min_pmtu`, and RFC 8200 section 5."""
_BENEATH_MAX: Final = 60
"""An IPv4 header with all options.  Who quotes more before TCP, as IPv6 lets him, could
otherwise make any path as narrow as he likes, though it takes 1,280 bytes."""
_DATA_MAX: Final = 32
_PORTS_AND_NUMBER: Final = 8
_CHECKSUM_GOOD: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class Quotation:
    """An ICMP error, and the TCP segment that it quotes."""

    packet: memoryview
    """The error, whole."""
    flow: tuple[bytes, int, bytes, int]
    """Addresses and ports of the segment, source first."""
    icmp: int
    """Where in `packet` the ICMP header begins."""
    tcp: int
    """Where that of the quoted segment begins."""
    beneath: int
    """Bytes of the quoted IP header, extension headers included, but `_BENEATH_MAX` at most."""

    @property
    def seq(self) -> int | None:
        """The sequence number of the segment, if so much of it is quoted."""
        octets = self.packet[self.tcp + 4 : self.tcp + 8]
        return int.from_bytes(octets, "big") if len(octets) == 4 else None

    @property
    def data(self) -> memoryview:
        """How the data of the segment begin, as far as they are quoted, but 32 bytes at most."""
        octets = self.packet[self.tcp + 12 : self.tcp + 13]
        begin = self.tcp + (octets[0] >> 4) * 4 if octets else len(self.packet)
        return self.packet[begin : begin + _DATA_MAX]

    @property
    def mtu(self) -> int | None:
        """How long packets on the path may be, if that is what it says."""
        version, at = self.packet[0] >> 4, self.icmp
        if (self.packet[at], self.packet[at + 1]) != _TOO_BIG[version]:
            return None
        field = self.packet[at + 6 : at + 8] if version == 4 else self.packet[at + 4 : at + 8]
        return max(int.from_bytes(field, "big"), _MTU_MIN[version])

    def with_numbers(self, seq: int, mtu: int | None, *, short: bool = False) -> bytes:
        """The error as whoever sent that segment understands it.

        `mtu` None: it stays as it is.  `short`: no more is quoted than has to be (RFC 792),
        the ports and the number.  A checksum that was wrong stays wrong.
        """
        good = self._sum(self.packet) == _CHECKSUM_GOOD
        changed = bytearray(self.packet[: self.tcp + _PORTS_AND_NUMBER] if short else self.packet)
        changed[self.tcp + 4 : self.tcp + 8] = (seq & 0xFFFFFFFF).to_bytes(4, "big")
        version, at = self.packet[0] >> 4, self.icmp
        if mtu is not None:
            mtu = max(mtu, _MTU_MIN[version])
            if version == 4:
                changed[at + 6 : at + 8] = min(mtu, 0xFFFF).to_bytes(2, "big")
            else:
                changed[at + 4 : at + 8] = mtu.to_bytes(4, "big")
        if short:
            self._shorten(changed)
        changed[at + 2 : at + 4] = bytes(2)
        checksum = ~self._sum(changed) & 0xFFFF
        changed[at + 2 : at + 4] = (checksum if good else checksum ^ 0xFFFF).to_bytes(2, "big")
        return bytes(changed)

    def _shorten(self, changed: bytearray) -> None:
        if changed[0] >> 4 == 6:
            changed[4:6] = (len(changed) - 40).to_bytes(2, "big")
            return
        changed[self.icmp + 5] = 0  # RFC 4884: how much is quoted before other things follow
        changed[2:4] = len(changed).to_bytes(2, "big")
        changed[10:12] = bytes(2)
        changed[10:12] = (~_fast.checksum(changed[: self.icmp]) & 0xFFFF).to_bytes(2, "big")

    def _sum(self, packet: bytearray | memoryview) -> int:
        """RFC 792; RFC 4443 section 2.3 has a pseudo-header in it."""
        message = packet[self.icmp :]
        if packet[0] >> 4 == 4:
            return _fast.checksum(message)
        pseudo = bytes(packet[8:40]) + len(message).to_bytes(4, "big") + _ICMPV6.to_bytes(4, "big")
        return _fast.checksum(message, _fast.checksum(pseudo))


def quoted(packet: ReadableBuffer) -> Quotation | None:
    """Which TCP segment the ICMP error `packet` quotes.

    None: nothing is quoted, or something else than TCP.  Raises `ValueError` for what is no
    ICMP error, or is cut off before it says which.
    """
    view = memoryview(packet).cast("B")
    protocol, at, *_ = _beneath(view)
    icmp = at
    if protocol not in _ERRORS or len(view) < at + _QUOTES_AT:
        raise ValueError("no ICMP message")
    if view[at] not in _ERRORS[protocol]:
        raise ValueError("no ICMP error")
    quote = view[at + _QUOTES_AT :]
    if not quote:
        return None
    protocol, at, source, destination = _beneath(quote)
    if protocol != _TCP and protocol not in _EXTENSIONS:
        return None
    ports = quote[at : at + 4]
    if protocol != _TCP or len(ports) < 4:
        raise ValueError("no ports are quoted")
    first, second = (int.from_bytes(ports[n : n + 2], "big") for n in (0, 2))
    tcp = icmp + _QUOTES_AT + at
    return Quotation(view, (source, first, destination, second), icmp, tcp, min(at, _BENEATH_MAX))


def _beneath(view: memoryview) -> tuple[int, int, bytes, bytes]:
    """Protocol above IP, where it begins, and the addresses."""
    version = view[0] >> 4 if view else 0
    if version == 4 and len(view) >= 20:
        if int.from_bytes(view[6:8], "big") & 0x1FFF:
            raise ValueError("no ports are in a later fragment")
        return view[9], (view[0] & 15) * 4, bytes(view[12:16]), bytes(view[16:20])
    if version != 6 or len(view) < 40:
        raise ValueError("no IP header")
    protocol, at = view[6], 40
    while protocol in _EXTENSIONS and len(view) >= at + 8:
        if protocol == _FRAGMENT and int.from_bytes(view[at + 2 : at + 4], "big") >> 3:
            raise ValueError("no ports are in a later fragment")
        length = 8 if protocol == _FRAGMENT else 8 * (view[at + 1] + 1)
        protocol, at = view[at], at + length
    return protocol, at, bytes(view[8:24]), bytes(view[24:40])
