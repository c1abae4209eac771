"""Deadlines, and waiting for a socket that does not block by itself."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Final

__all__ = ["READ", "WRITE", "Deadline", "wait"]

READ: Final = 1
WRITE: Final = 2
_SLICE: Final = 1.0
"""Seconds after which a waiting thread looks whether another has ended the connection."""


class Deadline:
    """When an operation with a timeout, as `settimeout` has them, has to be over."""

    __slots__ = ("_blocking", "_end")

    def __init__(self, timeout: float | None) -> None:
        self._blocking = timeout != 0
        self._end = None if timeout is None else time.monotonic() + timeout

    @property
    def waits(self) -> bool:
        """Whether it is one of an operation that waits at all."""
        return self._blocking

    def left(self, most: float | None = None) -> float | None:
        """Seconds, `most` at most; None: any number.

        Raises `BlockingIOError` where nobody waits, `TimeoutError` past the end.
        """
        if not self._blocking:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        if self._end is None:
            return most
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left if most is None else min(left, most)


def wait(
    sock: socket.socket, events: int, deadline: Deadline, gone: Callable[[], bool] | None = None
) -> None:
    """Until `sock` is ready for one of `events` (READ, WRITE), or `gone` says true.

    Raises `TimeoutError`, or `BlockingIOError` where the deadline does not wait.
    """
    while gone is None or not gone():
        left = deadline.left(None if gone is None else _SLICE)
        if _ready(sock, events, left):
            return


def _ready(sock: socket.socket, events: int, left: float | None) -> bool:
    fd = sock.fileno()
    if fd < 0:
        return True  # whoever uses it is told why
    if not hasattr(select, "poll"):
        read, write = [fd] if events & READ else [], [fd] if events & WRITE else []
        return any(select.select(read, write, [], left))
    poll = select.poll()
    poll.register(
        fd, (select.POLLIN if events & READ else 0) | (select.POLLOUT if events & WRITE else 0)
    )
    # Rounded up: a wait that ends too early would be one more.
    return bool(poll.poll(None if left is None else int(left * 1000) + 1))
