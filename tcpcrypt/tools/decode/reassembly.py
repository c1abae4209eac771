"""RFC 9293 section 3.4: one direction of a captured TCP connection, in order.

Of bytes that came twice the first copy counts, as it does for Linux.  Where a
second copy differs it is kept as a variant, until the bytes are consumed: who
can tell right from wrong, as the owner of a key can, may ask for it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

__all__ = ["ByteStream"]

_SEQ_MOD: Final = 1 << 32
_WINDOW_MAX: Final = 1 << 30
"""RFC 7323 section 2.3: no receiver has a larger window."""
_WAITING_MAX: Final = 1 << 26
"""Bytes that wait behind a gap at most."""
_VARIANTS_MAX: Final = 64


class ByteStream:
    """Offsets count from the byte behind the SYN, and do not wrap."""

    __slots__ = ("_first", "_marks", "_starts", "_variants", "_waiting", "_waiting_bytes",
                 "base", "buffer", "ignored")  # fmt: skip

    def __init__(self, isn: int) -> None:
        self._first = isn + 1
        self.base = 0
        """Offset of the first byte that is not consumed."""
        self.buffer = bytearray()
        """What follows it without a gap."""
        self._starts: list[int] = []
        self._waiting: dict[int, bytes] = {}
        self._waiting_bytes = 0
        self._variants: list[tuple[int, bytes]] = []
        self._marks: list[int] = []
        """Offsets in `buffer` at which captured segments begin, in order."""
        self.ignored = 0
        """Segments that no receiver would have taken."""

    @property
    def end(self) -> int:
        """Offset behind `buffer`."""
        return self.base + len(self.buffer)

    @property
    def gap(self) -> tuple[int, int] | None:
        """What is missing in front of the bytes that wait, from and to; None: nothing."""
        return (self.end, self._starts[0]) if self._starts else None

    @property
    def held(self) -> int:
        """Bytes that are kept, before a gap and behind it."""
        return len(self.buffer) + self._waiting_bytes

    @property
    def overfull(self) -> bool:
        """More waits behind a gap than a connection could have under way."""
        return self._waiting_bytes > _WAITING_MAX

    def offset(self, seq: int) -> int:
        """The offset of a sequence number, negative before the first byte."""
        distance = (seq - self._first - self.end) % _SEQ_MOD
        if distance >= _SEQ_MOD // 2:
            distance -= _SEQ_MOD
        return self.end + distance

    def add(self, seq: int, payload: memoryview) -> None:
        """Take the payload of a segment."""
        if not payload:
            return
        start = self.offset(seq)
        if not -_WINDOW_MAX <= start - self.end <= _WINDOW_MAX:
            self.ignored += 1
            return
        octets = bytes(payload)
        if start < self.base:
            octets = octets[self.base - start :]
            start = self.base
        if not octets:
            return
        if start > self.end:
            self._wait(start, octets)
            return
        self._append(start, octets)
        self._merge()

    def _merge(self) -> None:
        """Append what has waited and waits no longer."""
        merged = 0
        while merged < len(self._starts) and self._starts[merged] <= self.end:
            start = self._starts[merged]
            octets = self._waiting.pop(start)
            self._waiting_bytes -= len(octets)
            self._append(start, octets)
            merged += 1
        del self._starts[:merged]

    def _append(self, start: int, octets: bytes) -> None:
        known = self.end - start
        at = bisect_left(self._marks, start)
        if at == len(self._marks) or self._marks[at] != start:
            self._marks.insert(at, start)
        if known:
            at = start - self.base
            if self.buffer[at : at + len(octets)] != octets[:known]:
                self._differs(start, octets)
        if known < len(octets):
            self.buffer += octets[known:]

    def _wait(self, start: int, octets: bytes) -> None:
        held = self._waiting.get(start)
        if held is not None:
            same = min(len(held), len(octets))
            if held[:same] != octets[:same]:
                self._differs(start, octets)
                return
            if len(held) >= len(octets):
                return
            self._waiting_bytes -= len(held)
        else:
            self._starts.insert(bisect_left(self._starts, start), start)
        self._waiting[start] = octets
        self._waiting_bytes += len(octets)

    def _differs(self, start: int, octets: bytes) -> None:
        if len(self._variants) < _VARIANTS_MAX:
            self._variants.append((start, octets))

    def consume(self, count: int) -> None:
        """Let go of the first `count` bytes of `buffer`."""
        del self.buffer[:count]
        self.base += count
        del self._marks[: bisect_left(self._marks, self.base)]
        self._variants = [(at, octets) for at, octets in self._variants if at >= self.base]

    def marks(self) -> list[int]:
        """Offsets in `buffer`, behind its first byte, at which captured segments begin."""
        return [mark for mark in self._marks if mark > self.base]

    @property
    def copies(self) -> int:
        """How many `variants` there are at most."""
        return len(self._variants)

    def variants(self) -> Iterator[bytes]:
        """`buffer` as it would be if a later copy counted instead, the last one first."""
        for start, octets in reversed(self._variants):
            at = start - self.base
            if at <= len(self.buffer):
                yield bytes(self.buffer[:at]) + octets + self.buffer[at + len(octets) :]

    def starts(self) -> list[int]:
        """Offsets behind the gap at which captured segments begin."""
        return list(self._starts)

    def skip_to(self, start: int) -> None:
        """Give up what is before `start`, one of `starts`, and go on there."""
        for early in self._starts[: self._starts.index(start)]:
            self._waiting_bytes -= len(self._waiting.pop(early))
        del self._starts[: self._starts.index(start)]
        self.buffer.clear()
        self._marks.clear()
        self.base = start
        self._merge()

    def waiting(self, count: int) -> Iterator[tuple[int, memoryview]]:
        """Each of `starts`, and up to `count` bytes from there on, as far as there is no gap.

        What lies together is put together once, however small its segments are.
        """
        first, end = 0, len(self._starts)
        while first < end:
            base, octets, last = self._starts[first], bytearray(), first
            while last < end and (known := base + len(octets) - self._starts[last]) >= 0:
                octets += self._waiting[self._starts[last]][known:]
                last += 1
            view = memoryview(octets)
            for start in self._starts[first:last]:
                yield start, view[start - base : start - base + count]
            first = last
