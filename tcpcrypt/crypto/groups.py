"""RFC 8548 section 5: the Diffie-Hellman groups of the four TEPs.

| TEP  | group  | public key on the wire          | shared secret ES |
|------|--------|---------------------------------|------------------|
| 0x21 | P-256  | length (2), compressed point 33 | x, 32 bytes      |
| 0x22 | P-521  | length (2), compressed point 67 | x, 66 bytes      |
| 0x23 | X25519 | 32 bytes (RFC 7748)             | 32 bytes         |
| 0x24 | X448   | 56 bytes (RFC 7748)             | 56 bytes         |

Open points of the RFC, decided here:

* The length before a NIST point may count its own two bytes or not: the figure
  of section 4.1 says yes, the prose can be read as no.  It is sent counting
  them, and either value is accepted, because the length is known anyway.
* ES is the x coordinate as a fixed-length big-endian string, leading zeros
  kept; the RFC does not spell out the conversion.
* A receiver takes the form that its profile sends and no other: section 5
  defines compressed points alone.
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x448 import X448PrivateKey, X448PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import LocalError, PeerError, PeerReason
from tcpcrypt.registry import Tep
from tcpcrypt.wire.profile import RFC8548, WireProfile

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["GROUPS", "KEYS_READY", "EphemeralKey", "Group", "group"]

KEYS_READY: Final = 64
"""Key pairs of a group made ahead, at most: some milliseconds of idle time."""
_LENGTH_FIELD: Final = 2
"""Bytes of the length before a NIST point."""


class EphemeralKey:
    """One side's key pair, for one exchange.

    `public` is the public key as sent.  The private key lies in libcrypto's
    memory, which clears it when it is released.
    """

    __slots__ = ("_shared", "public")

    def __init__(self, public: bytes, shared: Callable[[bytes], bytes]) -> None:
        self.public = public
        self._shared: Callable[[bytes], bytes] | None = shared

    def agree(self, peer_public: ReadableBuffer) -> Secret:
        """ES with the peer's public key, as received.

        Raises `PeerError` with INIT_PUBLIC_KEY_LENGTH, BAD_PUBLIC_KEY (not a
        point of the curve in the form of the profile) or ZERO_SHARED_SECRET,
        all of which section 3.3 answers with an abort; `RuntimeError` once wiped.
        """
        if self._shared is None:
            raise RuntimeError("private key was wiped")
        return Secret(self._shared(bytes(peer_public)))

    def wipe(self) -> None:
        """Let go of the private key.  Idempotent."""
        self._shared = None

    def __repr__(self) -> str:
        return "<EphemeralKey wiped>" if self._shared is None else "<EphemeralKey>"


class Group(ABC):
    """One group of RFC 8548 section 5; makes key pairs.

    `public_key_len` is in bytes on the wire, length field included;
    `shared_len` in bytes of ES.
    """

    name: str
    public_key_len: int
    shared_len: int

    def __init__(self) -> None:
        self._ready: deque[EphemeralKey] = deque()
        # Two processes must not use the same key pair.
        with contextlib.suppress(AttributeError):  # where no process forks
            os.register_at_fork(after_in_child=self._ready.clear)

    def generate(self) -> EphemeralKey:
        """A new random key pair; each is given out once."""
        try:
            return self._ready.popleft()
        except IndexError:
            return self._generate()

    def prepare(self) -> bool:
        """Make a key pair before it is needed; False if there are KEYS_READY of them."""
        if len(self._ready) >= KEYS_READY:
            return False
        self._ready.append(self._generate())
        return True

    @property
    def ready(self) -> int:
        """Key pairs that `generate` has only to give out."""
        return len(self._ready)

    @abstractmethod
    def _generate(self) -> EphemeralKey:
        """A new random key pair, made now."""

    @abstractmethod
    def from_private(self, raw: bytes) -> EphemeralKey:
        """The key pair of a known private key, for test vectors.

        `raw` is a private key of RFC 7748, or a big-endian scalar no longer
        than the field.  Raises `LocalError` for what is not a private key.
        """


class _Montgomery(Group):
    """X25519 or X448 (RFC 7748)."""

    def __init__(
        self,
        name: str,
        key_len: int,
        private: type[X25519PrivateKey | X448PrivateKey],
        public: type[X25519PublicKey | X448PublicKey],
    ) -> None:
        super().__init__()
        self.name = name
        self.public_key_len = self.shared_len = key_len
        self._private = private
        self._public = public

    def _generate(self) -> EphemeralKey:
        return self._pair(self._private.generate())

    def from_private(self, raw: bytes) -> EphemeralKey:
        try:
            return self._pair(self._private.from_private_bytes(raw))
        except ValueError:
            raise LocalError(f"a private key of {self.name} has {self.shared_len} bytes") from None

    def _pair(self, private: X25519PrivateKey | X448PrivateKey) -> EphemeralKey:
        def shared(peer_public: bytes) -> bytes:
            if len(peer_public) != self.public_key_len:
                raise PeerError(PeerReason.INIT_PUBLIC_KEY_LENGTH)
            try:
                # libcrypto makes the all-zero check of section 5.
                return private.exchange(self._public.from_public_bytes(peer_public))  # type: ignore[arg-type]
            except ValueError:
                raise PeerError(PeerReason.ZERO_SHARED_SECRET) from None

        return EphemeralKey(private.public_key().public_bytes_raw(), shared)


class _Nist(Group):
    """P-256 or P-521, with the two-byte length before the point."""

    def __init__(self, name: str, curve: ec.EllipticCurve, *, compressed: bool) -> None:
        super().__init__()
        self.name = name
        self._curve = curve
        self.shared_len = -(-curve.key_size // 8)
        if compressed:
            self._format, self._lead = PublicFormat.CompressedPoint, b"\x02\x03"
            self._point_len = 1 + self.shared_len
        else:
            self._format, self._lead = PublicFormat.UncompressedPoint, b"\x04"
            self._point_len = 1 + 2 * self.shared_len
        self.public_key_len = _LENGTH_FIELD + self._point_len

    def _generate(self) -> EphemeralKey:
        return self._pair(ec.generate_private_key(self._curve))

    def from_private(self, raw: bytes) -> EphemeralKey:
        if len(raw) > self.shared_len:
            raise LocalError(f"a scalar of {self.name} has at most {self.shared_len} bytes")
        try:
            return self._pair(ec.derive_private_key(int.from_bytes(raw, "big"), self._curve))
        except ValueError:
            raise LocalError(f"scalar is not between 1 and the order of {self.name}") from None

    def _pair(self, private: ec.EllipticCurvePrivateKey) -> EphemeralKey:
        def shared(peer_public: bytes) -> bytes:
            return private.exchange(ec.ECDH(), self._parse(peer_public))

        point = private.public_key().public_bytes(Encoding.X962, self._format)
        return EphemeralKey(self.public_key_len.to_bytes(_LENGTH_FIELD, "big") + point, shared)

    def _parse(self, public: bytes) -> ec.EllipticCurvePublicKey:
        """Section 5: a received point MUST be validated (IEEE 1363 A.16.10).

        One that is on the curve is of the right order: the cofactor is 1.
        """
        length = int.from_bytes(public[:_LENGTH_FIELD], "big")
        if len(public) != self.public_key_len or length not in (
            self._point_len,
            self.public_key_len,
        ):
            raise PeerError(PeerReason.INIT_PUBLIC_KEY_LENGTH)
        point = public[_LENGTH_FIELD:]
        if point[0] not in self._lead:
            raise PeerError(PeerReason.BAD_PUBLIC_KEY, f"{self.name} point begins {point[0]:#04x}")
        try:
            return ec.EllipticCurvePublicKey.from_encoded_point(self._curve, point)
        except ValueError:
            raise PeerError(PeerReason.BAD_PUBLIC_KEY, f"not a point of {self.name}") from None


GROUPS: Final[Mapping[int, Group]] = MappingProxyType(
    {
        Tep.ECDHE_P256: _Nist("P-256", ec.SECP256R1(), compressed=True),
        Tep.ECDHE_P521: _Nist("P-521", ec.SECP521R1(), compressed=True),
        Tep.ECDHE_CURVE25519: _Montgomery("X25519", 32, X25519PrivateKey, X25519PublicKey),
        Tep.ECDHE_CURVE448: _Montgomery("X448", 56, X448PrivateKey, X448PublicKey),
    }
)
"""The group of each TEP of RFC 8548 (section 7)."""

_UNCOMPRESSED: Final[Mapping[int, Group]] = {
    **GROUPS,
    Tep.ECDHE_P256: _Nist("P-256", ec.SECP256R1(), compressed=False),
    Tep.ECDHE_P521: _Nist("P-521", ec.SECP521R1(), compressed=False),
}


def group(tep: int, profile: WireProfile = RFC8548) -> Group:
    """The group of a TEP, with points in the form of `profile`.

    Raises `LocalError` for a TEP without a group.
    """
    try:
        return (GROUPS if profile.compressed_points else _UNCOMPRESSED)[tep]
    except KeyError:
        raise LocalError(f"TEP {tep:#04x} has no group") from None
