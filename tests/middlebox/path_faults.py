"""What paths do without malice, and what TCP mends: encrypted, and every byte of both streams."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import ClassVar

from middlebox.fault import MIDDLE, Fault, Harmless, Kind, Later, Mode, Out, Outcome
from middlebox.packet import (
    ACK,
    ENO,
    FIN,
    MODULUS,
    MSS,
    PSH,
    SACK,
    SACK_PERMITTED,
    SYN,
    TIMESTAMPS,
    URG,
    Packet,
    after,
)

SOON = 0.005
_FORGED = b"nobody has said this "


class Untouched(Harmless):
    """For comparison."""

    def syn(self, packet: Packet) -> Iterable[Out]:
        self.done += 1
        return [packet]


# --- dropped -----------------------------------------------------------------------------------


class _FirstLost(Harmless):
    """The first segment that `lost` names does not arrive."""

    def lost(self, packet: Packet, forward: bool) -> bool:
        raise NotImplementedError

    def syn(self, packet: Packet) -> Iterable[Out]:
        return self.segment(packet, True)

    def syn_ack(self, packet: Packet) -> Iterable[Out]:
        return self.segment(packet, False)

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        if not self.done and self.lost(packet, forward):
            self.done += 1
            return []
        return [packet]


class SynLost(_FirstLost):
    def lost(self, packet: Packet, forward: bool) -> bool:
        return packet.is_syn


class SynAckLost(_FirstLost):
    def lost(self, packet: Packet, forward: bool) -> bool:
        return packet.is_syn_ack


class FirstAckLost(_FirstLost):
    def lost(self, packet: Packet, forward: bool) -> bool:
        return forward and not packet.flags & SYN


class FirstDataLost(_FirstLost):
    """Init1, or the first frame."""

    def lost(self, packet: Packet, forward: bool) -> bool:
        return forward and bool(packet.payload)


class FirstAnswerLost(_FirstLost):
    """Init2, or the first frame."""

    def lost(self, packet: Packet, forward: bool) -> bool:
        return not forward and bool(packet.payload)


class FinLost(_FirstLost):
    def lost(self, packet: Packet, forward: bool) -> bool:
        return bool(packet.flags & FIN)


class Lossy(Harmless):
    """One in seven segments with data is lost, either way."""

    def __init__(self, later: Later) -> None:
        super().__init__(later)
        self._numbers = itertools.count(1)

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        if packet.payload and next(self._numbers) % 7 == 0:
            self.done += 1
            return []
        return [packet]


class BitErrors(Harmless):
    """One in five segments with data has a bit changed, and a checksum that tells."""

    def __init__(self, later: Later) -> None:
        super().__init__(later)
        self._numbers = itertools.count(1)

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        if packet.payload and next(self._numbers) % 5 == 0:
            self.done += 1
            return [packet.build(spoilt=True)]
        return [packet]


class SmallPath(Harmless):
    """Behind the handshake the path takes 1,200 bytes at most, and nobody is told."""

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        if len(packet.build()) > 1200:
            self.done += 1
            return []
        return [packet]


# --- twice, late, in another order --------------------------------------------------------------


class Duplicated(Harmless):
    """Everything comes twice, the handshake too."""

    def syn(self, packet: Packet) -> Iterable[Out]:
        return self.segment(packet, True)

    def syn_ack(self, packet: Packet) -> Iterable[Out]:
        return self.segment(packet, False)

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        self.done += 1
        return [packet, packet]


class OldSegments(Harmless):
    """Everything comes once more when it is long past, the handshake too."""

    def syn(self, packet: Packet) -> Iterable[Out]:
        return self.segment(packet, True)

    def syn_ack(self, packet: Packet) -> Iterable[Out]:
        return self.segment(packet, False)

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        self.done += 1
        self.later(0.03, packet)
        return [packet]


class Reordered(Harmless):
    """Every other segment is overtaken by the next."""

    def __init__(self, later: Later) -> None:
        super().__init__(later)
        self._turn = {True: False, False: False}

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        if not packet.payload:
            return [packet]
        self._turn[forward] = not self._turn[forward]
        if self._turn[forward]:
            self.done += 1
            self.later(SOON, packet)
            return []
        return [packet]


class SlowSynAck(Harmless):
    """So slow that the SYN is sent again; on a busy machine, until one goes without ENO."""

    @classmethod
    def expected(cls, kind: Kind, mode: Mode) -> set[Outcome]:
        plain = mode is Mode.OPPORTUNISTIC and kind is not Kind.AUTHENTICATED
        return {Outcome.ENCRYPTED, Outcome.PLAIN} if plain else {Outcome.ENCRYPTED}

    def syn_ack(self, packet: Packet) -> Iterable[Out]:
        self.done += 1
        self.later(1.2, packet)
        return []


# --- cut and joined ----------------------------------------------------------------------------


class ByteByByte(Harmless):
    """A segment for every byte."""

    size = 2500

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        if len(packet.payload) < 2:
            return [packet]
        self.done += 1
        return [packet.piece(at, at + 1) for at in range(len(packet.payload))]


class Ragged(Harmless):
    """Segments of 1, 2, 3, 5, 8 … bytes, the borders elsewhere in every segment."""

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        if len(packet.payload) < 2:
            return [packet]
        self.done += 1
        return list(self._pieces(packet))

    def _pieces(self, packet: Packet) -> Iterator[Packet]:
        at, size, following = 0, 1, 2
        while at < len(packet.payload):
            yield packet.piece(at, at + size)
            at, size, following = at + size, following, size + following


class Coalesced(Harmless):
    """Data is kept for a moment and leaves in segments with other borders."""

    def __init__(self, later: Later) -> None:
        super().__init__(later)
        self._kept: dict[bool, Packet | None] = {True: None, False: None}

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        kept, self._kept[forward] = self._kept[forward], None
        if kept is None:
            if not packet.payload or packet.flags & FIN:
                return [packet]
            self._kept[forward] = packet
            self.later(2 * SOON, packet)  # comes anyhow, if nothing follows
            return []
        if packet.seq != kept.end or not packet.payload:
            return [kept, packet]
        self.done += 1
        joined = packet.with_payload(kept.payload + packet.payload)
        joined = replace(joined, seq=kept.seq)
        half = min(1300, len(joined.payload) // 2 + 1)
        rest = range(half, len(joined.payload), 1300)
        return [joined.piece(0, half), *(joined.piece(at, at + 1300) for at in rest)]


class Fragmented(Harmless):
    """IP fragments, the last one first."""

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        if len(packet.payload) < 100:
            return [packet]
        self.done += 1
        return packet.fragments(480)[::-1]


# --- rewritten -----------------------------------------------------------------------------------


class Renumbered(Harmless):
    """Sequence numbers of both directions are others on either side, SACK blocks too."""

    _SHIFT: ClassVar = {True: 0x7654_3210, False: 0xFEDC_BA98}

    def syn(self, packet: Packet) -> Iterable[Out]:
        return [replace(packet, seq=(packet.seq + self._SHIFT[True]) % MODULUS)]

    def syn_ack(self, packet: Packet) -> Iterable[Out]:
        return self.segment(packet, False)

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        self.done += 1
        own, other = self._SHIFT[forward], self._SHIFT[not forward]
        options = tuple(
            (kind, _shifted(data, -other) if kind == SACK else data)
            for kind, data in packet.options
        )
        seq, ack = (packet.seq + own) % MODULUS, (packet.ack - other) % MODULUS
        return [replace(packet, seq=seq, ack=ack, options=options)]


def _shifted(blocks: bytes, by: int) -> bytes:
    numbers = [int.from_bytes(blocks[at : at + 4], "big") for at in range(0, len(blocks), 4)]
    return b"".join(((number + by) % MODULUS).to_bytes(4, "big") for number in numbers)


class OptionsStripped(Harmless):
    """No timestamps, no SACK, a small MSS: what the handshake said of them is changed."""

    def syn(self, packet: Packet) -> Iterable[Out]:
        self.done += 1
        return [packet.without(TIMESTAMPS, SACK_PERMITTED).with_option(MSS, (536).to_bytes(2))]

    def syn_ack(self, packet: Packet) -> Iterable[Out]:
        return self.syn(packet)


class EnoStrippedFromData(Harmless):
    """RFC 8547 section 4.6: the option in the first ACK has said it already."""

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        if packet.payload and packet.option(ENO) is not None:
            self.done += 1
            return [packet.without(ENO)]
        return [packet]


class MarkedUrgent(Harmless):
    """URG and a pointer on all data: TCP must not take a byte out of the stream."""

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        if not packet.payload:
            return [packet]
        self.done += 1
        flags, urgent = packet.flags | URG, len(packet.payload) // 2 + 1
        return [replace(packet, flags=flags, urgent=urgent)]


class Congested(Harmless):
    """CE on every packet, and no PSH."""

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        self.done += 1
        return [replace(packet, tos=packet.tos | 3, flags=packet.flags & ~PSH)]


# --- put in where it does not count ---------------------------------------------------------------


class DataInSyn(Harmless):
    """RFC 8547 section 4.7: data in SYN segments with ENO is not the application's."""

    def syn(self, packet: Packet) -> Iterable[Out]:
        self.done += 1
        return [packet.with_payload(_FORGED)]

    def syn_ack(self, packet: Packet) -> Iterable[Out]:
        return self.syn(packet)


class ForgedOutOfPlace(Harmless):
    """Resets, ends, SYNs and data whose numbers TCP does not take, in front of what is late
    enough in its stream that they do not come before the handshake is over."""

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        if not packet.payload or self.offset(packet, forward) < MIDDLE:
            return [packet]
        self.done += 1
        forged = [
            packet.bare(0x04, ahead=1),  # RST in the window: RFC 5961 asks back
            packet.bare(0x04, ahead=1 << 30),
            packet.bare(SYN, ahead=2),
            packet.bare(FIN | ACK, ahead=1 << 30),
            packet.bare(ACK | PSH, _FORGED, ahead=1 << 30),
            packet.bare(ACK | PSH, _FORGED, ahead=-(1 << 28)),
        ]
        return [*forged, packet]


class ForgedFragments(Harmless):
    """First fragments of segments that never become whole."""

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        if len(packet.payload) < 1000:  # a short one would be whole
            return [packet]
        self.done += 1
        forged = replace(packet, payload=bytes(len(packet.payload)), ack=packet.ack ^ 0x5A5A)
        return [forged.fragments(480)[0], packet]


class OldData(Harmless):
    """Other bytes in places that were acknowledged long ago."""

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        if not packet.payload or self.offset(packet, forward) < MIDDLE:
            return [packet]
        self.done += 1
        back = after(self.streams[forward].start, packet.seq)
        return [packet.bare(ACK | PSH, _FORGED * 40, ahead=back), packet]


PATH_FAULTS: tuple[type[Fault], ...] = (
    *(Untouched, SynLost, SynAckLost, FirstAckLost, FirstDataLost, FirstAnswerLost, FinLost),
    *(Lossy, BitErrors, SmallPath, Duplicated, OldSegments, Reordered, SlowSynAck),
    *(ByteByByte, Ragged, Coalesced, Fragmented, Renumbered, OptionsStripped),
    *(EnoStrippedFromData, MarkedUrgent, Congested, DataInSyn),
    *(ForgedOutOfPlace, ForgedFragments, OldData),
)
