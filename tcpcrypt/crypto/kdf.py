"""RFC 8548 section 3.1: Extract and CPRF, which are HKDF with SHA-256 (section 5).

Extract is HKDF-Extract, CPRF is HKDF-Expand (RFC 5869).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.hashes import SHA256

from tcpcrypt import _fast
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import LocalError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["CPRF_MAX", "cprf", "extract"]

CPRF_MAX: Final = 255 * SHA256.digest_size
"""Bytes that HKDF-Expand can yield (RFC 5869 section 2.3)."""


def extract(salt: ReadableBuffer, *parts: ReadableBuffer | Secret) -> Secret:
    """RFC 8548 section 3.1: Extract(salt, parts concatenated), 32 bytes."""
    return Secret.made_by(_fast.extract, SHA256.digest_size, salt, parts)


def cprf(key: Secret, info: bytes, length: int) -> Secret:
    """RFC 8548 section 3.1: CPRF(key, info, length), `length` bytes.

    Raises `LocalError` for a length that HKDF-Expand cannot yield.
    """
    if not 1 <= length <= CPRF_MAX:
        raise LocalError(f"CPRF yields 1 to {CPRF_MAX} bytes, not {length}")
    return Secret.made_by(_fast.expand, length, key, info)
