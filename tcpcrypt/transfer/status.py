"""Exit statuses of stx-send and stx-recv, and which troubles are worth another attempt.

| status | what failed                                                          |
|--------|----------------------------------------------------------------------|
| 0      | nothing                                                              |
| 1      | the network, the command line, or somebody pressed Ctrl-C            |
| 2      | authentication: no key, not the right one, or no encryption          |
| 3      | a file, here or at the other end: to read, to write, its name, space |
| 4      | cryptography: a forged frame, a digest that differs                  |
| 5      | the other end does not follow the protocol                           |

A connection that ends too early is the network's fault: a cable, and a process
that was killed, look the same as somebody who resets connections.  The next
attempt goes on where the last one was durable.
"""

from __future__ import annotations

import enum
import socket
from typing import Final

from tcpcrypt.errors import (
    AuthenticationError,
    HandshakeTimeoutError,
    IntegrityError,
    LocalError,
    NoEncryptionError,
    PeerError,
    PeerReason,
    ResetError,
    TcpcryptError,
    TruncationError,
)
from tcpcrypt.transfer.codes import Code, TransferError

__all__ = ["FileError", "Interrupted", "Status", "UsageError", "retryable", "status_of"]


class Status(enum.IntEnum):
    """What a program exits with."""

    OK = 0
    NETWORK = 1
    AUTHENTICATION = 2
    FILE = 3
    CRYPTOGRAPHY = 4
    PROTOCOL = 5


class FileError(TcpcryptError):
    """A file or directory of this host."""

    @classmethod
    def of(cls, name: object, error: OSError) -> FileError:
        """What the system says of it."""
        return cls(f"{name}: {error.strerror or error}")


class UsageError(TcpcryptError):
    """Arguments that do not go together."""


class Interrupted(Exception):
    """Somebody pressed Ctrl-C, or the program was told to end."""


_LOST: Final = (ResetError, TruncationError)
_FORGED: Final = {
    PeerReason.FRAME_TAG,
    PeerReason.BAD_PUBLIC_KEY,
    PeerReason.ZERO_SHARED_SECRET,
    PeerReason.RESUMPTION_REPLAYED,
}


def status_of(error: BaseException, *, offered: bool = True) -> Status:
    """What to exit with.

    `offered`: whether the other end of the connection has offered encryption; a
    handshake that times out before that is one without encryption.
    """
    if isinstance(error, TransferError):
        return Status(error.code.exit_status)
    if isinstance(error, HandshakeTimeoutError):
        return Status.NETWORK if offered else Status.AUTHENTICATION
    if isinstance(error, (AuthenticationError, NoEncryptionError)):
        return Status.AUTHENTICATION
    if isinstance(error, IntegrityError):
        return Status.CRYPTOGRAPHY
    if isinstance(error, _LOST):
        return Status.NETWORK
    if isinstance(error, PeerError):
        return Status.CRYPTOGRAPHY if error.reason in _FORGED else Status.PROTOCOL
    if isinstance(error, FileError):
        return Status.FILE
    if isinstance(error, LocalError):
        return Status.AUTHENTICATION  # keys that are not there, or not to be used
    return Status.NETWORK


def retryable(error: BaseException) -> bool:
    """Whether it is the network's fault, which may have passed a moment later."""
    if isinstance(error, TransferError):
        # Two senders of one transfer would supersede one another for ever.
        return error.code.transient and error.code is not Code.SUPERSEDED
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    return isinstance(error, (*_LOST, HandshakeTimeoutError)) or (
        isinstance(error, OSError) and not isinstance(error, TcpcryptError)
    )
