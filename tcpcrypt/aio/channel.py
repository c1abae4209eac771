"""One connection between a plain transport and an application's protocol.

`Channel` is the protocol of the plain transport.  It drives a `Conversation`,
which decides everything; the application's protocol is made, and hears of the
connection, when AES_MODE is reached, and otherwise never.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, cast

from tcpcrypt.aio.moving import BULK, SCRATCH, Bulk, deliver
from tcpcrypt.aio.transport import SecureTransport
from tcpcrypt.core.events import DataReceived, StreamEnded
from tcpcrypt.errors import LocalError
from tcpcrypt.sockets.conversation import Conversation, Failed
from tcpcrypt.sockets.secure import prepare
from tcpcrypt.sockets.state import State, StateChanged

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from tcpcrypt.aio.kernel import KernelConversation

__all__ = ["Channel", "Converse", "OnState", "ProtocolFactory"]

ProtocolFactory = Callable[[], asyncio.BaseProtocol]
Converse = Callable[
    [asyncio.Transport], "Conversation | Awaitable[Conversation | KernelConversation]"
]
"""Makes the conversation of a connection, once it is known with whom."""
OnState = Callable[[StateChanged], object]

_ANSWERS_MAX: Final = 1 << 20
"""Bytes that a peer may make this host say, by new keys that have to be answered (RFC 8548
section 3.8), while it reads none of it; from there on it is not heard, either."""
_RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)


class Channel(asyncio.BufferedProtocol):
    """The protocol of a plain transport, until that is lost.

    `converse` makes the conversation once the peer's address is known.
    `settled` is called once: in AES_MODE, after the application's
    `connection_made`, or in FAIL, or when the connection is given up (`error`).
    """

    __slots__ = (
        "_answers",
        "_bulk",
        "_choked",
        "_converse",
        "_factory",
        "_full",
        "_loop",
        "_on_state",
        "_owner",
        "_sent",
        "_settled",
        "_silent",
        "_task",
        "_timer",
        "_transport",
        "_turning",
        "_unsent",
        "application",
        "begun",
        "conversation",
        "error",
        "over",
        "paused",
        "raw",
    )

    application: asyncio.BaseProtocol
    """The application's protocol, from AES_MODE on."""
    conversation: Conversation | KernelConversation
    raw: asyncio.Transport
    """The plain transport."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        converse: Converse,
        factory: ProtocolFactory,
        settled: Callable[[Channel], None],
        on_state: OnState | None = None,
    ) -> None:
        self._loop = loop
        self._converse = converse
        self._factory = factory
        self._settled: Callable[[Channel], None] | None = settled
        self._on_state = on_state
        self._transport: SecureTransport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._silent = False
        self._bulk: Bulk | None = None
        self._sent = 0
        self._full = self._choked = False
        self._answers = 0
        self._turning = False
        self._owner = os.getpid()
        self._unsent = False
        """The kernel has no room for what waits; once the own stream has ended, for any of it."""
        self.begun = time.monotonic()
        """When the connection came, on the monotonic clock."""
        self.paused = False
        """Whether the application has paused reading."""
        self.over = False
        """Whether nothing more can be sent: the connection is reset, closed or lost."""
        self.error: BaseException | None = None
        """Why it is over, if not by an authenticated end."""

    @property
    def transport(self) -> SecureTransport:
        """What the application has; only from AES_MODE on."""
        assert self._transport is not None
        return self._transport

    @property
    def connected(self) -> bool:
        """Whether there ever was a plain transport."""
        return hasattr(self, "raw")

    @property
    def _is_copy(self) -> bool:
        """Whether this process is a child of the one whose connection it is."""
        return self._owner != os.getpid()

    # --- from the plain transport ------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP is connected."""
        self.raw = cast("asyncio.Transport", transport)
        if self.over:  # given up in the meantime
            self.raw.abort()
            return
        # asyncio leaves it out for what `socket.create_server` has accepted.
        prepare(self.raw.get_extra_info("socket"))
        try:
            made = self._converse(self.raw)
        except Exception as error:
            self.give_up(error)
            return
        if isinstance(made, Conversation):
            self._begin(made)
        else:
            self._task = self._loop.create_task(self._begin_later(made))

    def _begin(self, conversation: Conversation | KernelConversation) -> None:
        self.conversation = conversation
        self._watch_deadline()
        self._turn()

    async def _begin_later(self, making: Awaitable[Conversation | KernelConversation]) -> None:
        # In the turn behind that in which the loop begins to read, and before it does.
        if not self.over:
            self.raw.pause_reading()
        try:
            conversation = await making
        except Exception as error:
            self.give_up(error)
            return
        if not self.over:
            self._begin(conversation)
        self._read_on()

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where the next bytes of the peer go."""
        return SCRATCH.view

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes of the peer came."""
        if self.over:
            return
        if self._bulk is not None:
            data = self._bulk.receive(nbytes, self.application)
            self._answer()
            if data:
                self._deliver(data)
        else:
            self.conversation.receive_data(SCRATCH.view[:nbytes])
            self._answer()
            if nbytes >= BULK:
                self._prepare_for_bulk()
        self._turn()

    def eof_received(self) -> bool:
        """The peer's TCP FIN came; it means nothing unless FINp came before."""
        if self.over:
            return True
        conversation = self.conversation
        if isinstance(conversation, Conversation):
            (self._bulk or conversation).receive_eof()
            self._turn()
        else:
            self._task = self._loop.create_task(self._check_end(conversation))
        return True  # the own direction is ended by itself

    async def _check_end(self, conversation: KernelConversation) -> None:
        await self._loop.run_in_executor(None, conversation.check_end)
        conversation.end_checked()
        self._turn()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The plain transport is closed."""
        if self.error is None and (exc is not None or not self.over):
            self._lost(exc)
        self._let_go()
        self._settle()
        if self._transport is not None:
            self._transport.lost()
            self.guarded(lambda: self.application.connection_lost(self._reported), "lost")

    def pause_writing(self) -> None:
        """The plain transport is full."""
        self._unsent = True
        self._full = True
        if self._transport is not None:
            self._transport.fill()

    def resume_writing(self) -> None:
        """The plain transport has room again."""
        self._unsent = False
        self._full, self._answers = False, 0
        if self._choked:
            self._choked = False
            self._read_on()
        # Not from within: asyncio's transport would close twice what is closed in here.
        self._loop.call_soon(self._drained)

    def _drained(self) -> None:
        if self._transport is not None and not self.over:
            self._transport.drained()

    # --- from the application's transport ------------------------------------------------

    def send(self, data: memoryview) -> None:
        """Seal and send; `data` may change afterwards.

        Raises `LocalError` in a child: two that go on with one key use its nonces twice.
        """
        if self._is_copy:
            raise LocalError("a secure connection stays with the process that made it")
        self._sent += len(data)
        if self._sent >= BULK and self._bulk is None:
            self._prepare_for_bulk()
        if self._bulk is not None:
            self._bulk.send(data)
        else:
            self.conversation.send(data)
            self._flush()

    def finish(self) -> None:
        """End the own stream by FINp."""
        if self._is_copy:
            return
        (self._bulk or self.conversation).finish()
        self._flush()
        # Nothing follows: whether it has all left is now what is asked.
        self.raw.set_write_buffer_limits(0)

    def finish_tcp(self) -> None:
        """TCP FIN, behind FINp."""
        if not (self.over or self._is_copy) and self.raw.can_write_eof():
            with contextlib.suppress(OSError):  # what is wrong, `connection_lost` will tell
                self.raw.write_eof()

    def close(self) -> None:
        """The own stream is ended: close, once the kernel has everything."""
        if not self.over:
            self.over = True
            if not self._is_copy:
                self.raw.close()

    def abort(self) -> None:
        """Reset the connection; nothing, once its loop is closed."""
        if not (self.over or self._loop.is_closed()):
            self._reset()

    def pause(self) -> None:
        self.paused = True
        self.raw.pause_reading()

    def resume(self) -> None:
        """The application takes more: first of what had arrived already."""
        if self.paused:
            self.paused = False
            # Not from within this call, which no protocol expects.
            self._loop.call_soon(self._resumed)

    def _resumed(self) -> None:
        if not self.over:
            self._turn()
        # Not before: what comes now stands behind all that.
        self._read_on()

    def _read_on(self) -> None:
        if not (self.over or self.paused or self._silent or self._choked):
            self.raw.resume_reading()

    def silence(self) -> None:
        """The application wants to hear nothing but the end."""
        self._silent = True
        if not (self.over or self._is_copy):
            self.raw.pause_reading()

    def take_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.application = protocol

    def give_up(self, error: BaseException) -> None:
        """Reset a connection that is not wanted any more; `settled` is called."""
        if not self.over:
            self._give_up(error)
        self._settle()

    def guarded(self, callback: Callable[[], object], name: str) -> None:
        """Call the application.  Where it raises, the connection is reset, as an
        exception must not look to the peer like an end that was meant.
        """
        try:
            callback()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._loop.call_exception_handler(
                {
                    "message": f"Fatal error: protocol.{name}() call failed.",
                    "exception": error,
                    "transport": self._transport,
                    "protocol": self.application,
                }
            )
            if not self.over:
                self._give_up(error)

    # --- inside ------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Tell what happened and send what is due."""
        if self._turning or self.over:
            return  # the application called from within; the outer turn goes on
        self._turning = True
        conversation = self.conversation
        try:
            while not (self.paused or self.over):
                event = conversation.next_event()
                if event is None:
                    break
                if isinstance(event, DataReceived):
                    self._deliver(event.data)
                elif isinstance(event, StateChanged):
                    self._state_changed(event)
                elif isinstance(event, StreamEnded):
                    self._deliver_end()
                else:
                    self._flush()  # what lets the peer say why, if there is such a thing
                    self._give_up(event.error)
                    self._settle()
        finally:
            self._turning = False
        self._flush()

    def _flush(self) -> int:
        """Write what the conversation wants written; how many bytes."""
        if self.over:
            return 0
        out = self.conversation.data_to_send() if self._bulk is None else self._bulk.waiting()
        if not out:
            return 0
        # As a rule little, and one system call for all of it.
        data = out[0] if len(out) == 1 else b"".join(out)
        self.raw.write(data)
        return len(data)

    def _answer(self) -> None:
        """Say what is said to the peer alone.  One that does not read it is to say no more."""
        self._answers += self._flush()
        if not self._full:
            self._answers = 0
        elif self._answers > _ANSWERS_MAX and not self._choked:
            self._choked = True
            self.raw.pause_reading()

    def _prepare_for_bulk(self) -> None:
        conversation = self.conversation
        if isinstance(conversation, Conversation) and conversation.state is State.AES_MODE:
            self._bulk = Bulk(conversation, self.raw, self._loop)
            self._flush()

    def _lost(self, exc: BaseException | None) -> None:
        """The plain transport ended by itself.  A reset is never an end of the stream."""
        if not hasattr(self, "conversation"):
            self.error = exc or ConnectionAbortedError("connection was given up")
            return
        (self._bulk or self.conversation).receive_reset(unsent=self._unsent)
        while (event := self.conversation.next_event()) is not None:
            if isinstance(event, Failed):
                self.error = event.error
                self.error.__cause__ = exc
            elif isinstance(event, StateChanged) and self._on_state is not None:
                self._on_state(event)

    def _state_changed(self, event: StateChanged) -> None:
        if self._on_state is not None:
            self._on_state(event)
        if event.new is State.AES_MODE:
            self._stop_watching()
            self._transport = SecureTransport(self)
            self.take_protocol(self._factory())
            self.guarded(lambda: self.application.connection_made(self.transport), "made")
            self._settle()

    def _deliver(self, data: ReadableBuffer) -> None:
        if not self._silent:
            self.guarded(lambda: deliver(self.application, data), "data_received")

    def _deliver_end(self) -> None:
        if not self._silent:
            self.guarded(self._tell_end, "eof_received")

    def _tell_end(self) -> None:
        if not cast("asyncio.Protocol", self.application).eof_received():
            self.transport.close()

    def _give_up(self, error: BaseException) -> None:
        self.error = error
        self._reset()

    def _reset(self) -> None:
        """RST: whatever the peer sees, it is no end of a stream."""
        self.over = True
        self._stop_watching()
        if self.connected and not self._is_copy:
            sock = self.raw.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            self.raw.abort()

    @property
    def _reported(self) -> Exception | None:
        return cast("Exception | None", self.error)

    def _settle(self) -> None:
        settled, self._settled = self._settled, None
        if settled is not None:
            settled(self)

    def _let_go(self) -> None:
        self.over = True
        self._stop_watching()
        if hasattr(self, "conversation"):
            (self._bulk or self.conversation).close()

    # --- the deadline of the handshake -------------------------------------------------

    def _watch_deadline(self) -> None:
        deadline = self.conversation.deadline
        if deadline is not None and not self.over:
            self._timer = self._loop.call_later(
                max(deadline - time.monotonic(), 0), self._deadline_passed
            )

    def _deadline_passed(self) -> None:
        self._timer = None
        if not self.over:
            self.conversation.handle_timeout()
            self._turn()
            self._watch_deadline()  # clocks of event loops are coarse: it may not have passed yet

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
