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
from tcpcrypt.core.events import Established
from tcpcrypt.core.key_log import KeyLog
from tcpcrypt.core.negotiation import Fallback, Negotiated
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.errors import PeerError
from tcpcrypt.segment.beginning import Beginning, Taken
from tcpcrypt.segment.composer import Came, Composer, Packets
from tcpcrypt.segment.crypt import Crypt, Ended
from tcpcrypt.segment.exchange import Exchange
from tcpcrypt.segment.lending import Lending, Timer, make_stream
from tcpcrypt.segment.memory import Memory
from tcpcrypt.segment.opening import Opening, Side
from tcpcrypt.segment.packets import Options, read_options
from tcpcrypt.segment.plain import Passing, Plain
from tcpcrypt.segment.quoting import Quotation
from tcpcrypt.segment.reported import Reported
from tcpcrypt.wire.segment import Segment

__all__ = ["Flow", "Outcome", "Report", "fitted"]

Report = Callable[[str, dict[str, object]], None]

INNER, OUTER = Side.INNER, Side.OUTER
_MODULUS: Final = 1 << 32
_RTO_MAX: Final = 60.0
_LINGER: Final = 60.0
"""RFC 9293 section 3.4.2: TIME-WAIT; Linux has 60 s."""
_GIVEN_UP: Final = 1000.0
"""Seconds after which whoever still wants an acknowledgement has stopped asking for it
(RFC 9293 section 3.8.3; Linux repeats for 924 s, two minutes apart at most)."""
_HALF_CLOSED: Final = 3600.0
_PLAIN_IDLE: Final = 86_400.0
_IDLE: Final = 432_000.0
"""Seconds of silence after which an open connection is forgotten, and then refused."""


def fitted(config: Config) -> Config:
    """`config` with frames as long as segments; the same if it has them already."""
    return replace(config, small_frames_until=0) if config.small_frames_until else config


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
    side is a network, so that packets have to fit its segments.  `memory` is that of
    all connections, and `lanes.memory` where there are lanes.
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
        memory: Memory | None = None,
        report: Report = lambda _event, _fields: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plain = False
        """Nothing is encrypted: every segment passes as it comes."""
        self.dead = False
        """Reset, or refused: no segment passes any more."""
        self._timer = Timer(clock())
        # A frame is as long as the data of a segment, which fits a segment again.
        self._config = fitted(config)
        self._resumption = resumption
        self._key_log = key_log
        self._report = report
        self._clock = clock
        # As the relay calls them: a service by its port, too, a client not.
        peer = flow[2] + flow[3].to_bytes(2, "big") if opener is INNER else flow[2]
        self._forwards = forwards
        self._opening = Opening(self._config, opener, peer, resumption)
        self._streams = {
            side: make_stream(lanes, seals=side is INNER, memory=memory) for side in Side
        }
        """By the side of their source."""
        self._composer = Composer(
            {OUTER: flow, INNER: (flow[2], flow[3], flow[0], flow[1])},
            self._streams,
            self._opening,
            forwards=forwards,
        )
        self._ends = self._composer.ends
        self._exchange = Exchange(self._streams, self._composer, self._timer)
        self._beginning = Beginning(self._opening, self._composer, self._streams, clock)
        self._lending = Lending(lanes, flow, self._streams, self._composer, self._opening)
        self._crypt: Crypt | None = None
        self._ended: Ended | None = None
        """What is left of it: what is over stays for a minute, and there may be very many."""
        self._told = False
        self._proof_told = False
        self._over_since: float | None = None
        self._plainly: Plain | None = None
        self._agreed = False

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
        return self.plain or self.dead or self.established is not None

    @property
    def session_id(self) -> bytes | None:
        """The session ID, once there are keys."""
        established = self.established
        return None if established is None else established.session_id

    @property
    def established(self) -> Established | None:
        """What the session tells of itself, once there are keys."""
        known = self._crypt or self._ended
        return None if known is None else known.established

    @property
    def proved(self) -> bool:
        """Whether the peer has proved what `established` tells of it."""
        known = self._crypt or self._ended
        return known is not None and known.peer_proved

    @property
    def rekeys(self) -> int:
        """Key changes of both directions."""
        known = self._crypt or self._ended
        return 0 if known is None else known.rekeys

    @property
    def transcript(self) -> bytes:
        """The ENO options of both SYNs (RFC 8547 section 4.8); empty before that."""
        outcome = self._opening.negotiation.outcome
        return outcome.eno_transcript if isinstance(outcome, Negotiated) else b""

    @property
    def state(self) -> str:
        """`connecting`, `exchanging`, `encrypted`, `plain` or `closed`."""
        if self.over:
            return "closed"
        if self.plain:
            return "plain"
        if self._crypt is None:
            return "connecting"
        return "exchanging" if self._crypt.established is None else "encrypted"

    @property
    def moved(self) -> tuple[int, int]:
        """Application data of the inner side and of the outer one, where it is encrypted."""
        sealing, opening = (self._streams[side].cells.app_end for side in (INNER, OUTER))
        return sealing, opening

    @property
    def over(self) -> bool:
        """Whether both sides have ended it, and heard that the other has."""
        return self.dead or self._over_since is not None or self._lending.over

    def superseded(self, side: Side, syn: Segment) -> bool:
        """Whether a SYN is one of a later attempt, where this one got no answer.

        Of the peer's only before the inner host has answered, for anybody can send one.
        """
        unanswered = side is INNER or self._ends[INNER].isn < 0
        if side is INNER and self._opening.opener is OUTER:
            return self._unanswered
        if self._crypt is not None or self.plain or side is not self._opening.opener:
            return False
        return unanswered and self._ends[side].isn != syn.seq

    @property
    def _unanswered(self) -> bool:
        """Whether the inner host has not answered the SYN of a peer, or of a stranger."""
        if self._opening.opener is INNER or self._ends[INNER].isn >= 0:
            return False
        return self._plainly is None or self._plainly.asked

    @property
    def agreed(self) -> bool:
        """Whether the peer is one that hears what the inner host says."""
        if not self.plain:
            return self.ready
        return self._agreed or (self._plainly is not None and self._plainly.agreed)

    def forgotten(self, now: float) -> bool:
        """Whether nobody will ask for this connection any more.

        Once both have ended it nothing that comes is proof of anything, or makes it stay.
        """
        if self._ended is not None and self._over_since is not None:
            return now - self._over_since > _LINGER
        return now - self.last_heard > self._patience

    @property
    def _patience(self) -> float:
        """How long a silence may be: who vanishes without a word must not stay for ever."""
        streams = self._streams.values()
        if self.over:
            return _LINGER
        if self.plain:
            half = self._plainly is not None and self._plainly.ends
            return _HALF_CLOSED if half else _PLAIN_IDLE
        if any(stream.una < stream.emitted for stream in streams):
            return _GIVEN_UP
        return _IDLE if all(stream.fin is None for stream in streams) else _HALF_CLOSED

    # --- segments ------------------------------------------------------------------------

    def take(self, side: Side, segment: Segment, packet: bytes | memoryview) -> Outcome:
        """A segment that comes from `side`; `packet` is what `segment` was parsed from."""
        if not self.dead:
            self._timer.last_heard = self._clock()
        packets = self._lending.take(side, packet, self._timer)
        if packets is not None:
            if self._lending.over:
                self._recall()
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
        if self._ended is not None:
            return self._after_the_end(side, segment)
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
            largest = self._opening.single if side is INNER else self._opening.segment
            joined = len(segment.payload) > largest
            self._segment(Came(side, segment, packet, options, joined), outcome)
        elif side is INNER and self._unanswered:
            # Of an older connection, which may have been encrypted.
            return self._from_the_grave(side, segment)
        if self.plain and not outcome.packets:
            outcome.passed = True
        self._schedule()
        return outcome

    def quoted(self, side: Side, error: Quotation) -> Outcome:
        """An ICMP error, from `side`, about a segment to the wire."""
        self._recall()
        outcome = Outcome(self._reported().sealed(side, error))
        self._lend()
        return outcome

    def quoted_open(self, error: Quotation) -> Outcome:
        """An ICMP error about a segment that was opened, from behind a gateway."""
        self._recall()
        outcome = Outcome(self._reported().opened(error))
        self._lend()
        return outcome

    def _reported(self) -> Reported:
        return Reported(
            self._streams, self._composer, self._exchange, self._opening, forwards=self._forwards
        )

    def _lend(self) -> None:
        """Whoever does it faster may have the usual segments, once nothing is left to do."""
        crypt = self._crypt
        if crypt is None or crypt.established is None or not self._exchange.greeted or self.over:
            return
        self._lending.lend(crypt, self._timer, self._beginning.rto)

    def ended_elsewhere(self) -> Outcome:
        """Both sides have ended it while it was lent.  Idempotent."""
        self._recall()
        return Outcome()

    def _recall(self) -> None:
        if self._lending.lends:
            if self._lending.recall(self._crypt, self._timer):
                self._exchange.opened_elsewhere()
            self._note_end()

    def _note_end(self) -> None:
        if self._crypt is None or self._over_since is not None or not self._exchange.ended:
            return
        self._over_since = self._clock()
        self._ended, self._crypt = self._crypt.end(), None
        self._report("closed", {})

    def _in_clear(self, side: Side, segment: Segment) -> Outcome:
        if self._plainly is None:
            opener = self._opening.opener
            answered = opener is INNER or self._ends[INNER].isn >= 0
            begun = {side: end.isn for side, end in self._ends.items() if end.isn >= 0}
            self._plainly = Plain(None if answered else self._ends[opener].isn, begun)
        passing = self._plainly.take(side, segment)
        if self._plainly.over:
            self._over_since = self._timer.last_heard
        if passing is Passing.REFUSED:
            return self._from_the_grave(side, segment)
        if segment.flags.syn and len(segment.payload):
            # Of a later connection, it may be, that is to be encrypted (RFC 7413).
            return Outcome([(side.other, segment.with_payload_dropped())])
        return Outcome(passed=passing is Passing.PASSED)

    def _syn(self, side: Side, segment: Segment, options: Options, outcome: Outcome) -> None:
        taken = self._beginning.take(side, segment, options, keyed=self._crypt is not None)
        if taken is Taken.PASSES:
            outcome.passed = True
        elif taken is Taken.NONE_OF_IT:
            # RFC 5961 section 4: a SYN on an open connection is answered by an
            # acknowledgement; whoever is really new there will reset it.
            if self._crypt is not None:
                self._composer.bare(side, outcome.packets)
        elif self._judge(outcome) and not self.plain:
            outcome.packets.append((side.other, taken))
            self._greet_across(outcome)

    def _greet_across(self, outcome: Outcome) -> None:
        """Where SYNs have crossed no first ACK need follow that would take Init1 along."""
        sealing = self._streams[INNER]
        if self._crypt is not None and sealing.emitted < sealing.end:
            self._composer.emit(OUTER, outcome.packets, sealing.emitted, sealing.end)

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
        self._tell_keys(crypt)
        if crypt is not None and crypt.peer_proved and not self._proof_told:
            self._proof_told = True
            self._report("proved", {})

    def _tell_keys(self, crypt: Crypt | None) -> None:
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
        side, segment = came.side, came.segment
        payload, flags = segment.payload, segment.flags
        if side is OUTER:
            if not self._exchange.plausible(segment, begun=self._crypt is not None):
                return
            self._agreed = True
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
        self._exchange.take(came, crypt, outcome.packets)
        self._tell()
        if crypt.error is not None:
            self._fail(crypt.error, outcome)
        else:
            self._note_end()

    def _first_ack(self, came: Came, outcome: Outcome) -> None:
        """The opener's ACK takes Init1 along, whether data comes with it or not."""
        option = self._beginning.option(came)
        if option is None or not self._judge(outcome) or self._crypt is None:
            return  # or a passive opener that has heard nothing since its SYN-ACK
        self._beginning.answered(came)
        end = self._streams[INNER].end
        self._composer.emit(OUTER, outcome.packets, 0, end, came=came, region=option)
        if self.ready:
            self._exchange.greeted = True  # what else would pass on an acknowledgement may begin

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
        at = self._exchange.reset_at(side, segment)
        if at is None:
            return
        self._report("reset", {"by": side.name.lower()})
        outcome.packets.append((side.other, self._composer.reset(side.other, at)))
        self._die()

    def _fail(self, error: PeerError, outcome: Outcome) -> None:
        detail = {"detail": error.detail} if error.detail else {}
        self._report("aborted", {"reason": error.reason.value, **detail})
        self._abort(outcome)

    def _abort(self, outcome: Outcome) -> None:
        """Reset both sides."""
        outcome.packets.clear()
        self._exchange.abort(outcome.packets)
        self._die()

    def abort(self) -> Outcome:
        """Reset both sides, and forget the keys.

        Not if both have ended it: there is nothing to end, and one of them may have
        begun another one.
        """
        self._recall()
        outcome = Outcome()
        if not self.dead and not self.plain and self._ended is None:
            self._abort(outcome)
        return outcome

    def forget(self) -> None:
        """Nothing is heard of it any more, nor said: forget the keys."""
        self._recall()
        if not self.dead:
            self._die()

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

    def _after_the_end(self, side: Side, segment: Segment) -> Outcome:
        """Both hosts have all of it, and are not to be asked again.

        One that was in LAST-ACK has forgotten the connection, and would reset it for an
        acknowledgement too many; of which the other, that may not have read all, would hear.
        Whoever repeats something has not heard that it arrived (RFC 9293 section 3.10.7.4);
        a stranger, who has nothing to repeat, is not to have answers sent to the peer.
        """
        outcome, flags = Outcome(), segment.flags
        if side is OUTER and not self._exchange.plausible(segment, begun=True):
            return outcome
        if (len(segment.payload) or flags.fin) and not flags.rst:
            self._composer.bare(side, outcome.packets)
        return outcome

    def _die(self) -> None:
        self.dead = True
        self._timer.due = None
        self._opening.negotiation.abandon()
        if self._crypt is not None:
            self._crypt.wipe()
        for stream in self._streams.values():
            stream.drop()

    # --- time ----------------------------------------------------------------------------------

    def _schedule(self) -> None:
        waiting = self._crypt is not None and not self.ready
        if self.dead or self.plain:
            self._timer.due = None
        elif waiting or self._exchange.overdue:
            if self._timer.due is None:
                self._timer.tries = 0
                self._timer.due = self._clock() + self._beginning.rto
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
        error = self._exchange.repeat(outcome.packets)
        if error is not None:
            self._fail(error, outcome)
            return outcome
        self._timer.due = self._clock() + min(self._beginning.rto * 2**self._timer.tries, _RTO_MAX)
        return outcome
