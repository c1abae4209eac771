"""The sender's side of the network: connections to a receiver, one after the other.

One thread reads what the receiver says, the caller's own writes; what is said
is `tcpcrypt.transfer.sender`'s.  A connection that is lost is followed by
another, which goes on where the receiver's disk has got to.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tcpcrypt import sockets
from tcpcrypt.errors import HandshakeTimeoutError, LocalError, TcpcryptError
from tcpcrypt.sockets import SecureSocket, State, StateChanged
from tcpcrypt.transfer import names
from tcpcrypt.transfer.codes import Code, TransferError
from tcpcrypt.transfer.keys import ClientKey
from tcpcrypt.transfer.limits import Backoff, Bandwidth
from tcpcrypt.transfer.messages import BLOCK_MAX
from tcpcrypt.transfer.peers import KeyedClient
from tcpcrypt.transfer.progress import Progress, readable
from tcpcrypt.transfer.rules import IDLE_TIMEOUT
from tcpcrypt.transfer.sender import Accepted, Delivered, Event, Failed, Sending
from tcpcrypt.transfer.sender import Progress as Sent
from tcpcrypt.transfer.source import Entry, Skipped, entries, lost_entry
from tcpcrypt.transfer.status import FileError, Status, UsageError, retryable, status_of
from tcpcrypt.transfer.stream import stream_entry
from tcpcrypt.transfer.waiting import Waiting

__all__ = ["Order", "deliver"]

_READ: Final = 256 << 10
_WRITE: Final = 512 << 10
_WRITE_SLOW: Final = 64 << 10
"""Bytes that have `IDLE_TIMEOUT` to get on their way: few at first, and twice as many as
long as those before took less than `_SLOW`, for a buffer of the kernel's takes some at once."""
_SLOW: Final = 1.0
_TURN: Final = 1.0
"""Seconds after which a thread that waits looks around."""
_STDIN: Final = "-"
_LATER: Final = (Code.SHUTDOWN, Code.TIMEOUT)
"""What the receiver says of files that are to come with another connection."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be sent, to whom, and how."""

    host: str
    port: int
    files: tuple[str, ...]
    """Paths; `-` is standard input."""
    key: ClientKey | None
    """None: `peer` says who the receiver has to be."""
    peer: str = "key"
    name: str | None = None
    """What standard input is called at the receiver."""
    state: Path | None = None
    block: int = 65536
    bandwidth: Bandwidth = field(default_factory=lambda: Bandwidth(None))
    backoff: Backoff = field(default_factory=lambda: Backoff(0))
    timeout: float = 10.0


def deliver(order: Order, progress: Progress, *, stdin: int = 0) -> Status:
    """Send everything, and tell of it.

    Returns the exit status, 0 only if every file is durable at the receiver.
    Raises `FileError` and `UsageError` before anything is sent; an exception
    that a signal raises leaves a state that can be gone on with.
    """
    return _Delivery(order, progress, stdin).run()


class _Delivery:
    """One run of stx-send."""

    def __init__(self, order: Order, progress: Progress, stdin: int) -> None:
        self._order = order
        self._progress = progress
        self._files = _checked(order)
        self._stdin = stdin
        self._connect = _connector(order)
        self._status = Status.OK
        self._waiting = Waiting(self._sendable())
        self._again: list[Entry] = []
        """Files that the receiver gave back for the next connection."""
        self._durable: dict[names.Path, int] = {}
        self._delivered = 0
        self._bytes = 0
        self._attempts = 0
        self._offered = True
        self._known = False

    def run(self) -> Status:
        """See `deliver`."""
        if self._progress.counts:
            self._progress.expect(_total(self._files))
        while True:
            self._attempts += 1
            error = self._attempt()
            if error is None:
                break
            if not retryable(error) or self._is_silence(error):
                self._fail(error)
                break
            pause = self._order.backoff.pause()
            if pause is None:
                self._fail(error)
                break
            self._progress.say(
                "retry",
                f"{error}; trying again in {pause:.1f} s",
                message=str(error),
                error=type(error).__name__,
                pause=round(pause, 3),
            )
            time.sleep(pause)
        self._sum_up()
        return self._status

    # --- one connection ----------------------------------------------------------------

    def _attempt(self) -> Exception | None:
        """What went wrong with the connection, if anything did."""
        self._offered = False
        try:
            secured = self._connect(self._step)
        except (OSError, TcpcryptError) as error:
            return error
        self._known = True
        self._progress.say(
            "connected",
            f"connected to {self._order.host}: {secured.cipher}"
            + (", session resumed" if secured.resumed else ""),
            cipher=secured.cipher,
            resumed=secured.resumed,
            session_id=None if secured.session_id is None else secured.session_id.hex(),
            peer_identity=secured.peer_identity,
        )
        block = min(self._order.block, BLOCK_MAX)
        sending = Sending(self._waiting, peer=self._order.host, block=block)
        talk = _Talk(secured, sending, self._order.bandwidth, self._tell)
        try:
            failure = talk.run()
        finally:
            talk.close()
            self._drain(sending)
        again, self._again = self._again, []
        self._waiting.put_back([*again, *sending.unfinished()])
        if failure is None and again:
            return TransferError(Code.SHUTDOWN)
        return failure

    def _is_silence(self, error: Exception) -> bool:
        """Whether nobody there has ever offered encryption, which no attempt changes."""
        return isinstance(error, HandshakeTimeoutError) and not self._offered and not self._known

    def _step(self, event: StateChanged) -> None:
        if event.new is State.EXCHANGE_KEYS:
            self._offered = True

    # --- what is told of it --------------------------------------------------------------

    def _drain(self, sending: Sending) -> None:
        while (event := sending.next_event()) is not None:
            self._tell(event)

    def _tell(self, event: Event) -> None:
        if isinstance(event, Accepted):
            path = event.entry.path
            if self._progress.counts:
                self._progress.file(names.shown(path))
            self._advance(path, event.offset, before=True)
            if event.offset:
                text = f"{names.shown(path)}: {readable(event.offset)} are there already"
                self._progress.say("resumed", text, file=names.shown(path), offset=event.offset)
        elif isinstance(event, Sent):
            self._advance(event.entry.path, event.durable)
        elif isinstance(event, Delivered):
            self._arrived(event)
        elif isinstance(event, Failed):
            self._failed(event)

    def _arrived(self, event: Delivered) -> None:
        self._advance(event.entry.path, event.size)
        self._durable.pop(event.entry.path, None)
        self._order.backoff.succeeded()
        if event.entry.is_file:
            self._delivered += 1
            self._bytes += event.size
        if not self._progress.tells:
            return
        asked, path = names.shown(event.entry.path), names.shown(event.path)
        renamed = "" if asked == path else f" as {path}"
        self._progress.file_done(
            f"{asked}: delivered{renamed}, {readable(event.size)}, {event.digest}",
            notable=bool(renamed),
            file=asked,
            name=path,
            size=event.size,
            digest=str(event.digest),
        )

    def _failed(self, event: Failed) -> None:
        path = names.shown(event.entry.path)
        if event.code in _LATER:
            self._again.append(event.entry)
            return
        status = Status(event.code.exit_status)
        self._status = self._status or status
        detail = f" ({event.detail})" if event.detail else ""
        self._progress.fault(
            f"{path}: {event.code.text}{detail}",
            file=path,
            code=event.code.name,
            status=int(status),
        )

    def _advance(self, path: names.Path, durable: int, *, before: bool = False) -> None:
        more = durable - self._durable.get(path, 0)
        self._durable[path] = durable
        if more:
            self._progress.arrived(more, before=before)
        if more > 0 and not before:
            self._order.backoff.succeeded()

    def _fail(self, error: Exception) -> None:
        status = status_of(error, offered=self._offered)
        self._status = self._status or status
        self._progress.fault(
            f"{self._order.host}: {error}",
            error=type(error).__name__,
            status=int(status),
            attempts=self._attempts,
        )

    def _sum_up(self) -> None:
        seconds = max(self._progress.seconds, 1e-9)
        files = "1 file" if self._delivered == 1 else f"{self._delivered} files"
        self._progress.say(
            "done" if not self._status else "failed",
            f"{files} delivered, {readable(self._bytes)} in {seconds:.1f} s,"
            f" {readable(self._bytes / seconds)}/s",
            files=self._delivered,
            bytes=self._bytes,
            seconds=round(seconds, 3),
            status=int(self._status),
        )

    def _sendable(self) -> Iterator[Entry]:
        for entry in self._entries():
            if isinstance(entry, Entry):
                yield entry
            else:
                self._skipped(entry)

    def _skipped(self, skipped: Skipped) -> None:
        path = names.shown(skipped.path)
        try:
            names.check_path(skipped.path)
        except TransferError as error:
            status = Status(error.code.exit_status)
            self._status = self._status or status
            self._progress.fault(
                f"{path}: {error}", file=path, code=error.code.name, status=int(status)
            )
            return
        text = f"{path}: left out: {skipped.reason}"
        self._progress.say("skipped", text, file=path, reason=skipped.reason)

    # --- what there is to send -------------------------------------------------------------

    def _entries(self) -> Iterator[Entry | Skipped]:
        for file in self._files:
            if file == _STDIN:
                assert self._order.name is not None  # `_checked` has seen to it
                stream = io.FileIO(self._stdin, closefd=False)
                yield stream_entry(stream, names.path_of(self._order.name))
            else:
                try:
                    yield from entries(file)
                except (OSError, LocalError) as error:  # it has gone, or become something else
                    yield lost_entry(file, error)


class _Talk:
    """One connection: a thread that reads, and the caller's, which writes."""

    def __init__(
        self,
        secured: SecureSocket,
        sending: Sending,
        bandwidth: Bandwidth,
        tell: Callable[[Event], None],
    ) -> None:
        self._secured = secured
        self._sending = sending
        self._bandwidth = bandwidth
        self._tell = tell
        self._most = _WRITE_SLOW
        self._error: Exception | None = None
        self._over = threading.Event()
        self._reader = threading.Thread(target=self._read, name="receipts", daemon=True)

    def run(self) -> Exception | None:
        """Until all is delivered, or what went wrong."""
        self._secured.settimeout(IDLE_TIMEOUT)
        self._reader.start()
        try:
            self._write()
        except (OSError, TcpcryptError) as error:
            self._secured.abort()
            self._reader.join()
            # What the reader has met explains what the writer has, unless that was `abort`.
            met = self._error
            if isinstance(met, OSError) and met.errno == errno.EBADF:
                met = None
            return met or self._secured.error or error
        return self._error if not self._sending.finished else None

    def close(self) -> None:
        """Nothing is left of the connection; in order if it ended so."""
        if self._sending.finished and self._over.is_set() and self._error is None:
            self._secured.close()
        else:
            self._secured.abort()
        if self._reader.ident is not None:
            self._reader.join()
        self._sending.close()

    def _write(self) -> None:
        sending = self._sending
        while not self._over.is_set():
            buffers = sending.data_to_send()
            for buffer in buffers:
                self._send(memoryview(buffer))
            self._events()
            if sending.finished:
                break
            if sending.dismissed:
                raise TransferError(Code.SHUTDOWN)
            if not buffers:
                sending.handle_timeout()
                sending.wait(_TURN)
        self._events()
        if sending.finished and self._error is None:
            with contextlib.suppress(OSError, TcpcryptError):
                # All receipts are there: what becomes of the connection changes nothing.
                self._secured.shutdown(socket.SHUT_WR)
                self._over.wait(_TURN)

    def _send(self, view: memoryview) -> None:
        while view:
            piece = min(self._bandwidth.piece or self._most, self._most)
            self._bandwidth.take(len(view[:piece]))
            began = time.monotonic()
            self._secured.sendall(view[:piece])
            quick = time.monotonic() - began < _SLOW
            self._most = min(2 * self._most, _WRITE) if quick else _WRITE_SLOW
            view = view[piece:]
            if view:  # with a limit, all of it may take a while
                self._events()

    def _events(self) -> None:
        while (event := self._sending.next_event()) is not None:
            self._tell(event)

    def _read(self) -> None:
        buffer = memoryview(bytearray(_READ))
        try:
            while size := self._receive(buffer):
                self._sending.receive_data(buffer[:size])
            if not self._sending.finished:
                raise TransferError(Code.PROTOCOL, "the receiver ended before the last receipt")
        except (OSError, TcpcryptError) as error:
            self._error = error
            if not self._sending.finished:
                self._secured.abort()  # whoever writes is to wait no more
        finally:
            self._over.set()
            self._sending.wake()

    def _receive(self, buffer: memoryview) -> int:
        while True:
            try:
                return self._secured.recv_into(buffer)
            except TimeoutError:
                if self._secured.error is not None:
                    raise
                # Silence is the writer's to judge, who knows whether an answer is due.


def _connector(order: Order) -> Callable[[Callable[[StateChanged], None]], SecureSocket]:
    if order.key is not None:
        keyed = KeyedClient(order.key)
        return lambda told: keyed.connect(order.host, order.port, order.timeout, told)
    return lambda told: sockets.connect(
        (order.host, order.port),
        peer=order.peer,
        timeout=order.timeout,
        transport="inband",
        keys=order.state,
        on_state=told,
    )


def _checked(order: Order) -> tuple[str, ...]:
    """The files, if they are there: a slip of the pen is told before anything is sent."""
    if order.files.count(_STDIN) > 1:
        raise UsageError("standard input can be sent once")
    if (_STDIN in order.files) != (order.name is not None):
        raise UsageError("--name and `-` belong together: --name is for standard input")
    if order.name is not None:
        names.path_of(order.name)
    for file in order.files:
        if file != _STDIN:
            _check_file(file)
    return order.files


def _check_file(file: str) -> None:
    try:
        mode = os.stat(file).st_mode
    except OSError as error:
        raise FileError.of(file, error) from error
    except ValueError as error:
        raise FileError(f"{file!r}: {error}") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise FileError(f"{file}: no file and no folder: send it as standard input")
    names.check_path((os.fsencode(os.path.basename(os.path.abspath(file))),))


def _total(files: tuple[str, ...]) -> int | None:
    """Bytes in all, as far as can be told without opening anything."""
    total = 0
    for file in files:
        if file == _STDIN:
            return None
        total += _size(file)
    return total


def _size(path: str) -> int:
    if not os.path.isdir(path):
        try:
            return os.stat(path).st_size
        except OSError:
            return 0
    total = 0
    for folder, _folders, found in os.walk(path):
        for name in found:
            with contextlib.suppress(OSError):
                known = os.lstat(os.path.join(folder, name))
                total += known.st_size
    return total
