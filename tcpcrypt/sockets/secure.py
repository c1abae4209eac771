"""`SecureSocket`: what a program has in the place of a connected socket.

It reads, writes and ends like one, except that it is never plaintext: no byte
of the program goes out or comes in before `state` is AES_MODE, and whatever
goes wrong is raised as what it is, by the operation that meets it and by each
one after it.  An end of file is one that the other end has said, authenticated.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, Self

from tcpcrypt.errors import LocalError, TcpcryptError
from tcpcrypt.sockets.buffers import WIRE_MAX
from tcpcrypt.sockets.facts import Facts
from tcpcrypt.sockets.files import open_file
from tcpcrypt.sockets.state import State, StateChanged
from tcpcrypt.sockets.waiting import Deadline

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = ["OnState", "SecureSocket", "Use", "prepare", "reset"]

OnState = Callable[[StateChanged], None]
"""Told of each change of state, by the thread that meets it; it must not use the socket."""

_RESET_ON_CLOSE: Final = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
_CLOSE_PATIENCE: Final = 5.0
"""Seconds for which `close` tries to get rid of what was written, on a blocking socket."""


class _Settable(Protocol):
    def setsockopt(self, level: int, option: int, value: int, /) -> object: ...


def prepare(sock: _Settable) -> None:
    """What each connection has: a write leaves at once, a peer that is gone shows, and no
    byte leaves its place.  On a listening socket for all that it accepts, where that is so.
    """
    try:
        # A byte that somebody on the path marks as urgent stays where it is in the stream.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # RFC 8548 section 3.9 allows these to find out that a peer is gone.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    except OSError:
        pass  # one of a kind that has none of them


def reset(sock: socket.socket) -> None:
    """Close with RST."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    sock.close()


class Use:
    """An operation in one direction: the descriptor stays until it is over."""

    __slots__ = ("_direction", "_socket")

    def __init__(self, secured: SecureSocket, direction: threading.Lock) -> None:
        self._socket = secured
        self._direction = direction

    def __enter__(self) -> None:
        self._socket._check_owner()
        self._direction.acquire()
        try:
            self._socket._begin_use()
        except BaseException:
            self._direction.release()
            raise

    def __exit__(self, *raised: object) -> None:
        try:
            self._socket._end_use()
        finally:
            self._direction.release()


class SecureSocket(Facts):
    """One connection; made by `connect`, `wrap` and `SecureListener.accept`.

    One thread may read while another writes.  `select` and `poll` tell when the
    wire is readable; `pending` bytes are there already and make it no more so.
    """

    def __init__(self, sock: socket.socket, on_state: OnState | None) -> None:
        super().__init__(sock)
        self._on_state = on_state
        self._shaking = threading.Lock()
        self._shaken = False
        """AES_MODE was reached; whatever came of it since."""
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self._guard = threading.Lock()
        self._users = 0
        self._owner = os.getpid()
        self._aborted = False
        self._closing = False
        """The descriptor is closed once the own stream has ended."""
        self._torn = False
        """Nothing may be begun any more, not even what remains of `close`."""
        self._corked: bytearray | None = None
        self._files = 0
        prepare(sock)

    # --- the program's bytes -----------------------------------------------------------------

    def do_handshake(self) -> None:
        """Go to AES_MODE; every operation that needs it does so by itself.

        Raises the typed error if the connection fails, after `HANDSHAKE_TIMEOUT`
        at the latest; `BlockingIOError` on a socket that does not block.
        """
        self._check_owner()
        if self._shaken:
            return
        # A lock of its own: who waits for it must not wait for what is read afterwards.
        with self._shaking:
            if not self._shaken:
                with Use(self, self._reading), self._writing:
                    self._hand_shake(Deadline(0 if self._timeout == 0 else None))
                    self._shaken = self.state is State.AES_MODE

    def send(self, data: ReadableBuffer, flags: int = 0) -> int:
        """Send what can be sent at once, some of `data`; returns how many bytes.

        They are on the wire, or on their way to it with whatever is done next.
        Raises `TimeoutError` and `BlockingIOError` if there is no room for any,
        `BrokenPipeError` after `shutdown`, the typed error if the connection
        failed.
        """
        _no_flags(flags)
        view = memoryview(data).cast("B")
        self.do_handshake()
        deadline = Deadline(self._timeout)
        with Use(self, self._writing):
            if self._corked is not None:
                self._add_corked(self._corked, view, deadline)
                return len(view)
            return self._send_some(view, deadline) if view else 0

    def sendall(self, data: ReadableBuffer, flags: int = 0) -> None:
        """Send all of `data`.  Raises as `send`; how much was sent is not known then."""
        _no_flags(flags)
        view = memoryview(data).cast("B")
        self.do_handshake()
        deadline = Deadline(self._timeout)
        with Use(self, self._writing):
            if self._corked is not None:
                self._add_corked(self._corked, view, deadline)
            else:
                self._send_all(view, deadline)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Up to `size` bytes; b"" where the other end has ended its stream.

        Raises `TimeoutError` and `BlockingIOError` as `socket.recv`, the typed
        error if the connection failed, behind what came before that.
        """
        _no_flags(flags)
        if size < 0:
            raise ValueError("negative buffersize in recv")
        if size == 0:
            self.do_handshake()
            return b""
        out = bytearray(min(size, WIRE_MAX))
        return bytes(memoryview(out)[: self.recv_into(out)])

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Fill the beginning of `buffer`; returns how many bytes.  Otherwise as `recv`.

        A buffer of 128 KiB or more saves a copy.
        """
        _no_flags(flags)
        view = memoryview(buffer).cast("B")
        if nbytes:
            view = view[:nbytes]
        self.do_handshake()
        deadline = Deadline(self._timeout)
        with Use(self, self._reading):
            return self._receive(view, deadline) if view else 0

    @abstractmethod
    def pending(self) -> int:
        """Bytes that can be received without waiting, and of which `select` does not tell."""

    @contextlib.contextmanager
    def cork(self) -> Iterator[None]:
        """Collect what is written inside; it leaves as few frames at the end."""
        self._check_owner()
        with self._writing:
            if self._corked is not None:
                raise LocalError("the socket is corked already")
            self._corked = bytearray()
        try:
            yield
        finally:
            with self._writing:
                collected, self._corked = self._corked, None
            if collected:
                self.sendall(collected)

    def makefile(
        self,
        mode: str = "r",
        buffering: int | None = None,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """A file over the connection, as of `socket`; the connection lives as long as it."""
        return open_file(self, mode, buffering, encoding=encoding, errors=errors, newline=newline)

    # --- the end -----------------------------------------------------------------------------

    def shutdown(self, how: int) -> None:
        """End the own stream (`SHUT_WR`): the other end reads an authenticated end of file.

        `SHUT_RD` and `SHUT_RDWR` are refused with EOPNOTSUPP: not to hear the
        other end out is `close`.
        """
        if how != socket.SHUT_WR:
            raise OSError(errno.EOPNOTSUPP, "only SHUT_WR ends a stream; close() ends both")
        self.do_handshake()
        with Use(self, self._writing):
            self._end_behind_all(Deadline(self._timeout))

    def close(self) -> None:
        """End the own stream if nothing failed, and the connection; idempotent.

        What was written goes out first; where it cannot, the connection is
        reset, so that the other end never takes a part for the whole.
        """
        if self._closed:
            return
        self._closed = True
        if self._files == 0:
            self._real_close()

    def abort(self) -> None:
        """Reset the connection: the other end reads no end of file, but an error."""
        self._closed = True
        if self._is_copy:
            self._sock.close()
            return
        with self._guard:
            self._aborted = self._torn = True
            self._let_go()

    def detach(self) -> int:
        """Refused: what is left without its keys would be a socket in plain TCP."""
        raise LocalError("a secure socket cannot be detached: its keys are not in the descriptor")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and self._sock.fileno() >= 0:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        fd = self._sock.fileno()
        return f"<{type(self).__name__} fd={fd} {self.state.value} {self.cipher or ''}>"

    # --- for subclasses --------------------------------------------------------------------------

    @abstractmethod
    def _hand_shake(self, deadline: Deadline) -> None:
        """Go to AES_MODE or raise; both directions are the caller's."""

    @abstractmethod
    def _send_some(self, view: memoryview, deadline: Deadline) -> int:
        """Send some of `view`, which is not empty."""

    @abstractmethod
    def _send_all(self, view: memoryview, deadline: Deadline) -> None:
        """Send all of `view`."""

    @abstractmethod
    def _receive(self, view: memoryview, deadline: Deadline) -> int:
        """Receive into `view`, which is not empty; 0 at the end."""

    @abstractmethod
    def _end(self, deadline: Deadline) -> None:
        """End the own stream, if it is not ended yet."""

    @abstractmethod
    def _forget(self) -> bool:
        """Nobody uses it any more: forget the keys.

        Whether it ended well, everything that was written being on its way.
        """

    def _raise_failure(self) -> None:
        """Raise why the connection failed, if it did: as if for the first time."""
        if self.error is not None:
            raise self.error.with_traceback(None)

    def _check_open(self) -> None:
        """Raise EBADF if another thread has closed it: what TCP says then means nothing."""
        if self._torn:
            raise OSError(errno.EBADF, "the socket was closed by another thread")

    @property
    def _is_copy(self) -> bool:
        """Whether this process is a child of the one whose connection it is."""
        return self._owner != os.getpid()

    def _check_owner(self) -> None:
        """Raise `LocalError` in a child: two that go on with one key use its nonces twice."""
        if self._is_copy:
            raise LocalError(
                "a secure connection stays with the process that made it; connect or accept"
                " in the one that is to use it, or fork first"
            )

    def _gone(self) -> bool:
        """Whether a thread that waits need not any more."""
        return self._torn or self.error is not None

    # --- inside -----------------------------------------------------------------------------------

    def _begin_use(self) -> None:
        """The descriptor stays until `_end_use`."""
        with self._guard:
            if self._torn:
                raise OSError(errno.EBADF, "the socket is closed")
            self._users += 1

    def _end_use(self) -> None:
        with self._guard:
            self._users -= 1
            if self._torn or self.error is not None:
                self._let_go()

    def _add_corked(self, corked: bytearray, view: memoryview, deadline: Deadline) -> None:
        corked += view
        if len(corked) >= WIRE_MAX:
            self._corked = bytearray()
            self._send_all(memoryview(corked), deadline)

    def _end_behind_all(self, deadline: Deadline) -> None:
        """End the own stream behind what a cork still holds: a part is never the whole."""
        if self._corked:
            collected, self._corked = self._corked, bytearray()
            self._send_all(memoryview(collected), deadline)
        self._end(deadline)

    def _release_file(self) -> None:
        """A file over the connection was closed."""
        self._files -= 1
        if self._closed and self._files == 0:
            self._real_close()

    def _real_close(self) -> None:
        if self._is_copy:
            self._sock.close()  # and nothing is said: the connection is not its own to end
            return
        if self.state is State.AES_MODE and self._writing.acquire(blocking=False):
            self._closing = True
            patience = _CLOSE_PATIENCE if self._timeout is None else self._timeout
            try:
                self._end_behind_all(Deadline(patience))
            except (OSError, TcpcryptError):
                pass  # what is left behind has the last word (`_forget`)
            finally:
                self._writing.release()
        with self._guard:
            self._torn = True
            self._let_go()

    def _let_go(self) -> None:
        """Keys and descriptor go with the last operation; who still waits is woken."""
        if self._sock.fileno() < 0:
            return
        if self._users:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RD)
        elif self._forget():
            self._sock.close()
        else:
            reset(self._sock)


def _no_flags(flags: int) -> None:
    if flags:
        raise OSError(errno.EOPNOTSUPP, "flags concern plain sockets")
