"""Facts for the log that are put together when somebody reads them.

Where thousands of connections a second come, most lines of the log are only counted.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, Mapping

__all__ = ["Facts"]


class Facts(Mapping[str, object]):
    """What `make` gives, asked once and only if it is needed.

    `make` tells how things are when it is called: whoever keeps facts reads them at once.
    """

    __slots__ = ("_known", "_make")

    def __init__(self, make: Callable[[], Mapping[str, object]]) -> None:
        self._make = make
        self._known: Mapping[str, object] | None = None

    def _read(self) -> Mapping[str, object]:
        if self._known is None:
            self._known = self._make()
        return self._known

    def __getitem__(self, name: str) -> object:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def items(self) -> ItemsView[str, object]:
        # Else each would be looked up by itself.
        return self._read().items()
