"""What somebody on the path does to streams that are encrypted: an error, and no end of file."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace

from middlebox.fault import MIDDLE, Attack, Fault, Later, Out
from middlebox.packet import ACK, FIN, MODULUS, PSH, RST, SACK, Packet, after

_FORGED = b"nobody has said this " * 70


class _Changed(Attack):
    """One byte of a stream is another, under a right checksum."""

    forward = True
    at = MIDDLE

    def place(self) -> int | None:
        """The offset of the byte, once it is known."""
        return self.at

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        place = self.place() if forward is self.forward else None
        if place is None:
            return [packet]
        index = place - self.offset(packet, forward)
        if not 0 <= index < len(packet.payload):
            return [packet]
        self.done += 1
        changed = bytearray(packet.payload)
        changed[index] ^= 0x10
        return [packet.with_payload(bytes(changed))]


class RequestChanged(_Changed):
    pass


class AnswerBytesChanged(_Changed):
    forward = False


class Init1Changed(_Changed):
    """In its nonce; where there is no Init1, in the first frame."""

    at = 20


class Init2Changed(_Changed):
    forward = False
    at = 30


class MagicChanged(_Changed):
    """The first byte of all; of a resumed session the flags of its first frame."""

    forward = False
    at = 0


class LengthChanged(_Changed):
    """The length field of a frame."""

    def place(self) -> int | None:
        ends = self.streams[True].ends
        # The frame behind the second one; its header is in a segment with its first bytes.
        return ends[2] + 2 if len(ends) > 2 else None


class FlagsChanged(_Changed):
    """The control byte of a frame: bit `rekey` or a reserved one."""

    forward = False

    def place(self) -> int | None:
        ends = self.streams[False].ends
        return ends[2] if len(ends) > 2 else None


# --- forged ------------------------------------------------------------------------------------


class _Forged(Attack):
    """Something is put in front of the segment that comes to a place of the stream."""

    forward = True
    at = MIDDLE

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        offset = self.offset(packet, forward)
        # Not in front of what came too early: TCP would keep it back, and take the other.
        in_order = offset + len(packet.payload) == len(self.streams[forward].data)
        due = forward is self.forward and packet.payload and in_order and not self.done
        if not due or offset < self.at:
            return [packet]
        self.done += 1
        return self.forged(packet)

    def forged(self, packet: Packet) -> Iterable[Out]:
        raise NotImplementedError


class _Raced(_Forged):
    """Put in where the receiver's daemon may still have to look at what came before.

    Then it waits as well.  What comes once the daemon has decided does not, and overtakes
    it.  Traced at both ends: one connection in some hundreds, on a busy
    machine.  TCP has then taken the right segment, drops the forged one for a duplicate,
    and says so by RFC 2883 (D-SACK): that has to be seen for the connection to go on.
    """

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        blocks = packet.option(SACK)
        if self.done and forward is not self.forward and blocks:
            left, right = (int.from_bytes(blocks[at : at + 4]) for at in (0, 4))
            start = self.streams[self.forward].start
            self.too_late |= left == start and after(right, packet.ack) <= 0
        return super().segment(packet, forward)


class FinToServer(_Forged):
    def forged(self, packet: Packet) -> Iterable[Out]:
        return [packet.bare(FIN | ACK), packet]


class FinToClient(FinToServer):
    forward = False


class FinAheadToServer(_Forged):
    """It waits in the queue of TCP until the stream has come as far."""

    def forged(self, packet: Packet) -> Iterable[Out]:
        return [packet.bare(FIN | ACK, ahead=len(packet.payload)), packet]


class FinAheadToClient(FinAheadToServer):
    forward = False


class FinForInit2(FinToServer):
    """The end, before there was a key; for a resumed session before the first frame."""

    forward = False
    at = 0


class FinForInit1(_Raced, FinToServer):
    """A server that has not looked at the first ACK yet takes this one for it."""

    at = 0
    garbles = True


class ResetToServer(_Forged):
    """RFC 8548 section 8: nothing hinders it, and it does not look like an end."""

    def forged(self, packet: Packet) -> Iterable[Out]:
        return [packet.bare(RST), packet]


class ResetToClient(ResetToServer):
    forward = False


class ResetForInit2(ResetToServer):
    forward = False
    at = 0


class DataToServer(_Forged):
    """Bytes that fit the place exactly, before the right ones come."""

    def forged(self, packet: Packet) -> Iterable[Out]:
        return [packet.bare(ACK | PSH, _FORGED[: len(packet.payload)]), packet]


class DataToClient(DataToServer):
    forward = False


class DataForInit2(DataToServer):
    """An answer in clear to a client that has enabled encryption."""

    forward = False
    at = 0


class FragmentsToServer(_Forged):
    """The same in IP fragments."""

    def forged(self, packet: Packet) -> Iterable[Out]:
        forged = packet.bare(ACK | PSH, _FORGED[: len(packet.payload)])
        return [*forged.fragments(320), packet]


class ReflectedToClient(_Raced):
    """The client's own frames come back to it.

    In place of others: what reached beyond them would, where they overtake it, be the
    beginning of a frame whose rest TCP on the other side has never sent, and its
    acknowledgements would be of what was never sent, which TCP does not take: neither
    end nor error comes of that before TCP gives up.
    """

    forward = False
    at = 0

    def forged(self, packet: Packet) -> Iterable[Out]:
        own = bytes(self.streams[True].data)
        return [packet.bare(ACK | PSH, own[: len(packet.payload)]), packet]


# --- cut, moved, repeated ------------------------------------------------------------------------


class _CutBetweenFrames(Attack):
    """A frame is the last to arrive, and a FIN behind it: frames alone do not tell."""

    forward = True

    def cut(self) -> int | None:
        """The offset behind which nothing comes."""
        ends = self.streams[self.forward].ends
        return next((end for end in ends if end >= MIDDLE), None)

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        if forward is not self.forward:
            return [packet]
        place = self.cut()
        if place is None:
            return [packet]
        start = self.offset(packet, forward)
        left = place - start
        if left > len(packet.payload) or (left == len(packet.payload) and not packet.payload):
            return [packet]
        self.done += 1
        before = packet.piece(0, left) if left > 0 else None
        fin = replace(packet.bare(FIN | ACK), seq=(self.streams[forward].start + place) % MODULUS)
        return [fin] if before is None else [replace(before, flags=ACK | PSH), fin]


class RequestCut(_CutBetweenFrames):
    pass


class AnswerCut(_CutBetweenFrames):
    forward = False


class RequestWithoutFinp(_CutBetweenFrames):
    """All data arrives; the frame with FINp is what lacks."""

    def cut(self) -> int | None:
        stream = self.streams[self.forward]
        told = 0
        starts = stream.ends if stream.init else [0, *stream.ends]
        for before, end in itertools.pairwise(starts):
            told += end - before - 20
            if told >= self.size:
                return end
        return None


class AnswerWithoutFinp(RequestWithoutFinp):
    forward = False


class _Moved(Attack):
    """From a place on the numbers of a stream are shifted, and of the other's acknowledgements."""

    by = 0

    def __init__(self, later: Later) -> None:
        super().__init__(later)
        self._place: int | None = None
        self._shift = 0

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        packet = packet.without(5)  # SACK blocks would tell
        if not forward:
            return [self._acknowledging(packet)]
        offset = self.offset(packet, True)
        if self._place is None:
            if offset < MIDDLE or not packet.payload:
                return [packet]
            self._place = offset
            return self.begin(packet)
        if offset < self._place:
            return [packet]
        return [replace(packet, seq=(packet.seq + self._shift) % MODULUS)]

    def _acknowledging(self, packet: Packet) -> Packet:
        if self._place is None:
            return packet
        place = self.streams[True].start + self._place
        if after(packet.ack, place % MODULUS) <= 0:
            return packet
        return replace(packet, ack=(packet.ack - self._shift) % MODULUS)

    def begin(self, packet: Packet) -> Iterable[Out]:
        raise NotImplementedError


class SegmentDeleted(_Moved):
    """A segment vanishes from the stream, and the numbers close the gap."""

    def begin(self, packet: Packet) -> Iterable[Out]:
        self.done += 1
        self._shift = -len(packet.payload)
        assert self._place is not None
        self._place += len(packet.payload)
        return []


class BytesInserted(_Moved):
    """Bytes are put in, and the numbers make room."""

    def begin(self, packet: Packet) -> Iterable[Out]:
        self.done += 1
        self._shift = 100
        first = packet.bare(ACK | PSH, _FORGED[:100])
        return [first, replace(packet, seq=(packet.seq + 100) % MODULUS)]


class SegmentRepeated(Attack):
    """Where a segment should be, the one before it is once more."""

    def __init__(self, later: Later) -> None:
        super().__init__(later)
        self._last = b""

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        if not forward or not packet.payload:
            return [packet]
        last, self._last = self._last, packet.payload
        if self.offset(packet, True) < MIDDLE or len(last) < len(packet.payload):
            return [packet]
        self.done += 1
        return [packet.with_payload(last[: len(packet.payload)])]


class FramesSwapped(Attack):
    """Two segments of one length have changed places, numbers and all."""

    def __init__(self, later: Later) -> None:
        super().__init__(later)
        self._kept: Packet | None = None

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        if not forward or self.done or not packet.payload or self.offset(packet, True) < MIDDLE:
            return [packet]
        kept, self._kept = self._kept, packet
        if kept is None or len(kept.payload) != len(packet.payload) or packet.seq != kept.end:
            return []  # TCP sends it again
        self.done += 1
        return [kept.with_payload(packet.payload), packet.with_payload(kept.payload)]


STREAM_FAULTS: tuple[type[Fault], ...] = (
    *(RequestChanged, AnswerBytesChanged, Init1Changed, Init2Changed, MagicChanged),
    *(LengthChanged, FlagsChanged, FinToServer, FinToClient, FinAheadToServer, FinAheadToClient),
    *(FinForInit1, FinForInit2, ResetToServer, ResetToClient, ResetForInit2, DataToServer),
    *(DataToClient, DataForInit2, FragmentsToServer, ReflectedToClient, RequestCut, AnswerCut),
    *(RequestWithoutFinp, AnswerWithoutFinp, SegmentDeleted, BytesInserted, SegmentRepeated),
    FramesSwapped,
)
