"""RFC 8548 section 8: key material, in memory that can be wiped.

Python copies freely and forgets late; a `Secret` is the one copy that this
package answers for.  What `cryptography` returns as `bytes` (a shared secret)
exists a moment longer than its `Secret` and cannot be overwritten.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, NoReturn, SupportsIndex

if TYPE_CHECKING:
    from types import TracebackType

    from _typeshed import ReadableBuffer

__all__ = ["Secret"]


class Secret:
    """Bytes that are never shown, and overwritten when they are no longer needed.

    Copies its argument.  Compares in constant time, is not hashable, cannot be
    copied or pickled, and wipes itself at the end of a `with` block and when
    collected.  Any use after `wipe` raises `RuntimeError`.
    """

    __slots__ = ("_octets", "_wiped")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, octets: ReadableBuffer) -> None:
        self._wiped = False
        self._octets = bytearray(memoryview(octets).cast("B"))

    @classmethod
    def adopt(cls, octets: bytearray) -> Secret:
        """A `Secret` that takes over `octets` uncopied; the caller lets go of it."""
        secret = cls.__new__(cls)
        secret._wiped = False
        secret._octets = octets
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

    def __del__(self) -> None:
        # A constructor that failed on its argument leaves no bytes behind.
        if hasattr(self, "_octets"):
            self.wipe()

    def __copy__(self) -> NoReturn:
        raise TypeError("a Secret is not copied")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("a Secret is not copied")

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a Secret is not pickled")
