"""B's side of one connection: bytes in, files out, bytes back.  Without a socket.

Two threads may use it: one receives (`get_buffer`, `received`), and writes what
comes to partial files; the other makes durable what has come, and says so
(`work`).  While a sync takes its time everything that ends meanwhile waits for
the next, so that ten thousand small files share a few.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from tcpcrypt.sockets.buffers import BUFFER_SIZE
from tcpcrypt.transfer.account import Account
from tcpcrypt.transfer.buffers import Buffers, Uses
from tcpcrypt.transfer.codes import Code, MessageError, TransferError
from tcpcrypt.transfer.digest import Hashing
from tcpcrypt.transfer.disk import PIECES_MAX
from tcpcrypt.transfer.events import Completed, Event, Failed, Started
from tcpcrypt.transfer.intake import TABLE, Action, Heard, Stage
from tcpcrypt.transfer.messages import (
    UNKNOWN_SIZE,
    Ack,
    Alive,
    Bye,
    Data,
    End,
    Have,
    Hello,
    Kind,
    Message,
    Put,
    Receipt,
    Refuse,
)
from tcpcrypt.transfer.names import Path
from tcpcrypt.transfer.parser import Parser
from tcpcrypt.transfer.part import Part
from tcpcrypt.transfer.rules import ALIVE_INTERVAL, HELLO_TIMEOUT, IDLE_TIMEOUT

__all__ = ["Completed", "Event", "Failed", "Receiving", "Started"]

BUFFER_LEN: Final = BUFFER_SIZE
"""As much as the secure socket opens at once."""
_BUFFERS: Final = 3
_SYNC_INTERVAL: Final = 0.25
"""Seconds after which little is worth a sync, too; a fast link has brought much before."""


class _Incoming:
    """One file of this connection."""

    __slots__ = ("number", "part", "stage", "unacked")

    def __init__(self, number: int, part: Part, stage: Stage) -> None:
        self.number, self.part, self.stage = number, part, stage
        self.unacked = 0


class Receiving:
    """One connection of one client."""

    def __init__(self, account: Account, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.account = account
        self._rules = account.rules
        self._clock = clock
        self._changed = threading.Condition()
        self._parser = Parser(self._rules.block)
        self._hashing = Hashing()
        self._looking = account.folders()
        self._placing = account.folders()
        self._files: dict[int, _Incoming] = {}
        self._next = 0
        self._current: _Incoming | None = None
        self._ended: list[_Incoming] = []
        self._out: deque[bytes] = deque([self._rules.hello().build()])
        self._events: deque[Event] = deque()
        self._unacked = self._refusals = 0
        self._delivered: set[bytes] = set()
        self._greeted = self._bye = self._eof = self._busy = self._stopping = False
        self._heard = self._said = self._synced = self.moved = clock()
        """`moved`: when A last said anything but that it is there, and B was done with it."""
        self._buffers = Buffers(_BUFFERS, BUFFER_LEN)
        self._buffer = self._buffers.take()
        self._pieces: list[memoryview] = []
        """Of the file `_gathered`, up to the offset `_upto`: taken together."""
        self._gathered = self._upto = 0
        self.taken = 0
        """Bytes of files that arrived on this connection."""

    # --- the thread that receives --------------------------------------------------

    def get_buffer(self) -> memoryview:
        """Where to receive to; waits while all buffers are being hashed."""
        return memoryview(self._buffer.buffer)

    def received(self, size: int) -> None:
        """The first `size` bytes of the buffer came from A.

        Raises `MessageError`, after which the connection is to be reset.
        """
        uses, moved = self._buffer, False
        self._heard, self._busy = self._clock(), True
        try:
            for message in self._parser.feed(memoryview(uses.buffer)[:size]):
                if isinstance(message, Data):
                    self._gather(message, uses)
                else:
                    self._take_gathered(uses)
                    self._hear(message)
                moved = moved or not isinstance(message, Alive)
            self._take_gathered(uses)
        finally:
            self._pieces = []
            self._heard = self._clock()
            self.moved = self._heard if moved else self.moved
            self._busy = False
            uses.done()
        self._buffer = self._buffers.take()

    def receive_eof(self) -> None:
        """A's stream has ended.  Raises `MessageError` if that was within a message."""
        self._eof = True
        self.wake()
        if not self._parser.between:
            raise MessageError(detail="the stream ends within a message")

    # --- the thread that sends -----------------------------------------------------

    def wait(self, timeout: float) -> None:
        """Until `work` may have something to do, or the stream has ended."""
        with self._changed:
            if not self._out and not self._ended and not self._is_due() and not self._eof:
                self._changed.wait(timeout)

    def work(self) -> list[bytes]:
        """Make durable what has come; returns what to send, as one piece, or []."""
        with self._changed:
            out = self._take_said()
            ended: list[_Incoming] = []
            if not out:
                ended, self._ended = self._ended, []
            current = self._current if self._is_due() else None
        if ended:
            out = self._commit(ended)
        elif not out and current is not None:
            out = self._sync(current) or self._take_said()
        if not out and self._clock() - self._said >= ALIVE_INTERVAL:
            out.append(Alive().build())
        if not out:
            return []
        self._said = self._clock()
        return [b"".join(out)]  # one frame for a thousand receipts

    def _take_said(self) -> list[bytes]:
        """What is to be sent and needs no sync."""
        with self._changed:
            out, self._out, self._refusals = list(self._out), deque(), 0
        return out

    @property
    def finished(self) -> bool:
        """Whether A's stream has ended, and everything is answered."""
        with self._changed:
            return self._eof and not self._out and not self._ended

    # --- anyone --------------------------------------------------------------------

    def next_event(self) -> Event | None:
        """The next event, or None."""
        try:
            return self._events.popleft()
        except IndexError:
            return None

    @property
    def idle(self) -> float:
        """Seconds for which A has only said that it is there, with nothing left for B to do."""
        with self._changed:
            owes = self._busy or any(file.stage is Stage.ENDED for file in self._files.values())
        return 0.0 if owes else self._clock() - self.moved

    @property
    def deadline(self) -> float | None:
        """When `handle_timeout` is due; None while nothing is expected of A."""
        if self._busy or self._eof:
            return None
        return self._heard + (IDLE_TIMEOUT if self._greeted else HELLO_TIMEOUT)

    def handle_timeout(self) -> None:
        """Raises `TransferError` (TIMEOUT) if the deadline has passed."""
        deadline = self.deadline
        if deadline is not None and self._clock() >= deadline:
            raise TransferError(Code.TIMEOUT)

    def shut_down(self) -> bool:
        """B is about to end: A hears so of what it sends, and is to come again for it.

        What has ended is still made durable, and said to be.  False: there is
        nothing to wait for.
        """
        with self._changed:
            self._stopping = True
            files = list(self._files.values())
        for file in files:
            if file.stage is Stage.TAKING:
                self._spoil(file, TransferError(Code.SHUTDOWN))
        self.wake()
        return bool(files)

    def close(self) -> None:
        """The connection is over, and no thread uses it: what is partial stays.

        Who tries again goes on with it, here or at a receiver started later.
        """
        self._hashing.close()
        for file in self._files.values():
            if file.stage is not Stage.SPOILT:
                self.account.release(file.part)
        self._files.clear()
        self._looking.forget()
        self._placing.forget()

    # --- messages ------------------------------------------------------------------

    def _hear(self, message: Message) -> None:
        if not self._greeted and not isinstance(message, Hello):
            raise MessageError(detail="no HELLO")
        match message:
            case Hello():
                if self._greeted:
                    raise MessageError(detail="a second HELLO")
                self._greeted = True
            case Put():
                self._put(message)
            case End():
                self._end(message)
            case Alive():
                pass
            case Bye():
                with self._changed:
                    if any(file.stage is not Stage.SPOILT for file in self._files.values()):
                        raise MessageError(detail="a BYE before the last RECEIPT")
                self.account.confirm(self._delivered)
            case _:
                raise MessageError(detail=f"a {type(message).__name__.upper()} of the sender")

    def _put(self, put: Put) -> None:
        if put.file != self._next:
            raise MessageError(detail=f"file {put.file} announced in the place of {self._next}")
        with self._changed:
            if len(self._files) + self._refusals >= self._rules.files and self._unanswered() > 0:
                raise MessageError(Code.TOO_MANY)
        self._next += 1
        if self._stopping:
            self._refuse(put, TransferError(Code.SHUTDOWN))
            return
        try:
            part = self.account.offer(put, self._looking, self._beat)
        except (TransferError, OSError) as error:
            self._refuse(put, error)
            return
        finally:
            self._looking.forget()
        file = _Incoming(put.file, part, Stage.OFFERED)
        with self._changed:
            self._files[put.file] = file
            if put.kind is Kind.DIRECTORY:
                file.stage = Stage.ENDED
                self._ended.append(file)
            else:
                prefixes = part.prefixes
                self._out.append(Have(put.file, prefixes).build())
                size = None if put.size == UNKNOWN_SIZE else put.size
                offset = prefixes[-1][0] if prefixes else 0
                self._events.append(Started(self._full(part), offset, size))
            self._changed.notify_all()

    def _unanswered(self) -> int:
        """By how many the files that A cannot know the end of are more than it may have."""
        spoilt = sum(file.stage is Stage.SPOILT for file in self._files.values())
        return len(self._files) - spoilt + self._refusals - self._rules.files + 1

    def _refuse(self, put: Put, error: TransferError | OSError) -> None:
        code, detail = _told(error)
        with self._changed:
            self._refusals += 1  # nobody may have B collect what it does not read
            self._out.append(Refuse(put.file, code).build())
            self._events.append(Failed(put.path, code, detail))
            self._changed.notify_all()

    def _beat(self) -> None:
        """While a long file is read: A is to know that B lives."""
        if self._clock() - self._said >= ALIVE_INTERVAL:
            self._said = self._clock()
            self._say(Alive().build())

    def _gather(self, data: Data, uses: Uses) -> None:
        """What follows the last piece of the same file is written and hashed with it."""
        if self._pieces and (
            (data.file, data.offset) != (self._gathered, self._upto)
            or len(self._pieces) == PIECES_MAX
        ):
            self._take_gathered(uses)
        self._pieces.append(data.data)
        self._gathered, self._upto = data.file, data.offset + len(data.data)

    def _take_gathered(self, uses: Uses) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces:
            self._take(pieces, sum(map(len, pieces)), uses)

    def _take(self, pieces: list[memoryview], size: int, uses: Uses) -> None:
        file, offset = self._file(self._gathered), self._upto - size
        action, following = self._look_up(file, Heard.DATA)
        if action is Action.IGNORE:
            return
        part = file.part
        with self._changed:
            if file.stage is Stage.SPOILT:
                return  # by a sync that failed just now
            self._unacked += size
            file.unacked += size
        if self._unacked > self._rules.window:
            raise MessageError(detail="more than the window")
        uses.add()
        try:
            if action is Action.BEGIN:
                if self._stopping:
                    raise TransferError(Code.SHUTDOWN)
                part.begin(offset)
                file.stage, self._current = following, file
                self._synced = self._clock()
            part.write(offset, pieces, self._hashing, uses.done)
        except (TransferError, OSError) as error:
            uses.done()
            self._spoil(file, error, unsound=part.broken)
            return
        self.taken += size
        if self._is_due():
            self.wake()

    def _end(self, end: End) -> None:
        file = self._file(end.file)
        heard = Heard.END if end.code is Code.OK else Heard.GIVEN_UP
        action, following = self._look_up(file, heard)
        if action is Action.FINISH:
            try:
                file.part.end(end, self._hashing)
            except (TransferError, OSError) as error:
                wrong = _told(error)[0] is Code.DIGEST
                self._spoil(file, error, discard=wrong, unsound=file.part.broken)
                with self._changed:
                    self._forget(file)
                return
            with self._changed:
                if file.stage is Stage.SPOILT:  # by a sync: A has had its answer
                    self._forget(file)
                    return
                file.stage = following
                self._ended.append(file)
                self._changed.notify_all()
            return
        if action is Action.DROP:
            self._spoil(file, TransferError(end.code), discard=True)
        with self._changed:
            self._forget(file)

    def _file(self, number: int) -> _Incoming:
        file = self._files.get(number)
        if file is None or not self._greeted:
            raise MessageError(detail=f"of file {number}, which is not under way")
        current = self._current
        if current is not file and current is not None:
            if current.stage is Stage.TAKING:
                raise MessageError(detail=f"file {current.number} has not ended")
            if current.stage is Stage.SPOILT:
                with self._changed:
                    self._forget(current)  # A has heard of it
            self._current = None
        return file

    def _look_up(self, file: _Incoming, heard: Heard) -> tuple[Action, Stage]:
        found = TABLE.get((file.stage, heard))
        if found is None:
            raise MessageError(detail=f"{heard.value} for a file that is {file.stage.value}")
        return found

    # --- what becomes of files -----------------------------------------------------

    def _spoil(
        self,
        file: _Incoming,
        error: TransferError | OSError,
        *,
        discard: bool = False,
        unsound: bool = False,
    ) -> None:
        """It comes to nothing on this connection; A hears why."""
        code, detail = _told(error)
        part = file.part
        with self._changed:
            if file.stage not in {Stage.OFFERED, Stage.TAKING}:
                return  # it has ended meanwhile: the commit will fail
            file.stage = Stage.SPOILT
            self._settle(file)
            self._out.append(Receipt(file.number, code, part.digest, ()).build())
            self._events.append(Failed(self._full(part), code, detail))
            self._changed.notify_all()
        if discard:
            with contextlib.suppress(OSError):  # then it stays, and digests will tell
                self.account.discard(part)
        if unsound:
            self.account.salvage(part)
        self.account.release(part)

    def _forget(self, file: _Incoming) -> None:
        self._files.pop(file.number, None)
        file.stage = Stage.OVER

    def _settle(self, file: _Incoming) -> None:
        self._unacked -= file.unacked
        file.unacked = 0

    def _is_due(self) -> bool:
        current = self._current
        if current is None or current.stage is not Stage.TAKING:
            return False
        return current.part.due(late=self._clock() - self._synced >= _SYNC_INTERVAL)

    def _sync(self, file: _Incoming) -> list[bytes]:
        try:
            before = file.part.durable
            offset = file.part.sync()
            self._synced = self._clock()
        except (TransferError, OSError) as error:
            self._spoil(file, error, unsound=isinstance(error, OSError))
            return []
        with self._changed:
            if file.stage not in {Stage.TAKING, Stage.ENDED} or offset <= before:
                return []
            left = file.part.written - offset
            self._unacked -= max(file.unacked - left, 0)
            file.unacked = min(file.unacked, left)
        return [Ack(file.number, offset).build()]

    def _commit(self, files: list[_Incoming]) -> list[bytes]:
        codes = self.account.commit([file.part for file in files], self._placing)
        out = []
        for file, code in zip(files, codes, strict=True):
            part = file.part
            path = part.path if code is Code.OK else ()
            out.append(Receipt(file.number, code, part.digest, path).build())
            self.account.release(part)
            if code is Code.OK:
                self._delivered.add(part.put.transfer_id)
                self._events.append(Completed(self._full(part), part.written, part.digest))
            else:
                self._events.append(Failed(self._full(part), code, ""))
        with self._changed:
            for file in files:
                self._settle(file)
                self._forget(file)
            self.moved = self._clock()
        return out

    def _full(self, part: Part) -> Path:
        return (*self.account.prefix, *part.path)

    def _say(self, message: bytes) -> None:
        with self._changed:
            self._out.append(message)
            self._changed.notify_all()

    def wake(self) -> None:
        """Let `wait` return."""
        with self._changed:
            self._changed.notify_all()


def _told(error: TransferError | OSError) -> tuple[Code, str]:
    if isinstance(error, TransferError):
        return error.code, error.detail
    return Code.of(error), error.strerror or str(error)
