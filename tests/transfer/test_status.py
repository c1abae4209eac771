"""The exit statuses, and what is tried again."""

from __future__ import annotations

import errno
import socket

import pytest

from tcpcrypt.cli import stx
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
    TruncationError,
)
from tcpcrypt.transfer.codes import Code, MessageError, TransferError
from tcpcrypt.transfer.keys import NoKeyError
from tcpcrypt.transfer.status import FileError, Status, UsageError, retryable, status_of

CASES = [
    (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), 1, True),
    (TimeoutError("timed out"), 1, True),
    (socket.gaierror(socket.EAI_NONAME, "no such host"), 1, False),
    (socket.gaierror(socket.EAI_AGAIN, "try again"), 1, True),
    (ResetError(PeerReason.RESET), 1, True),
    (TruncationError(PeerReason.TRUNCATED), 1, True),
    (UsageError("no"), 1, False),
    (TransferError(Code.TIMEOUT), 1, True),
    (TransferError(Code.SHUTDOWN), 1, True),
    (TransferError(Code.SUPERSEDED), 1, False),
    (NoEncryptionError(FallbackReason.NO_PREFACE), 2, False),
    (NoCommonTEPError(), 2, False),
    (AuthenticationError(PeerReason.AUTHENTICATION), 2, False),
    (IdentityChangedError(PeerReason.IDENTITY_CHANGED), 2, False),
    (NoKeyError("no key"), 2, False),
    (LocalError("no identity"), 2, False),
    (FileError("no such file"), 3, False),
    (TransferError(Code.NO_SPACE), 3, False),
    (TransferError(Code.EXISTS), 3, False),
    (TransferError(Code.CHANGED), 3, False),
    (TransferError(Code.DIGEST), 4, False),
    (IntegrityError(PeerReason.FRAME_TAG), 4, False),
    (PeerError(PeerReason.ZERO_SHARED_SECRET), 4, False),
    (PeerError(PeerReason.BAD_PUBLIC_KEY), 4, False),
    (PeerError(PeerReason.INIT_MAGIC), 5, False),
    (MessageError(), 5, False),
    (MessageError(Code.VERSION), 5, False),
]


@pytest.mark.parametrize(("error", "status", "again"), CASES, ids=lambda value: repr(value)[:50])
def test_each_error_has_its_status(error: Exception, status: int, again: bool) -> None:
    assert status_of(error) == status
    assert retryable(error) is again


def test_silence_is_no_encryption_or_the_network() -> None:
    error = HandshakeTimeoutError(PeerReason.TIMEOUT)
    assert status_of(error, offered=False) is Status.AUTHENTICATION
    assert status_of(error, offered=True) is Status.NETWORK
    assert retryable(error)


@pytest.mark.parametrize("code", list(Code))
def test_each_code_has_its_status(code: Code) -> None:
    assert status_of(TransferError(code)) == Status(code.exit_status)
    assert (code is Code.OK) == (code.exit_status == 0)


def test_the_manual_tells_of_every_status() -> None:
    assert set(stx.EXIT_STATUSES) == set(map(int, Status))


def test_a_file_is_named_with_what_is_wrong() -> None:
    error = FileError.of("a/b", FileNotFoundError(errno.ENOENT, "No such file or directory"))
    assert str(error) == "a/b: No such file or directory"
    assert str(FileError.of("a", OSError("odd"))) == "a: odd"
