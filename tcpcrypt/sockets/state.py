"""The states that a program sees of its secure connection, as one table.

    INIT --options agree--> EXCHANGE_KEYS --secret--> DERIVE_KEYS --proof--> AES_MODE

Whatever else happens leads to FAIL, from which there is no way back: the keys
are wiped and the connection is reset.  Application bytes flow in AES_MODE and
nowhere else.  (The name is historical; which AEAD is in use is told beside it.)
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from tcpcrypt import errors
from tcpcrypt.errors import TcpcryptError

__all__ = ["TABLE", "Failure", "State", "StateChanged", "Step"]


class State(enum.Enum):
    """How far a connection has come; it never goes back."""

    __hash__ = object.__hash__  # by identity: tables look members up at every step

    INIT = "INIT"
    """TCP connects, or the offer of encryption is on its way."""
    EXCHANGE_KEYS = "EXCHANGE_KEYS"
    """An encryption protocol is negotiated; Init1 and Init2 are in flight."""
    DERIVE_KEYS = "DERIVE_KEYS"
    """The session secret is derived; the peer's proof is outstanding."""
    AES_MODE = "AES_MODE"
    """Encrypted, and authenticated as policy asks: application bytes flow."""
    FAIL = "FAIL"
    """Over for the reason that `failure` names."""


class Step(enum.Enum):
    """What leads from one state to another."""

    __hash__ = object.__hash__  # by identity: tables look members up at every step

    NEGOTIATED = "both options agree on a protocol"
    KEYS = "session secret derived"
    PROVED = "peer has proved what policy asks for"
    FAULT = "fault"


_S, _I = State, Step

TABLE: Final[dict[tuple[State, Step], State]] = {
    (_S.INIT, _I.NEGOTIATED): _S.EXCHANGE_KEYS,
    (_S.EXCHANGE_KEYS, _I.KEYS): _S.DERIVE_KEYS,
    (_S.DERIVE_KEYS, _I.PROVED): _S.AES_MODE,
}
"""`(state, step) -> next state`; what is missing, `Step.FAULT` first of all, fails."""


class Failure(enum.Enum):
    """Why a connection failed: each names the exception of `tcpcrypt.errors`."""

    NO_ENCRYPTION = "NoEncryptionError"
    NO_COMMON_TEP = "NoCommonTEPError"
    AUTHENTICATION = "AuthenticationError"
    IDENTITY_CHANGED = "IdentityChangedError"
    INTEGRITY = "IntegrityError"
    HANDSHAKE_TIMEOUT = "HandshakeTimeoutError"
    TRUNCATION = "TruncationError"
    RESET = "ResetError"
    PEER = "PeerError"
    """Any other breach of the protocol: the error's `reason` names it."""
    LOCAL = "LocalError"
    """This host: a key that it lacks, or its program closed the connection too early."""

    @property
    def exception(self) -> type[TcpcryptError]:
        """The class that is raised."""
        found: type[TcpcryptError] = getattr(errors, self.value)
        return found

    @classmethod
    def of(cls, error: TcpcryptError) -> Failure:
        """The name of an error: that of the nearest class that has one."""
        names = {failure.value: failure for failure in cls}
        return next(
            (names[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in names),
            cls.LOCAL,
        )


@dataclass(frozen=True, slots=True)
class StateChanged:
    """A connection went from one state to another."""

    old: State
    new: State
    reason: str
    """In words; where `new` is FAIL those of the error."""
