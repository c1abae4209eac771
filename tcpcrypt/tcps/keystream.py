"""The stream cipher of TCP/S: the original ChaCha20, at any byte of its stream.

Words 12 and 13 of the state are a block counter of 64 bits, words 14 and 15 a
nonce that is always zero.  So a key has one stream, of which every use takes
its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from tcpcrypt.crypto.secret import Secret

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["KEY_LEN", "KeyStream"]

KEY_LEN: Final = 32
_BLOCK: Final = 64
_NONCE: Final = bytes(8)
_COUNTER_LOW: Final = (1 << 32) * _BLOCK
"""Bytes behind which the low word of the counter begins anew: libraries count in it
alone, and refuse to go on there."""


class KeyStream:
    """The stream of one key, 32 bytes.  Owns the secret."""

    __slots__ = ("_key",)

    def __init__(self, key: Secret) -> None:
        self._key = key

    def mixed(self, position: int, data: ReadableBuffer) -> bytes:
        """`data` XOR the stream from byte `position` on; the same both ways.

        Raises `RuntimeError` once wiped.
        """
        octets = memoryview(data)
        room = _COUNTER_LOW - position % _COUNTER_LOW
        if len(octets) > room:
            return self._mixed(position, octets[:room]) + self._mixed(
                position + room, octets[room:]
            )
        return self._mixed(position, octets)

    def _mixed(self, position: int, octets: memoryview) -> bytes:
        block, skipped = divmod(position, _BLOCK)
        counter = block.to_bytes(8, "little")
        cipher = Cipher(ChaCha20(self._key.view(), counter + _NONCE), None).encryptor()
        return cipher.update(bytes(skipped) + octets.tobytes())[skipped:]

    def slice(self, position: int, length: int) -> bytes:
        """`length` bytes of the stream itself."""
        return self.mixed(position, bytes(length))

    def key(self) -> bytes:
        """The key itself, for test vectors."""
        return self._key.view().tobytes()

    def wipe(self) -> None:
        """Forget the key.  Idempotent."""
        self._key.wipe()
