"""RFC 8548 section 8: key material, in memory that can be wiped.

Python copies freely and forgets late; a `Secret` is the one copy that this
package answers for.  What `cryptography` returns as `bytes` (a shared secret)
exists a moment longer than its `Secret` and cannot be overwritten.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import NoReturn, SupportsIndex

from tcpcrypt import _fast

__all__ = ["Secret"]


class Secret(_fast.Octets):
    """Bytes that are never shown, and overwritten when they are no longer needed.

    Copies its argument.  Compares in constant time, is not hashable, cannot be
    copied or pickled, and wipes itself at the end of a `with` block.  Any use
    after `wipe` raises `RuntimeError`.  What was never wiped is overwritten when
    the last reference goes, be it to the secret or to a view.
    """

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def made_by(cls, fill: Callable[..., object], length: int, *arguments: object) -> Secret:
        """A secret of `length` bytes that `fill(*arguments, buffer)` writes in place.

        No copy is left behind.
        """
        secret = cls.__new__(cls)
        secret.fill(length, fill, arguments)
        return secret

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.view(), other.view())

    def __repr__(self) -> str:
        return "<Secret wiped>" if self.wiped else f"<Secret {len(self)} bytes>"

    def __copy__(self) -> NoReturn:
        raise TypeError("a Secret is not copied")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("a Secret is not copied")

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a Secret is not pickled")
