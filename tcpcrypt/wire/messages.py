"""RFC 8548 section 4.1: the key exchange messages Init1 and Init2.

```
Init1   15 10 1a 0e | message_len (4) | nciphers (1) | sym_cipher ... | N_A | Pub_A | ignored
Init2   09 71 05 e0 | message_len (4) |                sym_cipher     | N_B | Pub_B | ignored
```

`message_len` counts the whole message.  `Pub` is kept as it lies on the wire,
the length prefix of the NIST curves included; its length depends on the TEP,
so that who parses must say it.  What follows it is to be ignored by the TEPs of
RFC 8548, but it is part of the message that enters PRK (section 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tcpcrypt.errors import LocalError, PeerError, PeerReason
from tcpcrypt.registry import INIT1_MAGIC, INIT2_MAGIC, NONCE_LEN
from tcpcrypt.wire.profile import RFC8548, WireProfile

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Init1", "Init2", "message_length"]

_MAGIC_LEN: Final = 4
_HEADER_LEN: Final = 8
"""Magic number and message_len."""
_LENGTH_MAX: Final = 0xFFFFFFFF
_NCIPHERS_LEN: Final = 1
_NCIPHERS_MAX: Final = 0xFF
_MESSAGE_MIN: Final = _HEADER_LEN + 1 + NONCE_LEN
"""No message of any profile is shorter: a cipher is at least one byte."""


@dataclass(frozen=True, slots=True)
class Init1:
    """RFC 8548 section 4.1: host A's message.

    `ciphers` are the AEAD algorithms that A offers, 1 to 255 of them, in an
    order that means nothing; `nonce` is N_A, 32 bytes; `tail` what follows
    Pub_A.
    """

    ciphers: tuple[int, ...]
    nonce: bytes
    public_key: bytes
    tail: bytes = b""

    def build(self, profile: WireProfile = RFC8548) -> bytes:
        """The message as sent.  `LocalError` for values it cannot carry."""
        if not 1 <= len(self.ciphers) <= _NCIPHERS_MAX:
            raise LocalError(f"Init1 offers 1 to 255 AEAD algorithms, not {len(self.ciphers)}")
        ciphers = b"".join(_cipher(cipher, profile) for cipher in self.ciphers)
        head = bytes((len(self.ciphers),)) + ciphers
        return _build(INIT1_MAGIC, head, self.nonce, self.public_key, self.tail)

    @classmethod
    def parse(
        cls, message: ReadableBuffer, public_key_len: int, profile: WireProfile = RFC8548
    ) -> Init1:
        """Parse exactly one message with a Pub_A of `public_key_len` bytes.

        Raises `PeerError` with INIT_MAGIC, INIT_TOO_SHORT (fewer bytes than
        message_len says, or than the fixed part has), INIT_TOO_LONG (more
        bytes than message_len says) or INIT_NO_CIPHERS.
        """
        octets = _checked(message, INIT1_MAGIC)
        # Stands in every message that `_checked` lets through.
        count = octets[_HEADER_LEN]
        start = _HEADER_LEN + _NCIPHERS_LEN
        nonce_at = start + count * profile.cipher_id_len
        nonce, public_key, tail = _nonce_key_tail(octets, nonce_at, public_key_len)
        if not count:
            raise PeerError(PeerReason.INIT_NO_CIPHERS)
        ciphers = tuple(
            int.from_bytes(octets[at : at + profile.cipher_id_len], "big")
            for at in range(start, nonce_at, profile.cipher_id_len)
        )
        return cls(ciphers, nonce, public_key, tail)


@dataclass(frozen=True, slots=True)
class Init2:
    """RFC 8548 section 4.1: host B's message.

    `cipher` is the AEAD algorithm that B chose; `nonce` is N_B, 32 bytes;
    `tail` what follows Pub_B.
    """

    cipher: int
    nonce: bytes
    public_key: bytes
    tail: bytes = b""

    def build(self, profile: WireProfile = RFC8548) -> bytes:
        """The message as sent.  `LocalError` for values it cannot carry."""
        cipher = _cipher(self.cipher, profile)
        return _build(INIT2_MAGIC, cipher, self.nonce, self.public_key, self.tail)

    @classmethod
    def parse(
        cls, message: ReadableBuffer, public_key_len: int, profile: WireProfile = RFC8548
    ) -> Init2:
        """Parse exactly one message with a Pub_B of `public_key_len` bytes.

        Raises `PeerError` with INIT_MAGIC, INIT_TOO_SHORT or INIT_TOO_LONG, as
        `Init1.parse` does.
        """
        octets = _checked(message, INIT2_MAGIC)
        nonce_at = _HEADER_LEN + profile.cipher_id_len
        nonce, public_key, tail = _nonce_key_tail(octets, nonce_at, public_key_len)
        return cls(int.from_bytes(octets[_HEADER_LEN:nonce_at], "big"), nonce, public_key, tail)


def message_length(prefix: ReadableBuffer, magic: bytes, limit: int) -> int | None:
    """RFC 8548 section 4.1: bytes of the message that `prefix` begins.

    None while fewer than 8 bytes are there.  Raises `PeerError` with
    INIT_MAGIC as soon as a byte differs from `magic`, INIT_TOO_LONG for more
    than `limit` bytes (message_len has 32 bits, a host's memory is its own),
    INIT_TOO_SHORT for fewer than any message has.
    """
    head = memoryview(prefix)[:_HEADER_LEN].tobytes()
    if not magic.startswith(head[:_MAGIC_LEN]):
        raise PeerError(PeerReason.INIT_MAGIC)
    if len(head) < _HEADER_LEN:
        return None
    length = int.from_bytes(head[_MAGIC_LEN:], "big")
    if length > limit:
        raise PeerError(PeerReason.INIT_TOO_LONG, f"{length} bytes, limit is {limit}")
    if length < _MESSAGE_MIN:
        raise PeerError(PeerReason.INIT_TOO_SHORT)
    return length


def _cipher(cipher: int, profile: WireProfile) -> bytes:
    if not 0 < cipher < 1 << 8 * profile.cipher_id_len:
        raise LocalError(f"0x{cipher:04x} is not an AEAD algorithm")
    return cipher.to_bytes(profile.cipher_id_len, "big")


def _build(magic: bytes, head: bytes, nonce: bytes, public_key: bytes, tail: bytes) -> bytes:
    if len(nonce) != NONCE_LEN:
        raise LocalError(f"nonce has {len(nonce)} bytes, not {NONCE_LEN}")
    rest = head + nonce + public_key + tail
    return magic + (_HEADER_LEN + len(rest)).to_bytes(4, "big") + rest


def _checked(message: ReadableBuffer, magic: bytes) -> bytes:
    view = memoryview(message)
    length = message_length(view, magic, _LENGTH_MAX)
    if length is None or length > view.nbytes:
        raise PeerError(PeerReason.INIT_TOO_SHORT, f"{view.nbytes} bytes")
    if length < view.nbytes:
        raise PeerError(PeerReason.INIT_TOO_LONG, "more bytes than message_len says")
    return view.tobytes()


def _nonce_key_tail(
    octets: bytes, nonce_at: int, public_key_len: int
) -> tuple[bytes, bytes, bytes]:
    key_at = nonce_at + NONCE_LEN
    tail_at = key_at + public_key_len
    if len(octets) < tail_at:
        raise PeerError(PeerReason.INIT_TOO_SHORT)
    return octets[nonce_at:key_at], octets[key_at:tail_at], octets[tail_at:]
