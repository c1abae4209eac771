"""Large buffers that connections use in turn, so that an idle one has none."""

from __future__ import annotations

from typing import Final

from tcpcrypt.registry import FRAME_CIPHERTEXT_MAX, FRAME_HEADER_LEN

__all__ = ["BUFFERS", "BUFFER_SIZE", "FRAME_MAX", "WIRE_MAX", "Buffers"]

FRAME_MAX: Final = FRAME_HEADER_LEN + FRAME_CIPHERTEXT_MAX
"""Bytes of the largest frame on the wire."""
WIRE_MAX: Final = 8 * FRAME_MAX
"""Eight full frames: what fits the cache of a processor core, and few system calls."""
BUFFER_SIZE: Final = FRAME_MAX + WIRE_MAX
"""Room for the beginning of a frame, and for what comes behind it."""
_KEPT_MAX: Final = 16


class Buffers:
    """A stock of buffers, for any number of threads.

    What was in a buffer is not wiped: it is what the kernel saw, or the program.
    """

    def __init__(self) -> None:
        self._free: list[bytearray] = []

    def take(self) -> bytearray:
        """A buffer of `BUFFER_SIZE` bytes, with anything in it."""
        try:
            return self._free.pop()
        except IndexError:
            return bytearray(BUFFER_SIZE)

    def give(self, buffer: bytearray) -> None:
        """Back, once nothing views it any more."""
        if len(self._free) < _KEPT_MAX:
            self._free.append(buffer)


BUFFERS: Final = Buffers()
"""Those of this process."""
