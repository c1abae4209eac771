"""Which bytes of an application stream are which bytes of the wire stream.

A frame (RFC 8548 section 4.2) keeps the length of what it holds, so that byte
`i` of its data is byte `header + i` of the frame.  In front of the data stands
a header, behind it a tag: the header belongs to the first byte, the tag to the
last.  So every range of one stream is one range of the other, a repeated
segment is cut from the kept ciphertext byte for byte, and acknowledgements and
SACK blocks are translated to the byte.

Offsets count from behind the SYN: 0 is the first byte of either stream.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Final

from tcpcrypt.segment.memory import Memory

__all__ = ["Cell", "Cells"]

_COST: Final = 165
"""Bytes of memory for each."""


@dataclass(slots=True)
class Cell:
    """One frame, an Init message, or FIN; all but frames with data hold `size` 0 or 1."""

    app: int
    """Offset of its first data byte in the application stream."""
    size: int
    """Data bytes; 0 for what holds none."""
    wire: int
    """Offset in the wire stream."""
    header: int
    """Wire bytes before the first data byte."""
    length: int
    """All wire bytes."""


class Cells:
    """The cells of one direction that somebody may still ask for, oldest first."""

    def __init__(self, memory: Memory | None = None) -> None:
        self._memory = Memory() if memory is None else memory
        self.app_end = 0
        self.wire_end = 0
        self._cells: list[Cell] = []
        self._apps: list[int] = []
        """Where the cells begin; parallel to `_cells`, for `bisect`."""
        self._wires: list[int] = []
        self._first = 0
        """Cells before this index are forgotten, and deleted now and then."""

    def __del__(self) -> None:
        self._memory.taken -= _COST * len(self)

    def __len__(self) -> int:
        return len(self._cells) - self._first

    def add(self, size: int, header: int, length: int) -> None:
        """`length` more wire bytes hold `size` more data bytes behind `header` others."""
        self._memory.taken += _COST
        self._cells.append(Cell(self.app_end, size, self.wire_end, header, length))
        self._apps.append(self.app_end)
        self._wires.append(self.wire_end)
        self.app_end += size
        self.wire_end += length

    def wire_from(self, app: int) -> int:
        """Where on the wire a repetition from `app` on begins.

        What lies behind all cells is the end of the stream; what lies before
        them keeps its distance, as a probe one byte before the window does.
        """
        if app >= self.app_end or not len(self):
            return self.wire_end + app - self.app_end
        # The last cell of those that begin at one place: the others hold no data.
        index = bisect_right(self._apps, app, self._first) - 1
        if index < self._first:
            oldest = self._cells[self._first]
            return oldest.wire - (oldest.app - app)
        cell = self._cells[index]
        return cell.wire + (cell.header + app - cell.app if app > cell.app else 0)

    def wire_to(self, app: int) -> int:
        """Where on the wire the data before `app` ends, its tag included."""
        if app >= self.app_end or not len(self):
            return self.wire_end + app - self.app_end
        index = bisect_right(self._apps, app - 1, self._first) - 1
        if index < self._first:
            oldest = self._cells[self._first]
            return oldest.wire - (oldest.app - app)
        cell = self._cells[index]
        inside = app - cell.app
        return cell.wire + (cell.length if inside == cell.size else cell.header + inside)

    def app_to(self, wire: int) -> int:
        """How much data is there whole, once the wire is there up to `wire`."""
        if wire >= self.wire_end or not len(self):
            return self.app_end + wire - self.wire_end
        index = bisect_right(self._wires, wire, self._first) - 1
        if index < self._first:
            oldest = self._cells[self._first]
            return oldest.app - (oldest.wire - wire)
        cell = self._cells[index]
        # The last byte is there with its tag only.
        inside = min(wire - cell.wire - cell.header, cell.size - 1)
        return cell.app + max(inside, 0)

    def app_from(self, wire: int) -> int:
        """From which data byte on everything is behind `wire`."""
        if wire >= self.wire_end or not len(self):
            return self.app_end + wire - self.wire_end
        index = bisect_right(self._wires, wire, self._first) - 1
        if index < self._first:
            oldest = self._cells[self._first]
            return oldest.app - (oldest.wire - wire)
        cell = self._cells[index]
        inside = wire - cell.wire
        if inside == 0 or not cell.size:
            return cell.app
        return cell.app + min(max(inside - cell.header, 1), cell.size)

    def forget(self, app: int, wire: int) -> None:
        """Cells that end before both offsets will not be asked for again."""
        cells, before = self._cells, self._first
        while self._first < len(cells):
            cell = cells[self._first]
            if cell.app + cell.size > app or cell.wire + cell.length > wire:
                break
            self._first += 1
        self._memory.taken -= _COST * (self._first - before)
        if self._first > 64 and 2 * self._first > len(cells):
            del cells[: self._first], self._apps[: self._first], self._wires[: self._first]
            self._first = 0
