"""RFC 8548 sections 3.6 and 4.2: the Python twin of frame sealing and opening.

`cryptography` does the AEAD, a frame at a time.  Its keys and the plaintext it
returns are objects that Python cannot wipe; the C twin has no such copies.
"""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidTag

from tcpcrypt._fast._py_buffers import overlap, readable, writable
from tcpcrypt.registry import (
    CONTROL_REKEY,
    FLAG_FINP,
    FLAG_URGP,
    FRAME_CIPHERTEXT_MAX,
    FRAME_FLAGS_LEN,
    FRAME_HEADER_LEN,
    FRAME_URGENT_LEN,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from tcpcrypt._fast import AeadParameters

__all__ = [
    "STOP_BAD_TAG",
    "STOP_FIN",
    "STOP_NEED_MORE",
    "STOP_OUT_FULL",
    "STOP_REKEY",
    "STOP_TOO_SHORT",
    "STOP_URGENT",
    "STOP_URGENT_TRUNCATED",
    "FrameOpener",
    "FrameSealer",
]

STOP_NEED_MORE: Final = 0
STOP_OUT_FULL: Final = 1
STOP_REKEY: Final = 2
STOP_FIN: Final = 3
STOP_URGENT: Final = 4
STOP_BAD_TAG: Final = 5
STOP_TOO_SHORT: Final = 6
STOP_URGENT_TRUNCATED: Final = 7

_STREAM_END = 1 << 64
_HEADER = struct.Struct("!BH")
_URGENT_MAX = 0xFFFF
# What libcrypto can hold (EVP_MAX_KEY_LENGTH, EVP_MAX_IV_LENGTH, a tag of one
# block); the stream offset fills 8 bytes of the nonce.
_KEY_MAX, _NONCE_MIN, _NONCE_MAX, _TAG_MAX = 64, 8, 16, 16


class _TrafficKey:
    """One traffic key, split into AEAD key and nonce randomizer (section 4.2.3)."""

    def __init__(
        self, aead: AeadParameters, traffic_key: ReadableBuffer, nonce_form: int = 0
    ) -> None:
        key_len, nonce_len, tag_len = aead.key_len, aead.nonce_len, aead.tag_len
        if not (
            0 < key_len <= _KEY_MAX
            and _NONCE_MIN <= nonce_len <= _NONCE_MAX
            and 0 < tag_len <= _TAG_MAX
        ):
            raise ValueError("AEAD has lengths that frames cannot carry")
        if nonce_form not in (0, 1):
            raise ValueError("unknown nonce form")
        raw = readable(traffic_key)
        if len(raw) != key_len + (0 if nonce_form else nonce_len):
            raise ValueError("traffic key has the wrong length")
        if nonce_form:
            # Not every AEAD takes a nonce of 8 bytes; it says so itself.
            aead.construct(bytes(key_len)).encrypt(bytes(8), b"", None)
        self._tag_len = tag_len
        self._nonce_len = nonce_len
        self._randomizer = 0 if nonce_form else int.from_bytes(raw[key_len:], "big")
        self._little_endian = bool(nonce_form)
        self._aead: Any = aead.construct(bytes(raw[:key_len]))
        self._in_use = threading.Lock()

    def _nonce(self, offset: int) -> bytes:
        if self._little_endian:
            return offset.to_bytes(8, "little")
        return (offset ^ self._randomizer).to_bytes(self._nonce_len, "big")

    def _enter(self) -> None:
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError("object is in use by another call")
        if self._aead is None:
            self._in_use.release()
            raise RuntimeError("key was wiped")

    def wipe(self) -> None:
        """Forget the key.  Idempotent."""
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError("object is in use by another call")
        self._aead = None
        self._randomizer = 0
        self._in_use.release()


def _check_offset(offset: int) -> None:
    if not 0 <= offset < _STREAM_END:
        raise ValueError("stream offset is not a 64-bit number")


class FrameSealer(_TrafficKey):
    """Seals frames under one traffic key (RFC 8548 sections 3.6 and 4.2)."""

    def seal(  # noqa: PLR0917 (the order is the contract of both twins)
        self,
        data: ReadableBuffer,
        out: WriteableBuffer,
        offset: int,
        frame_data: int,
        rekey: bool = False,
        fin: bool = False,
        urgent: int = -1,
    ) -> tuple[int, int, int]:
        """Seal `data` as frames into `out`; see the stub for the whole contract."""
        source, target = readable(data), writable(out)
        _check_offset(offset)
        room_in_frame = FRAME_CIPHERTEXT_MAX - FRAME_FLAGS_LEN - self._tag_len
        if not 0 < frame_data <= room_in_frame:
            raise ValueError("no frame can hold that many data bytes")
        if not -1 <= urgent <= _URGENT_MAX:
            raise ValueError("urgent is not a 16-bit number")
        if overlap(source, target):
            raise ValueError("data and out overlap")
        # The urgent field takes its room from the data of the first frame.
        first = min(frame_data, room_in_frame - FRAME_URGENT_LEN) if urgent >= 0 else frame_data
        self._enter()
        try:
            lengths = self._plan(len(source), len(target), first, frame_data, urgent)
            # Before the first frame: a caller who catches the error and seals
            # other data at the same offset would use a nonce twice.
            if offset + self._size(lengths, urgent) > _STREAM_END:
                raise ValueError("stream offset passes 64 bits")
            consumed = written = 0
            for frame, length in enumerate(lengths):
                flags = 0
                field = b""
                if fin and consumed + length == len(source):
                    flags |= FLAG_FINP
                if urgent >= 0 and frame == 0:
                    flags |= FLAG_URGP
                    field = urgent.to_bytes(FRAME_URGENT_LEN, "big")
                plaintext = b"".join((bytes((flags,)), field, source[consumed : consumed + length]))
                control = CONTROL_REKEY if rekey and frame == 0 else 0
                header = _HEADER.pack(control, len(plaintext) + self._tag_len)
                sealed = self._aead.encrypt(self._nonce(offset + written), plaintext, header)
                end = written + len(header) + len(sealed)
                target[written:end] = header + sealed
                written = end
                consumed += length
            return consumed, written, len(lengths)
        finally:
            self._in_use.release()

    def _plan(self, total: int, room: int, first: int, others: int, urgent: int) -> list[int]:
        """Data bytes of each frame that fits into `room` bytes of wire."""
        lengths: list[int] = []
        overhead = FRAME_HEADER_LEN + FRAME_FLAGS_LEN + self._tag_len
        room -= FRAME_URGENT_LEN if urgent >= 0 else 0
        limit = first
        while True:
            length = min(total, limit)
            room -= overhead + length
            if room < 0:
                break
            lengths.append(length)
            total -= length
            limit = others
            if not total:
                break
        return lengths

    def _size(self, lengths: list[int], urgent: int) -> int:
        overhead = FRAME_HEADER_LEN + FRAME_FLAGS_LEN + self._tag_len
        field = FRAME_URGENT_LEN if urgent >= 0 and lengths else 0
        return sum(lengths) + len(lengths) * overhead + field


class FrameOpener(_TrafficKey):
    """Opens frames under one traffic key (RFC 8548 sections 3.6 and 4.2)."""

    def open(
        self,
        wire: ReadableBuffer,
        out: WriteableBuffer,
        offset: int,
        accept_rekey: bool = False,
    ) -> tuple[int, int, int, int, int, int]:
        """Open whole frames of `wire` into `out`; see the stub for the contract."""
        source, target = readable(wire), writable(out)
        _check_offset(offset)
        if offset + len(source) > _STREAM_END:
            raise ValueError("stream offset passes 64 bits")
        if overlap(source, target):
            raise ValueError("wire and out overlap")
        self._enter()
        try:
            consumed = written = frames = last = 0
            urgent = -1
            while True:
                may_rekey = accept_rekey and frames == 0
                size, stop = self._measure(source[consumed:], len(target) - written, may_rekey)
                if stop >= 0:
                    break
                frame = source[consumed : consumed + size]
                stop, field, data = self._open_one(frame, offset + consumed)
                if stop in (STOP_BAD_TAG, STOP_URGENT_TRUNCATED):
                    break
                urgent, last = field, len(data)
                target[written : written + last] = data
                written += last
                consumed += size
                frames += 1
                if stop >= 0:
                    break
            return consumed, written, frames, stop, urgent, last
        finally:
            self._in_use.release()

    def _measure(self, rest: memoryview, room: int, may_rekey: bool) -> tuple[int, int]:
        """Bytes of the frame at the start of `rest`, and a STOP_ constant or -1."""
        if len(rest) < FRAME_HEADER_LEN:
            return 0, STOP_NEED_MORE
        control, ciphertext_len = _HEADER.unpack_from(rest)
        # The most data that it can hold; whether URGp takes 2 bytes of it is
        # not known before it is opened.
        data_len = ciphertext_len - FRAME_FLAGS_LEN - self._tag_len
        if data_len < 0:
            return 0, STOP_TOO_SHORT
        if len(rest) < FRAME_HEADER_LEN + ciphertext_len:
            return 0, STOP_NEED_MORE
        # Only once the frame is whole, so that a caller derives the next keys
        # once and can commit to them or drop them at once.
        if control & CONTROL_REKEY and not may_rekey:
            return 0, STOP_REKEY
        if data_len > room:
            return 0, STOP_OUT_FULL
        return FRAME_HEADER_LEN + ciphertext_len, -1

    def _open_one(self, frame: memoryview, offset: int) -> tuple[int, int, bytes]:
        """A STOP_ constant or -1, the urgent field or -1, and the data."""
        header, ciphertext = frame[:FRAME_HEADER_LEN], frame[FRAME_HEADER_LEN:]
        try:
            plaintext: bytes = self._aead.decrypt(self._nonce(offset), ciphertext, header)
        except InvalidTag:
            return STOP_BAD_TAG, -1, b""
        flags = plaintext[0]
        stop = STOP_FIN if flags & FLAG_FINP else -1
        if not flags & FLAG_URGP:
            return stop, -1, plaintext[FRAME_FLAGS_LEN:]
        start = FRAME_FLAGS_LEN + FRAME_URGENT_LEN
        if len(plaintext) < start:
            return STOP_URGENT_TRUNCATED, -1, b""
        field = int.from_bytes(plaintext[FRAME_FLAGS_LEN:start], "big")
        return (STOP_URGENT if stop < 0 else stop), field, plaintext[start:]
