"""How fast, and how often again: a bandwidth limit, and the pauses between attempts."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Final

__all__ = ["BACKOFF_CAP", "BACKOFF_FIRST", "Backoff", "Bandwidth"]

BACKOFF_FIRST: Final = 0.5
"""Seconds that the first pause has at most."""
BACKOFF_CAP: Final = 30.0
"""Seconds that any has at most."""
_BURST: Final = 0.1
"""Seconds worth of bytes that may go at once."""


class Backoff:
    """Pauses that double, of which a random part is waited for ("full jitter").

    So that many senders that one receiver has dropped do not come back at once.
    """

    def __init__(
        self, retries: int, *, uniform: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._retries = retries
        self._uniform = uniform
        self._count = 0

    def pause(self) -> float | None:
        """Seconds before the next attempt; None: there is to be none."""
        if self._count >= self._retries:
            return None
        most = min(BACKOFF_CAP, BACKOFF_FIRST * 2.0 ** min(self._count, 10))
        self._count += 1
        return self._uniform(0.0, most)

    def succeeded(self) -> None:
        """Something got through: the next trouble is a new one."""
        self._count = 0


class Bandwidth:
    """At most `rate` bytes in a second, in the long run; for any number of threads."""

    def __init__(
        self,
        rate: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """`rate` None: any number."""
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free_at = clock()
        """When what has been taken has gone."""

    @property
    def piece(self) -> int | None:
        """How many bytes to take at once, at most; None: any number."""
        return None if self._rate is None else max(1, int(self._rate * _BURST))

    def take(self, size: int) -> None:
        """Wait until `size` bytes may go."""
        if self._rate is None:
            return
        with self._lock:
            now = self._clock()
            # What was not used in the past is not to be had later.
            start = max(self._free_at, now - _BURST)
            self._free_at = start + size / self._rate
            wait = start - now
        if wait > 0:
            self._sleep(wait)
