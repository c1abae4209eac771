"""RFC 9293 section 3.5: the SYNs of a connection that passes, and what they settle for it.

Sans-IO.  What they say of TCP-ENO is told to the negotiation (`Opening`); the initial
sequence numbers, scales and options of both ends are noted where segments are made
(`Composer.ends`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final

from tcpcrypt.errors import LocalError
from tcpcrypt.segment.composer import Came, Composer
from tcpcrypt.segment.opening import Opening, Side
from tcpcrypt.segment.packets import Options, timestamps_and_blocks
from tcpcrypt.segment.stream import Stream
from tcpcrypt.wire.segment import Segment

__all__ = ["Beginning", "Taken"]

_MODULUS: Final = 1 << 32
_RTO_MIN: Final = 0.2
_RTO_FIRST: Final = 1.0
"""RFC 6298 section 2.1."""


class Taken(enum.Enum):
    """What becomes of a SYN that does not go on with an option more or less."""

    NONE_OF_IT = enum.auto()
    """No SYN of this handshake."""
    PASSES = enum.auto()
    """It goes on as it came: the TCP that gets it will say what it thinks of it."""


class Beginning:
    """The handshake of TCP itself, and how long its round trip took."""

    __slots__ = (
        *("_asked", "_begun", "_clock", "_composer", "_crossed", "_ends", "_opening"),
        *("_streams", "rto"),
    )

    def __init__(
        self,
        opening: Opening,
        composer: Composer,
        streams: dict[Side, Stream],
        clock: Callable[[], float],
    ) -> None:
        self.rto = _RTO_FIRST
        """Seconds until something is repeated for the first time."""
        self._opening = opening
        self._composer = composer
        self._ends = composer.ends
        self._streams = streams
        self._clock = clock
        self._begun = clock()
        self._asked = Options()
        """Those of the SYN."""
        self._crossed = False
        """Both have sent one, and neither an answer before."""

    def take(self, side: Side, segment: Segment, options: Options, *, keyed: bool) -> bytes | Taken:
        """A SYN or SYN-ACK that comes from `side`; what goes on in its place.

        `keyed`: the negotiation has been decided for encryption.
        """
        end, answer = self._ends[side], segment.flags.ack
        known = keyed or (end.isn >= 0 and end.isn != segment.seq)
        other = self._ends[side.other]
        opens = side is self._opening.opener
        # RFC 9293 section 3.5: both open at once, and each answers the other's SYN.
        crosses = not answer and not opens and (self._crossed or end.isn < 0 <= other.isn)
        if known or not (crosses or answer is not opens or (answer and self._crossed)):
            return Taken.NONE_OF_IT
        if answer and (other.isn < 0 or (segment.ack - other.isn) % _MODULUS != 1):
            return Taken.PASSES
        self._crossed |= crosses
        end.isn = segment.seq
        end.scale = options.scale or 0
        end.timestamp = options.timestamps[:4]
        changed = (self._opening.leaves if side is Side.INNER else self._opening.comes)(segment)
        if not opens:
            self._measured()
            self._agree(options)
        elif not answer:
            self._asked = options
        # RFC 7323 section 2.2: the window in a SYN is not scaled.
        self._streams[side.other].acknowledged(0, segment.window, [])
        self._begun = self._clock()
        return changed

    def _agree(self, options: Options) -> None:
        """On what both have, for an answer may have what was not asked for."""
        asked, composer = self._asked, self._composer
        composer.timestamps = bool(asked.timestamps and options.timestamps)
        composer.blocks = asked.sack_permitted and options.sack_permitted
        if asked.scale is None or options.scale is None:
            for end in self._ends.values():
                end.scale = 0

    def _measured(self) -> None:
        self.rto = min(max(3 * (self._clock() - self._begun), _RTO_MIN), _RTO_FIRST)

    def option(self, came: Came) -> bytes | None:
        """The options of the opener's first ACK; None: of a SYN that has not been answered."""
        try:
            return self._opening.option(timestamps_and_blocks(came.options.timestamps, []))
        except LocalError:
            return None

    def answered(self, came: Came) -> None:
        """The first ACK goes on."""
        if came.options.timestamps:
            self._ends[came.side].timestamp = came.options.timestamps[:4]
        self._measured()
