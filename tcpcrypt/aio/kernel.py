"""Connections that the daemon of this host encrypts, for asyncio: TCP's own options.

`tcpcrypt.sockets.kernel` asks the daemon, here in a thread: before a byte of
the program goes out or comes in, and once more at the end of the peer's stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from tcpcrypt.core.events import DataReceived, StreamEnded
from tcpcrypt.daemon.control import DEFAULT_PATH
from tcpcrypt.errors import TcpcryptError
from tcpcrypt.sockets.conversation import Event, Failed
from tcpcrypt.sockets.kernel import KernelSocket, encrypted_by_daemon
from tcpcrypt.sockets.peer import PeerSpec
from tcpcrypt.sockets.state import Failure, State

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["KernelConversation", "ask_daemon", "daemon_there"]


def daemon_there(control: Path | str | None) -> bool:
    """Whether there is a socket of a daemon, which may not answer."""
    return (DEFAULT_PATH if control is None else Path(control)).exists()


async def ask_daemon(
    raw: asyncio.Transport,
    spec: PeerSpec,
    control: Path | str | None,
    *,
    accepted: bool,
    insist: bool,
) -> KernelConversation | None:
    """What the daemon makes of a connection, in AES_MODE or FAIL.

    None: the daemon has nothing to do with it, and nobody insists.
    """
    shown = raw.get_extra_info("socket")

    def ask() -> KernelConversation | None:
        # Of its own, because a thread outlives who gives up waiting for it.
        sock = socket.socket(shown.family, shown.type, fileno=number)
        with contextlib.closing(sock):
            if not insist and not encrypted_by_daemon(sock, control, accepted=accepted):
                return None
            events: deque[Event] = deque()
            kernel = KernelSocket(sock, spec, control, events.append)
            with contextlib.suppress(TcpcryptError):  # it is in `error`
                kernel.do_handshake()
            return KernelConversation(kernel, events)

    number = os.dup(shown.fileno())
    return await asyncio.get_running_loop().run_in_executor(None, ask)


class KernelConversation:
    """What `Conversation` is, for a connection whose bytes are the program's own."""

    deadline = None

    def __init__(self, kernel: KernelSocket, events: deque[Event]) -> None:
        self._kernel = kernel
        self._events = events
        self._out: list[memoryview | bytes] = []
        self._failed = self._ended = False
        self._tell_failure()

    # --- what is known -------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._kernel.state

    @property
    def error(self) -> TcpcryptError | None:
        return self._kernel.error

    @property
    def failure(self) -> Failure | None:
        return self._kernel.failure

    @property
    def session_id(self) -> bytes | None:
        return self._kernel.session_id

    @property
    def peer_identity(self) -> str | None:
        return self._kernel.peer_identity

    @property
    def cipher(self) -> str | None:
        return self._kernel.cipher

    @property
    def resumed(self) -> bool | None:
        return self._kernel.resumed

    # --- what goes through ------------------------------------------------------------------

    def receive_data(self, data: ReadableBuffer) -> None:
        self._events.append(DataReceived(bytes(data)))

    def check_end(self) -> None:
        """TCP FIN came: is it the peer's?  Blocks, because it asks the daemon."""
        self._kernel._check_end()

    def end_checked(self) -> None:
        """Tell what `check_end` has found."""
        self._tell_failure()
        if not self._failed:
            self._ended = True
            self._events.append(StreamEnded())

    def receive_reset(self, *, unsent: bool = False) -> None:
        """TCP says that the connection is gone."""
        if unsent or not self._ended:
            self._kernel._lost()
            self._tell_failure()

    def handle_timeout(self) -> None:
        """The handshake is over."""

    def send(self, data: ReadableBuffer) -> None:
        self._out.append(bytes(data))

    def finish(self) -> None:
        """TCP FIN is all that it takes."""

    def close(self) -> None:
        """The daemon has the keys."""

    def data_to_send(self) -> list[memoryview | bytes]:
        out, self._out = self._out, []
        return out

    def next_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def _tell_failure(self) -> None:
        error = self._kernel.error
        if error is not None and not self._failed:
            self._failed = True
            self._events.append(Failed(error))
