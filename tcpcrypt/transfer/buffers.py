"""Buffers that a thread fills while another one still reads those before."""

from __future__ import annotations

import queue
import threading

__all__ = ["Buffers", "Uses"]


class Buffers:
    """A few of one length, each used by several at a time."""

    def __init__(self, count: int, length: int) -> None:
        self._free: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        for _ in range(count):
            self._free.put(bytearray(length))

    def take(self) -> Uses:
        """One that nobody uses; waits for it."""
        return Uses(self._free.get(), self._free)


class Uses:
    """Who uses a buffer: first of all who took it.  With the last one it is free."""

    __slots__ = ("_count", "_free", "_lock", "buffer")

    def __init__(self, buffer: bytearray, free: queue.SimpleQueue[bytearray]) -> None:
        self.buffer = buffer
        self._free = free
        self._count = 1
        self._lock = threading.Lock()

    def add(self) -> None:
        """One more."""
        with self._lock:
            self._count += 1

    def done(self) -> None:
        """One less."""
        with self._lock:
            self._count -= 1
            last = self._count == 0
        if last:
            self._free.put(self.buffer)
