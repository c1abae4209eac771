"""The log: a line of `key=value` for each event, which a person reads and `shlex` takes apart.

    time=2026-11-21T07:09:08+0000 event=enabled id=7 client=10.0.0.1:4000 role=A start=fresh

In the journal the same event is an entry whose MESSAGE is that line without
its time, with a field for each key (TCPCRYPT_SESSION=...) and a PRIORITY.

What peers say is in it, so nothing of it can begin a line, a key or a terminal
sequence.  No event may flood it: a kind that comes too often is counted
instead, and the count is told with the next line of that kind, or in a line of
its own.  Nothing here blocks; a reader that does not read loses lines, which
are counted too.  No secret is ever given to it.
"""

from __future__ import annotations

import enum
import os
import re
import select
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

from tcpcrypt.daemon.journal import Journal, is_journal
from tcpcrypt.errors import LocalError

__all__ = ["Log", "Priority", "Sink", "open_log"]

BURST: Final = 1000.0
"""Lines of one kind that may come at once."""
RATE: Final = 100.0
"""Lines of one kind a second, in the long run."""
SUMMARY_AFTER: Final = 10.0
"""Seconds after which suppressed lines are told of, though no more came."""
_VALUE_MAX: Final = 500
_QUOTED: Final = re.compile(r"[ \"'=\\]")
"""What makes a value stand between quotes."""
_LINE_ATOMIC: Final = select.PIPE_BUF
"""Bytes that a pipe reported as writable takes without blocking."""


class Priority(enum.IntEnum):
    """Those of syslog (RFC 5424 section 6.2.1); the smaller, the graver."""

    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7


_PRIORITIES: Final[Mapping[str, Priority]] = {
    "bug": Priority.ERROR,
    "reload_failed": Priority.ERROR,
    "trust_failed": Priority.ERROR,
    "aborted": Priority.WARNING,
    "distrusted": Priority.WARNING,
    "exhausted": Priority.WARNING,
    "identity_changed": Priority.WARNING,
    "keylog": Priority.WARNING,
    "keylog_failed": Priority.WARNING,
    "janitor": Priority.WARNING,
    "not_remembered": Priority.WARNING,
    "refused": Priority.WARNING,
    "restored": Priority.WARNING,
    "unconfirmed": Priority.WARNING,
    "confirmed": Priority.NOTICE,
    "draining": Priority.NOTICE,
    "ended": Priority.NOTICE,
    "failed": Priority.NOTICE,
    "fallback": Priority.NOTICE,
    "first_contact": Priority.NOTICE,
    "identity": Priority.NOTICE,
    "reloaded": Priority.NOTICE,
    "remembered": Priority.NOTICE,
    "started": Priority.NOTICE,
}
"""Everything else is Priority.INFO."""


class Sink(Protocol):
    """Where lines go.  `write` must not block; it returns whether the line arrived."""

    def write(self, priority: Priority, event: str, fields: Mapping[str, str]) -> bool: ...

    def close(self) -> None: ...


class _Bucket:
    """Tokens of one kind of event (a token bucket), and what had to do without."""

    __slots__ = ("at", "since", "suppressed", "tokens")

    def __init__(self, now: float) -> None:
        self.tokens = BURST
        self.at = now
        self.suppressed = 0
        self.since = now

    def take(self, now: float) -> bool:
        self.tokens = min(BURST, self.tokens + (now - self.at) * RATE)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def suppress(self, now: float) -> None:
        if not self.suppressed:
            self.since = now
        self.suppressed += 1


class Log:
    """Takes the events of a daemon; `write` is a `Report`."""

    def __init__(
        self,
        sink: Sink,
        *,
        threshold: Priority = Priority.INFO,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`threshold`: the least grave that is written.  `clock`: seconds."""
        self.threshold = threshold
        self._sink = sink
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self._behind = False
        """Whether anything was suppressed and not told since."""

    def write(self, event: str, fields: Mapping[str, object]) -> None:
        """Log one event.  Never raises for what a sink does, and never blocks."""
        priority = _PRIORITIES.get(event, Priority.INFO)
        now = self._clock()
        if priority <= self.threshold:
            bucket = self._buckets.setdefault(event, _Bucket(now))
            if not bucket.take(now) or not self._tell(priority, event, fields, bucket):
                bucket.suppress(now)
                self._behind = True
        if self._behind:
            self.summarize(SUMMARY_AFTER)

    def _tell(
        self, priority: Priority, event: str, fields: Mapping[str, object], bucket: _Bucket
    ) -> bool:
        words = _words(fields)
        if bucket.suppressed:
            words["suppressed"] = str(bucket.suppressed)
        told = self._sink.write(priority, event, words)
        if told:
            bucket.suppressed = 0
        return told

    def summarize(self, age: float = 0.0) -> None:
        """Tell of what was suppressed at least `age` seconds ago and not told since."""
        now, behind = self._clock(), False
        for event, bucket in self._buckets.items():
            if bucket.suppressed and now - bucket.since >= age:
                words = {"kind": event, "suppressed": str(bucket.suppressed)}
                if self._sink.write(Priority.WARNING, "suppressed", words):
                    bucket.suppressed = 0
            behind = behind or bucket.suppressed > 0
        self._behind = behind

    def close(self) -> None:
        """Tell what is left to be told, and close the sink."""
        self.summarize()
        self._sink.close()


def open_log(where: str = "auto", *, threshold: Priority = Priority.INFO) -> Log:
    """A log as the configuration names it: `auto`, `stderr`, `journald` or a file's path.

    `auto` is the journal if stderr leads there, else stderr.  Raises
    `LocalError` if it cannot be opened.
    """
    if where == "auto":
        journal = is_journal(sys.stderr.fileno(), os.environ.get("JOURNAL_STREAM"))
        where = "journald" if journal else "stderr"
    sink: Sink
    if where == "journald":
        sink = JournalSink(Journal())
    elif where == "stderr":
        sink = StreamSink(os.dup(sys.stderr.fileno()))
    else:
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
            sink = StreamSink(os.open(Path(where), flags, 0o640))
        except OSError as error:
            raise LocalError(f"{where}: {error.strerror}") from error
    return Log(sink, threshold=threshold)


class StreamSink:
    """Lines to a descriptor, which it closes.  Appends, so that others may truncate the file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._torn = False
        self._second = -1
        self._stamp = ""
        """The time of that second; to format it takes a fifth of a line's time."""

    def write(self, _priority: Priority, event: str, fields: Mapping[str, str]) -> bool:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(second))
        data = f"time={self._stamp} {line(event, fields)}\n".encode()
        if self._torn:
            data = b"\n" + data
        # The descriptor is shared with whoever started us: it stays blocking.
        if len(data) > _LINE_ATOMIC or not self._poll.poll(0):
            return False
        try:
            written = os.write(self._fd, data)
        except OSError:
            return False
        # The disk was full in the middle of it; what comes next begins a line.
        self._torn = written < len(data)
        return not self._torn

    def close(self) -> None:
        os.close(self._fd)


class JournalSink:
    """Entries of the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def write(self, priority: Priority, event: str, fields: Mapping[str, str]) -> bool:
        entry = {
            "MESSAGE": line(event, fields),
            "PRIORITY": str(priority.value),
            "SYSLOG_IDENTIFIER": "tcpcryptd",
            "TCPCRYPT_EVENT": event,
        }
        entry |= {f"TCPCRYPT_{name.upper()}": value for name, value in fields.items()}
        return self._journal.send(entry)

    def close(self) -> None:
        self._journal.close()


def line(event: str, fields: Mapping[str, str]) -> str:
    """`event=NAME key=value ...`, quoted where `shlex` and the eye need it."""
    values = fields.values()
    # Nearly every line has nothing to quote, and one look at all of it tells.
    if all(values) and not _QUOTED.search("".join(values)):
        words = [f"{name}={text}" for name, text in fields.items()]
    else:
        words = [f"{name}={_quoted(text)}" for name, text in fields.items()]
    return " ".join((f"event={event}", *words))


def _words(fields: Mapping[str, object]) -> dict[str, str]:
    """The values as text in which nothing is that a terminal or a reader of lines obeys."""
    words = {name: str(value) for name, value in fields.items()}
    whole = "".join(words.values())
    if len(whole) <= _VALUE_MAX and whole.isprintable():
        return words  # as nearly all, and none of them is too long
    return {name: _clean(text) for name, text in words.items()}


def _clean(text: str) -> str:
    """`text` with nothing in it that a terminal or a reader of lines obeys."""
    if len(text) > _VALUE_MAX:
        text = text[:_VALUE_MAX] + "..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _quoted(text: str) -> str:
    if text and not _QUOTED.search(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
