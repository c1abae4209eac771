"""A's side of one connection: files in, bytes out, bytes back.  Without a socket.

Two threads may use it: one receives (`receive_data`), the other sends
(`data_to_send`), and reads the files.  Bytes of files go from the file into the
buffer that is sent, with the headers between them; nothing copies them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tcpcrypt.errors import LocalError
from tcpcrypt.transfer.batch import PIECES_MAX, Batch
from tcpcrypt.transfer.buffers import Buffers, Uses
from tcpcrypt.transfer.codes import Code, MessageError, TransferError
from tcpcrypt.transfer.digest import Algorithm, Digest, Hashing, fastest
from tcpcrypt.transfer.events import Accepted, Delivered, NotDelivered, Progress, SenderEvent
from tcpcrypt.transfer.messages import (
    BLOCK_MAX,
    DATA_HEADER,
    FILES_MAX,
    UNKNOWN_SIZE,
    WINDOW_MAX,
    Ack,
    Alive,
    Bye,
    End,
    Have,
    Hello,
    Kind,
    Message,
    Put,
    Receipt,
    Refuse,
    data_header,
)
from tcpcrypt.transfer.names import check_path
from tcpcrypt.transfer.outgoing import TABLE, Action, Happened, Outgoing, Stage
from tcpcrypt.transfer.parser import Parser
from tcpcrypt.transfer.rules import ALIVE_INTERVAL, HELLO_TIMEOUT, IDLE_TIMEOUT
from tcpcrypt.transfer.source import Entry, transfer_id

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Accepted", "Delivered", "Event", "Failed", "Progress", "Sending"]

Event = SenderEvent
Failed = NotDelivered

_BATCH: Final = 512 << 10
"""Bytes that are read and sent at once, about."""
_BATCHES: Final = 3
_SLACK: Final = 8192
"""Room in a batch for the longest of the other messages."""
_PROOF_STEPS: Final = 16
_STREAM_TURN: Final = 0.1
"""Seconds after which a thread that waits for a stream looks around."""


class Sending:
    """One connection to one receiver."""

    def __init__(
        self,
        entries: Iterable[Entry],
        *,
        peer: str,
        block: int = 65536,
        algorithm: Algorithm | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Send `entries` to `peer`, whose name tells its transfers from those to others.

        `block`, 1 to `BLOCK_MAX`, is how many bytes of file go into one message.
        `algorithm`: None for the faster one.  Raises `LocalError`.
        """
        if not 1 <= block <= BLOCK_MAX:
            raise LocalError(f"block size {block}, not 1 to {BLOCK_MAX}")
        self._entries = iter(entries)
        self._deferred: Entry | None = None
        self._exhausted = False
        self._peer = peer
        self._block = block
        self._algorithm = fastest() if algorithm is None else algorithm
        self._clock = clock
        self._changed = threading.Condition()
        self._news = False
        self._parser = Parser()
        self._hashing = Hashing()
        pieces = max(1, min(PIECES_MAX, _BATCH // (block + DATA_HEADER.size)))
        self._room = pieces * (block + DATA_HEADER.size) + _SLACK
        self._buffers = Buffers(_BATCHES, self._room + _SLACK)
        self._lent: Uses | None = None
        self._files: dict[int, Outgoing] = {}
        self._ids: set[bytes] = set()
        self._next = 0
        self._ready: deque[Outgoing] = deque()
        self._current: Outgoing | None = None
        self._finished: deque[Outgoing] = deque()
        """Over: their sources are to be closed by the thread that reads them."""
        self._hello: Hello | None = None
        self._greeted = self._bye = False
        self._inflight = 0
        self.dismissed = False
        """Whether B has said that it is stopping: the rest is for the next connection."""
        self._events: deque[Event] = deque()
        self._heard = self._said = clock()

    # --- the thread that receives --------------------------------------------------

    def receive_data(self, data: ReadableBuffer) -> None:
        """Bytes of B.  Raises `MessageError`, after which the connection is to be reset."""
        with self._changed:
            self._heard = self._clock()
            for message in self._parser.feed(data):
                self._hear(message)
            self._news = True
            self._changed.notify_all()

    # --- the thread that sends -----------------------------------------------------

    def data_to_send(self) -> list[memoryview]:
        """What to send next, [] for nothing now.  Valid until the next call.

        Reads files, which may take a moment.
        """
        self._tidy()
        uses = self._lent = self._buffers.take()
        batch = Batch(uses, self._room)
        self._news = False
        if not self._greeted:
            self._greeted = True
            batch.add(Hello(BLOCK_MAX, self._block, 1, frozenset((self._algorithm,))).build())
        while self._hello is not None and batch.room > self._block + DATA_HEADER.size:
            if not self._announce(batch) and not self._advance(batch):
                break
        if not batch.used and self._clock() - self._said >= ALIVE_INTERVAL:
            batch.add(Alive().build())
        if not batch.used:
            return []
        self._said = self._clock()
        return [batch.view]

    def wait(self, timeout: float) -> None:
        """Until `data_to_send` may have something."""
        stream = self._waiting_for()
        if stream is not None:
            stream.source.ready(min(timeout, _STREAM_TURN))
            return
        with self._changed:
            if not self._news:
                self._changed.wait(timeout)

    def close(self) -> None:
        """The connection is over, and no thread uses it."""
        self._hashing.close()
        for file in (*self._files.values(), *self._finished):
            file.source.close()
        self._finished.clear()

    # --- anyone --------------------------------------------------------------------

    def wake(self) -> None:
        """Let `wait` return."""
        with self._changed:
            self._news = True
            self._changed.notify_all()

    @property
    def finished(self) -> bool:
        """Whether everything is delivered or not, and B was told that this is known."""
        return self._bye

    def next_event(self) -> Event | None:
        """The next event, or None."""
        try:
            return self._events.popleft()
        except IndexError:
            return None

    def unfinished(self) -> list[Entry]:
        """After `close`: what was begun and neither was delivered nor failed."""
        deferred = [] if self._deferred is None else [self._deferred]
        return [file.entry for file in self._files.values()] + deferred

    def remaining(self) -> Iterator[Entry]:
        """After `close`: all that neither was delivered nor failed, for the next connection."""
        yield from self.unfinished()
        yield from self._entries

    @property
    def deadline(self) -> float:
        """When `handle_timeout` is due: B has something to say every few seconds."""
        return self._heard + (HELLO_TIMEOUT if self._hello is None else IDLE_TIMEOUT)

    def handle_timeout(self) -> None:
        """Raises `TransferError` (TIMEOUT) if the deadline has passed."""
        if self._clock() >= self.deadline:
            raise TransferError(Code.TIMEOUT)

    # --- what B says ---------------------------------------------------------------

    def _hear(self, message: Message) -> None:
        if self._hello is None and not isinstance(message, Hello):
            raise MessageError(detail="no HELLO")
        match message:
            case Hello():
                self._greet(message)
            case Have():
                file = self._file(message.file)
                self._apply(file, Happened.HAVE)
                file.prefixes = message.prefixes
                self._ready.append(file)
            case Refuse():
                self._fail(self._file(message.file), Happened.REFUSE, message.code)
            case Ack():
                self._acknowledge(self._file(message.file), message.offset)
            case Receipt():
                self._receipt(self._file(message.file), message)
            case Alive():
                pass
            case _:
                raise MessageError(detail=f"a {type(message).__name__.upper()} of the receiver")

    def _greet(self, hello: Hello) -> None:
        if self._hello is not None:
            raise MessageError(detail="a second HELLO")
        if self._algorithm not in hello.algorithms:
            if not hello.algorithms:
                raise MessageError(Code.ALGORITHM)
            self._algorithm = min(hello.algorithms, key=lambda algorithm: algorithm.value)
        self._block = min(self._block, hello.block, hello.window)
        # Of a stream all that is under way is kept, and of each file something.
        self._hello = replace(
            hello, window=min(hello.window, WINDOW_MAX), files=min(hello.files, FILES_MAX)
        )

    def _file(self, number: int) -> Outgoing:
        file = self._files.get(number)
        if file is None:
            raise MessageError(detail=f"of file {number}, which is not under way")
        return file

    def _apply(self, file: Outgoing, happened: Happened) -> Action:
        found = TABLE.get((file.stage, happened))
        if found is None:
            raise MessageError(detail=f"{happened.value} for a file: {file.stage.value}")
        action, file.stage = found
        return action

    def _acknowledge(self, file: Outgoing, offset: int) -> None:
        self._apply(file, Happened.ACK)
        if offset > file.sent:
            raise MessageError(detail="an ACK of bytes that were not sent")
        if offset > file.durable:
            self._inflight -= offset - file.durable
            file.durable = offset
            size = None if file.source.size == UNKNOWN_SIZE else file.source.size
            self._events.append(Progress(file.entry, file.sent, offset, size))

    def _receipt(self, file: Outgoing, receipt: Receipt) -> None:
        if receipt.code is not Code.OK:
            self._fail(file, Happened.NOT_DELIVERED, receipt.code)
            return
        if file.broken is not None:
            raise MessageError(detail="a RECEIPT of a file that was given up")
        self._apply(file, Happened.DELIVERED)
        if file.entry.is_file and receipt.digest != file.digest:
            raise MessageError(Code.DIGEST, "a RECEIPT with another digest")
        try:
            check_path(receipt.path)
        except TransferError as error:
            raise MessageError(detail=f"a RECEIPT with a path: {error}") from None
        self._over(file)
        self._events.append(Delivered(file.entry, receipt.path, file.sent, receipt.digest))

    def _fail(self, file: Outgoing, happened: Happened, code: Code) -> None:
        self._apply(file, happened)
        self.dismissed = self.dismissed or code is Code.SHUTDOWN
        code, detail = (code, "") if file.broken is None else file.broken
        self._over(file)
        self._events.append(NotDelivered(file.entry, code, detail))

    def _over(self, file: Outgoing) -> None:
        file.stage = Stage.OVER
        self._inflight -= file.sent - file.durable
        file.durable = file.sent
        del self._files[file.number]
        self._ids.discard(file.transfer_id)
        self._finished.append(file)

    # --- what to send --------------------------------------------------------------

    def _tidy(self) -> None:
        lent, self._lent = self._lent, None
        if lent is not None:
            lent.done()
        while self._finished:
            file = self._finished.popleft()
            if file is self._current:
                self._current = None
            file.source.close()

    def _announce(self, batch: Batch) -> bool:
        """Announce the next file, if there is one and B has room for it."""
        hello = self._hello
        if hello is None or self._bye or batch.room < _SLACK + self._block + DATA_HEADER.size:
            return False
        with self._changed:
            if len(self._files) >= hello.files or (self._exhausted and self._files):
                return False
        entry, self._deferred = self._deferred, None
        if entry is None:
            entry = next(self._entries, None)
        if entry is None:
            self._exhausted = True
            with self._changed:
                if not self._files:
                    self._bye = True
                    batch.add(Bye().build())
            return False
        return self._put(batch, entry)

    def _put(self, batch: Batch, entry: Entry) -> bool:
        try:
            check_path(entry.path)
            source = entry.open()
        except TransferError as error:
            self._events.append(NotDelivered(entry, error.code, error.detail))
            return True
        except OSError as error:
            self._events.append(NotDelivered(entry, Code.UNREADABLE, _told(error)))
            return True
        identity = transfer_id(source, self._peer, entry.path)
        with self._changed:
            if identity in self._ids:
                self._deferred = entry  # given twice: one after the other
                return False
            file = Outgoing(self._next, entry, source, identity)
            self._next += 1
            self._files[file.number] = file
            self._ids.add(identity)
        kind = Kind.FILE if entry.is_file else Kind.DIRECTORY
        batch.add(
            Put(
                file.number,
                identity,
                kind,
                self._algorithm,
                source.mode & 0o7777,
                source.size,
                source.mtime,
                self._block,
                entry.path,
            ).build()
        )
        return True

    def _advance(self, batch: Batch) -> bool:
        """Go on with the file whose turn it is."""
        file = self._current
        if file is None or file.stage in {Stage.ENDED, Stage.OVER}:
            with self._changed:
                file = self._current = self._ready.popleft() if self._ready else None
            if file is None:
                return False
        try:
            if file.stage is Stage.PROVING:
                return self._prove(file)
            return file.stage is Stage.SENDING and self._send(file, batch)
        except TransferError as error:
            self._give_up(file, batch, error.code, error.detail)
        except OSError as error:
            self._give_up(file, batch, Code.UNREADABLE, _told(error))
        return True

    def _prove(self, file: Outgoing) -> bool:
        if file.proof is None:
            file.proof = file.source.start(file.prefixes, self._algorithm)
        for _ in range(_PROOF_STEPS):
            try:
                next(file.proof)
            except StopIteration:
                break
        else:
            self._news = True  # not to wait, but to let others have a look
            return False
        size = None if file.source.size == UNKNOWN_SIZE else file.source.size
        with self._changed:
            self._apply(file, Happened.PROVED)
            file.sent = file.durable = file.source.offset
            self._events.append(Accepted(file.entry, file.sent, size))
        return True

    def _send(self, file: Outgoing, batch: Batch) -> bool:
        """Bytes of the file, as the window and the batch have room; or its end."""
        hello = self._hello
        if hello is None:
            return False
        source = file.source
        source.acknowledged(file.durable)
        if source.offset != source.size:
            window = hello.window - self._inflight
            if window <= 0 or not source.ready(0):
                return False
            size = self._read(file, batch, window)
            if size:
                return True
        digest = source.finish(self._hashing)
        with self._changed:
            if file.stage is not Stage.SENDING:
                return True
            self._apply(file, Happened.EXHAUSTED)
            file.digest = digest
        batch.add(End(file.number, Code.OK, file.sent, digest).build())
        return True

    def _read(self, file: Outgoing, batch: Batch, window: int) -> int:
        source = file.source
        left = min(window, source.size - source.offset)
        pieces = batch.pieces(left, self._block)
        offset = file.sent
        took = source.read(pieces, self._hashing, batch.uses)
        with self._changed:
            if file.stage is not Stage.SENDING:
                return took  # B has given it up: nothing more is sent of it
            for piece in pieces:
                size = min(len(piece), took - (file.sent - offset))
                if size <= 0:
                    break
                batch.commit(data_header(file.number, file.sent, size), size)
                file.sent += size
                self._inflight += size
        return took

    def _give_up(self, file: Outgoing, batch: Batch, code: Code, detail: str) -> None:
        self._hashing.settle()
        with self._changed:
            if file.stage is Stage.OVER:
                return
            self._apply(file, Happened.BROKEN)
            file.broken = code, detail
        nothing = Digest(self._algorithm, bytes(32))
        batch.add(End(file.number, code, file.sent, nothing).build())

    def _waiting_for(self) -> Outgoing | None:
        """The file whose source, not B, has to go on."""
        file, hello = self._current, self._hello
        if file is None or hello is None or file.stage is not Stage.SENDING:
            return None
        if file.source.size != UNKNOWN_SIZE or self._inflight >= hello.window:
            return None
        return file


def _told(error: OSError) -> str:
    return error.strerror or str(error)
