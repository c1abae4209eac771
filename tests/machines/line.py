"""One direction of a TCP connection, with somebody on the path."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Segment:
    """Bytes of a stream and their place; with `fin` its end stands behind them."""

    offset: int
    data: bytes
    fin: bool = False

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


@dataclass
class Line:
    """What was sent, what is under way, and what the receiver's TCP has taken in order.

    Of two bytes for one place the one that comes first counts, as with most kernels.
    """

    sent: bytearray = field(default_factory=bytearray)
    fin_sent: bool = False
    under_way: list[Segment] = field(default_factory=list)
    taken: bytearray = field(default_factory=bytearray)
    at_end: bool = False
    """The receiver was told of FIN."""
    touched: bool = False
    """Somebody has changed or forged something; it may still be under way."""
    _waiting: list[Segment] = field(default_factory=list)

    def send(self, data: bytes, fin: bool = False) -> None:
        """The sender writes; a segment sets out."""
        self.under_way.append(Segment(len(self.sent), data, fin))
        self.sent += data
        self.fin_sent = self.fin_sent or fin

    def repeat(self) -> None:
        """TCP sends again what was not acknowledged."""
        missing = bytes(self.sent[len(self.taken) :])
        if missing or (self.fin_sent and not self.at_end):
            self.under_way.append(Segment(len(self.taken), missing, self.fin_sent))

    def arrive(self, segment: Segment) -> tuple[bytes, bool]:
        """What the receiver's TCP gives to its application now, and whether it is the end."""
        if self.at_end:
            return b"", False
        self._waiting.append(segment)
        before = len(self.taken)
        while True:
            here = len(self.taken)
            fits = [s for s in self._waiting if s.offset <= here <= s.end]
            if not fits:
                break
            first = fits[0]
            self._waiting.remove(first)
            self.taken += first.data[here - first.offset :]
            if first.fin:
                self.at_end = True
                break
        return bytes(self.taken[before:]), self.at_end

    # --- what somebody on the path does to what is under way ---------------------------------

    def split(self, index: int, at: int) -> None:
        segment = self.under_way.pop(index)
        at %= len(segment.data) + 1
        parts = [
            Segment(segment.offset, segment.data[:at]),
            Segment(segment.offset + at, segment.data[at:], segment.fin),
        ]
        self.under_way[index:index] = [part for part in parts if part.data or part.fin]

    def join(self, index: int) -> None:
        """With the one that continues it, if that is under way too."""
        segment = self.under_way[index]
        for other in self.under_way:
            if other is not segment and other.offset == segment.end and not segment.fin:
                self.under_way.remove(other)
                joined = Segment(segment.offset, segment.data + other.data, other.fin)
                self.under_way[self.under_way.index(segment)] = joined
                return

    def corrupt(self, index: int, at: int, flip: int) -> None:
        segment = self.under_way[index]
        if segment.data:
            data = bytearray(segment.data)
            data[at % len(data)] ^= flip
            self.under_way[index] = replace(segment, data=bytes(data))
            self.touched = True

    def forge(self, ahead: int, data: bytes, fin: bool) -> None:
        self.under_way.append(Segment(len(self.taken) + ahead, data, fin))
        self.touched = True
