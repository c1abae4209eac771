"""RFC 9293 section 3.10.7.4: bytes of a stream put in order, in bounded memory."""

from __future__ import annotations

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
        self._pieces: list[tuple[int, bytes]] = []
        """(offset, bytes) beyond `end`, ascending, disjoint."""
        self._latest = 0

    @property
    def waiting(self) -> int:
        """Bytes that wait for those before them."""
        return sum(len(piece) for _, piece in self._pieces)

    def put(self, offset: int, data: ReadableBuffer, limit: int) -> bytes:
        """Add `data`, as far as it is new and before offset `limit`.

        Returns the bytes that are in order now, from the former `end` on.
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
            return bytes(view)
        self._insert(offset, bytes(view))
        return self._contiguous()

    def _insert(self, offset: int, data: bytes) -> None:
        self._latest = offset
        added: list[tuple[int, bytes]] = []
        for start, piece in self._pieces:
            end = start + len(piece)
            if end <= offset or not data:
                continue
            if start >= offset + len(data):
                break
            if start > offset:
                added.append((offset, data[: start - offset]))
            data = data[max(end - offset, 0) :]
            offset = end
        if data:
            added.append((offset, data))
        if len(self._pieces) + len(added) <= _PIECES_MAX:
            self._pieces = sorted(self._pieces + added)

    def _contiguous(self) -> bytes:
        found = []
        while self._pieces and self._pieces[0][0] == self.end:
            piece = self._pieces.pop(0)[1]
            self.end += len(piece)
            found.append(piece)
        return b"".join(found)

    def blocks(self) -> list[tuple[int, int]]:
        """RFC 2018 section 4: the ranges that wait, the one that grew last first."""
        ranges: list[tuple[int, int]] = []
        for start, piece in self._pieces:
            if ranges and ranges[-1][1] == start:
                ranges[-1] = (ranges[-1][0], start + len(piece))
            else:
                ranges.append((start, start + len(piece)))
        latest = self._latest
        ranges.sort(key=lambda r: (not r[0] <= latest < r[1], r[0]))
        return ranges
