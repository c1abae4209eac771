"""What the processes of the daemon say to each other: one JSON object a message.

Messages go over a pair of AF_UNIX SOCK_SEQPACKET sockets, which keeps their
bounds, tells of the other side's end, and carries descriptors (SCM_RIGHTS).
Each is `{verb: value}`, nothing else.  Neither side believes the other: what
is too long, has other keys or too many descriptors is `NonsenseError`.
"""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import select
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tcpcrypt.errors import LocalError

__all__ = [
    "DESCRIPTORS_MAX",
    "ENDED",
    "NonsenseError",
    "Patience",
    "Word",
    "Words",
    "WordsEndedError",
]

ENDED: Final = "the other process has ended"
_TURN: Final = 0.5
"""Seconds of one wait of many."""
DESCRIPTORS_MAX: Final = 64
"""In one message; the kernel takes up to 253."""
_DESCRIPTOR: Final = array.array("i").itemsize
_SO_SNDBUFFORCE: Final = 32
_SEND_BUFFER: Final = 1 << 20
_TRUNCATED: Final = socket.MSG_TRUNC | socket.MSG_CTRUNC


class NonsenseError(LocalError):
    """The other process said something that it never says."""


class WordsEndedError(LocalError):
    """The other process is gone."""


@dataclass(frozen=True, slots=True)
class Word:
    """One message.  Whoever has it owns the descriptors."""

    verb: str
    value: Any
    descriptors: tuple[int, ...] = ()

    def close(self) -> None:
        """Close the descriptors."""
        for descriptor in self.descriptors:
            os.close(descriptor)


class Words:
    """One end; nonblocking.  `limit` bounds what is received, in bytes."""

    def __init__(self, sock: socket.socket, limit: int) -> None:
        self._socket = sock
        self._buffer = bytearray(limit + 1)
        sock.setblocking(False)

    @classmethod
    def pair(cls, one: int, other: int) -> tuple[Words, Words]:
        """Two ends; the first receives up to `one` bytes a message, the second up to `other`."""
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in ends:
            enlarge(end, _SEND_BUFFER)
        return cls(ends[0], one), cls(ends[1], other)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, verb: str, value: object, descriptors: Iterable[int] = ()) -> None:
        """Say it; the descriptors stay open here.

        Raises `BlockingIOError` if the other side has not read what came
        before (or, with ETOOMANYREFS, other processes what came to them),
        `WordsEndedError` if it is gone, `LocalError` if it is too long.
        """
        text = json.dumps({verb: value}, separators=(",", ":"), ensure_ascii=False).encode()
        try:
            socket.send_fds(self._socket, [text], list(descriptors))
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS:
                # Descriptors under way, of all processes of this user together.
                raise BlockingIOError(error.errno, error.strerror) from error
            if isinstance(error, ConnectionError | BrokenPipeError):
                raise WordsEndedError(ENDED) from error
            raise LocalError(f"a message of {len(text)} bytes: {error.strerror}") from error

    def receive(self) -> Word | None:
        """The next message; None if there is none now.

        Raises `NonsenseError`, `WordsEndedError`.
        """
        room = socket.CMSG_SPACE(DESCRIPTORS_MAX * _DESCRIPTOR)
        try:
            size, ancillary, flags, _ = self._socket.recvmsg_into(
                [self._buffer], room, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return None
        except ConnectionError as error:
            raise WordsEndedError(ENDED) from error
        descriptors = _descriptors(ancillary)
        try:
            if size == 0:
                raise WordsEndedError(ENDED)
            if flags & _TRUNCATED or size == len(self._buffer):
                raise NonsenseError("a message is too long")
            return Word(*_parse(bytes(memoryview(self._buffer)[:size])), tuple(descriptors))
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            raise

    def close(self) -> None:
        self._socket.close()


class Patience:
    """So many seconds for the other process, in short turns.

    A machine that stands still (it is moved, or paused) uses up one turn and not all:
    the other process stood still with it.
    """

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    def ready(self, fd: int, event: int) -> bool:
        """Wait until `fd` is ready for `event`; False: nothing is left."""
        poll = select.poll()
        poll.register(fd, event)
        while self._left > 0:
            began = time.monotonic()
            turn = min(_TURN, self._left)
            found = poll.poll(turn * 1000)
            self._left -= min(time.monotonic() - began, turn) if found else turn
            if found:
                return True
        return False

    def pause(self, seconds: float) -> bool:
        """Wait for what nothing tells of; False: nothing is left."""
        self._left -= seconds
        if self._left > 0:
            time.sleep(seconds)
        return self._left > 0


def enlarge(sock: socket.socket, size: int) -> None:
    """Give `sock` a send buffer of `size` bytes, or of what an ordinary user may have."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)


def _parse(text: bytes) -> tuple[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NonsenseError(f"a message is not JSON: {error}") from error
    if not isinstance(value, dict) or len(value) != 1:
        raise NonsenseError("a message is not one verb and its value")
    return next(iter(value.items()))


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            with contextlib.suppress(ValueError):
                found.frombytes(data[: len(data) - len(data) % _DESCRIPTOR])
    return found.tolist()
