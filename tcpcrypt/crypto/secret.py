"""RFC 8548 section 8: key material, in memory that can be wiped.

Python copies freely and forgets late; a `Secret` is the one copy that this
package answers for.  What `cryptography` returns as `bytes` (a shared secret)
exists a moment longer than its `Secret` and cannot be overwritten.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, SupportsIndex

if TYPE_CHECKING:
    from types import TracebackType

    from _typeshed import ReadableBuffer

__all__ = ["Secret"]


class _Octets(bytearray):
    """Overwritten when nothing refers to it any more, neither `Secret` nor view."""

    __slots__ = ()

    def __del__(self) -> None:
        self[:] = bytes(len(self))


class Secret:
    """Bytes that are never shown, and overwritten when they are no longer needed.

    Copies its argument.  Compares in constant time, is not hashable, cannot be
    copied or pickled, and wipes itself at the end of a `with` block.  Any use
    after `wipe` raises `RuntimeError`.  What was never wiped is overwritten when
    the last reference goes, be it to the secret or to a view.
    """

    __slots__ = ("_octets", "_wiped")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, octets: ReadableBuffer) -> None:
        self._octets = _Octets(memoryview(octets).cast("B"))
        self._wiped = False

    @classmethod
    def made_by(cls, fill: Callable[..., object], length: int, *arguments: object) -> Secret:
        """A secret of `length` bytes that `fill(*arguments, octets)` writes in place.

        No copy is left behind.
        """
        secret = cls.__new__(cls)
        octets = secret._octets = _Octets(length)
        secret._wiped = False
        fill(*arguments, octets)
        return secret

    def view(self) -> memoryview:
        """The bytes, read-only, for as long as the secret is not wiped.

        A view taken earlier reads zeros after `wipe`.
        """
        if self._wiped:
            raise RuntimeError("secret was wiped")
        return memoryview(self._octets).toreadonly()

    def wipe(self) -> None:
        """Overwrite the bytes with zeros.  Idempotent."""
        # In place: the length stays, so that exported views do not prevent it.
        self._octets[:] = bytes(len(self._octets))
        self._wiped = True

    @property
    def wiped(self) -> bool:
        """Whether `wipe` was called."""
        return self._wiped

    def __len__(self) -> int:
        return len(self._octets)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.view(), other.view())

    def __repr__(self) -> str:
        return "<Secret wiped>" if self._wiped else f"<Secret {len(self)} bytes>"

    def __enter__(self) -> Secret:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.wipe()

    def __copy__(self) -> NoReturn:
        raise TypeError("a Secret is not copied")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("a Secret is not copied")

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a Secret is not pickled")
