"""The privilege channel: what only root may do, done for a worker that may nothing.

The parent holds one end (`Broker`), the worker the other, behind the seam of
`tcpcrypt.runtime.privileges` (`BrokeredPrivileges`).  A worker that somebody
has taken over gets from here new TCP sockets with our marks, other marks on
such sockets, and nothing else: the parent checks every request and drops the
worker that asks for anything besides.

    worker -> parent   {"opener": [family, count, mark]}    sockets to peers,
                       {"undiverted": [family, count, mark]}   past the queue
                       {"service": [family, count]}         sockets to services
                       {"finish": [mark, ...]} + sockets    their handshakes are over
    parent -> worker   {"sockets": n} + n sockets           answers, in the order
                       {"error": errno}                     of the requests

All other verbs are words of the daemon's own, handed to whoever listens; one
of the parent's with a descriptor has that for its value.
Crossing a process costs some 50 microseconds, so sockets come in batches
before they are needed, and finished ones go back once a turn of the loop.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

from tcpcrypt.daemon.words import (
    DESCRIPTORS_MAX,
    NonsenseError,
    Patience,
    Word,
    Words,
    WordsEndedError,
)
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.loop import READ, WRITE, Loop
from tcpcrypt.runtime.privileges import Privileges, tcp_socket
from tcpcrypt.runtime.rules import MARK_HANDSHAKE, MARK_MASK

__all__ = ["BATCH", "Broker", "BrokeredPrivileges"]

BATCH: Final = 32
"""Sockets asked for at once; a pool has between half of it and half as much again."""
WORD_MAX: Final = 4096
"""Bytes of a message from the worker; 64 marks of ten digits take less than a fifth."""
_MESSAGES_A_TURN: Final = 32
_TOO_MANY: Final = "tcpcryptd: too many descriptors of this user are on their way"
_CROWD_PAUSE: Final = 0.02
"""Seconds until the next try where too many descriptors are under way."""
_OUTBOX_MAX: Final = 64
"""Answers that wait for a worker which does not read; an honest one has few requests open."""
_PATIENCE: Final = 10.0
"""Seconds for which the worker waits for the parent, who may be changing rules."""
_SETTLED_PAUSE: Final = 1.0
"""Seconds after which connections that are still open are worth a word to the parent."""
_EVERY_MARK: Final = 0xFFFFFFFF
_DIVERTED: Final = "opener"
_OPENERS: Final = (_DIVERTED, "undiverted")

Heard = Callable[[str, Any], None]
"""Takes a verb that is none of the channel's, and its value."""
_Descriptor = socket.socket | io.FileIO


class Broker:
    """The parent's end.

    `heard` takes words with one of the verbs in `expected`; `lost` is called
    once, with the reason, when the worker is gone or has said nonsense.
    """

    def __init__(
        self,
        loop: Loop,
        words: Words,
        privileges: Privileges,
        *,
        expected: Collection[str] = (),
        heard: Heard,
        lost: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._words = words
        self._privileges = privileges
        self._expected = frozenset(expected)
        self._heard = heard
        self._lost = lost
        self._outbox: deque[tuple[str, object, Sequence[_Descriptor]]] = deque()
        self._open = True
        loop.watch(words.fileno(), READ, self._on_ready)

    def say(self, verb: str, value: object) -> None:
        """Tell the worker.  Raises `LocalError` if it is too long for a message."""
        self._send(verb, value, [])

    def hand(self, verb: str, descriptor: int) -> None:
        """Give the worker `descriptor`, which is closed here."""
        self._send(verb, None, [io.FileIO(descriptor)])

    def close(self) -> None:
        """Idempotent."""
        if self._open:
            self._open = False
            self._loop.forget(self._words.fileno())
            self._words.close()
            while self._outbox:
                self._drop_first()

    def _on_ready(self, events: int) -> None:
        try:
            if events & WRITE:
                self._flush()
            for _ in range(_MESSAGES_A_TURN):
                word = self._words.receive() if self._open else None
                if word is None:
                    return
                try:
                    self._answer(word)
                finally:
                    word.close()
                if len(self._outbox) > _OUTBOX_MAX:
                    raise NonsenseError("requests come, but nobody takes the answers")
        except LocalError as error:
            self.close()
            self._lost(str(error))

    def _answer(self, word: Word) -> None:
        if word.verb == "finish":
            self._finish(word)
            return
        if word.descriptors:
            raise NonsenseError("descriptors came that nobody asked for")
        if word.verb in _OPENERS:
            family, count, mark = _numbers(word.value, 3)
            self._check(family, count, mark)
            diverted = word.verb == _DIVERTED
            self._make(count, lambda: self._privileges.opener(family, mark, diverted=diverted))
        elif word.verb == "service":
            family, count = _numbers(word.value, 2)
            self._check(family, count)
            self._make(count, lambda: self._privileges.service(family))
        elif word.verb in self._expected:
            self._heard(word.verb, word.value)
        else:
            raise NonsenseError(f"unknown verb {word.verb[:20]!r}")

    @staticmethod
    def _check(family: int, count: int, mark: int = 0) -> None:
        if family not in {4, 6} or not 1 <= count <= DESCRIPTORS_MAX:
            raise NonsenseError("a request for sockets that there are not")
        _check_mark(mark)

    def _make(self, count: int, make: Callable[[], socket.socket]) -> None:
        sockets: list[socket.socket] = []
        try:
            for _ in range(count):
                sockets.append(make())
        except OSError as error:
            if not sockets:
                self._send("error", error.errno or errno.EIO, [])
                return
        self._send("sockets", len(sockets), sockets)

    def _finish(self, word: Word) -> None:
        marks = _numbers(word.value, len(word.descriptors))
        for mark, descriptor in zip(marks, word.descriptors, strict=True):
            _check_mark(mark)
            sock = _handshaking(os.dup(descriptor))
            # A connection that was reset meanwhile still takes a mark.
            with sock, contextlib.suppress(OSError):
                self._privileges.finish(sock, mark)

    def _send(self, verb: str, value: object, sockets: Sequence[_Descriptor]) -> None:
        if not self._open:
            _close(sockets)
            return
        self._outbox.append((verb, value, sockets))
        self._flush()

    def _flush(self) -> None:
        while self._outbox:
            verb, value, sockets = self._outbox[0]
            try:
                self._words.send(verb, value, [sock.fileno() for sock in sockets])
            except BlockingIOError as error:
                if error.errno == errno.ETOOMANYREFS:
                    # Nothing tells when that is over.
                    self._loop.call_later(_CROWD_PAUSE, self._flush_later)
                    return
                break
            except WordsEndedError:
                pass  # what it said before its end is to be read first
            except LocalError:
                self._drop_first()
                raise
            self._drop_first()
        wanted = READ | WRITE if self._outbox else READ
        self._loop.watch(self._words.fileno(), wanted, self._on_ready)

    def _flush_later(self) -> None:
        if self._open:
            self._flush()

    def _drop_first(self) -> None:
        _close(self._outbox.popleft()[2])


class BrokeredPrivileges:
    """The worker's end; see `tcpcrypt.runtime.privileges.Privileges`.

    `heard` takes the parent's words; `diverted` tells which sockets to peers will
    be needed most.  A parent that is gone or silent ends the
    process by `SystemExit`: without it nothing of use can be done.
    """

    def __init__(
        self, words: Words, families: Collection[int], heard: Heard, *, diverted: bool = True
    ) -> None:
        self._loop: Loop | None = None
        self._words = words
        self._heard = heard
        self._pools: dict[tuple[str, int], deque[socket.socket]] = {
            (kind, family): deque() for kind in (*_OPENERS, "service") for family in families
        }
        self._asked: deque[tuple[tuple[str, int] | None, int]] = deque()
        """What the answers that are to come belong to (None: to somebody who waits), and
        their family."""
        self._special: list[socket.socket | OSError] = []
        self._problems: dict[tuple[str, int], int] = {}
        self._finished: list[tuple[int, int]] = []
        self._settled: list[tuple[socket.socket, int]] = []
        self._later: deque[Word] = deque()
        for kind, family in self._pools:
            if kind != _OPENERS[diverted]:
                self._ask(kind, family, BATCH)

    def attach(self, loop: Loop) -> None:
        """Listen to the parent from now on."""
        self._loop = loop
        loop.watch(self._words.fileno(), READ, self._on_ready)
        loop.before_waiting(self.flush)

    def opener(self, family: int, mark: int = 0, *, diverted: bool = True) -> socket.socket:
        kind = _OPENERS[not diverted]
        if mark:
            return self._special_opener(kind, family, mark)
        return self._take(kind, family)

    def service(self, family: int) -> socket.socket:
        return self._take("service", family)

    def finish(self, sock: socket.socket, mark: int = 0, *, settled: bool = False) -> None:
        mark &= _EVERY_MARK & ~MARK_MASK
        if settled and self._loop is not None:
            if not self._settled:
                self._loop.call_later(_SETTLED_PAUSE, self._finish_settled)
            self._settled.append((sock, mark))
            return
        # A copy, because the caller may close its own before the turn is over,
        # and what is left to send must go out all the same.
        self._finished.append((os.dup(sock.fileno()), mark))
        if self._loop is None or len(self._finished) >= DESCRIPTORS_MAX:
            self.flush()

    def _finish_settled(self) -> None:
        """Those that are still open; most connections do not last that long."""
        settled, self._settled = self._settled, []
        for sock, mark in settled:
            if sock.fileno() >= 0 and self._words.fileno() >= 0:
                self.finish(sock, mark)

    def say(self, verb: str, value: object) -> None:
        """Tell the parent."""
        self._send(verb, value)

    def flush(self) -> None:
        """Send away the sockets whose handshakes are over.  Idempotent."""
        if self._finished:
            descriptors = [descriptor for descriptor, _mark in self._finished]
            self._send("finish", [mark for _descriptor, mark in self._finished], descriptors)
            self._finished.clear()
            for descriptor in descriptors:
                os.close(descriptor)

    def close(self) -> None:
        """Idempotent."""
        if self._words.fileno() >= 0:
            self.flush()
            if self._loop is not None:
                self._loop.forget(self._words.fileno())
            self._words.close()
        for pool in self._pools.values():
            _close(pool)
            pool.clear()

    def _take(self, kind: str, family: int) -> socket.socket:
        pool = self._pools.get((kind, family))
        if pool is None:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        if not pool:
            self._problems.pop((kind, family), None)
            if not self._is_asked(kind, family):
                self._ask(kind, family, BATCH)
            self._wait(lambda: bool(pool) or (kind, family) in self._problems)
            if not pool:
                number = self._problems.pop((kind, family))
                raise OSError(number, os.strerror(number))
        sock = pool.popleft()
        if len(pool) < BATCH // 2 and not self._is_asked(kind, family):
            self._ask(kind, family, BATCH)
        return sock

    def _is_asked(self, kind: str, family: int) -> bool:
        return ((kind, family), family) in self._asked

    def _special_opener(self, kind: str, family: int, mark: int) -> socket.socket:
        self._send(kind, [family, 1, mark & _EVERY_MARK & ~MARK_MASK])
        self._asked.append((None, family))
        self._wait(lambda: bool(self._special))
        answer = self._special.pop()
        if isinstance(answer, OSError):
            raise answer
        return answer

    def _ask(self, kind: str, family: int, count: int) -> None:
        self._send(kind, [family, count, 0] if kind in _OPENERS else [family, count])
        self._asked.append(((kind, family), family))

    def _send(self, verb: str, value: object, descriptors: Collection[int] = ()) -> None:
        patience = Patience(_PATIENCE)
        while True:
            try:
                self._words.send(verb, value, descriptors)
            except BlockingIOError as error:
                if error.errno != errno.ETOOMANYREFS:
                    self._poll(select.POLLOUT, patience)
                elif not patience.pause(_CROWD_PAUSE):
                    raise SystemExit(_TOO_MANY) from None
            except WordsEndedError as error:
                raise SystemExit(1) from error
            else:
                return

    def _wait(self, done: Callable[[], bool]) -> None:
        patience = Patience(_PATIENCE)
        while not done():
            if not self._read():
                self._poll(select.POLLIN, patience)
        if self._later and self._loop is not None:
            self._loop.call_later(0, self._deliver)

    def _poll(self, event: int, patience: Patience) -> None:
        if not patience.ready(self._words.fileno(), event):
            raise SystemExit("tcpcryptd: the parent process does not answer")

    def _on_ready(self, _events: int) -> None:
        for _ in range(_MESSAGES_A_TURN):
            if not self._read():
                break
        self._deliver()

    def _deliver(self) -> None:
        while self._later:
            word = self._later.popleft()
            self._heard(word.verb, word.descriptors[0] if word.descriptors else word.value)

    def _read(self) -> bool:
        """Take one message; whether there was one."""
        try:
            word = self._words.receive()
        except WordsEndedError as error:
            raise SystemExit(1) from error
        if word is None:
            return False
        if word.verb not in {"sockets", "error"}:
            self._later.append(word)
            return True
        owner, family = self._asked.popleft()
        sockets = [tcp_socket(family, descriptor) for descriptor in word.descriptors]
        if owner is not None and sockets:
            self._pools[owner].extend(sockets)
        elif owner is not None:
            self._problems[owner] = word.value
        else:
            self._special += sockets or [OSError(word.value, os.strerror(word.value))]
        return True


def _numbers(value: Any, count: int) -> list[int]:
    if not isinstance(value, list) or len(value) != count:
        raise NonsenseError("a request has other values than its verb takes")
    if not all(type(number) is int for number in value):
        raise NonsenseError("a request has values that are no numbers")
    return value


def _check_mark(mark: int) -> None:
    if not 0 <= mark <= _EVERY_MARK or mark & MARK_MASK:
        raise NonsenseError("a mark has bits that are not the worker's to choose")


def _handshaking(descriptor: int) -> socket.socket:
    """`descriptor` as the socket that it has to be, a handshake under way."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        os.close(descriptor)
        raise NonsenseError("a descriptor is no socket") from error
    if (
        sock.family not in {socket.AF_INET, socket.AF_INET6}
        or sock.type != socket.SOCK_STREAM
        or sock.proto != socket.IPPROTO_TCP
        or sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) & MARK_MASK != MARK_HANDSHAKE
    ):
        sock.close()
        raise NonsenseError("a socket is not one whose handshake is under way")
    return sock


def _close(sockets: Iterable[_Descriptor]) -> None:
    for sock in sockets:
        sock.close()
