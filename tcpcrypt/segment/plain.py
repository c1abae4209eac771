"""A connection that is not encrypted: its segments pass as they come, but for a few.

A SYN from the wire says nothing of the inner host's connection.  Anybody may
have sent it, in front of an older one that was encrypted and of which the
engine knows nothing any more; of that one nothing may pass.  Before the inner
host's SYN-ACK there is nothing else to pass.

Nor is a later connection of the same addresses and ports waved through because
nobody has heard the end of this one: a SYN passes, for whoever is still connected says
so, but the answer that would open another connection is refused, and the next SYN is negotiated.
"""

from __future__ import annotations

import enum
from typing import Final

from tcpcrypt.segment.opening import Side
from tcpcrypt.wire.segment import Segment

__all__ = ["Passing", "Plain"]

_MODULUS: Final = 1 << 32


class Passing(enum.Enum):
    """What becomes of a segment."""

    PASSED = "passed"
    DROPPED = "dropped"
    REFUSED = "refused"
    """Dropped, and its sender is reset."""


class Plain:
    """See above.

    `asked` is the SYN of a peer that nobody has answered yet, if there is one; `begun` are
    the initial sequence numbers of those whose SYN is known.
    """

    def __init__(self, asked: int | None, begun: dict[Side, int]) -> None:
        self.over = False
        """Both sides have ended it."""
        self.agreed = False
        """The peer has shown that it hears the inner host, and the other way round."""
        self._asked = asked
        self._begun = begun
        self._again: dict[Side, int] = {}
        """The last SYN of a side that is not the one with which it began."""
        self._ends: set[Side] = set()
        self._fins: dict[Side, int] = {}
        """The number behind the last FIN of a side."""
        self._acks: dict[Side, int] = {}

    @property
    def asked(self) -> bool:
        """Whether the inner host has yet to answer a SYN of the peer."""
        return self._asked is not None

    def take(self, side: Side, segment: Segment) -> Passing:
        """A segment that comes from `side`."""
        flags = segment.flags
        if self._asked is not None:
            if side is Side.OUTER and flags.syn:
                self._asked = self._begun[side] = segment.seq
            elif side is Side.INNER and flags.syn and (segment.ack - self._asked) % _MODULUS == 1:
                self._asked = None
            elif not flags.rst:
                return Passing.REFUSED if side is Side.INNER else Passing.DROPPED
        if flags.syn and self._begins_another(side, segment):
            self.over = True
            return Passing.REFUSED
        self._note_begin(side, segment)
        self._note_end(side, segment)
        return Passing.PASSED

    def _begins_another(self, side: Side, segment: Segment) -> bool:
        """Whether a SYN-ACK answers another SYN than that of this connection."""
        if not segment.flags.ack:
            if side.other not in self._begun:
                self._begun[side] = segment.seq  # nobody has answered the one before
            elif segment.seq != self._begun.get(side):
                self._again[side] = segment.seq
            return False
        again = self._again.get(side.other)
        answers = again is not None and (segment.ack - again) % _MODULUS == 1
        return answers and (self.agreed or side.other in self._begun)

    def _note_begin(self, side: Side, segment: Segment) -> None:
        flags = segment.flags
        if flags.syn and flags.ack:
            self._begun.setdefault(side, segment.seq)
        elif flags.ack and not flags.rst and not self.agreed:
            told = self._begun.get(side.other)
            self.agreed = told is not None and (segment.ack - told) % _MODULUS == 1

    @property
    def ends(self) -> bool:
        """Whether somebody has sent FIN."""
        return bool(self._fins)

    def _note_end(self, side: Side, segment: Segment) -> None:
        """Nobody keeps what is over; but one that is open must not be made so by a stranger.

        A reset counts where its receiver believes it (RFC 5961 section 3.2), a
        FIN when it was acknowledged.
        """
        flags = segment.flags
        if flags.rst:
            told = self._acks.get(side.other, segment.seq)
            self.over = self.over or side is Side.INNER or told == segment.seq
            return
        if flags.fin:
            self._fins[side] = (segment.seq + len(segment.payload) + 1) % _MODULUS
        if flags.ack:
            self._acks[side] = segment.ack
            if self._fins.get(side.other) == segment.ack:
                self._ends.add(side.other)
        self.over = self.over or len(self._ends) == len(Side)
