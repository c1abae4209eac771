"""What goes out at once: messages and bytes of files, one behind the other."""

from __future__ import annotations

from typing import Final

from tcpcrypt.transfer.buffers import Uses
from tcpcrypt.transfer.messages import DATA_HEADER

__all__ = ["PIECES_MAX", "Batch"]

PIECES_MAX: Final = 512
"""Pieces of one read: the system fills no more than 1024 at once."""


class Batch:
    """A buffer that messages are put into, one behind the other."""

    def __init__(self, uses: Uses, limit: int) -> None:
        self.uses = uses
        self.used = 0
        self._view = memoryview(uses.buffer)
        self._limit = limit

    @property
    def room(self) -> int:
        """Bytes for DATA; there is always some more for one other message."""
        return self._limit - self.used

    @property
    def view(self) -> memoryview:
        """All that is in it."""
        return self._view[: self.used]

    def add(self, message: bytes) -> None:
        """A message."""
        end = self.used + len(message)
        self._view[self.used : end] = message
        self.used = end

    def pieces(self, size: int, block: int) -> list[memoryview]:
        """Where up to `size` bytes of file may be read to, in blocks, with room for headers."""
        found: list[memoryview] = []
        at = self.used
        while size > 0 and at + DATA_HEADER.size < self._limit and len(found) < PIECES_MAX:
            length = min(block, size, self._limit - at - DATA_HEADER.size)
            found.append(self._view[at + DATA_HEADER.size : at + DATA_HEADER.size + length])
            at, size = at + DATA_HEADER.size + length, size - length
        return found

    def commit(self, header: bytes, size: int) -> None:
        """The next piece holds `size` bytes."""
        self._view[self.used : self.used + DATA_HEADER.size] = header
        self.used += DATA_HEADER.size + size
