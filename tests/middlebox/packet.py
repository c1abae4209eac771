"""A TCP segment that can be changed: what an attacker's own tools make of a packet.

Written after RFC 9293 section 3.1, RFC 791 and RFC 8200 and shares nothing with
`tcpcrypt.wire`, so that a mistake there is not one here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

FIN, SYN, RST, PSH, ACK, URG = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
MODULUS = 1 << 32
ENO, MSS, SACK_PERMITTED, SACK, TIMESTAMPS = 69, 2, 4, 5, 8
_IP = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_FRAGMENT = struct.Struct("!BxHI")
"""RFC 8200 section 4.5."""
_FRAGMENT_HEADER = 44
_TCP = struct.Struct("!HHIIBBHHH")
_FRAGMENTED = 0x3FFF
"""More Fragments and the offset."""


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def after(number: int, other: int) -> int:
    """How far `number` is behind `other` in sequence space; negative: in front."""
    distance = (number - other) % MODULUS
    return distance if distance < MODULUS // 2 else distance - MODULUS


@dataclass(frozen=True, slots=True)
class Packet:
    """One segment; `with_…` and `replace` give others, `build` the bytes from the IP header on.

    Addresses of 16 bytes make it one over IPv6.
    """

    source: bytes
    destination: bytes
    sport: int
    dport: int
    seq: int
    ack: int
    flags: int
    window: int
    urgent: int
    options: tuple[tuple[int, bytes], ...]
    payload: bytes
    tos: int = 0

    @classmethod
    def parse(cls, packet: bytes) -> Packet:
        """Raises `ValueError` for what is no whole TCP segment, over IPv6 without other headers."""
        if packet[0] >> 4 == 6:
            words, length, protocol, _hops, source, destination = _IPV6.unpack_from(packet)
            if protocol != 6:
                raise ValueError("not a whole TCP segment over IPv6")
            tcp = packet[_IPV6.size : _IPV6.size + length]
            return cls._of(source, destination, words >> 20 & 0xFF, tcp)
        first, tos, total, _id, place, _ttl, protocol, _sum, source, destination = _IP.unpack_from(
            packet
        )
        head = (first & 15) * 4
        if first >> 4 != 4 or protocol != 6 or place & _FRAGMENTED:
            raise ValueError("not a whole TCP segment over IPv4")
        return cls._of(source, destination, tos, packet[head:total])

    @classmethod
    def _of(cls, source: bytes, destination: bytes, tos: int, tcp: bytes) -> Packet:
        sport, dport, seq, ack, words, flags, window, _sum, urgent = _TCP.unpack_from(tcp)
        end = (words >> 4) * 4
        return cls(
            *(source, destination, sport, dport, seq, ack, flags, window, urgent),
            tuple(_options(tcp[_TCP.size : end])),
            tcp[end:],
            tos,
        )

    @property
    def is_syn(self) -> bool:
        return self.flags & (SYN | ACK) == SYN

    @property
    def is_syn_ack(self) -> bool:
        return self.flags & (SYN | ACK) == SYN | ACK

    @property
    def length(self) -> int:
        """What it takes up of the sequence space."""
        return len(self.payload) + bool(self.flags & SYN) + bool(self.flags & FIN)

    @property
    def end(self) -> int:
        return (self.seq + self.length) % MODULUS

    def option(self, kind: int) -> bytes | None:
        return next((data for number, data in self.options if number == kind), None)

    def without(self, *kinds: int) -> Packet:
        return replace(self, options=tuple(o for o in self.options if o[0] not in kinds))

    def with_option(self, kind: int, data: bytes) -> Packet:
        """With this option, the last, in place of what it had of the kind."""
        return replace(self, options=(*self.without(kind).options, (kind, data)))

    def with_payload(self, payload: bytes) -> Packet:
        return replace(self, payload=payload)

    def piece(self, start: int, stop: int) -> Packet:
        """The segment with these bytes of the payload; FIN and PSH belong to the last."""
        last = stop >= len(self.payload)
        return replace(
            self,
            seq=(self.seq + start) % MODULUS,
            flags=self.flags if last else self.flags & ~(FIN | PSH),
            payload=self.payload[start:stop],
        )

    def bare(self, flags: int, payload: bytes = b"", *, ahead: int = 0) -> Packet:
        """What a forger sends in this place of the stream, with no option."""
        return replace(
            self, seq=(self.seq + ahead) % MODULUS, flags=flags, options=(), payload=payload
        )

    def build(self, *, spoilt: bool = False) -> bytes:
        """The packet; `spoilt`: with a wrong TCP checksum."""
        region = b"".join(
            bytes((kind,)) if kind < 2 else bytes((kind, len(data) + 2)) + data
            for kind, data in self.options
        )
        region += b"\x01" * (-len(region) % 4)
        if len(region) > 40:
            raise ValueError(f"{len(region)} bytes of options")
        size = _TCP.size + len(region)
        words = (self.sport, self.dport, self.seq, self.ack, size << 2, self.flags)
        tcp = _TCP.pack(*words, self.window, 0, self.urgent) + region + self.payload
        # The pseudo-header of IPv6 has wider fields, which add up to the same.
        pseudo = self.source + self.destination + struct.pack("!HH", 6, len(tcp))
        value = checksum(pseudo + tcp) ^ (0x5555 if spoilt else 0)
        tcp = tcp[:16] + struct.pack("!H", value) + tcp[18:]
        return self._ip(0x4000, len(tcp)) + tcp

    @property
    def _six(self) -> bool:
        return len(self.source) == 16

    def fragments(self, size: int) -> list[bytes]:
        """IP fragments of `size` bytes, a multiple of eight."""
        body = self.build()[_IPV6.size if self._six else _IP.size :]
        identifier = (self.seq ^ self.ack ^ self.length) & 0xFFFF or 1
        found = []
        for at in range(0, len(body), size):
            part = body[at : at + size]
            more = 0x2000 if at + size < len(body) else 0
            if self._six:
                place = at | bool(more)  # in bytes, as eights lie in its upper 13 bits
                part = _FRAGMENT.pack(6, place, identifier) + part
            found.append(self._ip(more | at // 8, len(part), identifier) + part)
        return found

    def _ip(self, place: int, length: int, identifier: int = 0) -> bytes:
        if self._six:
            follows = _FRAGMENT_HEADER if identifier else 6
            words6 = (6 << 28 | self.tos << 20, length, follows, 63)
            return _IPV6.pack(*words6, self.source, self.destination)
        words = (0x45, self.tos, _IP.size + length, identifier, place, 63, 6)
        head = _IP.pack(*words, 0, self.source, self.destination)
        return _IP.pack(*words, checksum(head), self.source, self.destination)


def _options(region: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(region) and region[at] != 0:
        if region[at] == 1:
            at += 1
            continue
        length = region[at + 1]
        yield region[at], region[at + 2 : at + length]
        at += max(length, 2)
