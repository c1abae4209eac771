"""RFC 9293 section 3.10.7.4: bytes of a stream put in order, in bounded memory."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from tcpcrypt.segment.memory import Memory

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Reassembly"]

_PIECES_MAX: Final = 4096
"""Separate pieces that wait; more only comes of somebody who means harm.  What is in order never
counts."""
_BLOCKS_MAX: Final = 4
_COST: Final = 125
"""Bytes of memory for each piece, besides what is in it."""


class Reassembly:
    """Takes pieces at their offsets and gives out what has become contiguous."""

    def __init__(self, memory: Memory | None = None) -> None:
        self._memory = Memory() if memory is None else memory
        self.end = 0
        """Everything before this offset has been given out."""
        self._starts: list[int] = []
        self._pieces: list[bytearray] = []
        """What waits beyond `end`: ascending, and never two that touch."""
        self._recent: list[int] = []
        """An offset in each of the pieces that grew last, the last one first."""
        self.waiting = 0
        """Bytes that wait for those before them."""

    def __del__(self) -> None:
        self.drop()

    def drop(self) -> None:
        """Nothing waits any more."""
        self._memory.taken -= self.waiting + _COST * len(self._pieces)
        self._starts, self._pieces, self._recent, self.waiting = [], [], [], 0

    @property
    def gaps(self) -> bool:
        """Whether anything waits."""
        return bool(self._pieces)

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
        index = self._insert(offset, view)
        if index is not None and offset > self.end:
            start = self._starts[index]
            stop = start + len(self._pieces[index])
            others = [other for other in self._recent if not start <= other < stop]
            self._recent = [offset, *others][:_BLOCKS_MAX]
        return self._contiguous()

    def _insert(self, offset: int, data: memoryview) -> int | None:
        """The index of the piece that it is in now; None if it would be one too many."""
        starts, pieces = self._starts, self._pieces
        index = bisect_right(starts, offset)
        if index and starts[index - 1] + len(pieces[index - 1]) >= offset:
            index -= 1
            grown = data[starts[index] + len(pieces[index]) - offset :]
            pieces[index] += grown
            self._wait(len(grown))
        elif len(pieces) < _PIECES_MAX or offset == self.end:
            starts.insert(index, offset)
            pieces.insert(index, bytearray(data))
            self._wait(len(data), 1)
        else:
            return None
        start, piece = starts[index], pieces[index]
        following = index + 1
        while following < len(starts) and starts[following] <= start + len(piece):
            known, at = pieces[following], starts[following] - start
            self._wait(-min(len(known), len(piece) - at), -1)
            piece[at : at + len(known)] = known
            following += 1
        del starts[index + 1 : following], pieces[index + 1 : following]
        return index

    def _contiguous(self) -> bytes:
        if not self._starts or self._starts[0] != self.end:
            return b""
        del self._starts[0]
        piece = bytes(self._pieces.pop(0))
        self.end += len(piece)
        self._wait(-len(piece), -1)
        return piece

    def _wait(self, more: int, pieces: int = 0) -> None:
        self.waiting += more
        self._memory.taken += more + _COST * pieces

    def blocks(self, most: int = _BLOCKS_MAX) -> list[tuple[int, int]]:
        """RFC 2018 section 4: ranges that wait, the one that grew last first.

        Those that grew before it follow, for what told of them may have been lost.
        """
        starts, pieces = self._starts, self._pieces
        order: list[int] = []
        for offset in self._recent:
            index = bisect_right(starts, offset) - 1
            if index >= 0 and offset < starts[index] + len(pieces[index]) and index not in order:
                order.append(index)
        order += [index for index in range(len(starts))[:most] if index not in order]
        return [(starts[index], starts[index] + len(pieces[index])) for index in order[:most]]
