"""Both streams of a connection in AES_MODE, sealed and opened without a copy.

Data frames go straight between the caller's memory and the wire's.  Whatever
else happens (a new key, an end, a fault) is the conversation's, which gets its
streams back for that moment.

Two threads may be at work, one that seals and one that opens; each holds its
lock while it does.  What concerns both takes both locks, the opening one first.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tcpcrypt import _fast
from tcpcrypt.core.config import Clock
from tcpcrypt.core.lease import Opening, Returned, Sealing
from tcpcrypt.registry import FRAME_FLAGS_LEN, FRAME_HEADER_LEN, FRAME_URGENT_LEN
from tcpcrypt.sockets.buffers import FRAME_MAX
from tcpcrypt.sockets.conversation import Conversation

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["IDLE", "Streams"]

IDLE: Final = 1.0
"""Seconds of silence after which frames are as small as at the start again: TCP's
window may have shrunk, and whoever waits for the first one waits for less."""
_TAG_LEN: Final = 16
"""Of every AEAD that there is."""
_OVERHEAD: Final = FRAME_HEADER_LEN + FRAME_FLAGS_LEN + _TAG_LEN
_SMALL_BYTES: Final = 14_000
"""Stream bytes in small frames after silence: ten segments."""
_SLOW_PIECE: Final = 1 << 18
"""Data bytes that the conversation seals at a time, near the end of a key."""


@dataclass(slots=True)
class _Sealing:
    lent: Sealing
    offset: int
    frames: int
    small_until: int
    last: float


@dataclass(slots=True)
class _Opening:
    lent: Opening
    offset: int
    opened: int = 0


class Streams:
    """The streams of `conversation`, which is to be told nothing past this object."""

    def __init__(self, conversation: Conversation, *, clock: Clock = time.monotonic) -> None:
        self.conversation = conversation
        self.queue: deque[memoryview | bytes] = deque(conversation.data_to_send())
        """What the conversation wants written, before anything that is sealed later."""
        self.rest = b""
        """The beginning of a frame, which the next bytes complete."""
        self._clock = clock
        self._for_opening = threading.Lock()
        self._for_sealing = threading.Lock()
        self._sealing: _Sealing | None = None
        self._opening: _Opening | None = None
        self._lend()

    def seal(self, data: memoryview, out: memoryview) -> tuple[int, int]:
        """Seal what fits; returns data bytes consumed, and wire bytes put into `out`.

        If there is something in `queue` afterwards, it goes first and `out` is
        empty.  Raises the error of a failed connection, `LocalError` after `finish`.
        """
        with self._for_sealing:
            sealing = self._sealing
            if self.queue:
                return 0, 0
            if sealing is not None and self._allows(sealing, len(out)):
                return self._seal(sealing, data, out)
        with self._for_opening, self._for_sealing:
            if self.queue:
                return 0, 0
            self._take_back()
            piece = data[:_SLOW_PIECE]
            try:
                self.conversation.send(piece)
            finally:
                self._go_on()
            return len(piece), 0

    def open(self, buffer: memoryview, end: int, out: memoryview) -> int:
        """Open frames; returns how many data bytes are in `out` now.

        What was received stands in `buffer` from `FRAME_MAX` to `end`; the place
        before is for the beginning of a frame that came earlier.  More may have
        come of it as events of the conversation, behind those bytes.  `out` is
        as long as what was received and `rest` at least.
        """
        with self._for_opening:
            opening, written, stop = self._opening, 0, _fast.STOP_NEED_MORE
            start = FRAME_MAX - len(self.rest)
            buffer[start:FRAME_MAX] = self.rest
            wire, self.rest = buffer[start:end], b""
            if opening is not None:
                consumed, written, _frames, stop, urgent, last = opening.lent.opener.open(
                    wire, out, opening.offset
                )
                if stop in {_fast.STOP_FIN, _fast.STOP_URGENT}:
                    # Opened, and yet the conversation's: it opens it once more.
                    field = FRAME_URGENT_LEN if urgent >= 0 else 0
                    consumed -= _OVERHEAD + field + last
                    written -= last
                opening.offset += consumed
                opening.opened += written
                wire = wire[consumed:]
                if stop == _fast.STOP_NEED_MORE:
                    self.rest = bytes(wire)
                    return written
            with self._for_sealing:
                if opening is not None:
                    self._take_back(wire)
                else:
                    self._take_back()
                    self.conversation.receive_data(wire)
                # Behind the peer's end there is little to say, as a rule.
                self._go_on(lend=stop != _fast.STOP_FIN)
            return written

    def finish(self) -> None:
        """End the own stream.  Raises as `seal` does."""
        with self._for_opening, self._for_sealing:
            self._take_back()
            try:
                self.conversation.finish()
            finally:
                # As a rule little comes behind it: lent again when there is more.
                self._go_on(lend=False)

    def receive_eof(self) -> None:
        """The peer's TCP FIN came."""
        with self._for_opening, self._for_sealing:
            self._take_back()
            self.conversation.receive_eof()
            self._go_on()

    def receive_reset(self, *, unsent: bool = False) -> None:
        """A TCP RST came, or the path is gone; see `Conversation.receive_reset`."""
        with self._for_opening, self._for_sealing:
            self._take_back()
            self.conversation.receive_reset(unsent=unsent or bool(self.queue))
            self._go_on()

    def close(self) -> None:
        """Forget the keys."""
        with self._for_opening, self._for_sealing:
            self._take_back()
            self.conversation.close()
            self.queue.clear()

    # --- inside ----------------------------------------------------------------------

    @staticmethod
    def _allows(sealing: _Sealing, size: int) -> bool:
        """Whether the key may seal so much more."""
        lent = sealing.lent
        frames_left = lent.frames - sealing.frames
        return lent.end - sealing.offset >= size and frames_left > size // _OVERHEAD

    def _seal(self, sealing: _Sealing, data: memoryview, out: memoryview) -> tuple[int, int]:
        lent, now = sealing.lent, self._clock()
        if now - sealing.last > IDLE:
            sealing.small_until = max(sealing.small_until, sealing.offset + _SMALL_BYTES)
        sealing.last = now
        consumed = written = 0
        small = sealing.small_until - sealing.offset
        if small > 0:
            piece = data[: max(small, lent.first_frame_data)]
            consumed, written = self._frames(sealing, piece, out, lent.first_frame_data)
        if consumed < len(data) and sealing.offset >= sealing.small_until:
            more = self._frames(sealing, data[consumed:], out[written:], lent.frame_data)
            consumed, written = consumed + more[0], written + more[1]
        return consumed, written

    @staticmethod
    def _frames(
        sealing: _Sealing, data: ReadableBuffer, out: memoryview, size: int
    ) -> tuple[int, int]:
        consumed, written, frames = sealing.lent.sealer.seal(data, out, sealing.offset, size)
        sealing.offset += written
        sealing.frames += frames
        return consumed, written

    def _take_back(self, wire: ReadableBuffer | None = None) -> None:
        """The conversation has its streams again; what was not opened is `wire`."""
        sealing, opening = self._sealing, self._opening
        self._sealing = self._opening = None
        if sealing is None and opening is None:
            return
        if wire is None:
            wire, self.rest = self.rest, b""
        self.conversation.take_back(
            Returned(
                sealed_to=sealing.offset if sealing is not None else 0,
                frames=sealing.frames if sealing is not None else 0,
                opened_to=opening.offset if opening is not None else 0,
                opened=opening.opened if opening is not None else 0,
                wire=bytes(wire),
            )
        )

    def _go_on(self, *, lend: bool = True) -> None:
        self.queue.extend(self.conversation.data_to_send())
        if lend:
            self._lend()

    def _lend(self) -> None:
        lease = self.conversation.lend()
        if lease is None:
            return
        if lease.sealing is not None:
            lent = lease.sealing
            self._sealing = _Sealing(lent, lent.offset, 0, lent.small_until, self._clock())
        if lease.opening is not None:
            self._opening = _Opening(lease.opening, lease.opening.offset)
            self.rest = lease.opening.wire
