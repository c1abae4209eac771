"""The tag of TCP/S: a polynomial like Poly1305's, finished in a way of its own.

THIS IS NOT A SOUND MAC.  It is the one cryptographic primitive in this
repository that is written by hand, because no library has it: TCP/S clamps r
and evaluates the polynomial over 2^130-5 as RFC 8439 section 2.5 does, and
then adds the four low limbs of 26 bits, not repacked into 32, to the words of
s.  Limb 4 is thrown away, and bits 26 to 31 of each word of the tag come from s
alone.  Nothing but `tcpcrypt.tcps` may use it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["KEY_LEN", "TAG_LEN", "tag"]

TAG_LEN: Final = 16
KEY_LEN: Final = 32
"""r and s."""
_PRIME: Final = (1 << 130) - 5
_CLAMP: Final = 0x0FFFFFFC_0FFFFFFC_0FFFFFFC_0FFFFFFF
_LIMB_BITS: Final = 26
_LIMB_MASK: Final = (1 << _LIMB_BITS) - 1
_BLOCK: Final = 16
_HIGH: Final = 1 << 128
_COVERED_HEAD: Final = 8
"""What the last block says; position and flags are 9 bytes."""
_FIRST: Final = struct.Struct("<QBB6x")
_LAST: Final = struct.Struct("<QQ")
_WORDS: Final = struct.Struct("<4I")


def tag(key: ReadableBuffer, position: int, flags: int, ciphertext: ReadableBuffer) -> bytes:
    """The 16 bytes that a TM option carries.

    `key` are 32 bytes, `position` is that of the first byte of `ciphertext` in
    its stream, and `flags` byte 13 of the TCP header.
    """
    r_and_s, octets = bytes(key), bytes(ciphertext)
    r = int.from_bytes(r_and_s[:_BLOCK], "little") & _CLAMP
    h = _number(_FIRST.pack(position, flags, 1)) * r % _PRIME
    whole = len(octets) - len(octets) % _BLOCK
    for start in range(0, whole, _BLOCK):
        h = (h + (_number(octets[start : start + _BLOCK]) | _HIGH)) * r % _PRIME
    if whole < len(octets):
        h = (h + _number(octets[whole:] + b"\x01")) * r % _PRIME
    h = (h + (_number(_LAST.pack(_COVERED_HEAD, len(octets))) | _HIGH)) * r % _PRIME
    carried, made = 0, []
    for index, word in enumerate(_WORDS.unpack(r_and_s[_BLOCK:])):
        carried = (h >> _LIMB_BITS * index & _LIMB_MASK) + word + (carried >> 32)
        made.append(carried & 0xFFFFFFFF)
    return _WORDS.pack(*made)


def _number(octets: bytes) -> int:
    return int.from_bytes(octets, "little")
