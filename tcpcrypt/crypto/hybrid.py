"""X25519MLKEM768: a key exchange that holds while either of its halves does.

ML-KEM-768 (FIPS 203) beside X25519 (RFC 7748), in the order in which TLS has
them under that name:

| sent by   | on the wire                                   | shared secret ES            |
|-----------|-----------------------------------------------|-----------------------------|
| initiator | encapsulation key (1184) then X25519 key (32) | ML-KEM (32) then X25519 (32)|
| responder | ciphertext (1088) then X25519 key (32)         |                             |

Unlike a group of `tcpcrypt.crypto.groups` it is not the same on both sides:
the responder's half answers the initiator's.  It lies in libcrypto wholly.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import UnsupportedAlgorithm

from tcpcrypt.crypto.groups import EphemeralKey, group
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import LocalError, PeerError, PeerReason
from tcpcrypt.registry import Tep

try:
    from cryptography.hazmat.primitives.asymmetric import mlkem
except ImportError:
    _mlkem: ModuleType | None = None
else:
    _mlkem = mlkem

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

__all__ = [
    "CIPHERTEXT_LEN",
    "ENCAPSULATION_KEY_LEN",
    "INITIATOR_LEN",
    "RESPONDER_LEN",
    "HybridInitiator",
    "HybridResponder",
    "available",
]

ENCAPSULATION_KEY_LEN: Final = 1184
CIPHERTEXT_LEN: Final = 1088
_KEM_SECRET_LEN: Final = 32
_X25519_LEN: Final = 32
INITIATOR_LEN: Final = ENCAPSULATION_KEY_LEN + _X25519_LEN
RESPONDER_LEN: Final = CIPHERTEXT_LEN + _X25519_LEN

_X25519: Final = group(Tep.ECDHE_CURVE25519)

Encapsulate = Callable[[bytes], tuple[bytes, bytes]]
"""From an encapsulation key to a shared secret and its ciphertext."""


def available() -> bool:
    """Whether the installed `cryptography` and its libcrypto have ML-KEM-768."""
    try:
        _kem().MLKEM768PrivateKey.generate()
    except (LocalError, UnsupportedAlgorithm):
        return False
    return True


def encapsulate(encapsulation_key: bytes) -> tuple[bytes, bytes]:
    """ML-KEM.Encaps (FIPS 203 section 7.2): shared secret and ciphertext.

    Raises `PeerError` with BAD_PUBLIC_KEY for a key that fails the section's
    checks of length and modulus, `LocalError` without ML-KEM.
    """
    try:
        key = _kem().MLKEM768PublicKey.from_public_bytes(encapsulation_key)
    except ValueError:
        raise PeerError(PeerReason.BAD_PUBLIC_KEY, "not a key of ML-KEM-768") from None
    secret, ciphertext = key.encapsulate()
    return secret, ciphertext


class HybridInitiator:
    """The side that sends the encapsulation key; for one exchange.

    `x25519` is the ephemeral key of its X25519 half, which goes when this goes.
    """

    __slots__ = ("_decapsulation_key", "public", "x25519")

    def __init__(self, decapsulation_key: MLKEM768PrivateKey, x25519: EphemeralKey) -> None:
        self._decapsulation_key: MLKEM768PrivateKey | None = decapsulation_key
        self.x25519 = x25519
        self.public = decapsulation_key.public_key().public_bytes_raw() + x25519.public

    @classmethod
    def generate(cls) -> HybridInitiator:
        """New random keys.  Raises `LocalError` without ML-KEM."""
        return cls(_kem().MLKEM768PrivateKey.generate(), _X25519.generate())

    @classmethod
    def from_private(cls, seed: bytes, x25519: bytes) -> HybridInitiator:
        """Known keys, for test vectors: d and z of FIPS 203 (64 bytes), and 32 bytes.

        Raises `LocalError` for what are none, or without ML-KEM.
        """
        try:
            kem = _kem().MLKEM768PrivateKey.from_seed_bytes(seed)
        except ValueError:
            raise LocalError("the seed of an ML-KEM key has 64 bytes") from None
        return cls(kem, _X25519.from_private(x25519))

    def agree(self, responder: bytes) -> Secret:
        """ES, 64 bytes.

        Raises `PeerError` with INIT_PUBLIC_KEY_LENGTH or ZERO_SHARED_SECRET;
        `RuntimeError` once wiped.  A ciphertext that was not made for this key
        gives a secret that nobody else has (FIPS 203 section 6.3), no error.
        """
        if self._decapsulation_key is None:
            raise RuntimeError("private key was wiped")
        if len(responder) != RESPONDER_LEN:
            raise PeerError(PeerReason.INIT_PUBLIC_KEY_LENGTH)
        with self.x25519.agree(responder[CIPHERTEXT_LEN:]) as dh:
            kem = self._decapsulation_key.decapsulate(responder[:CIPHERTEXT_LEN])
            return _joined(kem, dh)

    def wipe(self) -> None:
        """Let go of the private keys.  Idempotent."""
        self._decapsulation_key = None
        self.x25519.wipe()


class HybridResponder:
    """The side that sends the ciphertext; for one exchange.

    `public` is there once `agree` was called.
    """

    __slots__ = ("_encapsulate", "public", "x25519")

    def __init__(
        self, x25519: EphemeralKey | None = None, encapsulate: Encapsulate = encapsulate
    ) -> None:
        """New random keys; known ones are for test vectors."""
        self.x25519 = x25519 or _X25519.generate()
        self.public = b""
        self._encapsulate = encapsulate

    def agree(self, initiator: bytes) -> Secret:
        """ES, 64 bytes.

        Raises `PeerError` with INIT_PUBLIC_KEY_LENGTH, BAD_PUBLIC_KEY or
        ZERO_SHARED_SECRET; `RuntimeError` once wiped.
        """
        if len(initiator) != INITIATOR_LEN:
            raise PeerError(PeerReason.INIT_PUBLIC_KEY_LENGTH)
        with self.x25519.agree(initiator[ENCAPSULATION_KEY_LEN:]) as dh:
            kem, ciphertext = self._encapsulate(initiator[:ENCAPSULATION_KEY_LEN])
            self.public = ciphertext + self.x25519.public
            return _joined(kem, dh)

    def wipe(self) -> None:
        """Let go of the private key.  Idempotent."""
        self.x25519.wipe()


def _joined(kem: bytes, dh: Secret) -> Secret:
    return Secret.made_by(_fill, _KEM_SECRET_LEN + len(dh), kem, dh)


def _fill(kem: bytes, dh: Secret, octets: WriteableBuffer) -> None:
    view = memoryview(octets)
    view[:_KEM_SECRET_LEN] = kem
    view[_KEM_SECRET_LEN:] = dh.view()


def _kem() -> Any:
    if _mlkem is None:
        raise LocalError("the installed cryptography has no ML-KEM")
    return _mlkem
