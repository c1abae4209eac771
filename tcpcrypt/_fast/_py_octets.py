"""RFC 8548 section 8: the Python twin of memory for key material."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    from _typeshed import ReadableBuffer

__all__ = ["Octets"]


class _Overwritten(bytearray):
    """Zeros when nothing refers to it any more, neither its owner nor a view."""

    __slots__ = ()

    def __del__(self) -> None:
        self[:] = bytes(len(self))


class Octets:
    """Bytes that are overwritten when they are no longer needed; see the stub."""

    __slots__ = ("_octets", "_view", "_wiped")
    _octets: _Overwritten

    def __init__(self, octets: ReadableBuffer) -> None:
        self._hold(_Overwritten(memoryview(octets).cast("B")))

    def _hold(self, octets: _Overwritten) -> None:
        if hasattr(self, "_octets"):
            raise RuntimeError("secret is there already")
        self._octets = octets
        self._view = memoryview(octets).toreadonly()
        self._wiped = False

    def fill(
        self, length: int, write: Callable[..., object], arguments: tuple[object, ...]
    ) -> None:
        """Take the bytes that `write(*arguments, buffer)` writes in place."""
        if length < 0:
            raise ValueError("a secret has no negative length")
        self._hold(_Overwritten(length))
        write(*arguments, self._octets)

    def view(self) -> memoryview:
        """The bytes, read-only."""
        if self._wiped:
            raise RuntimeError("secret was wiped")
        return self._view

    def wipe(self) -> None:
        """Overwrite the bytes with zeros."""
        if not self._wiped:
            # In place: the length stays, so that exported views do not prevent it.
            self._octets[:] = bytes(len(self._octets))
            self._wiped = True

    @property
    def wiped(self) -> bool:
        """Whether `wipe` was called."""
        return self._wiped

    def __len__(self) -> int:
        return len(self._octets)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.wipe()
