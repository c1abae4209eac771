"""RFC 8548 section 5 and 7: the AEAD algorithms, each with its sizes and limits.

This is the one place where an algorithm is registered; whatever needs to know
of it (Init messages, key schedule, frames) takes an `AeadParameters`.

How much one traffic key may protect.  RFC 8548 asks only for less than 2**64
bytes of stream (section 3.6); these are this package's own limits, at which it
rekeys by itself.  They hold for one direction and one key generation, and count
bytes on the wire.

* AES-GCM is distinguishable from random once enough blocks were encrypted
  under one key: with s blocks the advantage is about s**2 / 2**129.  TLS 1.3
  stops at 2**24.5 records of 2**14 bytes (RFC 8446 section 5.5), that is at
  2**38.5 bytes or 2**34.5 blocks.  The limit here is 2**38 bytes (256 GiB).
  Each frame takes up to two blocks more, for the tag and for what does not fill
  a block; 2**32 frames at most bound these, and are what NIST SP 800-38D allows
  one key.  With all of it the advantage stays below 2**-59.
* ChaCha20-Poly1305 has no such limit that a connection could reach (RFC 8446
  section 5.5, RFC 9001 section 6.6: more than 2**62 packets).  2**60 bytes and
  2**48 frames keep every key far from the 2**64 bytes of section 3.6.

Forgeries need no limit: the first frame that fails ends the connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from tcpcrypt import _fast
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import LocalError
from tcpcrypt.registry import AeadId
from tcpcrypt.wire.profile import RFC8548, NonceForm, WireProfile

__all__ = ["AEADS", "AeadConstructor", "AeadParameters", "aead", "register"]

_ID_MAX: Final = 0xFFFF


class AeadConstructor(Protocol):
    """Makes an object with `encrypt` and `decrypt` as `cryptography` has them."""

    def __call__(self, key: bytes) -> Any: ...


@dataclass(frozen=True, slots=True)
class AeadParameters:
    """One `sym_cipher` of RFC 8548 section 7; lengths in bytes."""

    id: int
    name: str
    evp_name: str
    """What libcrypto calls it."""
    key_len: int
    """`ae_key_len` of section 5."""
    nonce_len: int
    """`ae_nonce_len` of section 5."""
    tag_len: int
    max_frames: int
    """Frames that one traffic key may seal."""
    max_bytes: int
    """Bytes on the wire that one traffic key may seal."""
    construct: AeadConstructor
    """From an AEAD key to the object that the Python twin of the frames uses."""

    @property
    def traffic_key_len(self) -> int:
        """Section 3.3: AEAD key, then nonce randomizer."""
        return self.key_len + self.nonce_len

    def sealer(self, traffic_key: Secret, profile: WireProfile = RFC8548) -> _fast.FrameSealer:
        """What seals frames under `traffic_key` (section 3.6); it keeps a copy."""
        key = self._part(traffic_key, profile)
        return _fast.FrameSealer(self, key, profile.nonce_form)

    def opener(self, traffic_key: Secret, profile: WireProfile = RFC8548) -> _fast.FrameOpener:
        """What opens frames under `traffic_key` (section 3.6); it keeps a copy."""
        key = self._part(traffic_key, profile)
        return _fast.FrameOpener(self, key, profile.nonce_form)

    def _part(self, traffic_key: Secret, profile: WireProfile) -> memoryview:
        """The bytes of a traffic key that the profile uses.

        A profile whose nonces are not randomized has the AEAD key alone, which
        HKDF-Expand makes the first part of the longer output.
        """
        if len(traffic_key) != self.traffic_key_len:
            raise LocalError(f"{self.name} has traffic keys of {self.traffic_key_len} bytes")
        view = traffic_key.view()
        randomized = profile.nonce_form == NonceForm.XOR_BIG_ENDIAN
        return view if randomized else view[: self.key_len]


_registered: dict[int, AeadParameters] = {}

AEADS: Final[Mapping[int, AeadParameters]] = MappingProxyType(_registered)
"""Every registered algorithm by its identifier."""


def register(parameters: AeadParameters) -> None:
    """Make an algorithm known.  Raises `LocalError` for an identifier in use."""
    if not 0 < parameters.id <= _ID_MAX:
        raise LocalError(f"{parameters.id:#x} is not an AEAD identifier")
    if parameters.id in _registered:
        raise LocalError(f"AEAD {parameters.id:#06x} is {_registered[parameters.id].name}")
    _registered[parameters.id] = parameters


def aead(identifier: int) -> AeadParameters:
    """The algorithm of a `sym_cipher`.  Raises `LocalError` for an unknown one."""
    try:
        return _registered[identifier]
    except KeyError:
        raise LocalError(f"AEAD {identifier:#06x} is not known") from None


register(
    AeadParameters(
        id=AeadId.AES_128_GCM,
        name="AEAD_AES_128_GCM",
        evp_name="AES-128-GCM",
        key_len=16,
        nonce_len=12,
        tag_len=16,
        max_frames=1 << 32,
        max_bytes=1 << 38,
        construct=AESGCM,
    )
)
register(
    AeadParameters(
        id=AeadId.AES_256_GCM,
        name="AEAD_AES_256_GCM",
        evp_name="AES-256-GCM",
        key_len=32,
        nonce_len=12,
        tag_len=16,
        max_frames=1 << 32,
        max_bytes=1 << 38,
        construct=AESGCM,
    )
)
register(
    AeadParameters(
        id=AeadId.CHACHA20_POLY1305,
        name="AEAD_CHACHA20_POLY1305",
        evp_name="ChaCha20-Poly1305",
        key_len=32,
        nonce_len=12,
        tag_len=16,
        max_frames=1 << 48,
        max_bytes=1 << 60,
        construct=ChaCha20Poly1305,
    )
)
