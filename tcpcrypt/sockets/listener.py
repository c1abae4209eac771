"""Connections that others open: their handshakes run side by side, within `accept`.

`accept` returns a connection whose handshake is over, well or not: using one in
FAIL raises why it failed.  Those that are silent meanwhile keep nobody waiting;
each is over at its deadline, and at most `HANDSHAKES_MAX` run at once, or as many
as this host has descriptors for, of which the oldest gives way.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any, Final, Self

from tcpcrypt.sockets.inband import InBandSocket
from tcpcrypt.sockets.secure import SecureSocket, prepare, reset
from tcpcrypt.sockets.waiting import READ, WRITE, Deadline

__all__ = ["HANDSHAKES_MAX", "SecureListener"]

HANDSHAKES_MAX: Final = 1024
"""Handshakes of one listener that run at once."""
_ACCEPTS: Final = 64
"""TCP connections that are accepted at a stretch, before those that wait go on."""
_SCARCE: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Secured = tuple[SecureSocket, Any]
Secure = Callable[[socket.socket, Any], SecureSocket]
"""Makes what serves an accepted TCP connection with that address."""


class SecureListener:
    """A listening socket; made by `create_server`.

    `fileno` is readable when `accept` has something to do, which need not be a
    connection that is ready: with a timeout of 0 it may raise `BlockingIOError`.
    """

    def __init__(self, sock: socket.socket, secure: Secure) -> None:
        sock.setblocking(False)
        # Connections have it from the first byte on, which may come before `accept`.
        prepare(sock)
        self._sock = sock
        self._secure = secure
        self._timeout: float | None = None
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        """Nobody has come yet."""
        self._owner = os.getpid()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._sock, selectors.EVENT_READ)
        self._bell = socket.socketpair()
        """Readable while there is a connection that nobody has taken, so that `fileno` is."""
        self._rung = False
        self._selector.register(self._bell[0], selectors.EVENT_READ)
        self._running: OrderedDict[InBandSocket, Any] = OrderedDict()
        """By age."""
        self._ready: deque[Secured] = deque()
        self._one = threading.Lock()

    def _mind_fork(self) -> None:
        """In a child: the parent goes on with what it has, and each has its own from now on."""
        if self._owner == os.getpid() or self._closed:
            return
        for secured in [*self._running, *(secured for secured, _address in self._ready)]:
            secured.close()
        self._selector.close()
        for sock in self._bell:
            sock.close()
        self._begin()

    def accept(self) -> Secured:
        """The next connection whose handshake is over, and the address of its peer.

        Raises `TimeoutError` and `BlockingIOError` by `settimeout`, `LocalError`
        if the keys of this host cannot be read, `OSError` of the listening socket.
        """
        deadline = Deadline(self._timeout)
        self._mind_fork()
        with self._turn(deadline):
            polled = False
            while not self._ready:
                if self._closed:
                    raise OSError(errno.EBADF, "the listener is closed")
                try:
                    left = deadline.left(self._patience())
                except (BlockingIOError, TimeoutError):
                    if polled:
                        raise
                    left = 0
                polled = True
                self._go_on(left)
            taken = self._ready.popleft()
            self._ring()
            return taken

    def close(self) -> None:
        """Stop listening; handshakes that run are reset.  Idempotent."""
        if self._closed:
            return
        self._mind_fork()
        self._closed = True
        # Wakes who waits in `accept`; `shutdown` would end it for other processes, too.
        with contextlib.suppress(OSError):
            self._bell[1].send(b".")
        with self._one:
            for waiting in [*self._running, *(secured for secured, _address in self._ready)]:
                waiting.abort()
            self._running.clear()
            self._ready.clear()
            self._selector.close()
            for sock in (self._sock, *self._bell):
                sock.close()

    def fileno(self) -> int:
        """For `select` and `poll`; -1 once closed."""
        if self._closed:
            return -1
        self._mind_fork()
        fileno = getattr(self._selector, "fileno", self._sock.fileno)
        return int(fileno())

    def getsockname(self) -> Any:
        """As of `socket`."""
        return self._sock.getsockname()

    @property
    def family(self) -> socket.AddressFamily:
        """As of `socket`."""
        return socket.AddressFamily(self._sock.family)

    @property
    def type(self) -> socket.SocketKind:
        """As of `socket`."""
        return socket.SocketKind(self._sock.type)

    def settimeout(self, timeout: float | None) -> None:
        """Seconds that `accept` waits; None: any number; 0: none."""
        if timeout is not None and timeout < 0:
            raise ValueError("Timeout value out of range")
        self._timeout = timeout

    def gettimeout(self) -> float | None:
        """As of `socket`."""
        return self._timeout

    def setblocking(self, flag: bool) -> None:
        """As of `socket`."""
        self._timeout = None if flag else 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<SecureListener fd={self._sock.fileno()} handshakes={len(self._running)}>"

    # --- inside ------------------------------------------------------------------------

    @contextlib.contextmanager
    def _turn(self, deadline: Deadline) -> Iterator[None]:
        """One thread at a time, of those that are in `accept`."""
        if not self._one.acquire(blocking=False):
            left = deadline.left()
            if not self._one.acquire(timeout=-1 if left is None else left):
                raise TimeoutError("timed out")
        try:
            yield
        finally:
            self._one.release()

    def _ring(self) -> None:
        if self._ready and not self._rung:
            self._bell[1].send(b".")
        elif not self._ready and self._rung:
            self._bell[0].recv(1)
        self._rung = bool(self._ready)

    def _patience(self) -> float:
        """Seconds to the first deadline; not so long that `close` is missed."""
        first = next(iter(self._running), None)
        left = 1.0 if first is None else first.conversation.seconds_left
        return min(max(left, 0.0) + 0.001, 1.0)

    def _go_on(self, left: float | None) -> None:
        """Whatever can be done for any connection, after waiting for something."""
        for key, _events in self._selector.select(left):
            if key.fileobj is self._sock:
                self._take_in()
            elif isinstance(key.fileobj, InBandSocket) and key.fileobj in self._running:
                self._advance(key.fileobj)  # it has not given way to one of this turn
        while (first := next(iter(self._running), None)) is not None:
            if first.conversation.seconds_left > 0:
                break
            self._advance(first)

    def _take_in(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                sock, address = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                self._make_room(error)
                continue
            try:
                secured = self._secure(sock, address)
            except BaseException as error:
                reset(sock)
                self._make_room(error)
                continue
            if not isinstance(secured, InBandSocket):
                self._ready.append((secured, address))
                continue
            if len(self._running) >= HANDSHAKES_MAX:
                self._give_way("too many others have come since")
            self._running[secured] = address
            self._selector.register(secured, selectors.EVENT_READ)
            self._advance(secured)
            if len(self._running) <= 1:
                return  # nobody else was here: if another has come meanwhile, that is told anew

    def _make_room(self, error: BaseException) -> None:
        """Whoever keeps silent must not keep others from being heard, for want of descriptors.

        Raises whatever else went wrong, for `accept` to tell.
        """
        cause = error if isinstance(error, OSError) else error.__cause__
        if not (isinstance(cause, OSError) and cause.errno in _SCARCE and self._running):
            raise error
        self._give_way("this host has no room for more connections")

    def _give_way(self, why: str) -> None:
        """The handshake that has run longest is over."""
        oldest = next(iter(self._running))
        oldest.conversation.expire(why)
        self._advance(oldest)

    def _advance(self, secured: InBandSocket) -> None:
        wanted = secured.advance()
        if wanted:
            events = (selectors.EVENT_READ if wanted & READ else 0) | (
                selectors.EVENT_WRITE if wanted & WRITE else 0
            )
            if self._selector.get_key(secured).events != events:
                self._selector.modify(secured, events)
            return
        self._selector.unregister(secured)
        address = self._running.pop(secured)
        secured.settle()
        self._ready.append((secured, address))
