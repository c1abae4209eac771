"""Every exception and every named fault of the package.  Imports nothing of it.

Two questions decide the class: did the caller do it (`LocalError`) or the
peer, or someone on the path (`PeerError`, which names the fault in `reason`)?
A negotiation that ends in plain TCP is neither; it is an event that carries a
`FallbackReason`, and becomes `NoEncryptionError` only where policy requires
encryption.  No attack ever looks like an end of file.

What happens to a connection is an `OSError` as well, with its `errno`, so that
a program that moves from plain sockets keeps its `except` clauses; what the
caller did wrong (`LocalError`) is none, since trying again does not help.
"""

from __future__ import annotations

import enum
import errno

__all__ = [
    "AuthenticationError",
    "FallbackReason",
    "HandshakeTimeoutError",
    "IdentityChangedError",
    "IntegrityError",
    "LocalError",
    "NoCommonTEPError",
    "NoEncryptionError",
    "PeerError",
    "PeerReason",
    "ResetError",
    "TcpcryptError",
    "TruncationError",
]


class PeerReason(enum.Enum):
    """What the bytes of a peer did wrong; the value is the text for a log."""

    # TCP headers and options
    SEGMENT_TRUNCATED = "segment shorter than its headers say"
    SEGMENT_MALFORMED = "IP or TCP header is malformed"
    SEGMENT_FRAGMENT = "segment is an IP fragment"
    SEGMENT_NOT_TCP = "packet does not carry TCP"
    OPTION_LENGTH = "TCP option length below 2 or past the end of the options"
    # RFC 8547 section 4.4: an ill-formed SYN-form option
    ENO_DATA_PAST_END = "ENO suboption data passes the end of the option"
    ENO_RESERVED_LENGTH = "ENO length byte precedes a suboption that takes no data"
    # RFC 8548 section 4.1: Init1 and Init2
    INIT_MAGIC = "key exchange message has the wrong magic number"
    INIT_TOO_SHORT = "key exchange message is shorter than its fixed part"
    INIT_TOO_LONG = "key exchange message is longer than this host accepts"
    INIT_NO_CIPHERS = "Init1 offers no AEAD algorithm"
    INIT_PUBLIC_KEY_LENGTH = "public key length field is wrong"
    INIT_TAIL = "bytes after the public key are not what the TEP defines"
    NO_COMMON_AEAD = "no AEAD algorithm in common"
    AEAD_NOT_OFFERED = "Init2 chose an AEAD algorithm that was not offered"
    BAD_PUBLIC_KEY = "public key is invalid"
    ZERO_SHARED_SECRET = "key agreement gave an all-zero shared secret"
    RESUMPTION_REPLAYED = "session secret was already used by another connection"
    FIN_DURING_EXCHANGE = "connection ended during the key exchange"
    # RFC 8548 sections 3.6 to 3.8: frames
    FRAME_TOO_SHORT = "frame is too short for flags and tag"
    FRAME_TAG = "frame failed authentication"
    FRAME_URGENT_TRUNCATED = "frame with URGp is too short for the urgent field"
    DATA_AFTER_FINP = "bytes follow the frame with FINp"
    FRAME_CONTROL = "frame announces a new key, and the peer's protocol has none"
    INIT_AS_DATA = "peer sealed its key exchange message as if it were data"
    REPEATED_ANEW = "segments were lost, and what this peer sends again may be other bytes"
    STREAM_TOO_LONG = "stream is longer than its nonces can count"
    # RFC 8548 section 3.7: how connections may not end
    TRUNCATED = "TCP FIN without an authenticated FINp"
    RESET = "connection was reset"
    TIMEOUT = "handshake deadline passed"
    # TEPs that authenticate
    AUTHENTICATION = "peer did not prove the identity that policy asks for"
    IDENTITY_CHANGED = "peer's identity is not the one remembered"


class FallbackReason(enum.Enum):
    """Why a negotiation ended in plain TCP (RFC 8547 section 4.6)."""

    DISABLED = "encryption is off for this connection"
    NO_ENO_IN_SYN = "peer's SYN has no usable ENO option"
    NO_ENO_IN_SYN_ACK = "peer's SYN-ACK has no usable ENO option"
    NO_ENO_IN_FIRST_ACK = "peer's first ACK has no ENO option"
    ILL_FORMED = "peer's ENO option is ill-formed"
    DUPLICATE_ENO = "peer's SYN has more than one ENO option"
    NO_COMMON_TEP = "no encryption protocol in common"
    SAME_ROLE = "both sides claim the same role"
    NOT_APPLICATION_AWARE = "peer's application is not tcpcrypt-aware"
    RESUMPTION_MISMATCH = "peer resumed a session that was not offered"
    NO_OPTION_SPACE = "no room for the ENO option in the SYN"
    SYN_RETRANSMITTED_PLAIN = "SYN was retransmitted without ENO"
    SYN_CHANGED = "peer's ENO option changed between retransmissions"
    OUT_OF_ORDER = "segment does not belong to this stage of the handshake"
    # Negotiation within the stream (`tcpcrypt.sockets.preface`)
    NO_PREFACE = "peer's stream does not begin with an offer of encryption"
    # A connection of the kernel, of which the daemon says so
    NOT_ENCRYPTED = "the daemon does not encrypt this connection"


class TcpcryptError(Exception):
    """Base of all errors of this package."""


class LocalError(TcpcryptError):
    """The caller broke a rule of the API; the connection is not to blame."""


class PeerError(TcpcryptError, ConnectionError):
    """The peer, or someone on the path, broke a rule of the protocol."""

    number = errno.ECONNABORTED
    """The `errno` of this class."""

    def __init__(self, reason: PeerReason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.errno = self.number
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[PeerError], tuple[PeerReason, str]]:
        return type(self), (self.reason, self.detail)


class IntegrityError(PeerError):
    """A frame failed authentication (RFC 8548 section 3.6)."""


class TruncationError(PeerError):
    """TCP FIN came without an authenticated FINp (RFC 8548 section 3.7)."""


class ResetError(PeerError, ConnectionResetError):
    """The connection was reset; RST is not authenticated (RFC 8548 section 8)."""

    number = errno.ECONNRESET


class HandshakeTimeoutError(PeerError, TimeoutError):
    """The peer did not finish the handshake before the deadline."""

    number = errno.ETIMEDOUT


class AuthenticationError(PeerError):
    """The peer did not prove the identity that policy asks for."""

    number = errno.EACCES


class IdentityChangedError(AuthenticationError):
    """The peer's key is not the one remembered for it."""


class NoEncryptionError(TcpcryptError, ConnectionError):
    """Policy requires encryption and negotiation ended without it."""

    def __init__(self, reason: FallbackReason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.errno = errno.ECONNABORTED
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[NoEncryptionError], tuple[FallbackReason, str]]:
        return type(self), (self.reason, self.detail)


class NoCommonTEPError(NoEncryptionError):
    """Policy requires encryption and no TEP is common to both sides."""

    def __init__(
        self, reason: FallbackReason = FallbackReason.NO_COMMON_TEP, detail: str = ""
    ) -> None:
        super().__init__(reason, detail)
