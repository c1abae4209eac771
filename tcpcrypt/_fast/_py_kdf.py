"""RFC 8548 sections 3.1 and 3.5: the Python twin of key derivation, over `cryptography`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tcpcrypt._fast._py_buffers import readable, writable
from tcpcrypt._fast._py_octets import Octets
from tcpcrypt.registry import CONST_NEXTK, CONST_RESUME, K_LEN, RESUME_ID_LEN, RESUME_LEN

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = ["expand", "extract", "resume_identifiers"]

_HASH: Final = SHA256()
_EXPAND_MAX: Final = 255 * SHA256.digest_size
_PREFIX_MAX: Final = 8


def expand(key: ReadableBuffer | Octets, info: bytes, out: WriteableBuffer) -> None:
    """HKDF-Expand with SHA-256 into all of `out`.  `ValueError` for its length."""
    target = writable(out)
    if not 1 <= len(target) <= _EXPAND_MAX:
        raise ValueError(f"HKDF-Expand yields 1 to {_EXPAND_MAX} bytes")
    # In place: what `derive` returns nobody can wipe.
    HKDFExpand(_HASH, len(target), info).derive_into(readable(key), target)


def extract(
    salt: ReadableBuffer | Octets,
    parts: Iterable[ReadableBuffer | Octets],
    out: WriteableBuffer,
) -> None:
    """HKDF-Extract with SHA-256 of `parts`, one behind the other.  `ValueError` for its length."""
    target = writable(out)
    if len(target) != SHA256.digest_size:
        raise ValueError(f"HKDF-Extract yields {SHA256.digest_size} bytes")
    mac = HMAC(readable(salt), _HASH)
    for part in parts:
        mac.update(readable(part))
    target[:] = mac.finalize()


def resume_identifiers(
    secret: ReadableBuffer | Octets, steps: int, half: int, prefix: bytes
) -> tuple[bytes, ...]:
    """What names ss[i], ss[i+1], ... on the wire.  `ValueError` for what is out of range."""
    if steps < 1 or half not in {0, 1} or len(prefix) > _PREFIX_MAX:
        raise ValueError("steps, half or prefix is out of range")
    ss = bytearray(readable(secret))
    following, resume = bytearray(K_LEN), bytearray(RESUME_LEN)
    start = half * RESUME_ID_LEN
    names = []
    try:
        if len(ss) != K_LEN:
            raise ValueError(f"ss[i] has {K_LEN} bytes")
        for position in range(steps):
            if position:
                expand(ss, CONST_NEXTK, following)
                ss[:] = following
            expand(ss, CONST_RESUME, resume)
            names.append(prefix + resume[start : start + RESUME_ID_LEN])
    finally:
        ss[:] = bytes(len(ss))
        following[:] = bytes(K_LEN)
    return tuple(names)
