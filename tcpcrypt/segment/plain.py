"""A connection that is not encrypted: its segments pass as they come, but for a few.

A SYN from the wire says nothing of the inner host's connection.  Anybody may
have sent it, in front of an older one that was encrypted and of which the
engine knows nothing any more; of that one nothing may pass.  Before the inner
host's SYN-ACK there is nothing else to pass.
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
    """See above.  `asked` is the SYN of a peer that nobody has answered yet, if there is one."""

    def __init__(self, asked: int | None) -> None:
        self.over = False
        """Both sides have ended it."""
        self._asked = asked
        self._ends: set[Side] = set()
        self._fins: dict[Side, int] = {}
        """The number behind the last FIN of a side."""
        self._acks: dict[Side, int] = {}

    def take(self, side: Side, segment: Segment) -> Passing:
        """A segment that comes from `side`."""
        flags = segment.flags
        if self._asked is not None:
            if side is Side.OUTER and flags.syn:
                self._asked = segment.seq
            elif side is Side.INNER and flags.syn and (segment.ack - self._asked) % _MODULUS == 1:
                self._asked = None
            elif not flags.rst:
                return Passing.REFUSED if side is Side.INNER else Passing.DROPPED
        self._note_end(side, segment)
        return Passing.PASSED

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
