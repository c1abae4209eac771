"""What an asyncio protocol is given instead of a socket's transport.

`SecureTransport` is an `asyncio.Transport` like any other, and exists only in
AES_MODE: before, there is no transport that a byte could be written to.

    write()  ->  [held]  ->  sealed, at most PIECE at a time  ->  plain transport
                   ^ while corked, or while the plain transport is full
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from tcpcrypt.errors import TcpcryptError
from tcpcrypt.sockets import options
from tcpcrypt.sockets.conversation import Conversation
from tcpcrypt.sockets.state import Failure, State

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from tcpcrypt.aio.channel import Channel

__all__ = ["PIECE", "SecureTransport"]

PIECE: Final = 256 << 10
"""Data bytes sealed at a stretch: more would wait sealed, where it costs memory twice."""

_HIGH: Final = 64 << 10
"""Bytes waiting above which the application is told to pause, as asyncio has it."""


class SecureTransport(asyncio.Transport):
    """One connection in AES_MODE, for an asyncio protocol."""

    __slots__ = (
        "_channel",
        "_closing",
        "_corked",
        "_eof",
        "_finished",
        "_full",
        "_held",
        "_held_size",
        "_high",
        "_low",
        "_paused_writer",
    )

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self._held: deque[memoryview] = deque()
        self._held_size = 0
        self._corked = 0
        self._full = False
        self._eof = False
        self._finished = False
        self._closing = False
        self._paused_writer = False
        self.set_write_buffer_limits()

    # --- what is known of the connection -------------------------------------------

    @property
    def state(self) -> State:
        """AES_MODE or, once something went wrong, FAIL."""
        return self._channel.conversation.state

    @property
    def session_id(self) -> bytes | None:
        """The session ID, 33 bytes (RFC 8548 section 3.4)."""
        return self._channel.conversation.session_id

    @property
    def peer_identity(self) -> str | None:
        """The fingerprint that the peer has proved; None if it showed none."""
        return self._channel.conversation.peer_identity

    @property
    def cipher(self) -> str | None:
        """The AEAD in use."""
        return self._channel.conversation.cipher

    @property
    def resumed(self) -> bool | None:
        """Whether the session continues an earlier one (RFC 8548 section 3.5)."""
        return self._channel.conversation.resumed

    @property
    def failure(self) -> Failure | None:
        """Why the connection failed, if it did."""
        return self._channel.conversation.failure

    @property
    def error(self) -> TcpcryptError | None:
        """The exception behind `failure`."""
        return self._channel.conversation.error

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`state`, `session_id`, `peer_identity`, `cipher`, `resumed`, `failure`, and what
        the plain transport knows (`peername`, `sockname`, `socket`).
        """
        if name in ("state", "session_id", "peer_identity", "cipher", "resumed", "failure"):
            return getattr(self, name)
        return self._channel.raw.get_extra_info(name, default)

    def getsockopt(self, level: int, option: int | str) -> int | bytes:
        """An option of the TCP connection, or one of TCP-ENO by its name.

        As of a blocking socket (`tcpcrypt.sockets.options`), and raises `OSError`
        as there; EOPNOTSUPP for one of TCP-ENO that the daemon would have to be
        asked for, which takes a while: `tcpcrypt.daemon.sockopt` does, in a thread.
        """
        if isinstance(option, str):
            return options.read(self._conversation(option), option)
        found: int = self.get_extra_info("socket").getsockopt(level, option)
        return found

    def setsockopt(self, level: int, option: int | str, value: int | bytes) -> None:
        """As `getsockopt`; what there is to set of TCP-ENO says `tcpcrypt.sockets.options`."""
        if isinstance(option, str):
            options.write(self._conversation(option), option, value)
        else:
            self.get_extra_info("socket").setsockopt(level, option, value)

    def _conversation(self, option: str) -> Conversation:
        conversation = self._channel.conversation
        if isinstance(conversation, Conversation):
            return conversation
        raise OSError(errno.EOPNOTSUPP, f"{option}: ask the daemon, by tcpcrypt.daemon.sockopt")

    def __repr__(self) -> str:
        peer = self.get_extra_info("peername")
        return f"<SecureTransport {self.state.name} {self.cipher} peer={peer}>"

    # --- reading --------------------------------------------------------------------

    def is_reading(self) -> bool:
        """Whether received data goes to the protocol."""
        return not self._closing and not self._channel.paused

    def pause_reading(self) -> None:
        """Receive nothing until `resume_reading`; the peer's sending comes to a stop."""
        if not self._closing:
            self._channel.pause()

    def resume_reading(self) -> None:
        """Go on after `pause_reading`."""
        if not self._closing:
            self._channel.resume()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give the connection to another protocol."""
        self._channel.take_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol that the connection belongs to."""
        return self._channel.application

    # --- writing --------------------------------------------------------------------

    def write(self, data: ReadableBuffer) -> None:
        """Seal `data` and send it at once, unless corked; what does not go yet is kept.

        Raises `RuntimeError` after `write_eof`.
        """
        if self._closing:
            return
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        view = memoryview(data).cast("B")
        if not (self._held or self._corked or self._full):
            view = self._seal(view)
        if view:
            # The caller may change his buffer as soon as this returns.
            self._held.append(view if isinstance(data, bytes) else memoryview(bytes(view)))
            self._held_size += len(view)
            if self._corked and self._held_size >= PIECE and not self._full:
                self._pump()
        self._mind_writer()

    def writelines(self, list_of_data: Iterable[ReadableBuffer]) -> None:
        """Send all of it, in as few frames as `write` of it all."""
        with self.cork():
            for data in list_of_data:
                self.write(data)

    @contextlib.contextmanager
    def cork(self) -> Iterator[None]:
        """Collect what is written within, and send it in as few frames as it takes."""
        self._corked += 1
        try:
            yield
        finally:
            self._corked -= 1
            self._go_on()

    def write_eof(self) -> None:
        """End the own stream, authenticated by FINp (RFC 8548 section 3.7); reading goes on."""
        if not self._eof and not self._closing:
            self._eof = True
            self._go_on()

    def can_write_eof(self) -> bool:
        """Always: FINp ends one direction."""
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """When to pause and to resume the protocol's writing; bytes.

        Raises `ValueError` unless 0 <= low <= high.
        """
        if high is None:
            high = _HIGH if low is None else 4 * low
        if low is None:
            low = high // 4
        if not 0 <= low <= high:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low
        # What pauses the program is undone by `drained` alone: the plain transport
        # has to be full, too, when it is enough to pause it.
        self._channel.raw.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The limits as `(low, high)`."""
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._held_size + self._channel.raw.get_write_buffer_size()

    # --- the end --------------------------------------------------------------------

    def is_closing(self) -> bool:
        """Whether the connection is closed or about to be."""
        return self._closing

    def close(self) -> None:
        """Send what waits, end the own stream by FINp, then close.

        The protocol receives nothing any more but `connection_lost`.
        """
        if self._closing:
            return
        self._closing = self._eof = True
        self._channel.silence()
        self._go_on()

    def abort(self) -> None:
        """Reset the connection at once; the peer sees `ResetError`, never an end."""
        self._closing = self._eof = True
        self._forget()
        self._channel.abort()

    # --- for the channel ------------------------------------------------------------

    def fill(self) -> None:
        """The plain transport takes nothing more for now."""
        self._full = True

    def drained(self) -> None:
        """The plain transport takes more again."""
        self._full = False
        self._go_on()

    def lost(self) -> None:
        """There is no connection any more."""
        self._closing = self._eof = True
        self._forget()

    # --- inside ---------------------------------------------------------------------

    def _go_on(self) -> None:
        """Send what waits and, behind it, what ends the stream."""
        if not self._full and not self._corked:
            self._pump()
        self._mind_writer()
        if not self._eof or self._held or self._channel.over:
            return
        if not self._finished:
            self._finished = True
            self._channel.finish()
            if not self._closing:
                self._channel.finish_tcp()
        if self._closing:
            self._channel.close()

    def _pump(self) -> None:
        while self._held and not self._full:
            view = self._gather()
            rest = self._seal(view)
            if rest:
                self._held.appendleft(rest)
                self._held_size += len(rest)

    def _gather(self) -> memoryview:
        """The next waiting bytes; small pieces become one."""
        held, size, count = self._held, 0, 0
        for view in held:
            if count and size + len(view) > PIECE:
                break
            size, count = size + len(view), count + 1
        self._held_size -= size
        if count == 1:
            return held.popleft()
        return memoryview(b"".join([held.popleft() for _ in range(count)]))

    def _seal(self, view: memoryview) -> memoryview:
        """Seal and send until the plain transport is full; what is left of `view`."""
        channel = self._channel
        while view and not self._full and not channel.over:
            channel.send(view[:PIECE])
            view = view[PIECE:]
        return view if not channel.over else view[:0]

    def _forget(self) -> None:
        self._held.clear()
        self._held_size = 0

    def _mind_writer(self) -> None:
        """Tell the protocol to pause or to resume."""
        size, protocol = self.get_write_buffer_size(), self._channel.application
        if not self._paused_writer and size > self._high:
            self._paused_writer = True
            self._channel.guarded(protocol.pause_writing, "pause_writing")
        elif self._paused_writer and not (self._full or self._held):
            self._paused_writer = False
            self._channel.guarded(protocol.resume_writing, "resume_writing")
