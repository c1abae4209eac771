"""What can be read once, such as standard input, and is sent all the same over broken links."""

from __future__ import annotations

import contextlib
import os
import select
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from tcpcrypt.errors import LocalError
from tcpcrypt.transfer.buffers import Uses
from tcpcrypt.transfer.codes import Code, TransferError
from tcpcrypt.transfer.digest import Algorithm, Digest, Hasher, Hashing
from tcpcrypt.transfer.messages import UNKNOWN_SIZE
from tcpcrypt.transfer.names import Path
from tcpcrypt.transfer.source import Entry, Prefixes

__all__ = ["Readable", "StreamSource", "stream_entry"]

_IDENTITY_LEN: Final = 16
_CHUNK: Final = 16 << 10
_OFFERS: Final = 1 << 20
"""Receivers offer what they have at multiples of this."""
_NO_PREFIX: Final = "the receiver lost bytes that cannot be read again"


class Readable(Protocol):
    """A binary file object without a buffer."""

    def fileno(self) -> int: ...
    def readinto(self, buffer: memoryview, /) -> int | None: ...


def stream_entry(stream: Readable, path: Path) -> Entry:
    """What comes out of a pipe.  What is not acknowledged is kept for the next connection."""
    source = StreamSource(stream)
    return Entry(path, True, lambda: source)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Bytes that are not durable at the receiver, as far as is known."""

    offset: int
    data: bytearray
    """It grows up to `_CHUNK`: what comes a byte at a time is not to cost hundreds of each."""
    before: Hasher
    """The digest of all before them."""

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


class StreamSource:
    """A stream.  It keeps no more than the window, and goes back no further."""

    size = UNKNOWN_SIZE
    mode = 0o644

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._identity = os.urandom(_IDENTITY_LEN)
        self._algorithm: Algorithm | None = None
        self._chunks: deque[_Chunk] = deque()
        self._hasher = Algorithm.SHA256.new()
        self._end = 0
        """Bytes that were read of the stream."""
        self._offset = self._resumed = 0
        self.mtime = 0
        with contextlib.suppress(OSError, ValueError):
            self.mtime = os.fstat(stream.fileno()).st_mtime_ns

    @property
    def offset(self) -> int:
        return self._offset

    def identity(self) -> bytes:
        return self._identity

    def start(self, prefixes: Prefixes, algorithm: Algorithm) -> Iterator[None]:
        if self._algorithm is None:
            self._algorithm, self._hasher = algorithm, algorithm.new()
        if algorithm is not self._algorithm:
            raise TransferError(Code.ALGORITHM, "the next connection allows another one only")
        first = self._chunks[0].offset if self._chunks else self._end
        known = [offset for offset, digest in prefixes if self._digest_at(offset) == digest]
        if not known and first:
            raise TransferError(Code.CHANGED, _NO_PREFIX)
        self._offset = self._resumed = max(known, default=0)
        return iter(())

    def ready(self, timeout: float) -> bool:
        if self._offset < self._end:
            return True
        try:
            return bool(select.select([self._stream], [], [], timeout)[0])
        except (ValueError, OSError):
            return True  # it cannot be told: to read is the way to know

    def read(self, buffers: list[memoryview], hashing: Hashing, uses: Uses) -> int:
        buffer = buffers[0]
        if self._offset < self._end:
            chunk = next(chunk for chunk in self._chunks if chunk.end > self._offset)
            data = chunk.data[self._offset - chunk.offset :][: len(buffer)]
            buffer[: len(data)] = data
            self._offset += len(data)
            return len(data)
        took = self._stream.readinto(buffer)
        if not took:
            return 0
        if not self._chunks or len(self._chunks[-1].data) + took > _CHUNK:
            self._chunks.append(_Chunk(self._end, bytearray(), self._hasher.copy()))
        self._chunks[-1].data.extend(buffer[:took])
        self._hasher.update(buffer[:took])
        self._end = self._offset = self._end + took
        return took

    def finish(self, hashing: Hashing) -> Digest:
        if self._algorithm is None:
            raise LocalError("the stream has not started")
        return Digest(self._algorithm, self._hasher.digest())

    def acknowledged(self, offset: int) -> None:
        if offset == self._resumed:
            # Where it has gone on may be no offer once something lies behind it.
            offset -= offset % _OFFERS
        while self._chunks and self._chunks[0].end <= offset:
            self._chunks.popleft()

    def close(self) -> None:
        """What is kept stays, for the next connection."""

    def _digest_at(self, offset: int) -> bytes | None:
        if offset == self._end:
            return self._hasher.copy().digest()
        for chunk in self._chunks:
            if chunk.offset <= offset < chunk.end:
                hasher = chunk.before.copy()
                hasher.update(chunk.data[: offset - chunk.offset])
                return hasher.digest()
        return None
