"""What a `Session` tells its owner, in the order in which it happened."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tcpcrypt.errors import PeerError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = [
    "Aborted",
    "DataReceived",
    "Direction",
    "Established",
    "Event",
    "PeerProved",
    "Rekeyed",
    "Role",
    "StreamEnded",
    "UrgentReceived",
]


class Role(enum.IntEnum):
    """RFC 8547 section 4.3; the values are those of TCP_ENO_ROLE."""

    A = 0
    B = 1

    @property
    def peer(self) -> Role:
        return Role.A if self else Role.B  # a look-up of its value would take longer


class Direction(enum.Enum):
    """Which half of a connection."""

    __hash__ = object.__hash__  # by identity: tables look members up at every step

    SENDING = "sending"
    RECEIVING = "receiving"


@dataclass(frozen=True, slots=True)
class Established:
    """Keys are in place; the session ID may be read (RFC 8548 section 3.3)."""

    session_id: bytes
    tep: int
    aead: int
    role: Role
    resumed: bool
    peer_application_aware: bool
    peer_identity: bytes | None
    """What the TEP tells of the peer, proved or not yet (`PeerProved`); None with the
    TEPs of RFC 8548."""


@dataclass(frozen=True, slots=True)
class PeerProved:
    """The peer has proved what the TEP tells of it; never with the TEPs of RFC 8548."""

    peer_identity: bytes


@dataclass(frozen=True, slots=True)
class DataReceived:
    """Authenticated application data; `data` is bytes-like and never empty."""

    data: ReadableBuffer


@dataclass(frozen=True, slots=True)
class UrgentReceived:
    """The peer marked data urgent (RFC 8548 section 3.7).

    `index` is the position in the peer's application stream of the last urgent
    byte: that of the frame's first data byte plus the urgent field (open point
    E6: the RFC's units clash).  It precedes the `DataReceived` of that frame.
    """

    index: int


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """End of the peer's stream, authenticated by FINp (RFC 8548 section 3.7)."""

    authenticated: bool = True
    """False only in a profile that lacks FINp: TCP FIN, between two frames, was all."""


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """One direction went to its next key (RFC 8548 section 3.8)."""

    direction: Direction
    generation: int


@dataclass(frozen=True, slots=True)
class Aborted:
    """The connection failed and must be reset; the last event there is."""

    error: PeerError


Event = Established | PeerProved | DataReceived | UrgentReceived | StreamEnded | Rekeyed | Aborted
