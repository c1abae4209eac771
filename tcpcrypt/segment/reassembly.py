"""RFC 9293 section 3.10.7.4: bytes of a stream put in order, in bounded memory."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Reassembly"]

_PIECES_MAX: Final = 4096
"""Separate pieces that wait; more only comes of somebody who means harm."""


class Reassembly:
    """Takes pieces at their offsets and gives out what has become contiguous."""

    def __init__(self) -> None:
        self.end = 0
        """Everything before this offset has been given out."""
        self._starts: list[int] = []
        self._pieces: list[bytearray] = []
        """What waits beyond `end`: ascending, and never two that touch."""
        self._latest = 0

    @property
    def waiting(self) -> int:
        """Bytes that wait for those before them."""
        return sum(map(len, self._pieces))

    def put(self, offset: int, data: ReadableBuffer, limit: int) -> bytes | memoryview:
        """Add `data`, as far as it is new and before offset `limit`.

        Returns the bytes that are in order now, from the former `end` on; a view of
        `data` where they are all of it.
        Bytes that came before stay: who repeats them changes nothing.
        """
        view = memoryview(data)
        if offset + len(view) > limit:
            view = view[: max(limit - offset, 0)]
        if offset < self.end:
            view = view[self.end - offset :]
            offset = self.end
        if not view:
            return b""
        if offset == self.end and not self._pieces:
            self.end += len(view)
            return view
        self._insert(offset, view)
        return self._contiguous()

    def _insert(self, offset: int, data: memoryview) -> None:
        starts, pieces = self._starts, self._pieces
        self._latest = offset
        index = bisect_right(starts, offset)
        if index and starts[index - 1] + len(pieces[index - 1]) >= offset:
            index -= 1
            pieces[index] += data[starts[index] + len(pieces[index]) - offset :]
        elif len(pieces) < _PIECES_MAX:
            starts.insert(index, offset)
            pieces.insert(index, bytearray(data))
        else:
            return
        start, piece = starts[index], pieces[index]
        following = index + 1
        while following < len(starts) and starts[following] <= start + len(piece):
            known, at = pieces[following], starts[following] - start
            piece[at : at + len(known)] = known
            following += 1
        del starts[index + 1 : following], pieces[index + 1 : following]

    def _contiguous(self) -> bytes:
        if not self._starts or self._starts[0] != self.end:
            return b""
        del self._starts[0]
        piece = bytes(self._pieces.pop(0))
        self.end += len(piece)
        return piece

    def blocks(self, most: int = 4) -> list[tuple[int, int]]:
        """RFC 2018 section 4: ranges that wait, the one that grew last first."""
        starts, pieces = self._starts, self._pieces
        if not starts:
            return []
        latest = max(bisect_right(starts, self._latest) - 1, 0)
        order = [latest, *(index for index in range(len(starts))[:most] if index != latest)]
        return [(starts[index], starts[index] + len(pieces[index])) for index in order[:most]]
