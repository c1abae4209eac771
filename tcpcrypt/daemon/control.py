"""The control socket: newline-delimited JSON over AF_UNIX, served by the runtime's loop.

The loop also moves the data of every connection, so nobody may hold it up.
Each client has one request in hand at a time and is not read from meanwhile;
waiting requests are served in turn, one at a time, and after each the server
rests nine times as long as it took, so that all clients together cost the loop
a tenth of its time.  Clients, clients of one user, the length of a line, and
what lies unread are bounded.  Who is refused is told so.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tcpcrypt.core.policy import Policy
from tcpcrypt.daemon.requests import (
    LATER,
    VERSION,
    Access,
    Caller,
    Code,
    Desk,
    Overview,
    RefusedError,
    Request,
    parse,
)
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.context import Report
from tcpcrypt.runtime.loop import ERRORS, READ, WRITE, Loop

__all__ = ["DEFAULT_PATH", "LINE_MAX", "ControlServer", "ControlSocket", "Overview"]

DEFAULT_PATH: Final = Path("/run/tcpcrypt/control.sock")
LINE_MAX: Final = 64 << 10
"""Bytes of a request, its newline not counted."""
CLIENTS_MAX: Final = 256
CLIENTS_PER_USER_MAX: Final = 64
"""Of one user other than root."""
PENDING_MAX: Final = 64 << 20
"""Bytes of all answers that clients have not read yet."""
STALL_MAX: Final = 10.0
"""Seconds that a client may leave an answer unread."""
_REST: Final = 9.0
_REST_MAX: Final = 1.0
"""Seconds; a request that was slow for another's reason is not to silence the socket."""
_ACCEPT_PAUSE: Final = 0.1
_ACCEPTS_A_TURN: Final = 16
_AGAIN_FIRST: Final = 0.01
_AGAIN_LAST: Final = 0.2
"""Seconds between two looks for what a client waits for."""
_BACKLOG: Final = 128
_PATH_MAX: Final = 107
"""Bytes that `sun_path` holds."""
_NOBODY: Final = 65534
"""Also what the kernel calls a user who has no number in our user namespace."""
_NEWLINE: Final = b"\n"


class ControlSocket:
    """The socket in the file system.

    Made by the root parent, used by the worker, who inherits it by fork;
    `close` in the parent alone takes the file away.
    """

    def __init__(self, path: Path) -> None:
        """Bind and listen.  Raises `LocalError` if that cannot be, or if somebody serves there."""
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._inode: int | None = None
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            if len(os.fsencode(temporary)) > _PATH_MAX:
                raise LocalError(f"{path}: a path of a socket has at most 100 bytes")
            _prepare_directory(path.parent)
            _refuse_if_served(path)
            # In place with one step, with the right mode: no moment without a socket.
            temporary.unlink(missing_ok=True)
            self.socket.bind(os.fspath(temporary))
            temporary.chmod(0o666)
            self.socket.listen(_BACKLOG)
            self.socket.setblocking(False)
            self._inode = temporary.stat().st_ino
            temporary.replace(path)
        except BaseException as error:
            self.socket.close()
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise LocalError(f"{path}: {error.strerror}") from error
            raise

    def close(self, remove: bool = True) -> None:
        """Close it; `remove` takes the file away too, if it is still ours.  Idempotent."""
        self.socket.close()
        inode, self._inode = self._inode, None
        if remove and inode is not None:
            with contextlib.suppress(OSError):
                if self.path.lstat().st_ino == inode:
                    self.path.unlink()


def _prepare_directory(directory: Path) -> None:
    if not directory.is_dir():
        directory.mkdir(parents=True)
        directory.chmod(0o755)
    found = directory.stat()
    writable = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if found.st_uid not in (0, os.geteuid()) or (writable and not found.st_mode & stat.S_ISVTX):
        raise LocalError(f"{directory}: others may put another socket there")


def _refuse_if_served(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise LocalError(f"{path}: is there and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(os.fspath(path)) in (errno.ECONNREFUSED, errno.ENOENT):
            return
    raise LocalError(f"{path}: another tcpcryptd answers there")


class _Client:
    """One connection: reads a line, waits for its turn, writes the answer, and over again."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.caller = Caller(*struct.unpack("3i", _credentials(sock)))
        self.received = bytearray()
        self.ended = False
        self.line: bytes | None = None
        """What is in hand."""
        self.request: Request | None = None
        self.asked_at = 0.0
        self.answer = memoryview(b"")
        self.moved_at = 0.0
        self.closing = False
        self.gone = False

    def take_line(self) -> bool:
        """Have a line in hand, if there is a whole one."""
        end = self.received.find(_NEWLINE)
        if end < 0 or end > LINE_MAX:
            return False
        self.line = bytes(self.received[:end])
        del self.received[: end + 1]
        self.request = None
        self.asked_at = time.monotonic()
        return True


class ControlServer:
    """Answers on a listening socket from an `Overview`.  `start`, and in the end `close`."""

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        overview: Overview,
        *,
        policies: Callable[[], Sequence[Policy]],
        report: Report,
        confirm: Callable[[], None] | None = None,
        trust_changed: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._desk = Desk(overview, policies, confirm, trust_changed)
        self._report = report
        self._administrators = {0, os.geteuid()} - {_NOBODY}
        self._clients: dict[int, _Client] = {}
        self._waiting: deque[_Client] = deque()
        self._resting = False
        self._sweeping = False
        self._pending = 0

    @property
    def clients(self) -> int:
        """How many are connected."""
        return len(self._clients)

    def start(self) -> None:
        self._listener.setblocking(False)
        self._loop.watch(self._listener.fileno(), READ, self._on_listener)

    def close(self) -> None:
        """Hang up on everybody and close the listening socket.  Idempotent."""
        if self._listener.fileno() >= 0:
            self._loop.forget(self._listener.fileno())
            self._listener.close()
        for client in tuple(self._clients.values()):
            self._drop(client)

    # --- clients come and go -----------------------------------------------------

    def _on_listener(self, _events: int) -> None:
        for _ in range(_ACCEPTS_A_TURN):
            try:
                sock, _address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:
                self._loop.watch(self._listener.fileno(), 0, self._on_listener)
                self._loop.call_later(_ACCEPT_PAUSE, self._accept_again)
                return
            sock.setblocking(False)
            self._welcome(_Client(sock))

    def _accept_again(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.watch(self._listener.fileno(), READ, self._on_listener)

    def _welcome(self, client: _Client) -> None:
        uid = client.caller.uid
        same = sum(other.caller.uid == uid for other in self._clients.values())
        if len(self._clients) >= CLIENTS_MAX or (uid and same >= CLIENTS_PER_USER_MAX):
            with contextlib.suppress(OSError):
                client.socket.send(_error(Code.BUSY, "too many clients"))
            client.socket.close()
            return
        self._clients[client.socket.fileno()] = client
        self._listen_to(client)
        if not self._sweeping:
            self._loop.call_later(STALL_MAX / 2, self._sweep)
            self._sweeping = True

    def _drop(self, client: _Client) -> None:
        if client.gone:
            return
        client.gone = True
        self._pending -= len(client.answer)
        client.answer = memoryview(b"")
        del self._clients[client.socket.fileno()]
        self._loop.forget(client.socket.fileno())
        client.socket.close()

    def _sweep(self) -> None:
        """Drop who leaves an answer unread."""
        deadline = time.monotonic() - STALL_MAX
        for client in tuple(self._clients.values()):
            if client.answer and client.moved_at < deadline:
                self._drop(client)
        self._sweeping = False
        if self._clients:
            self._loop.call_later(STALL_MAX / 2, self._sweep)
            self._sweeping = True

    # --- one client --------------------------------------------------------------

    def _watch(self, client: _Client, mask: int) -> None:
        def on_ready(events: int) -> None:
            if client.answer:
                self._write(client)
            elif client.line is None:
                self._read(client)
            elif events & (READ | WRITE):
                self._drop(client)  # only a hang-up comes while a request is in hand

        self._loop.watch(client.socket.fileno(), mask, on_ready)

    def _listen_to(self, client: _Client) -> None:
        """Take up the next request, or wait for one."""
        if client.take_line():
            self._queue(client)
        elif len(client.received) > LINE_MAX:
            client.closing = True
            self._say(client, _error(Code.TOO_LONG, f"a request has at most {LINE_MAX} bytes"))
        elif not client.ended:
            self._watch(client, READ)
        elif client.received:
            client.closing = True
            self._say(client, _error(Code.BAD_REQUEST, "the request does not end in a newline"))
        else:
            self._drop(client)

    def _read(self, client: _Client) -> None:
        try:
            data = client.socket.recv(LINE_MAX)
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)
            return
        client.ended = not data
        client.received += data
        self._listen_to(client)

    def _say(self, client: _Client, answer: bytes) -> None:
        if self._pending + len(answer) > PENDING_MAX:
            answer = _error(Code.BUSY, "too many answers lie unread")
        self._pending += len(answer)
        client.answer = memoryview(answer)
        client.line = client.request = None
        client.moved_at = time.monotonic()
        self._write(client)

    def _write(self, client: _Client) -> None:
        try:
            sent = client.socket.send(client.answer)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(client)
            return
        if sent:
            client.moved_at = time.monotonic()
            client.answer = client.answer[sent:]
            self._pending -= sent
        if client.answer:
            self._watch(client, WRITE)
        elif client.closing:
            self._drop(client)
        else:
            self._listen_to(client)

    # --- requests, in turn ---------------------------------------------------------

    def _queue(self, client: _Client) -> None:
        if client.gone:
            return
        self._watch(client, ERRORS)
        self._waiting.append(client)
        if not self._resting:
            self._loop.call_later(0, self._turn)
            self._resting = True

    def _turn(self) -> None:
        """Answer one request, and rest."""
        started = time.monotonic()
        try:
            while self._waiting:
                client = self._waiting.popleft()
                if not client.gone:
                    self._answer(client)
                    break
            else:
                self._resting = False
                return
        finally:
            if self._resting:
                # Until the next is sure to come there is none that is waited for.
                self._resting = False
                rest = min(_REST_MAX, _REST * (time.monotonic() - started))
                self._loop.call_later(rest, self._turn)
                self._resting = True

    def _answer(self, client: _Client) -> None:
        try:
            if client.request is None:
                client.request = parse(client.line or b"")
                self._admit(client.request, client.caller)
            request = client.request
            waited = time.monotonic() - client.asked_at
            result = request.method.handle(self._desk, request.params, waited)
            if result is LATER:
                again = min(_AGAIN_LAST, max(_AGAIN_FIRST, waited / 10))
                self._loop.call_later(again, lambda: self._queue(client))
                return
            answer = _line({"v": VERSION, "result": result})
        except RefusedError as error:
            answer = _error(error.code, str(error))
        except LocalError as error:
            answer = _error(Code.FAILED, str(error))
        except Exception as error:  # a mistake of ours must not end the service
            self._report("bug", {"error": f"{type(error).__name__}: {error}", "at": "control"})
            answer = _error(Code.FAILED, "the daemon made a mistake; its log says which")
        self._say(client, answer)

    def _admit(self, request: Request, caller: Caller) -> None:
        access = request.method.access
        allowed = (
            access is Access.EVERYBODY
            or caller.uid == 0
            or (access is Access.ADMINISTRATOR and caller.uid in self._administrators)
        )
        if not allowed:
            raise RefusedError(
                Code.DENIED, f"{request.name} is for {access.value}, not for user {caller.uid}"
            )


def _credentials(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))


def _line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + _NEWLINE


def _error(code: Code, message: str) -> bytes:
    return _line({"v": VERSION, "error": {"code": code.value, "message": message}})
