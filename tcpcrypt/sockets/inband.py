"""A secure connection that needs nobody but its two programs."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import deque
from typing import Final

from tcpcrypt.core.events import DataReceived, StreamEnded
from tcpcrypt.crypto.groups import group
from tcpcrypt.errors import LocalError, TcpcryptError
from tcpcrypt.registry import Tep
from tcpcrypt.sockets import options
from tcpcrypt.sockets.buffers import BUFFERS, FRAME_MAX, WIRE_MAX
from tcpcrypt.sockets.conversation import Conversation
from tcpcrypt.sockets.secure import OnState, SecureSocket, Use
from tcpcrypt.sockets.state import State, StateChanged
from tcpcrypt.sockets.streams import Streams
from tcpcrypt.sockets.waiting import READ, WRITE, Deadline, wait

__all__ = ["InBandSocket"]

_HANDSHAKE_READ: Final = 8192
_KEYS: Final = group(Tep.ECDHE_CURVE25519)
"""The group of every exchange that is offered within a stream."""
_KEPT_MAX: Final = 16 << 10
"""Data bytes that wait for the program in memory of their own size."""
_VECTOR_MAX: Final = 64
"""Buffers of one system call."""
_ANSWERS_MAX: Final = 4096
"""Buffers waiting for the other end at which nothing more is read of it.  Programs leave a
few; a peer that rekeys without end, and does not read the answers, leaves one each time."""


class InBandSocket(SecureSocket):
    """Negotiation, key exchange and frames within the streams of a plain TCP connection."""

    transport = "inband"

    def __init__(
        self, sock: socket.socket, conversation: Conversation, on_state: OnState | None = None
    ) -> None:
        super().__init__(sock, on_state)
        sock.setblocking(False)
        self._conversation = conversation
        self._streams: Streams | None = None
        self._plain: deque[memoryview] = deque()
        """What the other end sent, for the program."""
        self._borrowed: bytearray | None = None
        """The buffer in which the first of it lies, if it is one of the stock."""
        self._ended = False
        self._out: deque[memoryview] = deque()
        """What the kernel had no room for."""
        self._out_buffer: bytearray | None = None
        self._fin_sent = False
        self._asked = False
        """Something was sent since the last look at what came: as a rule that is awaited."""

    # --- what is known -------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._conversation.state

    @property
    def error(self) -> TcpcryptError | None:
        return self._conversation.error

    @property
    def session_id(self) -> bytes | None:
        return self._conversation.session_id

    @property
    def peer_identity(self) -> str | None:
        return self._conversation.peer_identity

    @property
    def cipher(self) -> str | None:
        return self._conversation.cipher

    @property
    def resumed(self) -> bool | None:
        return self._conversation.resumed

    @property
    def conversation(self) -> Conversation:
        """What was negotiated, for those who ask for more than the above."""
        return self._conversation

    def _get_option(self, name: str) -> options.Value:
        return options.read(self._conversation, name)

    def _set_option(self, name: str, value: options.Value) -> None:
        options.write(self._conversation, name, value)

    # --- the handshake ----------------------------------------------------------------------

    def _hand_shake(self, deadline: Deadline) -> None:
        while (wanted := self.advance()) and not self._torn:
            left = Deadline(self._conversation_left())
            deadline.left()
            try:
                wait(self._sock, wanted, left, self._gone)
            except TimeoutError:
                self._conversation.handle_timeout()
        self._raise_failure()

    def _conversation_left(self) -> float:
        """Seconds to the deadline of the handshake; a little, where there are none."""
        return max(self._conversation.seconds_left, 0.001)

    def advance(self) -> int:
        """Go on with the handshake as far as possible without waiting.

        Returns what is to be waited for (`READ`, `WRITE`); 0: AES_MODE or FAIL.
        For who runs many at once (`tcpcrypt.sockets.listener`).
        """
        conversation = self._conversation
        while True:
            conversation.handle_timeout()
            self._out.extend(map(memoryview, conversation.data_to_send()))
            self._tell()
            written = True
            if self._out:
                with contextlib.suppress(OSError):  # reading finds out what happened
                    written = self._write_out()
            if conversation.state is State.FAIL:
                return 0
            if conversation.state is State.AES_MODE:
                if self._streams is None:
                    self._streams = Streams(conversation)
                    self._shaken = True
                return 0
            if not written:
                return WRITE
            if self._asked:
                self._asked = False
                self._use_idle_time()
                return READ
            try:
                data = self._sock.recv(_HANDSHAKE_READ)
            except (BlockingIOError, InterruptedError):
                return READ
            except OSError:
                conversation.receive_reset()
                continue
            if data:
                conversation.receive_data(data)
            else:
                conversation.receive_eof()

    def _use_idle_time(self) -> None:
        """The other end is at work: do what need not be done while it waits."""
        self._conversation.use_idle_time()
        if not _KEYS.ready:
            _KEYS.prepare()  # for the connection after this one

    def settle(self) -> None:
        """For who called `advance`: a connection that failed lets go of its descriptor."""
        with self._guard:
            if self.error is not None:
                self._let_go()

    # --- sending --------------------------------------------------------------------------------

    def _send_some(self, view: memoryview, deadline: Deadline) -> int:
        streams, consumed = self._flowing(), 0
        if self._conversation.fin_due:
            raise BrokenPipeError(errno.EPIPE, "the own stream was ended by shutdown")
        self._flush(streams, deadline)
        while not consumed:
            buffer = BUFFERS.take()
            out = memoryview(buffer)
            consumed, written = streams.seal(view, out[:WIRE_MAX])
            if written:
                self._out.append(out[:written])
                self._out_buffer = buffer
            else:
                BUFFERS.give(buffer)
            try:
                self._flush(streams, deadline)
            except (TimeoutError, BlockingIOError):
                # It has been taken, and goes out with whatever is done next.
                if self.error is not None or not consumed:
                    raise
        return consumed

    def _send_all(self, view: memoryview, deadline: Deadline) -> None:
        while view:
            view = view[self._send_some(view, deadline) :]
        self._flush(self._flowing(), deadline)

    def _end(self, deadline: Deadline) -> None:
        streams = self._flowing()
        if not self._fin_sent and not self._conversation.fin_due:
            streams.finish()
        self._flush(streams, deadline)

    def _flowing(self) -> Streams:
        self._raise_failure()
        if self._streams is None:
            raise LocalError("the handshake is not over")
        return self._streams

    def _flush(self, streams: Streams, deadline: Deadline) -> None:
        """Write what there is, and the FIN behind the last of it."""
        while streams.queue or self._out:
            while streams.queue:
                self._out.append(memoryview(streams.queue.popleft()))
            try:
                if self._write_out():
                    break
            except OSError:
                self._lost(streams)
            wait(self._sock, WRITE, deadline, self._gone)
            self._raise_failure()
            self._check_open()
        if self._conversation.fin_due and not self._fin_sent:
            self._fin_sent = True
            if self._closing:
                return  # the descriptor goes next, which says it as well
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError:
                self._lost(streams)

    def _write_out(self) -> bool:
        """Give the kernel what it takes; whether that is all.  Raises `OSError`."""
        out = self._out
        self._asked = True
        try:
            while out:
                if len(out) == 1 or not hasattr(self._sock, "sendmsg"):
                    sent = self._sock.send(out[0])
                else:
                    sent = self._sock.sendmsg([out[i] for i in range(min(len(out), _VECTOR_MAX))])
                while sent:
                    first = out[0]
                    if sent < len(first):
                        out[0] = first[sent:]
                        break
                    sent -= len(first)
                    out.popleft()
        except (BlockingIOError, InterruptedError):
            return False
        if self._out_buffer is not None:
            BUFFERS.give(self._out_buffer)
            self._out_buffer = None
        return True

    def _lost(self, streams: Streams) -> None:
        """TCP says that the connection is gone."""
        self._check_open()
        streams.receive_reset(unsent=bool(self._out))
        # Nobody minds if both streams were over, and all of them had left.
        self._raise_failure()

    # --- receiving ------------------------------------------------------------------------------

    def recv(self, size: int, flags: int = 0) -> bytes:
        if size <= 0 or flags or not self._shaken:
            return super().recv(size, flags)
        deadline = Deadline(self._timeout)
        with Use(self, self._reading):
            while not self._plain:
                if self._at_end():
                    return b""
                self._fill(None, deadline)
            first = self._plain[0]
            data = bytes(first[:size])
            self._took(len(data))
            return data

    def _receive(self, view: memoryview, deadline: Deadline) -> int:
        while True:
            if self._plain:
                size = min(len(view), len(self._plain[0]))
                view[:size] = self._plain[0][:size]
                self._took(size)
                return size
            if self._at_end():
                return 0
            if size := self._fill(view, deadline):
                return size

    def pending(self) -> int:
        return sum(map(len, self._plain))

    def _at_end(self) -> bool:
        if not self._ended:
            self._raise_failure()
        return self._ended

    def _took(self, size: int) -> None:
        first = self._plain[0]
        if size < len(first):
            self._plain[0] = first[size:]
            return
        self._plain.popleft()
        if self._borrowed is not None:
            BUFFERS.give(self._borrowed)
            self._borrowed = None

    def _fill(self, view: memoryview | None, deadline: Deadline) -> int:
        """Receive once; returns data bytes put into `view`, others are in `_plain`."""
        streams = self._flowing()
        if len(streams.queue) + len(self._out) > _ANSWERS_MAX:
            self._flush_aside(streams)
            if len(streams.queue) + len(self._out) > _ANSWERS_MAX:
                wait(self._sock, WRITE, deadline, self._gone)
                return 0
        if self._asked:
            self._asked = False
            if deadline.waits:
                self._wait_readable(streams, deadline)
        buffer = BUFFERS.take()
        wire = memoryview(buffer)
        most = WIRE_MAX
        room = 0 if view is None else len(view) - len(streams.rest)
        if room >= FRAME_MAX:
            most = min(most, room)
        try:
            got = self._sock.recv_into(wire[FRAME_MAX : FRAME_MAX + most])
        except (BlockingIOError, InterruptedError):
            BUFFERS.give(buffer)
            self._wait_readable(streams, deadline)
            return 0
        except OSError:
            self._check_open()
            streams.receive_reset()
            self._tell()
            return 0
        if not got:
            self._check_open()
            streams.receive_eof()
            self._tell()
            return 0
        if view is not None and room >= FRAME_MAX:
            written = streams.open(wire, FRAME_MAX + got, view)
        else:
            written = self._open_apart(streams, wire, FRAME_MAX + got)
        BUFFERS.give(buffer)
        self._tell()
        if streams.queue:
            self._flush_aside(streams)
        return written if view is not None and room >= FRAME_MAX else 0

    def _open_apart(self, streams: Streams, wire: memoryview, end: int) -> int:
        """Open into a buffer of the stock, for a program that takes it in pieces."""
        buffer = BUFFERS.take()
        plain = memoryview(buffer)
        written = streams.open(wire, end, plain)
        if written > _KEPT_MAX:
            self._plain.append(plain[:written])
            self._borrowed = buffer
            return written
        if written:
            self._plain.append(memoryview(bytes(plain[:written])))
        BUFFERS.give(buffer)
        return written

    def _wait_readable(self, streams: Streams, deadline: Deadline) -> None:
        """Meanwhile whatever could not be written yet goes out."""
        events = READ
        if self._out or streams.queue:
            self._flush_aside(streams)
            events |= WRITE if self._out else 0
        wait(self._sock, events, deadline, self._gone)
        self._check_open()

    def _flush_aside(self, streams: Streams) -> None:
        """Write from the reading thread, unless another is at it, which then does all."""
        while (streams.queue or self._out) and self._writing.acquire(blocking=False):
            try:
                self._flush(streams, Deadline(0))
            except (OSError, TcpcryptError):
                return  # later; or what was received before it failed comes first
            finally:
                self._writing.release()

    # --- the end ----------------------------------------------------------------------------------

    def _forget(self) -> bool:
        conversation, streams = self._conversation, self._streams
        well = (
            conversation.state is State.AES_MODE
            and self._fin_sent
            and not self._out
            and not self._aborted
        )
        if streams is not None:
            streams.close()
        else:
            conversation.close()
        self._tell()
        self._out.clear()
        self._out_buffer = None
        return well

    def _tell(self) -> None:
        """Take note of what the conversation has to tell."""
        events = self._conversation.events
        while events:
            event = events.popleft()
            if isinstance(event, DataReceived):
                self._plain.append(memoryview(event.data))
            elif isinstance(event, StreamEnded):
                self._ended = True
            elif isinstance(event, StateChanged) and self._on_state is not None:
                self._on_state(event)
