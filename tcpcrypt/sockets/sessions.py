"""What a process keeps for resumption (RFC 8548 section 3.5), for all its threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from tcpcrypt.core.config import Config
from tcpcrypt.core.resumption import ResumptionCache

__all__ = ["SharedResumption"]

_F = TypeVar("_F", bound=Callable[..., Any])

_CONFIG: Final = Config(cache_capacity=8192, cache_per_peer=64)
"""Behind one address many devices may stand."""


def _one_at_a_time(method: _F) -> _F:
    def locked(self: SharedResumption, *arguments: Any, **more: Any) -> Any:
        if self.owner != os.getpid():
            self.begin()
        with self.lock:
            return method(self, *arguments, **more)

    return locked  # type: ignore[return-value]


class SharedResumption(ResumptionCache):
    """A `ResumptionCache` of which each operation is whole, whoever asks meanwhile.

    A child begins with an empty one: a secret secures one connection only, so
    that it cannot be in two processes.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Start with nothing."""
        self.owner = os.getpid()
        self.lock = threading.RLock()
        super().__init__(_CONFIG)

    keeps = _one_at_a_time(ResumptionCache.keeps)
    store = _one_at_a_time(ResumptionCache.store)
    offer = _one_at_a_time(ResumptionCache.offer)
    recognise = _one_at_a_time(ResumptionCache.recognise)
    commit = _one_at_a_time(ResumptionCache.commit)
    release = _one_at_a_time(ResumptionCache.release)
    drop = _one_at_a_time(ResumptionCache.drop)
    flush = _one_at_a_time(ResumptionCache.flush)
    flush_identity = _one_at_a_time(ResumptionCache.flush_identity)
