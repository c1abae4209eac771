"""The two framed streams of a session, lent to who moves bytes without Python.

While they are lent the session seals and opens nothing.  Only plain data
frames are the borrower's business; whatever else happens is the session's, so
that the borrower gives back first, with the bytes that it has not used.
"""

from __future__ import annotations

from dataclasses import dataclass

from tcpcrypt import _fast

__all__ = ["LEASE_MIN", "Lease", "Opening", "Returned", "Sealing"]

LEASE_MIN = 8 << 20
"""Bytes that a key must still be allowed to seal for a lease to be worth it."""


@dataclass(frozen=True, slots=True)
class Sealing:
    """What sealing the own stream takes; offsets as RFC 8548 section 4.2.3 counts."""

    sealer: _fast.FrameSealer
    offset: int
    """Of the next frame."""
    end: int
    """No frame may reach past this offset under this key."""
    frames: int
    """Nor may there be more frames than these."""
    small_until: int
    """Offset up to which frames hold `first_frame_data` bytes, as `Config` says."""
    first_frame_data: int
    frame_data: int


@dataclass(frozen=True, slots=True)
class Opening:
    """What opening the peer's stream takes."""

    opener: _fast.FrameOpener
    offset: int
    """Of the first byte of `wire`, and of the next frame."""
    wire: bytes
    """The beginning of the next frame, as far as it has come."""


@dataclass(frozen=True, slots=True)
class Returned:
    """What the borrower did with a lease."""

    sealed_to: int = 0
    """Offset of the next frame of the own stream."""
    frames: int = 0
    """Frames sealed."""
    opened_to: int = 0
    """Offset of the first byte of `wire`."""
    opened: int = 0
    """Data bytes opened."""
    wire: bytes = b""
    """Bytes of the peer's stream that were not used."""
    finished: bool = False
    """The last frame sealed has FINp."""
    peer_finished: bool = False
    """The last frame opened had FINp."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Both directions; None for one that the borrower has to leave alone."""

    sealing: Sealing | None
    opening: Opening | None

    def unused(self) -> Returned:
        """What gives it back as it was."""
        sealed_to = self.sealing.offset if self.sealing is not None else 0
        if self.opening is None:
            return Returned(sealed_to)
        return Returned(sealed_to, opened_to=self.opening.offset, wire=self.opening.wire)
