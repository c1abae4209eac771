"""Where the bytes of one direction lie in its stream, past the 32 bits of TCP.

The first byte of payload has position 0.  A sequence number means the position
next to where the stream has come to, and only a segment whose tag was verified
moves that: a forged one far ahead moves nothing.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Position"]

_MODULUS: Final = 1 << 32


class Position:
    """One direction, from the sequence number of its SYN on."""

    __slots__ = ("_first", "end")

    def __init__(self, isn: int) -> None:
        self._first = isn + 1
        self.end = 0
        """Behind the last byte that is known to be of the stream, its FIN included."""

    def of(self, number: int) -> int:
        """The position of a sequence or acknowledgement number; negative: none has it."""
        distance = (number - self._first - self.end) % _MODULUS
        if distance >= _MODULUS // 2:
            distance -= _MODULUS
        return self.end + distance

    def reached(self, end: int) -> None:
        """The stream goes on to `end` at least."""
        self.end = max(self.end, end)
