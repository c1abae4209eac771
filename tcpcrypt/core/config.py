"""What a connection may do: one frozen dataclass, and each open point decided.

The RFCs leave some points open.  Each is decided once, either by a constant
below or by a key of `Config`, with its reason; `docs/open-points.md` lists
them together.  (Points of wire format, such as the origin of frame offsets,
are fields of `tcpcrypt.wire.profile.WireProfile`.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from tcpcrypt.crypto.aead import AEADS
from tcpcrypt.errors import LocalError
from tcpcrypt.registry import RESUME_NONCE_MAX, TEP_FIRST, AeadId, Tep
from tcpcrypt.wire.profile import RFC8548, WireProfile

if TYPE_CHECKING:
    from tcpcrypt.core.tep import TepSpec

__all__ = ["FRAME_DATA_MAX", "Config"]

FRAME_DATA_MAX: Final = 65535 - 16 - 3
"""Data bytes that fit a frame whatever its flags: `clen` is 16 bits, the tag 16
bytes, flags and urgent field 3 (RFC 8548 section 4.2)."""

RESUMPTION_WINDOW_MAX: Final = 16
"""Identifiers a cache record holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of one connection; the same object serves any number of them."""

    profile: WireProfile = RFC8548
    """The dialect spoken."""

    teps: tuple[int, ...] = (Tep.ECDHE_CURVE25519, Tep.ECDHE_CURVE448, Tep.ECDHE_P256)
    """Encryption protocols, most preferred first.  P-521 is left out by default:
    it costs a listener ten times the work of Curve25519 for no more strength
    than Curve448 gives."""

    aeads: tuple[int, ...] = (AeadId.AES_128_GCM, AeadId.AES_256_GCM, AeadId.CHACHA20_POLY1305)
    """AEAD algorithms, most preferred first; B chooses (RFC 8548 section 3.3)."""

    extensions: Mapping[int, TepSpec] = field(default_factory=dict)
    """TEPs beside the four of RFC 8548, by identifier."""

    enabled: bool = True
    """False: never send ENO, always plain TCP."""

    application_aware: bool = False
    """Send bit `a` (RFC 8547 section 4.2)."""

    require_application_aware: bool = False
    """Mandatory application-aware mode (RFC 8547 section 4.2)."""

    require_encryption: bool = False
    """Refuse the connection where negotiation ends in plain TCP."""

    active_b: bool = False
    """Set bit `b` before an active open, for simultaneous open (RFC 8547 section 4.3)."""

    resume: bool = True
    """Offer and accept resumption; False forces fresh exchanges (RFC 8548 section 3.5)."""

    cache: bool = True
    """Keep the secret for later resumption (RFC 8548 section 3.5)."""

    resume_nonce_len: int = RESUME_NONCE_MAX
    """Bytes of the resumption nonce.  RFC 8548 section 3.5: the default MUST be 8
    unless reuse of secrets can be ruled out."""

    resumption_window: int = 4
    """Indices ahead at which a passive opener still recognises a secret.  The RFC
    sets none.  Each lost attempt of the opener costs one index, so 4 survives
    three lost attempts in a row; each costs two HMACs when a session is stored."""

    cache_capacity: int = 4096
    """Secrets kept in all."""

    cache_per_peer: int = 8
    """Secrets kept for one peer, so that no peer pushes out the others."""

    prove_at_once: bool = False
    """As B of a session that is resumed, where the first frame proves something: send
    the own one without waiting for A's, which saves A a round trip.  It is empty; what
    the program has to say still waits."""

    max_init_len: int = 8192
    """Longest Init1 or Init2 accepted.  The length field has 32 bits and peers may
    append bytes to be ignored; the largest known message has about 1,400."""

    tolerate_offset_origin: bool = True
    """Open the peer's first frame under both readings of the offset origin (open
    point E1: whether Init bytes count) and keep the one that authenticates."""

    first_frame_data: int = 1400
    """Data bytes of a frame at the start of a stream: about a segment, so that the
    receiver can open the first one without waiting for a second round trip."""

    small_frames_until: int = 14_000
    """Stream bytes after which frames may grow: ten segments, TCP's initial window."""

    frame_data: int = FRAME_DATA_MAX
    """Data bytes of a frame in bulk."""

    rekey_after_bytes: int | None = None
    """Rekey when this many bytes were sealed under one key; None: the AEAD's limit."""

    handshake_timeout: float = 10.0
    """Seconds from the first input until the key exchange must be over."""

    def in_profile(self, profile: WireProfile) -> Config:
        """These settings in another dialect, without what that does not have.

        Raises `LocalError` if no TEP or no AEAD algorithm is left.
        """
        if profile is self.profile:
            return self
        if profile.teps is None or profile.aeads is None:
            return replace(self, profile=profile)
        teps = tuple(tep for tep in self.teps if tep in profile.teps)
        aeads = tuple(aead for aead in self.aeads if aead in profile.aeads)
        if self.enabled and not (teps and aeads):
            raise LocalError(
                f"none of the configured {'AEAD algorithms' if teps else 'TEPs'} is one of"
                f" profile {profile.name}"
            )
        return replace(
            self,
            profile=profile,
            teps=teps,
            aeads=aeads or self.aeads,
            extensions={},
            active_b=False,
            tolerate_offset_origin=False,
            rekey_after_bytes=None,
        )

    def __post_init__(self) -> None:
        """Refuse what could not work.  Raises `LocalError`."""
        for tep in self.teps:
            known = tep in self.extensions or Tep.ECDHE_P256 <= tep <= Tep.ECDHE_CURVE448
            if not known or not TEP_FIRST <= tep <= 0x7F:
                raise LocalError(f"unknown TEP {tep:#04x}")
        if len(set(self.teps)) != len(self.teps):
            raise LocalError("a TEP is listed twice")
        if self.enabled and not self.teps:
            raise LocalError("no TEP is configured")
        if not self.aeads or any(aead not in AEADS for aead in self.aeads):
            raise LocalError("AEAD list is empty or names an unknown algorithm")
        if self.require_application_aware and not self.application_aware:
            raise LocalError("mandatory application-aware mode sets bit `a` itself")
        if not 0 <= self.resume_nonce_len <= RESUME_NONCE_MAX:
            raise LocalError("resumption nonce is 0 to 8 bytes long")
        if not 1 <= self.resumption_window <= RESUMPTION_WINDOW_MAX:
            raise LocalError("resumption window is 1 to 16")
        if self.rekey_after_bytes is not None and self.rekey_after_bytes < 1:
            raise LocalError("a key seals at least one byte")
        for size in (self.first_frame_data, self.frame_data):
            if not 1 <= size <= FRAME_DATA_MAX:
                raise LocalError(f"a frame holds 1 to {FRAME_DATA_MAX} data bytes")


RandomBytes = Callable[[int], bytes]
"""Source of randomness: `os.urandom` everywhere but in tests."""

Clock = Callable[[], float]
"""Monotonic seconds: `time.monotonic` everywhere but in tests."""
