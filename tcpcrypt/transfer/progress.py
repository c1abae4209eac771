"""What a person or a program is told of a transfer while it goes on.

On a terminal one line is drawn again and again, with a bar, the rate and the
time that is left.  With `--json` each event is an object in a line of its own.
Otherwise there is a line for each file and each trouble.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from typing import Final, TextIO

__all__ = ["Meter", "Progress", "readable", "shown"]

_REDRAW: Final = 0.1
"""Seconds between two drawings of the line."""
_REPORT: Final = 1.0
"""Seconds between two events `progress`."""
_HALF_LIFE: Final = 2.0
"""Seconds after which what the rate was counts half."""
_BAR_MIN: Final = 8
_BAR_MAX: Final = 30
_NAME_SHARE: Final = 24
"""Columns that the bar leaves to the name."""
_UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB")
_DAY: Final = 86_400


def readable(size: float) -> str:
    """A number of bytes as people read it."""
    if size < 1024:
        return f"{size:.0f} B"
    at = 0
    while size >= 1024 and at < len(_UNITS):
        size /= 1024
        at += 1
    return f"{size:.1f} {_UNITS[at - 1]}"


def shown(name: str) -> str:
    """A name for a terminal: nothing in it moves the cursor or changes a colour."""
    if name.isprintable():
        return name
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()
        for char in name
    )


class Meter:
    """The rate of late, and what is left of the way."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = self._start = clock()
        self._bytes = 0.0
        self._weight = 0.0
        self._pending = 0

    def add(self, size: int) -> None:
        """So many bytes more."""
        self._pending += size

    @property
    def rate(self) -> float:
        """Bytes in a second; what is long ago counts little."""
        now = self._clock()
        passed = now - self._last
        if passed > 0:
            fade = 0.5 ** (passed / _HALF_LIFE)
            self._bytes = self._bytes * fade + self._pending
            self._weight = self._weight * fade + passed
            self._last, self._pending = now, 0
        return self._bytes / self._weight if self._weight else 0.0

    def left(self, size: int) -> float | None:
        """Seconds for so many bytes; None: nobody can tell."""
        rate = self.rate
        if size <= 0:
            return 0.0
        return size / rate if rate > 0 else None

    @property
    def seconds(self) -> float:
        """Since the start."""
        return self._clock() - self._start


class Progress:
    """Tells of one run; its methods may be called by any thread.

    `out` gets the events with `json`, `err` everything else.  `total`: bytes in
    all, None if nobody knows.
    """

    def __init__(
        self,
        out: TextIO,
        err: TextIO,
        *,
        program: str,
        as_json: bool = False,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
        columns: Callable[[], int] | None = None,
    ) -> None:
        self._out, self._err = out, err
        self._program = program
        self._json = as_json
        self._quiet = quiet
        self._clock = clock
        self._columns = columns or (lambda: shutil.get_terminal_size().columns)
        self._live = not as_json and not quiet and err.isatty()
        self._meter = Meter(clock)
        self._lock = threading.Lock()
        self._next = clock()
        self._drawn = 0
        self._name = ""
        self._done = 0
        self._total: int | None = None

    @property
    def tells(self) -> bool:
        """Whether `say` and `file_done` do anything."""
        return self._json or not self._quiet

    @property
    def counts(self) -> bool:
        """Whether it is of use to know how much is to go."""
        return self._live or (self._json and not self._quiet)

    def expect(self, total: int | None, *, done: int = 0) -> None:
        """So many bytes are to go in all, of which `done` have arrived before."""
        with self._lock:
            self._total, self._done = total, done

    def file(self, name: str) -> None:
        """It is this file's turn."""
        with self._lock:
            self._name = name

    def arrived(self, size: int, *, before: bool = False) -> None:
        """So many bytes more are on the other end's disk; `before`: by an earlier attempt."""
        with self._lock:
            self._done += size
            if not before:
                self._meter.add(size)
            now = self._clock()
            if now < self._next:
                return
            if self._live:
                self._next = now + _REDRAW
                self._draw()
            elif self._json and not self._quiet:
                self._next = now + _REPORT
                self._write_json("progress", self._values())

    def file_done(self, text: str, *, notable: bool = False, **values: object) -> None:
        """A file is where it belongs.  Where a line is drawn, only what is `notable` is told."""
        if self._json or notable or not self._live:
            self.say("file", text, **values)

    def say(self, event: str, text: str, **values: object) -> None:
        """An event, as a line; `quiet` leaves it out."""
        if self._json:
            with self._lock:
                self._write_json(event, values)
        elif not self._quiet:
            self._line(text)

    def fault(self, text: str, **values: object) -> None:
        """What did not work, always told."""
        if self._json:
            with self._lock:
                self._write_json("error", {"message": text, **values})
        else:
            self._line(text)

    def close(self) -> None:
        """Leave the terminal as it should be."""
        with self._lock:
            self._clear()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return self._meter.seconds

    def _line(self, text: str) -> None:
        with self._lock:
            self._clear()
            self._write(self._err, f"{self._program}: {shown(text)}\n")

    def _values(self) -> dict[str, object]:
        left = None if self._total is None else self._meter.left(self._total - self._done)
        return {
            "file": self._name,
            "bytes": self._done,
            "total": self._total,
            "rate": round(self._meter.rate),
            "eta": None if left is None else round(left, 1),
        }

    def _write_json(self, event: str, values: dict[str, object]) -> None:
        self._write(self._out, json.dumps({"event": event, **values}) + "\n")

    def _draw(self) -> None:
        done, total, rate = self._done, self._total, self._meter.rate
        parts = [readable(done) if total is None else f"{readable(done)} of {readable(total)}"]
        parts.append(f"{readable(rate)}/s")
        if total is not None:
            left = self._meter.left(total - done)
            parts.append(f"{_clock_face(left)} left")
        tail = "  ".join(parts)
        width = max(self._columns() - 1, 20)
        bar, name = "", shown(self._name)
        room = width - len(tail) - min(len(name), _NAME_SHARE) - 5
        if total and room >= _BAR_MIN:
            room = min(room, _BAR_MAX)
            filled = min(room, room * done // total)
            bar = f"[{'#' * filled}{'.' * (room - filled)}] "
        room = width - len(bar) - len(tail) - 2
        if room < 4:
            name = ""
        elif len(name) > room:
            name = "..." + name[-(room - 3) :]
        line = f"{name}  {bar}{tail}"[:width]
        self._write(self._err, "\r" + line.ljust(self._drawn))
        self._drawn = len(line)

    def _clear(self) -> None:
        if self._drawn:
            self._write(self._err, "\r" + " " * self._drawn + "\r")
            self._drawn = 0

    @staticmethod
    def _write(stream: TextIO, text: str) -> None:
        # A reader that has gone is no reason to stop a transfer.
        try:
            stream.write(text)
            stream.flush()
        except (OSError, ValueError):
            return


def _clock_face(seconds: float | None) -> str:
    if seconds is None or seconds >= 100 * _DAY:
        return "--:--"
    whole = int(seconds + 0.5)
    days, rest = divmod(whole, _DAY)
    hours, rest = divmod(rest, 3600)
    minutes, secs = divmod(rest, 60)
    if days:
        return f"{days}d {hours:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes:02}:{secs:02}"
