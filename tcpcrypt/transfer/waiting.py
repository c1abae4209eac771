"""What waits to be sent, whichever connection it goes with."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from tcpcrypt.transfer.source import Entry

__all__ = ["Waiting"]


class Waiting(Iterator[Entry]):
    """Entries in order; those that come back go first.

    One for all attempts: an iterator for each around that of the one before
    would end, after some hundreds, at the depth that the interpreter allows.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = iter(entries)
        self._back: deque[Entry] = deque()

    def __next__(self) -> Entry:
        return self._back.popleft() if self._back else next(self._entries)

    def put_back(self, entries: list[Entry]) -> None:
        """They were not delivered."""
        self._back.extendleft(reversed(entries))
