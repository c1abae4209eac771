"""One thread, one epoll: everything of the runtime happens in callbacks of this loop.

Nothing in the runtime blocks, and nothing needs a lock.  Descriptors are
level-triggered.  A descriptor that nobody waits on leaves the epoll set, as
the kernel would report a hang-up on it for ever.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import select
import time
from collections.abc import Callable
from typing import Final

__all__ = ["ERRORS", "READ", "WRITE", "Loop", "Timer"]

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
ERRORS: Final = select.EPOLLMSG
"""Errors alone, which epoll always reports; no socket ever has this event."""
_FAILED: Final = select.EPOLLERR | select.EPOLLHUP

_EVENTS: Final = 40
"""At most in a turn: room for them is got anew in each, and for the 1,023 of `select.epoll`'s
own choice there may be none (12 KiB), so that nobody would be told to give any back."""
_RESERVE: Final = (16, 1 << 14)
"""Blocks, and octets of each, that are kept for the moment when there is no more memory:
without any, not even what failed can be ended and told."""
_SHORTAGE: Final = 0.01
"""Seconds until a turn is tried again for which there was no memory."""

Callback = Callable[[int], None]
"""Takes the events that came, a sum of READ and WRITE; an error counts as both."""


class Timer:
    """A call that is to come.  `cancel` is idempotent."""

    __slots__ = ("call", "due", "period")

    def __init__(self, due: float, call: Callable[[], None], period: float = 0.0) -> None:
        self.due = due
        self.call: Callable[[], None] | None = call
        self.period = period

    def cancel(self) -> None:
        self.call = None


def _reserve() -> tuple[bytearray, ...]:
    count, size = _RESERVE
    return tuple(bytearray(size) for _ in range(count))


class Loop:
    """Waits for descriptors and timers."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._masks: dict[int, int] = {}
        self._registered: set[int] = set()
        """Descriptors that came into the epoll set in this turn."""
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._idle: Callable[[], bool] | None = None
        self._before: list[Callable[[], None]] = []
        self.failed: Callable[[int, Exception], None] | None = None
        """Takes what a callback of a descriptor (-1: any other) raised; None lets it through."""
        self._reserve = _reserve()
        self._stopped = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.watch(self._wake, READ, self._on_wake)

    def watch(self, fd: int, mask: int, callback: Callback) -> None:
        """Call `callback` whenever `fd` is ready for `mask`; replaces an earlier watch."""
        before = self._masks.get(fd, 0)
        self._callbacks[fd] = callback
        self._masks[fd] = mask
        if mask == before:
            return
        if not before:
            self._epoll.register(fd, mask)
            self._registered.add(fd)
        elif mask:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.unregister(fd)

    def _on_wake(self, _events: int) -> None:
        os.eventfd_read(self._wake)

    def forget(self, fd: int) -> None:
        """Watch `fd` no more; to be called before it is closed.  Idempotent."""
        self._callbacks.pop(fd, None)
        if self._masks.pop(fd, 0):
            self._epoll.unregister(fd)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call `call` once, `seconds` from now."""
        timer = Timer(time.monotonic() + seconds, call)
        heapq.heappush(self._timers, (timer.due, next(self._order), timer))
        return timer

    def call_every(self, seconds: float, call: Callable[[], None]) -> None:
        """Call `call` again and again, `seconds` after it last began, also if it failed then."""

        timer = Timer(time.monotonic() + seconds, call, seconds)
        heapq.heappush(self._timers, (timer.due, next(self._order), timer))

    def before_waiting(self, call: Callable[[], None]) -> None:
        """Call `call` before every turn: to send away what was collected in the one before."""
        self._before.append(call)

    def when_idle(self, call: Callable[[], bool]) -> None:
        """Call `call` again and again while nothing else is to be done, until it says False."""
        self._idle = call

    def run(self) -> None:
        """Serve until `stop`, which may have come before.

        A turn for which there is no memory is tried again, where failures are taken at all:
        whatever is ready stays so.
        """
        while not self._stopped:
            try:
                self.step()
            except MemoryError:
                if self.failed is None:
                    raise
                self._reserve = ()
                time.sleep(_SHORTAGE)

    def has_memory(self) -> bool:
        """Whether there is some for anything new: what failed for want of it has left enough."""
        if not self._reserve:
            with contextlib.suppress(MemoryError):
                self._reserve = _reserve()
        return bool(self._reserve)

    def _tell(self, fd: int, error: Exception) -> None:
        """Have `failed` take what a callback raised; it may use the reserve.

        For any error can come of memory that has run out, as one of a library.
        """
        if self.failed is None:
            raise error
        self._reserve = ()
        self.failed(fd, error)

    def stop(self) -> None:
        """Let `run` return after the callbacks of this turn; safe in a signal handler."""
        self._stopped = True
        os.eventfd_write(self._wake, 1)

    def step(self, timeout: float | None = None) -> None:
        """Wait once, at most `timeout` seconds, and call whatever is due."""
        for call in self._before:
            self._call(call)
        self._registered.clear()
        patience = 0 if self._idle is not None else self._patience(timeout)
        ready = self._epoll.poll(patience, _EVENTS)
        if not ready and self._idle is not None:
            self._work_ahead(self._idle)
        for fd, events in ready:
            callback = self._callbacks.get(fd)
            if callback is None or fd in self._registered:
                # Forgotten by a callback of this turn, and perhaps another one
                # under the number of one that was closed: its own events come again.
                continue
            try:
                callback(events | READ | WRITE if events & _FAILED else events)
            except Exception as error:
                self._tell(fd, error)
                if isinstance(error, MemoryError):
                    time.sleep(_SHORTAGE)  # it is ready still, and would be again and again
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = self._timers[0][2]
            if timer.period and timer.call is not None:
                # In one step: where there is no memory for it the one that is due stays.
                entry = (now + timer.period, next(self._order), timer)
                heapq.heapreplace(self._timers, entry)
            else:
                heapq.heappop(self._timers)
            if timer.call is not None:
                self._call(timer.call)

    def _call(self, call: Callable[[], object]) -> object:
        try:
            return call()
        except Exception as error:
            self._tell(-1, error)
            return None

    def _work_ahead(self, call: Callable[[], bool]) -> None:
        self._idle = None
        if self._call(call):
            self._idle = call

    def _patience(self, timeout: float | None) -> float:
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return -1 if timeout is None else timeout
        due = max(0.0, self._timers[0][0] - time.monotonic())
        return due if timeout is None else min(due, timeout)

    def close(self) -> None:
        """Give the descriptors back."""
        self.forget(self._wake)
        os.close(self._wake)
        self._epoll.close()
