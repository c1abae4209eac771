"""What one connection shows of this host, asks of its peer, and has proved of it.

The protocol (`tcpcrypt.auth.agreement`) knows `Terms` alone; where keys are
stored and how trust is decided is none of its business.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import LocalError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = [
    "HINT_LEN",
    "PSK_LEN",
    "PSK_NAME_MAX",
    "STATIC_KEY_LEN",
    "VERSION_HYBRID",
    "VERSION_X25519",
    "PeerProof",
    "SharedKey",
    "StaticKey",
    "Terms",
]

STATIC_KEY_LEN: Final = 32
"""Bytes of a static X25519 key."""
HINT_LEN: Final = 8
PSK_LEN: Final = 32
PSK_NAME_MAX: Final = 64
"""Bytes of a PSK's name in UTF-8."""

VERSION_X25519: Final = 1
VERSION_HYBRID: Final = 2
"""X25519 with ML-KEM-768."""

_HAS_KEY: Final = 0x01
_HEAD_LEN: Final = 2


class StaticKey(Protocol):
    """A host's long-term X25519 key; `tcpcrypt.auth.identity.Identity` is one."""

    @property
    def public(self) -> bytes:
        """32 bytes (RFC 7748)."""
        ...

    def agree(self, peer_public: bytes) -> Secret:
        """The shared secret, 32 bytes.

        Raises `PeerError` with INIT_PUBLIC_KEY_LENGTH or ZERO_SHARED_SECRET.
        """
        ...


class SharedKey(Protocol):
    """A pre-shared key; `tcpcrypt.auth.psk.Psk` is one."""

    @property
    def name(self) -> str:
        """What the key is called on this host; at most 64 bytes of UTF-8."""
        ...

    @property
    def hint(self) -> bytes:
        """8 random bytes that name the key on the wire; not derived from it."""
        ...

    @property
    def key(self) -> Secret:
        """32 random bytes.  The protocol reads and does not wipe them."""
        ...


class Terms(Protocol):
    """What one connection shows of this host and asks of its peer.

    Made anew for each connection.
    """

    @property
    def identity(self) -> StaticKey | None:
        """The own static key; None: none is shown."""
        ...

    @property
    def versions(self) -> tuple[int, ...]:
        """As A the first is offered; as B these are accepted."""
        ...

    @property
    def psk(self) -> SharedKey | None:
        """A: the key to offer.  Not looked at where `identity` is None or as B."""
        ...

    def find_psk(self, hint: bytes) -> SharedKey | None:
        """B: the key that A's hint names, if this host has it and wants it used."""
        ...

    def judge(self, proof: PeerProof) -> None:
        """Accept a peer, or raise `AuthenticationError` or `IdentityChangedError`.

        Called with what the peer claims as soon as that is known (B: before any
        computation with it; A: before it is proved), and at every resumption
        with what the session to be resumed had proved.
        """
        ...


@dataclass(frozen=True, slots=True)
class PeerProof:
    """What an exchange proved of the peer, once the peer's proof was checked."""

    key: bytes | None
    """The peer's static key, 32 bytes; None: it showed none."""
    psk: str
    """Name of the pre-shared key that was used; empty: none was."""
    version: int
    """1: X25519; 2: X25519MLKEM768."""

    def pack(self) -> bytes:
        """The opaque `peer_identity` of the core.

        Raises `LocalError` for a value that cannot be.
        """
        name = self.psk.encode()
        if self.key is not None and len(self.key) != STATIC_KEY_LEN:
            raise LocalError(f"a static key has {STATIC_KEY_LEN} bytes")
        if len(name) > PSK_NAME_MAX:
            raise LocalError(f"the name of a PSK has at most {PSK_NAME_MAX} bytes")
        flags = 0 if self.key is None else _HAS_KEY
        return bytes((self.version, flags)) + (self.key or b"") + name

    @classmethod
    def unpack(cls, packed: ReadableBuffer) -> PeerProof:
        """The inverse of `pack`.  Raises `LocalError` for what it did not make."""
        return _unpacked(bytes(packed))

    @classmethod
    def _of(cls, octets: bytes) -> PeerProof:
        key_len = STATIC_KEY_LEN if octets[1:2] == bytes((_HAS_KEY,)) else 0
        if len(octets) < _HEAD_LEN + key_len or octets[1] & ~_HAS_KEY:
            raise LocalError("not a packed proof")
        key = octets[_HEAD_LEN : _HEAD_LEN + key_len] or None
        try:
            return cls(key, octets[_HEAD_LEN + key_len :].decode(), octets[0])
        except UnicodeDecodeError:
            raise LocalError("not a packed proof") from None


@functools.lru_cache(maxsize=1024)  # asked several times for each connection of a peer
def _unpacked(octets: bytes) -> PeerProof:
    return PeerProof._of(octets)
