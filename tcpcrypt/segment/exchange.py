"""An encrypted connection's segments: what one brings to either direction, and what leaves for it.

Sans-IO.  `tcpcrypt.segment.flow` has seen to it that there are keys, or will
be, and that the segment may be one of the connection's.
"""

from __future__ import annotations

from typing import Final

from tcpcrypt.errors import PeerError, PeerReason, TruncationError
from tcpcrypt.segment.composer import Came, Composer, Packets
from tcpcrypt.segment.crypt import Crypt
from tcpcrypt.segment.lending import Timer
from tcpcrypt.segment.opening import Side
from tcpcrypt.segment.packets import ECN_CE, ecn
from tcpcrypt.segment.stream import Stream
from tcpcrypt.wire.segment import Segment, TcpFlags

__all__ = ["Exchange"]

INNER, OUTER = Side.INNER, Side.OUTER
_MODULUS: Final = 1 << 32
_HALF: Final = 1 << 31
_FORGED_FINS: Final = 3
"""FINs without FINp, at the edge, with nothing authentic between them, that are
taken for the peer's own: it repeats what nobody acknowledges."""
_TRIES_MAX: Final = 12


class Exchange:
    """Both directions of one connection; `streams` stand by the side of their source."""

    def __init__(self, streams: dict[Side, Stream], composer: Composer, timer: Timer) -> None:
        self.greeted = False
        """Whether an acknowledgement has been passed on."""
        self._streams = streams
        self._composer = composer
        self._ends = composer.ends
        self._timer = timer
        self._forged_fins = 0

    @property
    def ended(self) -> bool:
        """Whether both sides have sent FIN, and both FINs have been acknowledged."""
        return all(s.fin is not None and s.una > s.fin for s in self._streams.values())

    @property
    def overdue(self) -> bool:
        """Whether something is the engine's to repeat."""
        return any(stream.overdue for stream in self._streams.values())

    def offset(self, side: Side, number: int, near: int) -> int:
        """The offset, near `near`, of a sequence number of `side`."""
        distance = (number - self._ends[side].isn - 1 - near) % _MODULUS
        return near + (distance if distance < _HALF else distance - _MODULUS)

    def plausible(self, segment: Segment, *, begun: bool) -> bool:
        """RFC 5961 section 5: whether the numbers are within the windows of the connection.

        Who sees no packet of it must not be able to talk a handshake into plain
        TCP, nor have the engine give his timestamps numbers that are believed.
        In the handshake (`begun` is false) only one acknowledgement is right.
        """
        sealing, opening = self._streams[INNER], self._streams[OUTER]
        acknowledged = self.offset(INNER, segment.ack, sealing.una)
        offset = self.offset(OUTER, segment.seq, opening.input.end)
        if not begun:
            return acknowledged == 0 <= offset <= opening.limit
        if not sealing.una - sealing.widest <= acknowledged <= sealing.emitted:
            return False
        return opening.input.end - opening.widest <= offset <= opening.limit

    def opened_elsewhere(self) -> None:
        """Something of the peer's was authentic while the connection was lent."""
        self._forged_fins = 0

    # --- a segment -----------------------------------------------------------------------

    def take(self, came: Came, crypt: Crypt, packets: Packets) -> None:
        """What a segment brings; what leaves for it is added to `packets`.

        If `crypt.error` is set afterwards the connection is to end.
        """
        side, segment, options = came.side, came.segment, came.options
        end = self._ends[side]
        source, sink = self._streams[side], self._streams[side.other]
        offset = self.offset(side, segment.seq, source.input.end)
        una = sink.una
        news = self._acknowledgement(came, sink) or not self.greeted
        if sink.una > una:
            self._timer.due = None  # RFC 6298 section 5.3; it is set anew afterwards
        self.greeted = True
        if options.timestamps:
            end.timestamp = options.timestamps[:4]
        end.congestion |= ecn(came.packet) == ECN_CE
        if len(segment.payload) or segment.flags.fin:
            before = source.input.end
            self._data(came, crypt, source, offset)
            if crypt.error is not None:
                return
            self._forward(came, packets, offset, before, news=news)
        else:
            probe = offset < source.arrived
            at = source.una - 1 if probe else None
            self._composer.bare(side.other, packets, came, at)
        self._flush(packets)

    def _acknowledgement(self, came: Came, stream: Stream) -> bool:
        """What the segment acknowledges of the stream to its side; whether it is news."""
        segment, end = came.segment, self._ends[came.side]
        offset = self.offset(came.side.other, segment.ack, stream.una)
        window = segment.window << end.scale
        blocks = [
            (
                self.offset(came.side.other, start, stream.una),
                self.offset(came.side.other, stop, stream.una),
            )
            for start, stop in came.options.blocks
        ]
        return stream.acknowledged(offset, offset + window, blocks)

    def _data(self, came: Came, crypt: Crypt, source: Stream, offset: int) -> None:
        """Input: seal or open what is in order now."""
        segment = came.segment
        payload = segment.payload
        if len(payload) and source.fin is None:
            new = source.take(offset, payload)
            if new and came.side is INNER:
                urgent = None
                if segment.flags & TcpFlags.URG:
                    urgent = offset + segment.urgent_pointer - 1
                crypt.seal(new, urgent)
            elif new:
                self._forged_fins = 0
                crypt.receive(new)
                self._composer.urgent = crypt.peer_urgent
        if not segment.flags.fin or source.fin is not None or crypt.error is not None:
            return
        if offset + len(payload) != source.input.end:
            return  # it comes again, when what is before it has
        if came.side is INNER:
            crypt.finish()
        elif crypt.peer_finished:
            source.finish()
        elif crypt.between_frames:
            self._forged_fins += 1
            if self._forged_fins >= _FORGED_FINS:
                crypt.error = TruncationError(PeerReason.TRUNCATED)

    def _forward(
        self, came: Came, packets: Packets, offset: int, before: int, *, news: bool
    ) -> None:
        """Send on what the segment has brought, or brought once more."""
        side, source = came.side, self._streams[came.side]
        to = side.other
        last = offset + len(came.segment.payload) + (1 if came.segment.flags.fin else 0)
        start, stop = source.emitted, source.sendable
        if offset < before:
            # A repetition: cut from what is kept, byte for byte.
            again = max(source.output_from(offset), source.una)
            until = min(source.output_to(min(last, before)), source.emitted)
            if again < until:
                if until < start or start == stop:
                    self._composer.emit(to, packets, again, until, came=came)
                    return
                start = again
        if start < stop:
            self._composer.emit(to, packets, start, stop, came=came)
            return
        if last <= min(before, source.input_to(source.una)):
            # Long done with, a probe as a rule: its receiver is to acknowledge again.
            self._composer.bare(to, packets, came, source.una - 1)
            return
        if news:
            self._composer.bare(to, packets, came)
        sink = self._streams[to]
        if sink.emitted == sink.sendable:  # or what is sent anyway acknowledges it
            self._composer.bare(side, packets)

    def _flush(self, packets: Packets) -> None:
        """Send what is there without a segment to take it along."""
        for to in (INNER, OUTER):
            stream = self._streams[to.other]
            if stream.emitted < stream.sendable:
                self._composer.emit(to, packets, stream.emitted, stream.sendable)

    # --- what nobody else repeats ----------------------------------------------------------

    def repeat(self, packets: Packets) -> PeerError | None:
        """Send again what is the engine's to repeat; an error if that was tried enough."""
        for to in (INNER, OUTER):
            stream = self._streams[to.other]
            if stream.overdue:
                if self._timer.tries > _TRIES_MAX:
                    return PeerError(PeerReason.TIMEOUT)
                stop = stream.una + self._composer.most(to)
                stop = min(stop, stream.responsible, stream.emitted)
                self._composer.emit(to, packets, stream.una, stop)
        return None

    # --- where it ends ---------------------------------------------------------------------

    def reset_at(self, side: Side, segment: Segment) -> int | None:
        """Where a reset from `side` reaches the other side; None if it is not believed."""
        source = self._streams[side]
        offset = self.offset(side, segment.seq, source.input.end)
        if side is OUTER:
            if offset != source.input.end or source.emitted < source.end:
                return None  # not where the peer's stream stands
            return source.emitted
        if offset <= source.input_to(source.una):
            return source.una  # where the peer stands
        return min(source.output_from(offset), source.emitted)

    def abort(self, packets: Packets) -> None:
        """Reset both sides, as far as they have begun."""
        for to in (INNER, OUTER):
            if self._ends[to].isn >= 0:
                # Where it stands, for it believes no other place: behind all that it was
                # sent, or behind what it has acknowledged if the rest was lost.
                stream = self._streams[to.other]
                for at in dict.fromkeys((stream.emitted, stream.una)):
                    packets.append((to, self._composer.reset(to, at)))
