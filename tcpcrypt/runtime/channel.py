"""A nonblocking TCP socket with an outgoing buffer, the unit of a relay.

From its creation on it is set to end in a reset (SO_LINGER 0), so that a
daemon that is killed leaves resets behind and nothing that looks like a clean
end; only `close_cleanly` takes that back.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tcpcrypt.runtime.loop import ERRORS, READ, WRITE, Loop

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Channel", "ask_whether_alive", "equip"]

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_CLOSE_AT_ONCE: Final = struct.pack("ii", 0, 0)


def equip(sock: socket.socket) -> None:
    """Set what a channel's socket has; what a listener accepts has it of the listener.

    It ends in a reset, does not wait for more to send, and leaves urgent data in their
    place: whoever sets URG on the path would take a byte out of the stream.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def ask_whether_alive(sock: socket.socket) -> None:
    """RFC 8548 section 3.9 allows keepalives to find out that a peer is gone."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


class Channel:
    """One side of a relay.

    Nothing is called before `watch`, or `reading` is switched on.
    `readable` is called when there is something to read and `reading` is on,
    `drained` when what `write` kept has gone out, `failed` once with the error
    when the connection is dead.
    """

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        *,
        readable: Callable[[], None],
        drained: Callable[[], None],
        failed: Callable[[OSError], None],
        equipped: bool = False,
    ) -> None:
        """`equipped`: somebody has seen to what `equip` does."""
        self.sock = sock
        self.pending = 0
        """Bytes written that the kernel has not taken yet."""
        self.ended = False
        """The own stream is over and its FIN given to the kernel."""
        self.closed = False
        self._loop = loop
        self._readable: Callable[[], None] = readable
        self._drained: Callable[[], None] = drained
        self._failed: Callable[[OSError], None] = failed
        self.send_flags = 0
        """For every send(), as MSG_EOR where each write is to be a segment of its own."""
        self._out: deque[tuple[memoryview, bool]] = deque()
        self._reading = False
        self._ending = False
        self._lent = False
        if sock.gettimeout() != 0.0:
            sock.setblocking(False)
        if not equipped:
            equip(sock)

    @property
    def reading(self) -> bool:
        return self._reading

    @reading.setter
    def reading(self, wanted: bool) -> None:
        if wanted != self._reading:
            self._reading = wanted
            self.watch()

    def write(self, data: ReadableBuffer, *, borrowed: bool = False, last: bool = False) -> None:
        """Send `data` by one send() of its own; what does not fit is kept.

        `borrowed`: the buffer will be used again, so that what is kept is copied.
        `last`: `end` follows, so that the last segment may wait for its FIN.
        """
        view = memoryview(data).cast("B")
        if self.closed or not view:
            return
        if not self._out:
            view = self._send(view, last)
        if view:
            self._out.append((memoryview(bytes(view)) if borrowed else view, last))
            self.pending += len(view)
            self.watch()

    def end(self) -> None:
        """Send FIN once everything has gone out.  Idempotent."""
        self._ending = True
        self._end_if_drained()

    def reset(self) -> None:
        """Close at once, with RST.  Idempotent."""
        self._close()

    def close_cleanly(self) -> None:
        """Close what has ended in both directions.  Idempotent."""
        if not self.closed:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _CLOSE_AT_ONCE)
            self._close()

    def lend(self) -> None:
        """Leave the socket alone, for another moves its bytes; nothing is pending."""
        self._lent = True
        self._loop.forget(self.sock.fileno())

    def take_back(self, unsent: bytes) -> None:
        """Go on, first with what the other could not send."""
        self._lent = False
        self.watch()
        self.write(unsent)

    def _close(self) -> None:
        if not self.closed:
            self.closed = True
            self._loop.forget(self.sock.fileno())
            self._out.clear()
            self.pending = 0
            self.sock.close()
            # What refers to its owner goes, so that both are freed at once and
            # not by the garbage collector.
            self._readable = self._drained = self._failed = _nothing

    def watch(self) -> None:
        """Wait for what there is to be told, an error at least."""
        if self.closed or self._lent:
            return
        mask = (READ if self._reading else 0) | (WRITE if self._out else 0)
        self._loop.watch(self.sock.fileno(), mask or (0 if self.ended else ERRORS), self._on_events)

    def _on_events(self, events: int) -> None:
        if events & WRITE and self._out:
            self._flush()
        # What was written may have been all that kept the socket here.
        if events & READ and not self.closed and not self._lent:
            if self._reading:
                self._readable()
            else:
                self._on_error()

    def _on_error(self) -> None:
        number = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._fail(OSError(number, errno.errorcode.get(number, "")))
        else:
            # A hang-up of both directions: nothing to do before the rest is read.
            self._loop.watch(self.sock.fileno(), 0, self._on_events)

    def _flush(self) -> None:
        while self._out and not self.closed:
            view, last = self._out[0]
            rest = self._send(view, last)
            if self.closed:
                return
            self.pending -= len(view) - len(rest)
            if rest:
                self._out[0] = (rest, last)
                return
            self._out.popleft()
        self.watch()
        self._end_if_drained()
        self._drained()

    def _send(self, view: memoryview, last: bool) -> memoryview:
        """What the kernel did not take."""
        try:
            if last:
                # MSG_MORE would not do: the next ACK that arrives pushes the segment out.
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
            return view[self.sock.send(view, self.send_flags) :]
        except BlockingIOError:
            return view
        except OSError as error:
            self._fail(error)
            return view[len(view) :]

    def _end_if_drained(self) -> None:
        if self._ending and not self._out and not self.ended and not self.closed:
            self.ended = True
            try:
                self.sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                self._fail(error)
                return
            self.watch()

    def _fail(self, error: OSError) -> None:
        if not self.closed:
            failed = self._failed
            self._close()
            failed(error)


def _nothing(*_arguments: object) -> None:
    """What a closed channel calls."""
