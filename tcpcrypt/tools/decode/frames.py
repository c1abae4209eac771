"""RFC 8548 sections 3.6 to 3.8: the frames of one captured direction, opened.

`tcpcrypt.core.records` ends at the first fault, as a host has to.  Who reads a
capture looks on: whether a later copy of the bytes opens, and where frames go on
behind what was not captured.  All of that is told, and no longer `authenticated`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tcpcrypt import _fast
from tcpcrypt.crypto.aead import AeadParameters
from tcpcrypt.crypto.schedule import MasterKey
from tcpcrypt.registry import CONTROL_REKEY, FRAME_CIPHERTEXT_MAX, FRAME_HEADER_LEN
from tcpcrypt.tools.decode.reassembly import ByteStream
from tcpcrypt.wire.frame import Plaintext
from tcpcrypt.wire.profile import WireProfile

__all__ = ["FrameReader", "FrameSink"]

FrameSink = Callable[[bytes, Plaintext], None]
"""Takes each frame that was opened, as it lies on the wire, and what it protects."""

_FRAME_MAX: Final = FRAME_HEADER_LEN + FRAME_CIPHERTEXT_MAX
_PIECE: Final = 1 << 18
"""Bytes opened at a stretch, more than the largest frame."""
_LOST_KEYS_MAX: Final = 3
"""Rekeyings that may be in what was not captured."""
_STOPPED_MAX: Final = 1 << 20
"""Bytes in which a frame is looked for behind one that cannot be opened."""
_TRIES_MAX: Final = 20_000
"""Frames tried in search of where they go on."""

_FAULTS: Final = {
    _fast.STOP_BAD_TAG: "fails authentication",
    _fast.STOP_REKEY: "asks for new keys, which this profile does not have",
    _fast.STOP_TOO_SHORT: "is too short for flags and tag",
    _fast.STOP_URGENT_TRUNCATED: "is too short for its urgent field",
}


class FrameReader:
    """Opens what `stream` holds from `origin` on, the byte behind Init1 or Init2."""

    def __init__(
        self,
        stream: ByteStream,
        profile: WireProfile,
        parameters: AeadParameters,
        master: MasterKey,
        *,
        ab: bool,
        frames: FrameSink | None = None,
    ) -> None:
        self._stream = stream
        self._sink = frames
        self._profile = profile
        self._parameters = parameters
        self._master = master
        self._ab = ab
        self._openers = [self._opener()]
        """Of this generation and the next ones, as far as they were needed."""
        origin = stream.base
        self._shift = 0 if profile.offset_counts_init else origin
        self._other_shift: int | None = origin - self._shift
        """Open point E1, settled by the first frame."""
        self.generation = 0
        self.frames = 0
        self.fin = False
        """FINp was there."""
        self.failed = False
        """Nothing more of this direction can be opened."""
        self.intact = True
        """Every tag verified so far, and nothing is missing."""
        self.errors: list[str] = []
        self._stop: int | None = None
        """Why the frame in front cannot be opened, where others may follow it."""
        self._tried: set[int] = set()
        """Offsets behind it at which there is no frame."""
        self._seen = 0, 0
        """Bytes and later copies that were there at the last look."""

    @property
    def over(self) -> bool:
        """No frame can follow; with a profile that has no FINp, none need follow."""
        return self.fin or self.failed or not self._profile.authenticated_end

    def read(self) -> Iterator[bytes]:
        """The data of frames that are whole by now."""
        stream = self._stream
        while not self.failed:
            if self.fin:
                if stream.buffer:
                    self._fault(f"bytes follow the frame with FINp, at offset {stream.base}")
                return
            if self._stop is not None:
                data = self._other_frame() if self._more_to_see() else None
                if data is None:
                    if len(stream.buffer) > _STOPPED_MAX:
                        self._no_frame(self._stop)
                    return
            elif _whole(stream.buffer):
                data = self._step(stream.buffer)
            elif stream.overfull:
                self._resume()
                continue
            else:
                return
            if data:
                yield data

    def finish(self) -> Iterator[bytes]:
        """Nothing more will come: what is missing is lost."""
        stream = self._stream
        while True:
            yield from self.read()
            if self.failed or self.fin or not (stream.buffer or stream.gap):
                return
            # A forged length may be what a whole frame is waited for.
            data = self._other_frame() if stream.buffer else None
            if data is not None:
                yield data
            elif stream.gap is not None:
                self._resume()
            elif self._stop is not None:
                self._no_frame(self._stop)
            else:
                left = len(stream.buffer)
                self._fault(f"the stream ends within a frame, {left} bytes behind the last one")

    def _resume(self) -> None:
        """Go on behind bytes that will not come any more."""
        stream, gap = self._stream, self._stream.gap
        if gap is None:
            return
        lost = f"bytes {stream.base} to {gap[1] - 1} of the stream are not in the capture"
        self.intact = False
        tries = 0
        for start, candidate in stream.waiting(_FRAME_MAX):
            if not _whole(candidate):
                continue
            rekey = self._profile.rekeying and bool(candidate[0] & CONTROL_REKEY)
            for ahead in range(_LOST_KEYS_MAX + 1 if self._profile.rekeying else 1):
                tries += 1
                if self._opens(candidate, start, self.generation + ahead + rekey):
                    self.generation += ahead
                    del self._openers[:ahead]
                    self.errors.append(f"{lost}; frames go on at {start}")
                    stream.skip_to(start)
                    self._other_shift = self._stop = None
                    return
            if tries > _TRIES_MAX:
                break
        self.errors.append(f"{lost}, and no frame was found behind them")
        self.failed = True

    def _opens(self, candidate: bytes | memoryview, start: int, generation: int) -> bool:
        out = bytearray(len(candidate))
        opener = self._generation(generation)
        shifts = [self._shift]
        if self._other_shift is not None:
            shifts.append(self._other_shift)
        for shift in shifts:
            if opener.open(_first(candidate), out, start - shift, self._profile.rekeying)[0]:
                self._shift = shift
                return True
        return False

    def _step(self, buffer: bytes | bytearray) -> bytes | None:
        """Open as many frames as can be at once; None at a fault."""
        # Each may end with new keys after its first frame.
        buffer = buffer[:_PIECE] if self._sink is None else _first(buffer)
        out = bytearray(len(buffer))
        opened = self._open(buffer, out)
        if opened[0]:
            return self._take(opened, out)
        self._stop = opened[3]
        self._seen = self._there
        data = self._other_frame()
        if data is None and not self._profile.frame_per_segment:
            self._no_frame(self._stop)
        return data

    @property
    def _there(self) -> tuple[int, int]:
        return len(self._stream.buffer), self._stream.copies

    def _more_to_see(self) -> bool:
        """Whether another copy has come, or a quarter more: a look costs all there is."""
        (size, copies), (size_before, copies_before) = self._there, self._seen
        if copies == copies_before and 4 * size < 5 * size_before and size <= _STOPPED_MAX:
            return False
        self._seen = self._there
        return True

    def _other_frame(self) -> bytes | None:
        """What can be opened in the place of a frame that cannot."""
        data = self._later_copy()
        return self._next_segment() if data is None else data

    def _next_segment(self) -> bytes | None:
        """Where a segment is a frame, one that does not open costs itself alone.

        Such peers seal what they send again in other frames, so that the ends
        of frames do not meet.
        """
        stream = self._stream
        for start in stream.marks() if self._profile.frame_per_segment else ():
            at = start - stream.base
            rest = stream.buffer[at : at + _FRAME_MAX]
            if start in self._tried or not _whole(rest):
                continue
            if self._opens(_first(rest), start, self.generation):
                what = f"bytes {stream.base} to {start - 1} of the stream are no frame"
                if self._stop is not None:
                    what = self._why(self._stop)
                self.errors.append(f"{what}; frames go on at {start}")
                self.intact = False
                stream.consume(at)
                return self._step(stream.buffer)
            self._tried.add(start)
        return None

    def _take(self, opened: tuple[int, int, int, int, int, int], out: bytearray) -> bytes:
        consumed, written, frames, stop, urgent, _last = opened
        if self._sink is not None:
            data = bytes(memoryview(out)[:written])
            plaintext = Plaintext(data, stop == _fast.STOP_FIN, urgent if urgent >= 0 else None)
            self._sink(bytes(self._stream.buffer[:consumed]), plaintext)
        self._stop = None
        self._tried.clear()
        self.fin = stop == _fast.STOP_FIN
        self._other_shift = None
        self.frames += frames
        self._stream.consume(consumed)
        return bytes(memoryview(out)[:written])

    def _later_copy(self) -> bytes | None:
        """A retransmission whose bytes differ may be what the receiver took."""
        for other in self._stream.variants():
            if not _whole(other):
                continue
            frame = _first(other)
            out = bytearray(len(frame))
            opened = self._open(frame, out)
            if opened[0]:
                at = self._stream.base
                self.errors.append(
                    f"bytes at offset {at} came twice and differ; only the later ones are authentic"
                )
                self.intact = False
                # What lies behind the frame is whatever the same copy says.
                self._stream.buffer[:] = other
                return self._take(opened, out)
        return None

    def _open(
        self, buffer: bytes | bytearray, out: bytearray
    ) -> tuple[int, int, int, int, int, int]:
        offset = self._stream.base - self._shift
        generation = self.generation
        rekey = self._profile.rekeying and bool(buffer[0] & CONTROL_REKEY)
        generation += rekey
        opened = self._generation(generation).open(buffer, out, offset, rekey)
        if not opened[0] and opened[3] == _fast.STOP_BAD_TAG and self._other_shift is not None:
            other = self._stream.base - self._other_shift
            again = self._generation(generation).open(buffer, out, other, rekey)
            if again[0]:
                self._shift, opened = self._other_shift, again
        if opened[0] and generation > self.generation:
            self.generation = generation
            del self._openers[0]
        return opened

    def _no_frame(self, stop: int) -> None:
        self._fault(self._why(stop))

    def _why(self, stop: int) -> str:
        why = _FAULTS.get(stop, "cannot be opened")
        kept = f", key generation {self.generation}" if self.generation else ""
        return f"the frame at offset {self._stream.base} of the stream {why}{kept}"

    def _fault(self, text: str) -> None:
        self.errors.append(text)
        self.failed, self.intact = True, False

    def _generation(self, generation: int) -> _fast.FrameOpener:
        while len(self._openers) <= generation - self.generation:
            self._master = self._master.advance()
            self._openers.append(self._opener())
        return self._openers[generation - self.generation]

    def _opener(self) -> _fast.FrameOpener:
        keys = self._master.traffic_keys(self._parameters)
        key = keys.ab if self._ab else keys.ba
        opener = self._parameters.opener(key, self._profile)
        keys.wipe()
        return opener


def _whole(buffer: bytes | bytearray | memoryview) -> bool:
    """Whether a whole frame is there."""
    return len(buffer) >= FRAME_HEADER_LEN and len(buffer) >= _frame_len(buffer)


def _frame_len(buffer: bytes | bytearray | memoryview) -> int:
    return FRAME_HEADER_LEN + int.from_bytes(buffer[1:FRAME_HEADER_LEN], "big")


def _first(buffer: bytes | bytearray | memoryview) -> bytes:
    return bytes(buffer[: _frame_len(buffer)])
