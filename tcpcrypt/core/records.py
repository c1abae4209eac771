"""RFC 8548 sections 3.6 to 3.8: the two framed streams of a connection.

`RecordSender` turns application data into frames, `RecordReceiver` frames into
data.  Each direction counts its own key generations; `KeyRing` derives them.

A frame's nonce comes from its offset in the TCP stream, so that nothing here
may ever seal twice at one offset under one key: offsets only grow, and what
was sealed is handed out once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tcpcrypt import _fast
from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Direction, Role
from tcpcrypt.core.lease import LEASE_MIN, Opening, Returned, Sealing
from tcpcrypt.crypto.aead import AeadParameters
from tcpcrypt.crypto.schedule import MasterKey
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import IntegrityError, LocalError, PeerError, PeerReason
from tcpcrypt.registry import FRAME_HEADER_LEN
from tcpcrypt.wire.frame import sealed_size

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["KeyRing", "Received", "RecordReceiver", "RecordSender"]

_PIECE_MAX: Final = 1 << 20
"""Data bytes sealed at a stretch: bounds one allocation, and the frames by which
a key may pass its limit."""


class KeyRing:
    """Traffic keys of both directions, generation by generation (section 3.4).

    The directions rekey at their own pace.  Going to mk[j] wipes mk[j-1]; the
    key of the direction that lags behind is kept until it is taken.
    """

    def __init__(self, master: MasterKey, aead: AeadParameters, sealing_role: Role) -> None:
        self._master = master
        self._aead = aead
        self._seals_ab = sealing_role is Role.A
        self._kept: dict[tuple[Direction, int], Secret] = {}
        self._closed: set[Direction] = set()
        self._derive()

    def take(self, direction: Direction, generation: int) -> Secret:
        """The traffic key of one direction and generation; each is given out once."""
        while self._master.generation < generation:
            self._master = self._master.advance()
            self._derive()
        return self._kept.pop((direction, generation))

    def close(self, direction: Direction) -> None:
        """No key of this direction will be taken any more; the last one ends the ring."""
        self._closed.add(direction)
        if len(self._closed) == len(Direction):
            self._master.wipe()
        for kept in [kept for kept in self._kept if kept[0] is direction]:
            self._kept.pop(kept).wipe()

    def wipe(self) -> None:
        """Forget everything that was not taken."""
        self._master.wipe()
        for secret in self._kept.values():
            secret.wipe()
        self._kept.clear()

    def _derive(self) -> None:
        keys = self._master.traffic_keys(self._aead)
        sending, receiving = (keys.ab, keys.ba) if self._seals_ab else (keys.ba, keys.ab)
        for direction, key in ((Direction.SENDING, sending), (Direction.RECEIVING, receiving)):
            if direction in self._closed:
                key.wipe()
            else:
                self._kept[direction, self._master.generation] = key


class RecordSender:
    """Seals application data; `take` hands out the wire bytes."""

    def __init__(self, config: Config, ring: KeyRing, aead: AeadParameters, *, offset: int) -> None:
        self._config = config
        self._ring = ring
        self._aead = aead
        self._offset = offset
        self._start = offset
        self._rekey_next = False
        self._out: deque[memoryview] = deque()
        self._lent = False
        self.generation = 0
        self.frames = 0
        """Sealed here, in all generations; a borrower counts its own (`Returned`)."""
        self.finished = False
        self._load()

    def _load(self) -> None:
        with self._ring.take(Direction.SENDING, self.generation) as key:
            self._sealer = self._aead.sealer(key, self._config.profile)
        self._key_offset = self._offset
        self._key_frames = 0

    @property
    def _left(self) -> int:
        """Bytes that the key may still seal; its AEAD or the configuration limits it."""
        limit = self._aead.max_bytes
        if self._config.rekey_after_bytes is not None:
            limit = min(limit, self._config.rekey_after_bytes)
        if self._key_frames >= self._aead.max_frames:
            return 0
        return limit - (self._offset - self._key_offset)

    def advance_key(self) -> None:
        """Go to the next generation; the next frame tells the peer (section 3.8).

        A frame that announces a generation has to leave before the next one is
        begun, because the peer counts frames.
        """
        if self._rekey_next:
            self.seal(b"")
        self.generation += 1
        self._sealer.wipe()
        self._load()
        self._rekey_next = True

    def seal(self, data: ReadableBuffer, *, fin: bool = False, urgent: int = -1) -> None:
        """Queue frames that hold `data`; an empty one if there is none.

        `urgent` is the value of the urgent field of the first frame.  Raises
        `LocalError` after `fin`: no frame may follow (section 3.7); `PeerError`
        with STREAM_TOO_LONG where the profile's nonces would repeat.
        """
        if self.finished:
            raise LocalError("stream is finished: no frame may follow the one with FINp")
        if self._lent:
            raise LocalError("stream is lent: another seals it")
        view = memoryview(data).cast("B")
        profile = self._config.profile
        while True:
            if self._offset >= profile.stream_max:
                raise PeerError(PeerReason.STREAM_TOO_LONG)
            if self._left <= 0 and profile.rekeying:
                self.advance_key()
            consumed = self._seal_some(view, fin, urgent)
            view, urgent = view[consumed:], -1
            if not view:
                break
        if fin:
            self.end()

    def end(self) -> None:
        """No frame follows any more: the key is not needed, whatever the owner does next."""
        self.finished = True
        self._sealer.wipe()
        self._ring.close(Direction.SENDING)

    def _seal_some(self, view: memoryview, fin: bool, urgent: int) -> int:
        """Seal a piece of `view` with one frame size; returns how much."""
        config = self._config
        frame_data, most = config.frame_data, min(self._left, _PIECE_MAX)
        small = config.small_frames_until - (self._offset - self._start)
        if small > 0:
            frame_data = min(config.first_frame_data, frame_data)
            most = min(most, max(small, frame_data))
        if config.profile.frame_per_segment:
            most = frame_data  # what `take` hands out is one frame
        piece = view[:most]
        last = len(piece) == len(view)
        size = sealed_size(len(piece), frame_data, self._aead.tag_len, urgent >= 0)
        out = bytearray(size)
        consumed, written, frames = self._sealer.seal(
            piece, out, self._offset, frame_data, self._rekey_next, fin and last, urgent
        )
        if consumed != len(piece) or written != size:
            raise LocalError("sealed size was miscounted")
        self._rekey_next = False
        self._offset += written
        self._key_frames += frames
        self.frames += frames
        self._out.append(memoryview(out).toreadonly())
        return consumed

    def lend(self) -> Sealing | None:
        """Let another seal; None if there is nothing to seal or the key is near its limit."""
        if self.finished or self._out or self._rekey_next or self._left < LEASE_MIN:
            return None
        if self._config.profile.frame_per_segment:
            return None  # others do not mind where segments end
        self._lent = True
        config = self._config
        return Sealing(
            self._sealer,
            self._offset,
            self._offset + self._left,
            self._aead.max_frames - self._key_frames,
            self._start + config.small_frames_until,
            config.first_frame_data,
            config.frame_data,
        )

    def take_back(self, returned: Returned) -> None:
        """Go on behind what was sealed.  Raises `LocalError` if that makes no sense:
        a nonce would be used twice.
        """
        if not self._lent or returned.sealed_to < self._offset or returned.frames < 0:
            raise LocalError("stream was not lent, or went back")
        self._lent = False
        self._offset = returned.sealed_to
        self._key_frames += returned.frames
        if returned.finished:
            self.end()

    @property
    def pending(self) -> bool:
        """Whether `take` has something."""
        return bool(self._out)

    def take(self) -> memoryview | bytes:
        """The next wire bytes, or b"" if there are none."""
        return self._out.popleft() if self._out else b""

    @property
    def announcing(self) -> bool:
        """Whether the next frame is the first of a new generation."""
        return self._rekey_next

    def wipe(self) -> None:
        """Forget the key and what was not taken."""
        self._sealer.wipe()
        self._out.clear()


@dataclass(frozen=True, slots=True)
class Received:
    """What one step of `RecordReceiver` found."""

    data: memoryview
    """Authenticated data, possibly empty."""
    urgent_index: int | None = None
    """Index in the application stream of the last urgent byte; if set, `data` ends
    with the data of the frame that said so."""
    urgent_data: int = 0
    """Bytes at the end of `data` that belong to that frame."""
    rekeyed: bool = False
    """The frame in this step is the first of a new generation."""
    fin: bool = False
    """The last frame in this step carries FINp."""


class RecordReceiver:
    """Opens frames of the peer's stream."""

    def __init__(
        self, config: Config, ring: KeyRing, aead: AeadParameters, *, offset: int, other_offset: int
    ) -> None:
        self._config = config
        self._ring = ring
        self._aead = aead
        self._offset = offset
        self._other_offset: int | None = other_offset if other_offset != offset else None
        self._buffer = bytearray()
        self._scratch = bytearray()
        self._application_offset = 0
        self._lent = False
        self.generation = 0
        self.finished = False
        self._load()

    def _load(self) -> None:
        with self._ring.take(Direction.RECEIVING, self.generation) as key:
            self._opener = self._aead.opener(key, self._config.profile)

    def feed(self, data: ReadableBuffer) -> None:
        """Add bytes of the peer's stream; `step` until it returns None.

        Raises `PeerError` if they follow the frame with FINp.
        """
        if self._lent:
            raise LocalError("stream is lent: another opens it")
        if self.finished and len(memoryview(data).cast("B")):
            raise PeerError(PeerReason.DATA_AFTER_FINP)
        self._buffer += data

    def lend(self) -> Opening | None:
        """Let another open; None if the stream is over or its origin still in doubt."""
        if self.finished or self._other_offset is not None or self._has_frame():
            return None
        self._lent = True
        wire = bytes(self._buffer)
        self._buffer.clear()
        self._scratch = bytearray()
        return Opening(self._opener, self._offset, wire)

    def take_back(self, returned: Returned) -> None:
        """Go on behind what was opened; `step` comes next.  Raises `LocalError` if
        that makes no sense.
        """
        if not self._lent or returned.opened_to < self._offset:
            raise LocalError("stream was not lent, or went back")
        self._lent = False
        self._offset = returned.opened_to
        self._application_offset += returned.opened
        self._buffer += returned.wire
        if returned.peer_finished:
            self.end()

    def step(self) -> Received | None:
        """Open frames up to the next thing worth telling; None: feed more.

        Raises `PeerError` (`IntegrityError` for a tag).  Whatever was returned
        before was authenticated and stays so.
        """
        buffer = self._buffer
        if self.finished and buffer:
            raise PeerError(PeerReason.DATA_AFTER_FINP)
        if not self._has_frame():
            return None
        if len(self._scratch) < len(buffer):
            self._scratch = bytearray(len(buffer))
        out = self._scratch
        opened = self._open(out, accept_rekey=False)
        rekeyed = False
        rekeying = self._config.profile.rekeying
        if opened[0] == 0 and opened[3] == _fast.STOP_REKEY and rekeying:
            # The new key is not believed, only tried: a forged bit fails the tag,
            # and that ends the connection whatever the key was.
            rekeyed = True
            self.generation += 1
            self._opener.wipe()
            self._load()
            opened = self._open(out, accept_rekey=True)
        consumed, written, _frames, stop, urgent, last = opened
        if consumed == 0:
            raise self._fault(stop)
        del buffer[:consumed]
        self._offset += consumed
        self._other_offset = None
        self._application_offset += written
        if stop == _fast.STOP_FIN:
            self.end()
        urgent_index = self._application_offset - last + urgent if urgent >= 0 else None
        return Received(
            self._given(written),
            urgent_index,
            last if urgent >= 0 else 0,
            rekeyed,
            self.finished,
        )

    def end(self) -> None:
        """No frame is expected any more: the key is not needed."""
        self.finished = True
        self._opener.wipe()
        self._ring.close(Direction.RECEIVING)

    @property
    def between_frames(self) -> bool:
        """Whether no frame has begun to come."""
        return not self._buffer and not self._lent

    def _given(self, written: int) -> memoryview:
        """What was opened, in memory of about its own size.

        A step may open one byte of a large buffer; many such steps must cost
        neither a buffer each, nor keep one alive each.
        """
        if 2 * written < len(self._scratch):
            return memoryview(bytes(memoryview(self._scratch)[:written]))
        out, self._scratch = self._scratch, bytearray()
        return memoryview(out)[:written].toreadonly()

    def _has_frame(self) -> bool:
        """Whether a whole frame is there; a peer that drips bytes costs no more."""
        if len(self._buffer) < FRAME_HEADER_LEN:
            return False
        length = int.from_bytes(self._buffer[1:FRAME_HEADER_LEN], "big")
        return len(self._buffer) >= FRAME_HEADER_LEN + length

    def _open(self, out: bytearray, *, accept_rekey: bool) -> tuple[int, int, int, int, int, int]:
        opened = self._opener.open(self._buffer, out, self._offset, accept_rekey)
        if opened[3] == _fast.STOP_BAD_TAG and opened[0] == 0 and self._other_offset is not None:
            # Open point E1, and only for the first frame of the stream.
            again = self._opener.open(self._buffer, out, self._other_offset, accept_rekey)
            if again[0]:
                self._offset = self._other_offset
                return again
        return opened

    @staticmethod
    def _fault(stop: int) -> PeerError:
        if stop == _fast.STOP_BAD_TAG:
            return IntegrityError(PeerReason.FRAME_TAG)
        if stop == _fast.STOP_REKEY:
            return PeerError(PeerReason.FRAME_CONTROL)
        if stop == _fast.STOP_TOO_SHORT:
            return PeerError(PeerReason.FRAME_TOO_SHORT)
        return PeerError(PeerReason.FRAME_URGENT_TRUNCATED)

    def wipe(self) -> None:
        """Forget the key and what was not opened."""
        self._opener.wipe()
        self._buffer.clear()
        self._scratch = bytearray()
