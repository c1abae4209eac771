"""An established connection, lent to whoever changes its usual segments without Python.

What is usual stands in `ext/lane.pxi`: data and acknowledgements, in order, with
gaps or repeated.  For every other segment the connection comes back first,
and is lent again.
"""

from __future__ import annotations

from typing import Final

from tcpcrypt import _fast
from tcpcrypt.core.lease import Returned
from tcpcrypt.segment.composer import Composer, Packets
from tcpcrypt.segment.crypt import Crypt
from tcpcrypt.segment.memory import Memory
from tcpcrypt.segment.opening import Opening, Side
from tcpcrypt.segment.stream import Stream

__all__ = ["Lending", "Timer", "make_stream"]

_TAG_LEN: Final = 16
_GREETING: Final = b"\x45\x02\0\0"
"""All that lanes know to say besides data (RFC 8547 section 4.1), padded."""


def make_stream(lanes: _fast.Lanes | None, *, seals: bool, memory: Memory | None = None) -> Stream:
    """A stream; one of the extension's own, whose memory is `lanes.memory`, if it is to be lent."""
    if lanes is None:
        return Stream(seals=seals, memory=memory)
    made: Stream = lanes.stream(seals=seals)
    return made


class Timer:
    """When a flow has something to repeat, and what it knows of time otherwise."""

    __slots__ = ("due", "last_heard", "tries")

    def __init__(self, now: float) -> None:
        self.due: float | None = None
        self.tries = 0
        self.last_heard = now


class Lending:
    """Lends one connection, and takes it back.  `lanes` is None where nothing is lent."""

    def __init__(
        self,
        lanes: _fast.Lanes | None,
        key: tuple[bytes, int, bytes, int],
        streams: dict[Side, Stream],
        composer: Composer,
        opening: Opening,
    ) -> None:
        self._lanes = lanes
        self._key = key
        self._streams = streams
        self._composer = composer
        self._opening = opening
        self._lane: _fast.Lane | None = None
        self._greeting = False

    @property
    def last_heard(self) -> float:
        """When a segment came of a connection that is lent; 0 of another one."""
        return self._lane.last_heard if self._lane is not None else 0.0

    @property
    def lends(self) -> bool:
        """Whether the connection is lent."""
        return self._lane is not None

    @property
    def over(self) -> bool:
        """Whether a connection that is lent was ended by both sides."""
        return self._lane is not None and self._lane.over

    def take(self, side: Side, packet: bytes | memoryview, timer: Timer) -> Packets | None:
        """What becomes of a usual segment; None if it is not, or the connection not lent."""
        if self._lane is None:
            return None
        found = self._lane.take(side, packet, timer.last_heard)
        if found is None:
            return None
        timer.due = self._lane.due or None
        return [(Side(to), made) for to, made in found]

    def lend(self, crypt: Crypt, timer: Timer, rto: float) -> None:
        """Lend it if nothing but data and acknowledgements is to be expected."""
        if self._lanes is None or self._lane is not None or not self._usual():
            return
        # Until the peer is heard of, segments to it have more than data.
        self._greeting = not self._opening.negotiation.finished
        if self._greeting and self._opening.option(b"") != _GREETING:
            return
        lease = crypt.lend()
        if lease is None or lease.sealing is None:
            return
        sealing, opening = lease.sealing, lease.opening
        composer, ends = self._composer, self._composer.ends
        inner, outer = (
            (
                ends[side].isn,
                ends[side].scale,
                ends[side].timestamp,
                ends[side].congestion,
                composer.most(side),
                largest,
            )
            for side, largest in (
                (Side.INNER, self._opening.single),
                (Side.OUTER, self._opening.segment),
            )
        )
        self._lane = self._lanes.lend(
            self._key,
            self._streams[Side.INNER],
            self._streams[Side.OUTER],
            (inner, outer),
            composer.timestamps,
            composer.blocks,
            sealer=sealing.sealer,
            seal_at=sealing.offset,
            seal_end=sealing.end,
            frames_left=sealing.frames,
            frame_data=sealing.frame_data,
            opener=opening.opener if opening is not None else None,
            open_at=opening.offset if opening is not None else 0,
            begun=crypt.begun,
            rto=rto,
            due=timer.due or 0.0,
            tries=timer.tries,
            last_heard=timer.last_heard,
            greeting=self._greeting,
        )

    def _usual(self) -> bool:
        """Whether nothing is under way that lanes know nothing of."""
        urgent = self._composer.urgent
        if urgent is not None and urgent >= self._streams[Side.OUTER].una:
            return False
        return not any(
            stream.fin is not None or stream.dataless for stream in self._streams.values()
        )

    def recall(self, crypt: Crypt | None, timer: Timer) -> bool:
        """Take it back if it is lent; whether anything was opened meanwhile."""
        if self._lane is None or crypt is None:
            return False
        lane, self._lane = self._lane, None
        (
            sealed_to,
            frames,
            opened_to,
            opened,
            begun,
            due,
            tries,
            heard,
            greeting,
            finished,
            peer_finished,
            ends,
        ) = lane.recall()
        if self._greeting and not greeting:
            self._opening.negotiation.segment_received(False, True, b"")
        timer.due, timer.tries = due or None, tries
        timer.last_heard = max(timer.last_heard, heard)
        for side, (timestamp, congestion) in zip(Side, ends, strict=True):
            end = self._composer.ends[side]
            end.congestion = congestion
            if self._composer.timestamps:
                end.timestamp = timestamp
        returned = Returned(
            sealed_to,
            frames,
            opened_to,
            opened,
            finished=finished,
            peer_finished=peer_finished,
        )
        crypt.take_back(returned, begun)
        return opened > 0
