"""What a receiver takes, and how long either end waits."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from tcpcrypt.errors import LocalError
from tcpcrypt.transfer.digest import Algorithm
from tcpcrypt.transfer.messages import BLOCK_MAX, FILES_MAX, WINDOW_MAX, Hello

__all__ = [
    "ALIVE_INTERVAL",
    "HELLO_TIMEOUT",
    "IDLE_TIMEOUT",
    "OnExist",
    "Rules",
]

HELLO_TIMEOUT: Final = 10.0
"""Seconds from the secure connection to the other end's first message."""
IDLE_TIMEOUT: Final = 60.0
"""Seconds without a byte of the other end while it has something to say."""
ALIVE_INTERVAL: Final = 10.0
"""Seconds after which who is busy says so."""


class OnExist(enum.Enum):
    """What happens where a file of that name is there already."""

    FAIL = "fail"
    RENAME = "rename"
    """The new one gets a number."""
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a receiver takes.  Raises `LocalError` for values that cannot be."""

    on_exist: OnExist = OnExist.FAIL
    max_size: int | None = None
    """Bytes of one file."""
    quota: int | None = None
    """Bytes of all files of a client, partial ones included."""
    reserve: int = 16 << 20
    """Bytes of the file system that stay free."""
    window: int = WINDOW_MAX
    """Bytes of one connection that may be under way without being durable."""
    files: int = FILES_MAX
    """Files of one connection that may be announced and are not finished."""
    block: int = BLOCK_MAX
    """Bytes of one DATA."""

    def __post_init__(self) -> None:
        for name, value, most in (
            ("window", self.window, WINDOW_MAX),
            ("files", self.files, FILES_MAX),
            ("block", self.block, min(BLOCK_MAX, self.window)),
        ):
            if not 1 <= value <= most:
                raise LocalError(f"{name} is {value}, not 1 to {most}")
        for name, limit in (("max_size", self.max_size), ("quota", self.quota)):
            if limit is not None and limit < 0:
                raise LocalError(f"{name} is negative")

    def hello(self) -> Hello:
        """What the receiver says first."""
        return Hello(self.window, self.block, self.files, frozenset(Algorithm))
