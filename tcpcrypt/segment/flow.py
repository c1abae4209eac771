"""One connection that passes, both its directions: segments in, segments out.

Sans-IO.  `take` is given every segment of the connection, and answers with the
packets that go on in its place; `handle_timeout` gives those that are due
without one.  A segment is never passed on as it came: what leaves is made of
what is known (`tcpcrypt.segment.composer`), so that nothing of a header that somebody forged gets
any further.

What is dropped in silence: resets that are not exactly at the edge of what was
authenticated (RFC 5961 section 3.2, and more strictly), FIN where no FINp was,
acknowledgements of what was never sent.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from tcpcrypt import _fast
from tcpcrypt.core.config import Config
from tcpcrypt.core.key_log import KeyLog
from tcpcrypt.core.negotiation import Fallback, Negotiated
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.errors import LocalError, PeerError, PeerReason, TruncationError
from tcpcrypt.segment.composer import Came, Composer, Packets
from tcpcrypt.segment.crypt import Crypt
from tcpcrypt.segment.lending import Lending, Timer, make_stream
from tcpcrypt.segment.opening import Opening, Side
from tcpcrypt.segment.packets import ECN_CE, Options, ecn, read_options, timestamps_and_blocks
from tcpcrypt.segment.plain import Passing, Plain
from tcpcrypt.segment.stream import Stream
from tcpcrypt.wire.segment import Segment, TcpFlags

__all__ = ["Flow", "Outcome", "Report"]

Report = Callable[[str, dict[str, object]], None]

INNER, OUTER = Side.INNER, Side.OUTER
_MODULUS: Final = 1 << 32
_HALF: Final = 1 << 31
_FORGED_FINS: Final = 3
"""FINs without FINp, at the edge, with nothing authentic between them, that are
taken for the peer's own: it repeats what nobody acknowledges."""
_RTO_MIN: Final = 0.2
_RTO_FIRST: Final = 1.0
"""RFC 6298 section 2.1."""
_RTO_MAX: Final = 60.0
_LINGER: Final = 60.0
"""RFC 9293 section 3.4.2: TIME-WAIT; Linux has 60 s."""
_TRIES_MAX: Final = 12
_GIVEN_UP: Final = 1000.0
"""Seconds after which whoever still wants an acknowledgement has stopped asking for it
(RFC 9293 section 3.8.3; Linux repeats for 924 s, two minutes apart at most)."""
_HALF_CLOSED: Final = 3600.0
_PLAIN_IDLE: Final = 86_400.0
_IDLE: Final = 432_000.0
"""Seconds of silence after which an open connection is forgotten, and then refused."""


@dataclass(slots=True)
class Outcome:
    """What becomes of one segment."""

    packets: Packets = field(default_factory=list)
    """The first, if it goes to the other side, may take the segment's place."""
    passed: bool = False
    """The segment goes on as it came."""
    held: bool = False
    """To be shown again when there are keys (`Flow.ready`)."""


class Flow:
    """One connection.

    `flow` are the addresses as in a segment from the inner side to the outer
    one; `opener` is the side from which the SYN came.  `forwards`: the inner
    side is a network, so that packets have to fit its segments.
    """

    def __init__(
        self,
        flow: tuple[bytes, int, bytes, int],
        opener: Side,
        config: Config,
        *,
        resumption: ResumptionCache | None = None,
        key_log: KeyLog | None = None,
        forwards: bool = False,
        lanes: _fast.Lanes | None = None,
        report: Report = lambda _event, _fields: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plain = False
        """Nothing is encrypted: every segment passes as it comes."""
        self.dead = False
        """Reset, or refused: no segment passes any more."""
        self._timer = Timer(clock())
        # A frame is as long as the data of a segment, which fits a segment again.
        self._config = replace(config, small_frames_until=0)
        self._resumption = resumption
        self._key_log = key_log
        self._report = report
        self._clock = clock
        self._opening = Opening(self._config, opener, b"%b:%d" % (flow[2], flow[3]), resumption)
        self._streams = {side: make_stream(lanes, seals=side is INNER) for side in Side}
        """By the side of their source."""
        self._composer = Composer(
            {OUTER: flow, INNER: (flow[2], flow[3], flow[0], flow[1])},
            self._streams,
            self._opening,
            forwards=forwards,
        )
        self._ends = self._composer.ends
        self._lending = Lending(lanes, flow, self._streams, self._composer, self._opening)
        self._crypt: Crypt | None = None
        self._asked = Options()
        """Those of the SYN."""
        self._begun = clock()
        self._rto = _RTO_FIRST
        self._forged_fins = 0
        self._told = False
        self._greeted = False
        """Whether an acknowledgement has been passed on."""
        self._over_since: float | None = None
        self._plainly: Plain | None = None

    @property
    def due(self) -> float | None:
        """When `handle_timeout` is to be called."""
        return self._timer.due

    @property
    def last_heard(self) -> float:
        """When the last segment came."""
        return max(self._timer.last_heard, self._lending.last_heard)

    @property
    def ready(self) -> bool:
        """Whether segments that were held will pass."""
        crypt = self._crypt
        return self.plain or self.dead or (crypt is not None and crypt.established is not None)

    @property
    def session_id(self) -> bytes | None:
        """The session ID, once there are keys."""
        crypt = self._crypt
        return None if crypt is None or crypt.established is None else crypt.established.session_id

    @property
    def over(self) -> bool:
        """Whether both sides have ended it, and heard that the other has."""
        return self.dead or self._over_since is not None

    def superseded(self, side: Side, syn: Segment) -> bool:
        """Whether a SYN is one of a later attempt, where this one got no answer.

        Of the peer's only before the inner host has answered, for anybody can send one.
        """
        unanswered = side is INNER or self._ends[INNER].isn < 0
        if self._crypt is not None or self.plain or side is not self._opening.opener:
            return False
        return unanswered and self._ends[side].isn != syn.seq

    def forgotten(self, now: float) -> bool:
        """Whether nobody will ask for this connection any more."""
        return now - self.last_heard > self._patience

    @property
    def _patience(self) -> float:
        """How long a silence may be: who vanishes without a word must not stay for ever."""
        streams = self._streams.values()
        if self.over:
            return _LINGER
        if self.plain:
            return _PLAIN_IDLE
        if any(stream.una < stream.emitted for stream in streams):
            return _GIVEN_UP
        return _IDLE if all(stream.fin is None for stream in streams) else _HALF_CLOSED

    # --- segments ------------------------------------------------------------------------

    def take(self, side: Side, segment: Segment, packet: bytes | memoryview) -> Outcome:
        """A segment that comes from `side`; `packet` is what `segment` was parsed from."""
        self._timer.last_heard = self._clock()
        packets = self._lending.take(side, packet, self._timer)
        if packets is not None:
            return Outcome(packets)
        self._recall()
        outcome = self._take(side, segment, packet)
        self._lend()
        return outcome

    def _take(self, side: Side, segment: Segment, packet: bytes | memoryview) -> Outcome:
        if self.dead:
            return self._from_the_grave(side, segment)
        if self.plain:
            return self._in_clear(side, segment)
        try:
            options = read_options(segment.options)
        except PeerError:
            return Outcome()  # nothing that TCP could read
        outcome = Outcome()
        flags = segment.flags
        if flags.rst:
            self._reset(side, segment, outcome)
        elif flags.syn:
            self._syn(side, segment, options, outcome)
        elif flags.ack and min(self._ends[INNER].isn, self._ends[OUTER].isn) >= 0:
            largest = self._opening.largest if side is INNER else self._opening.segment
            joined = len(segment.payload) > largest
            self._segment(Came(side, segment, packet, options, joined), outcome)
        if self.plain and not outcome.packets:
            outcome.passed = True
        self._schedule()
        return outcome

    def _lend(self) -> None:
        """Whoever does it faster may have the usual segments, once nothing is left to do."""
        crypt = self._crypt
        if crypt is None or crypt.established is None or not self._greeted or self.over:
            return
        self._lending.lend(crypt, self._timer, self._rto)

    def _recall(self) -> None:
        if self._lending.recall(self._crypt, self._timer):
            self._forged_fins = 0

    def _in_clear(self, side: Side, segment: Segment) -> Outcome:
        if self._plainly is None:
            opener = self._opening.opener
            answered = opener is INNER or self._ends[INNER].isn >= 0
            self._plainly = Plain(None if answered else self._ends[opener].isn)
        passing = self._plainly.take(side, segment)
        if self._plainly.over:
            self._over_since = self._timer.last_heard
        if passing is Passing.REFUSED:
            return self._from_the_grave(side, segment)
        return Outcome(passed=passing is Passing.PASSED)

    def _syn(self, side: Side, segment: Segment, options: Options, outcome: Outcome) -> None:
        end, flags = self._ends[side], segment.flags
        known = self._crypt is not None or (end.isn >= 0 and end.isn != segment.seq)
        answer = flags.ack
        if known or answer is (side is self._opening.opener):
            # RFC 5961 section 4: a SYN on an open connection is answered by an
            # acknowledgement; whoever is really new there will reset it.
            if self._crypt is not None:
                self._composer.bare(side, outcome.packets)
            return
        other = self._ends[side.other]
        if answer and (other.isn < 0 or (segment.ack - other.isn) % _MODULUS != 1):
            outcome.passed = True  # its own TCP will say what it thinks of it
            return
        end.isn = segment.seq
        end.scale = options.scale or 0
        end.timestamp = options.timestamps[:4]
        passing = self._opening.leaves if side is INNER else self._opening.comes
        changed = passing(segment)
        if answer:
            self._measured()
            # Of both, for an answer may have what was not asked for.
            asked = self._asked
            self._composer.timestamps = bool(asked.timestamps and options.timestamps)
            self._composer.blocks = asked.sack_permitted and options.sack_permitted
            if asked.scale is None or options.scale is None:
                self._ends[INNER].scale = self._ends[OUTER].scale = 0
        else:
            self._asked = options
        # RFC 7323 section 2.2: the window in a SYN is not scaled.
        self._streams[side.other].acknowledged(0, segment.window, [])
        self._begun = self._clock()
        if self._judge(outcome) and not self.plain:
            outcome.packets.append((side.other, changed))

    def _measured(self) -> None:
        self._rto = min(max(3 * (self._clock() - self._begun), _RTO_MIN), _RTO_FIRST)

    def _judge(self, outcome: Outcome) -> bool:
        """Act on what the negotiation has come to; False if the segment is not to pass."""
        result = self._opening.negotiation.outcome
        if isinstance(result, Negotiated) and self._crypt is None:
            self._streams[INNER].largest = self._opening.largest
            self._crypt = Crypt(
                self._config,
                result,
                self._streams[INNER],
                self._streams[OUTER],
                resumption=self._resumption,
                peer=self._opening.peer,
                key_log=self._key_log,
                clock=self._clock,
            )
            self._tell()
        elif isinstance(result, Fallback) and not self.plain:
            reason: dict[str, object] = {"reason": result.reason.value}
            if self._config.require_encryption:
                self._report("refused", reason)
                self._abort(outcome)
                return False
            self._report("fallback", reason)
            self.plain = True
        return True

    def _tell(self) -> None:
        crypt = self._crypt
        if crypt is not None and crypt.established is not None and not self._told:
            self._told = True
            found = crypt.established
            self._report(
                "encrypted",
                {
                    "session": found.session_id.hex(),
                    "tep": found.tep,
                    "aead": found.aead,
                    "resumed": found.resumed,
                    "role": found.role.name,
                },
            )

    def _segment(self, came: Came, outcome: Outcome) -> None:
        side, segment, options = came.side, came.segment, came.options
        payload, flags = segment.payload, segment.flags
        if side is OUTER:
            if not self._plausible(segment):
                return
            self._opening.negotiation.segment_received(False, True, segment.options)
            self._judge(outcome)
        elif self._crypt is None:
            self._first_ack(came, outcome)
        crypt = self._crypt
        if self.plain or self.dead or crypt is None:
            return
        if side is INNER and not self.ready:
            outcome.held = bool(len(payload) or flags.fin)
        if outcome.held or (outcome.packets and not (len(payload) or flags.fin)):
            return
        end = self._ends[side]
        source, sink = self._streams[side], self._streams[side.other]
        offset = self._offset(side, segment.seq, source.input.end)
        una = sink.una
        news = self._acknowledgement(came, sink) or not self._greeted
        if sink.una > una:
            self._timer.due = None  # RFC 6298 section 5.3; `_schedule` sets it anew
        self._greeted = True
        if options.timestamps:
            end.timestamp = options.timestamps[:4]
        end.congestion |= ecn(came.packet) == ECN_CE
        if len(payload) or flags.fin:
            before = source.input.end
            self._data(came, crypt, source, offset)
            if crypt.error is not None:
                self._fail(crypt.error, outcome)
                return
            self._forward(came, outcome, offset, before, news=news)
        else:
            probe = offset < source.arrived
            at = source.una - 1 if probe else None
            self._composer.bare(side.other, outcome.packets, came, at)
        self._flush(outcome)
        if self._over_since is None and all(
            s.fin is not None and s.una > s.fin for s in self._streams.values()
        ):
            self._over_since = self._clock()
            self._report("closed", {})

    def _plausible(self, segment: Segment) -> bool:
        """RFC 5961 section 5: whether the numbers are within the windows of the connection.

        Who sees no packet of it must not be able to talk a handshake into plain
        TCP, nor have the engine give his timestamps numbers that are believed.
        In the handshake only one acknowledgement is right.
        """
        sealing, opening = self._streams[INNER], self._streams[OUTER]
        acknowledged = self._offset(INNER, segment.ack, sealing.una)
        offset = self._offset(OUTER, segment.seq, opening.input.end)
        if self._crypt is None:
            return acknowledged == 0 <= offset <= opening.limit
        if not sealing.una - sealing.widest <= acknowledged <= sealing.emitted:
            return False
        return opening.input.end - opening.widest <= offset <= opening.limit

    def _first_ack(self, came: Came, outcome: Outcome) -> None:
        """The opener's ACK takes Init1 along, whether data comes with it or not."""
        region = timestamps_and_blocks(came.options.timestamps, [])
        try:
            option = self._opening.option(region)
        except LocalError:
            return  # a SYN that has not been answered
        if not self._judge(outcome) or self._crypt is None:
            return  # a passive opener that has heard nothing since its SYN-ACK
        if came.options.timestamps:
            self._ends[INNER].timestamp = came.options.timestamps[:4]
        self._measured()
        end = self._streams[INNER].end
        self._composer.emit(OUTER, outcome.packets, 0, end, came=came, region=option)

    def _offset(self, side: Side, number: int, near: int) -> int:
        """The offset, near `near`, of a sequence number of `side`."""
        distance = (number - self._ends[side].isn - 1 - near) % _MODULUS
        return near + (distance if distance < _HALF else distance - _MODULUS)

    def _acknowledgement(self, came: Came, stream: Stream) -> bool:
        """What the segment acknowledges of the stream to its side; whether it is news."""
        segment, end = came.segment, self._ends[came.side]
        offset = self._offset(came.side.other, segment.ack, stream.una)
        window = segment.window << end.scale
        blocks = [
            (
                self._offset(came.side.other, start, stream.una),
                self._offset(came.side.other, stop, stream.una),
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
                self._tell()
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
        self, came: Came, outcome: Outcome, offset: int, before: int, *, news: bool
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
                    self._composer.emit(to, outcome.packets, again, until, came=came)
                    return
                start = again
        if start < stop:
            self._composer.emit(to, outcome.packets, start, stop, came=came)
            return
        if last <= min(before, source.input_to(source.una)):
            # Long done with, a probe as a rule: its receiver is to acknowledge again.
            self._composer.bare(to, outcome.packets, came, source.una - 1)
            return
        if news:
            self._composer.bare(to, outcome.packets, came)
        sink = self._streams[to]
        if sink.emitted == sink.sendable:  # or what is sent anyway acknowledges it
            self._composer.bare(side, outcome.packets)

    def _flush(self, outcome: Outcome) -> None:
        """Send what is there without a segment to take it along."""
        for to in (INNER, OUTER):
            stream = self._streams[to.other]
            if stream.emitted < stream.sendable:
                self._composer.emit(to, outcome.packets, stream.emitted, stream.sendable)

    # --- how it ends -------------------------------------------------------------------------

    def _reset(self, side: Side, segment: Segment, outcome: Outcome) -> None:
        if self._crypt is None:
            # Its own TCP will say what it thinks of it; what was refused may begin anew.
            outcome.passed = True
            opener = self._opening.opener
            first = segment.seq if side is opener else segment.ack
            if side is INNER or (first - self._ends[opener].isn) % _MODULUS == 1:
                self._over_since = self._timer.last_heard
            return
        source = self._streams[side]
        offset = self._offset(side, segment.seq, source.input.end)
        if side is OUTER:
            if offset != source.input.end or source.emitted < source.end:
                return  # not where the peer's stream stands: not believed
            at = source.emitted
        elif offset <= source.input_to(source.una):
            at = source.una  # where the peer stands
        else:
            at = min(source.output_from(offset), source.emitted)
        self._report("reset", {"by": side.name.lower()})
        outcome.packets.append((side.other, self._composer.reset(side.other, at)))
        self._die()

    def _fail(self, error: PeerError, outcome: Outcome) -> None:
        self._report("aborted", {"reason": error.reason.value})
        self._abort(outcome)

    def _abort(self, outcome: Outcome) -> None:
        """Reset both sides."""
        outcome.packets.clear()
        for to in (INNER, OUTER):
            if self._ends[to].isn >= 0:
                # Where it stands, for it believes no other place: behind all that it was
                # sent, or behind what it has acknowledged if the rest was lost.
                stream = self._streams[to.other]
                for at in dict.fromkeys((stream.emitted, stream.una)):
                    outcome.packets.append((to, self._composer.reset(to, at)))
        self._die()

    def abort(self) -> Outcome:
        """Reset both sides, and forget the keys."""
        self._recall()
        outcome = Outcome()
        if not self.dead and not self.plain:
            self._abort(outcome)
        return outcome

    def give_up(self, error: Exception) -> Outcome:
        """Reset both sides, for the engine itself has failed; nothing more passes."""
        self.plain = False
        outcome = Outcome()
        with contextlib.suppress(Exception):
            self._recall()
        with contextlib.suppress(Exception):  # it may be what has failed
            self._report("failed", {"error": type(error).__name__})
        self._abort(outcome)
        return outcome

    def _from_the_grave(self, side: Side, segment: Segment) -> Outcome:
        """RFC 9293 section 3.10.7.1: who has not heard that it is over hears it again."""
        if segment.flags.rst or not segment.flags.ack:
            return Outcome()
        return Outcome([(side, self._composer.reset_answer(side, segment))])

    def _die(self) -> None:
        self.dead = True
        self._timer.due = None
        self._opening.negotiation.abandon()
        if self._crypt is not None:
            self._crypt.wipe()

    # --- time ----------------------------------------------------------------------------------

    def _schedule(self) -> None:
        waiting = self._crypt is not None and not self.ready
        if self.dead or self.plain:
            self._timer.due = None
        elif waiting or any(stream.overdue for stream in self._streams.values()):
            if self._timer.due is None:
                self._timer.tries = 0
                self._timer.due = self._clock() + self._rto
        else:
            self._timer.due = None

    def handle_timeout(self) -> Outcome:
        """Repeat what is the engine's to repeat; to be called when `due` has come."""
        self._recall()
        outcome = self._repeat()
        self._lend()
        return outcome

    def _repeat(self) -> Outcome:
        outcome = Outcome()
        if self._timer.due is None or self._clock() < self._timer.due:
            return outcome
        crypt = self._crypt
        if crypt is not None and not self.ready:
            crypt.session.handle_timeout()
            if crypt.session.error is not None:
                self._fail(crypt.session.error, outcome)
                return outcome
        self._timer.tries += 1
        for to in (INNER, OUTER):
            stream = self._streams[to.other]
            if stream.overdue:
                if self._timer.tries > _TRIES_MAX:
                    self._fail(PeerError(PeerReason.TIMEOUT), outcome)
                    return outcome
                stop = stream.una + self._composer.most(to)
                stop = min(stop, stream.responsible, stream.emitted)
                self._composer.emit(to, outcome.packets, stream.una, stop)
        self._timer.due = self._clock() + min(self._rto * 2**self._timer.tries, _RTO_MAX)
        return outcome
