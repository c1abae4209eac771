"""An established connection, lent to whoever changes its usual segments without Python.

What is usual stands in `ext/lane.pxi`: data in order and acknowledgements, on
a connection where nobody lacks anything.  For every other segment the
connection comes back first, and is lent again when all is in order.
"""

from __future__ import annotations

from typing import Final

from tcpcrypt import _fast
from tcpcrypt.core.lease import Returned
from tcpcrypt.segment.composer import Composer, Packets
from tcpcrypt.segment.crypt import Crypt
from tcpcrypt.segment.opening import Opening, Side
from tcpcrypt.segment.reassembly import Reassembly
from tcpcrypt.segment.stream import Stream

__all__ = ["Lending", "Timer", "make_stream"]

_TAG_LEN: Final = 16


def make_stream(lanes: _fast.Lanes | None, *, seals: bool) -> Stream:
    """A stream; one of the extension's own if it is to be lent."""
    if lanes is None:
        return Stream(seals=seals)
    made: Stream = lanes.stream(Reassembly(), seals=seals)
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

    @property
    def last_heard(self) -> float:
        """When a segment came of a connection that is lent; 0 of another one."""
        return self._lane.last_heard if self._lane is not None else 0.0

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
        """Lend it if all is in order."""
        if self._lanes is None or self._lane is not None or not self._in_order():
            return
        lease = crypt.lend()
        if lease is None or lease.sealing is None or lease.opening is None:
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
                (Side.INNER, self._opening.largest),
                (Side.OUTER, self._opening.segment),
            )
        )
        self._lane = self._lanes.lend(
            self._key,
            self._streams[Side.INNER],
            self._streams[Side.OUTER],
            (inner, outer),
            composer.timestamps,
            sealer=sealing.sealer,
            seal_at=sealing.offset,
            seal_end=sealing.end,
            frames_left=sealing.frames,
            frame_data=sealing.frame_data,
            opener=opening.opener,
            open_at=opening.offset,
            begun=crypt.begun,
            rto=rto,
            due=timer.due or 0.0,
            tries=timer.tries,
            last_heard=timer.last_heard,
        )

    def _in_order(self) -> bool:
        """Whether both sides have what was sent to them, as far as they have told."""
        urgent = self._composer.urgent
        if urgent is not None and urgent >= self._streams[Side.OUTER].una:
            return False
        return self._opening.negotiation.finished and not any(
            stream.fin is not None or stream.sacked or stream.dataless or stream.input.waiting
            for stream in self._streams.values()
        )

    def recall(self, crypt: Crypt | None, timer: Timer) -> bool:
        """Take it back if it is lent; whether anything was opened meanwhile."""
        if self._lane is None or crypt is None:
            return False
        lane, self._lane = self._lane, None
        sealed_to, frames, opened_to, opened, begun, due, tries, heard, ends = lane.recall()
        timer.due, timer.tries = due or None, tries
        timer.last_heard = max(timer.last_heard, heard)
        for side, (timestamp, congestion) in zip(Side, ends, strict=True):
            end = self._composer.ends[side]
            end.congestion = congestion
            if self._composer.timestamps:
                end.timestamp = timestamp
        crypt.take_back(Returned(sealed_to, frames, opened_to, opened), begun)
        return opened > 0
