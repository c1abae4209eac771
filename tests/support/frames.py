"""Frames by the letter of RFC 8548 section 4.2, one at a time, slowly.

Nothing of `tcpcrypt._fast` is used here: this is what it is held against.
"""

from __future__ import annotations

from tcpcrypt.crypto.aead import AeadParameters

OVERHEAD = 3 + 1 + 16


def traffic_key(aead: AeadParameters, salt: int = 0) -> bytes:
    """Some traffic key of the right length."""
    return bytes((salt + 7 * index) & 0xFF for index in range(aead.key_len + aead.nonce_len))


def nonce(aead: AeadParameters, key: bytes, offset: int, nonce_form: int = 0) -> bytes:
    """Section 4.2.3, or form 1: the offset alone, 8 bytes, little-endian."""
    if nonce_form == 1:
        return offset.to_bytes(8, "little")
    frame_id = bytes(aead.nonce_len - 8) + offset.to_bytes(8, "big")
    return bytes(x ^ y for x, y in zip(frame_id, key[aead.key_len :], strict=True))


def frame(
    aead: AeadParameters,
    key: bytes,
    offset: int,
    data: bytes,
    *,
    control: int = 0,
    flags: int = 0,
    urgent: int | None = None,
    nonce_form: int = 0,
) -> bytes:
    """Header and ciphertext.  `urgent` sets URGp; reserved bits are passed on."""
    plaintext = bytes([flags]) + data
    if urgent is not None:
        plaintext = bytes([flags | 2]) + urgent.to_bytes(2, "big") + data
    return sealed(aead, key, offset, plaintext, control=control, nonce_form=nonce_form)


def sealed(
    aead: AeadParameters,
    key: bytes,
    offset: int,
    plaintext: bytes,
    *,
    control: int = 0,
    nonce_form: int = 0,
) -> bytes:
    """A frame with any plaintext, also one that no sender may make."""
    header = bytes([control]) + (len(plaintext) + aead.tag_len).to_bytes(2, "big")
    box = aead.construct(key[: aead.key_len])
    return header + bytes(box.encrypt(nonce(aead, key, offset, nonce_form), plaintext, header))


def pattern(length: int) -> bytes:
    """Data in which no two nearby stretches are alike."""
    return b"".join(index.to_bytes(4, "big") for index in range(length // 4 + 1))[:length]
