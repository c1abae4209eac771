"""One direction of a connection between the host that sends it and the one that gets it.

The *source* sends *input* bytes; what becomes of them, the *output*, is kept
until the *sink* has acknowledged it.  Who seals has application data as its
input and the wire as its output; who opens has them the other way round.

Nobody here is a TCP: the source repeats what it is not told to have arrived, and
the engine sends again only what the source has no reason to repeat
(`responsible`): Init messages, frames without data, and the data of a frame of
which a part was acknowledged before it was whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tcpcrypt.segment.cells import Cells
from tcpcrypt.segment.memory import WINDOW_MAX, Memory
from tcpcrypt.segment.reassembly import Reassembly

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["OVERHEAD", "Stream"]

OVERHEAD: Final = 20
"""Wire bytes of a frame besides its data: header, flags, tag (RFC 8548 section 4.2)."""
_SLACK: Final = 1 << 17
"""What a source may send beyond its window: a frame and what rounding hides."""
_FIRST_WINDOW: Final = 1 << 16
_FIELD_MAX: Final = 0xFFFF


class Stream:
    """See above.  All offsets count from behind the SYN.

    `seals` tells which way; `largest` is how much data one packet of the source
    holds at most, as far as is known.
    """

    def __init__(self, *, seals: bool, memory: Memory | None = None) -> None:
        self.seals = seals
        self._memory = Memory() if memory is None else memory
        self.input = Reassembly(self._memory)
        self.cells = Cells(self._memory)
        self.largest = 1400
        self.una = 0
        """Output before this offset has been acknowledged by the sink."""
        self.emitted = 0
        """Output before this offset has been sent once at least."""
        self.edge = _FIRST_WINDOW
        """The sink takes output up to here."""
        self.widest = _FIRST_WINDOW + _SLACK
        """What may have been under way at most, as far as is known."""
        self.dataless = 0
        """Sealing: frames without data, since the sink had all of them."""
        self.responsible = 0
        """Output before this offset is for the engine to repeat."""
        self.under_way = 0
        """Opening: where the frame ends that has begun to come; 0: not known."""
        self.fin: int | None = None
        """Output offset of FIN, once the source has sent its own."""
        self.sacked: list[tuple[int, int]] = []
        """Output that the sink has told to have beyond `una`."""
        self._kept = bytearray()
        self._kept_at = 0
        self._told = 0
        self._told_edge = 0
        self._limit = _FIRST_WINDOW + _SLACK

    def __del__(self) -> None:
        self._memory.taken -= len(self._kept)

    # --- offsets -------------------------------------------------------------------

    @property
    def end(self) -> int:
        """Where the output ends, FIN included."""
        return self._kept_at + len(self._kept)

    def output_from(self, offset: int) -> int:
        """Where the output of the input from `offset` on begins."""
        return self.cells.wire_from(offset) if self.seals else self.cells.app_from(offset)

    def output_to(self, offset: int) -> int:
        """Where the output of the input before `offset` ends."""
        return self.cells.wire_to(offset) if self.seals else self.cells.app_to(offset)

    def input_to(self, offset: int) -> int:
        """How much input is done with once the output before `offset` has arrived."""
        return self.cells.app_to(offset) if self.seals else self.cells.wire_to(offset)

    @property
    def limit(self) -> int:
        """Input from this offset on is beyond all that was asked for."""
        return self._limit

    # --- input and output ------------------------------------------------------------

    def take(self, offset: int, data: ReadableBuffer) -> bytes | memoryview:
        """Input at `offset`; what has become contiguous.

        Where there is no memory nothing new is taken while something is kept: that will make
        room.  What would have to wait is not taken where half of the memory is, for nobody
        has to do anything to make it wait for ever.
        """
        limit, end, memory = self._limit, self.input.end, self._memory
        waits = memory.half_full and offset > end
        if waits or (memory.full and self._kept and offset + len(memoryview(data)) > end):
            limit = end
            self._memory.refused += 1
        return self.input.put(offset, data, limit)

    def _keep(self, octets: ReadableBuffer) -> None:
        self._kept += octets
        self._memory.taken += len(memoryview(octets))

    def sealed(self, data_len: int, frame: ReadableBuffer) -> None:
        """A frame, or an Init message, is output that holds `data_len` bytes of input.

        What holds none is for the engine to repeat.  A frame is made once, so that nobody
        asks where in it the data is: byte `i` of the data is byte `i` of the frame.  Then
        a segment that the kernel cuts from it is a segment of the source's, and
        what is lost or told of in SACK blocks is none of the source's segments in part.
        """
        length = len(memoryview(frame))
        self.cells.add(data_len, 0 if data_len else length, length)
        self._keep(frame)
        if not data_len:
            self.responsible = self.end
            self.dataless += 1

    def opened(self, pieces: list[ReadableBuffer], length: int, *, tag_len: int = 16) -> None:
        """`length` bytes of input held `pieces`, which are output."""
        data_len = sum(len(memoryview(piece)) for piece in pieces)
        begun = self.cells.wire_end
        header = length - tag_len - data_len if data_len else length
        self.cells.add(data_len, header, length)
        for piece in pieces:
            self._keep(piece)
        if data_len and self._told > begun:
            self.responsible = self.end  # the source may believe that it has arrived
        if not data_len:
            # There may be any number of them, and nobody ever acknowledges one.
            self.cells.forget(self.una, self.cells.wire_end)

    def finish(self, finp: ReadableBuffer = b"") -> None:
        """The source's FIN came; sealing, `finp` is the frame that goes before its own."""
        length = len(memoryview(finp))
        self.cells.add(1, length, length + 1)
        self._keep(finp)
        self.fin = self.end
        self._keep(b"\0")
        self.input.end += 1

    def cut(self, start: int, stop: int) -> tuple[bytes, bool]:
        """Output from `start` to `stop`, and whether FIN ends it."""
        fin = self.fin is not None and stop > self.fin
        last = stop - 1 if fin else stop
        if start < self._kept_at:
            return b"", fin
        with memoryview(self._kept) as kept:
            return bytes(kept[start - self._kept_at : last - self._kept_at]), fin

    def drop(self) -> None:
        """Nothing is kept any more: the connection is dead.  Its numbers stay."""
        end = self.end
        self._memory.taken -= len(self._kept)
        self._kept, self._kept_at = bytearray(), end
        self.cells.forget(self.cells.app_end, self.cells.wire_end)
        self.input.drop()

    def acknowledged(self, offset: int, edge: int, blocks: list[tuple[int, int]]) -> bool:
        """The sink has everything before `offset` and takes output up to `edge`.

        Returns whether that is news.  Who acknowledges what was never sent says
        nothing at all.
        """
        if offset > self.emitted:
            return False
        believed = offset + self._memory.window
        edge = min(edge, max(believed, min(self.edge, offset + WINDOW_MAX)))
        news = offset > self.una or edge > self.edge or bool(blocks)
        if offset >= self.una:
            self.edge = edge
            self.widest = max(self.widest, edge - offset + _SLACK)
            if offset >= self.responsible:
                self.dataless = 0
            self.sacked = [block for block in blocks if offset < block[0] < block[1] <= self.end]
        if offset > self.una:
            self.una = offset
            self._forget()
        return news

    def _forget(self) -> None:
        done = len(self._kept)
        del self._kept[: self.una - self._kept_at]
        self._memory.taken -= done - len(self._kept)
        self._kept_at = self.una
        if self.seals:
            self.cells.forget(self.cells.app_to(self.una), self.una)
        else:
            self.cells.forget(self.una, self.cells.wire_end)

    @property
    def sendable(self) -> int:
        """Up to where output may be sent for the first time.

        A sealing source keeps to the window that it was told.
        """
        return self.end if self.seals else min(self.end, max(self.edge, self.emitted))

    @property
    def overdue(self) -> bool:
        """Whether the engine has to see to it that something arrives."""
        return self.una < min(self.responsible, self.emitted)

    # --- what the source is told -----------------------------------------------------

    @property
    def arrived(self) -> int:
        """The acknowledgement for the source: an input offset that never goes back."""
        if self.una == self.end and (self.seals or self.una == self.cells.app_end):
            # Nothing is left that the sink could lack; parts of a frame count, for
            # a source may send no more before it hears of them.
            done = self.cells.app_end if self.seals else self.input.end
        elif self.input.gaps and not self.seals and self.fin is None and self.emitted == self.end:
            # The source hears of what came behind a gap, and takes all before it that is not
            # acknowledged for lost: not to say that the sink has yet to answer would cost
            # much.  So the engine answers for what is on its way to the sink.
            done = self.input.end
            self.responsible = self.end
        else:
            done = self.input_to(self.una)
        self._told = max(self._told, done)
        return self._told

    def window(self, scale: int) -> int:
        """The window field for the source; `scale` is the shift count of the sink's windows."""
        arrived = self.arrived
        if self.seals:
            room = self.edge - self.end
            whole, rest = divmod(max(room, 0), self.largest + OVERHEAD)
            fits = whole * self.largest + max(rest - OVERHEAD, 0)
            edge = max(self._told_edge, self.cells.app_end + fits)
        else:
            room = self.edge - self.una
            edge = arrived
            if room > 0:
                edge = max(self.input_to(self.una) + room, arrived, self.under_way)
        self._told_edge = edge
        self._limit = max(self._limit, edge + _SLACK)
        field = min((edge - arrived) >> scale, _FIELD_MAX)
        # A frame under way must be able to end: rounding up does no harm.
        if not field and edge > arrived and self.under_way > arrived:
            field = 1
        return field

    def blocks(self) -> list[tuple[int, int]]:
        """RFC 2018: input that has come beyond `arrived`; what waits here comes first."""
        found = self.input.blocks()
        for start, stop in self.sacked:
            # Whole cells at either end, so that nothing is claimed that is not there.
            if self.seals:
                begin, end = self.cells.app_from(start), self.cells.app_to(stop)
            else:
                begin, end = self.cells.wire_from(start), self.cells.wire_to(stop)
            if begin < end:
                found.append((begin, end))
        return [block for block in found if block[0] > self._told]
