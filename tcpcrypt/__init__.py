"""TCP-ENO (RFC 8547) and tcpcrypt (RFC 8548).

The names below are the stable ones; what lies in submodules may move before
version 1.0.  Nothing here needs a compiler, root or Linux.
"""

from typing import TYPE_CHECKING

from tcpcrypt.core.config import Config
from tcpcrypt.core.events import (
    Aborted,
    DataReceived,
    Direction,
    Established,
    Event,
    PeerProved,
    Rekeyed,
    Role,
    StreamEnded,
    UrgentReceived,
)
from tcpcrypt.core.negotiation import Fallback, Negotiated, Negotiation, Opener
from tcpcrypt.core.policy import Policy
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.core.session import Session
from tcpcrypt.errors import (
    AuthenticationError,
    FallbackReason,
    HandshakeTimeoutError,
    IdentityChangedError,
    IntegrityError,
    LocalError,
    NoCommonTEPError,
    NoEncryptionError,
    PeerError,
    PeerReason,
    ResetError,
    TcpcryptError,
    TruncationError,
)

if TYPE_CHECKING:
    __version__: str

__all__ = [
    "Aborted",
    "AuthenticationError",
    "Config",
    "DataReceived",
    "Direction",
    "Established",
    "Event",
    "Fallback",
    "FallbackReason",
    "HandshakeTimeoutError",
    "IdentityChangedError",
    "IntegrityError",
    "LocalError",
    "Negotiated",
    "Negotiation",
    "NoCommonTEPError",
    "NoEncryptionError",
    "Opener",
    "PeerError",
    "PeerProved",
    "PeerReason",
    "Policy",
    "Rekeyed",
    "ResetError",
    "ResumptionCache",
    "Role",
    "Session",
    "StreamEnded",
    "TcpcryptError",
    "TruncationError",
    "UrgentReceived",
    "__version__",
]


def __getattr__(name: str) -> str:
    # To look it up takes as long as importing all of the above.
    if name == "__version__":
        from importlib import metadata  # noqa: PLC0415

        version = metadata.version("tcpcrypt")
        globals()["__version__"] = version
        return version
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
