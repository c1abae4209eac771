"""A terminal as a screen that is drawn anew, left as it was found.

Only what a terminal of the last forty years does: its other screen, the cursor
hidden, a key at a time.  Ctrl-C, Ctrl-Z and signals work as everywhere; however
the program ends, but for SIGKILL, the terminal is itself again.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import termios
import tty
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, Final, Self

__all__ = ["Screen"]

_ENTER: Final = "\x1b[?1049h\x1b[?25l"
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME: Final = "\x1b[H"
_REST_OF_LINE: Final = "\x1b[K"
_REST_OF_SCREEN: Final = "\x1b[J"
_KEYS: Final = {
    **{b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down"},
    **{b"\x1b[5~": "page up", b"\x1b[6~": "page down"},
    **{b"\x1b[H": "home", b"\x1b[F": "end", b"\x1b[1~": "home", b"\x1b[4~": "end"},
    **{b"k": "up", b"j": "down", b"g": "home", b"G": "end", b" ": "page down"},
    **{b"q": "quit", b"Q": "quit", b"\x04": "quit"},
}
_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)


class Screen:
    """The terminal at standard input and output.  A context manager."""

    def __init__(self) -> None:
        self._in = sys.stdin.fileno()
        self._out = sys.stdout.fileno()
        self._before: list[Any] = []
        self._handlers: dict[int, Any] = {}
        self._wake, self._waking = socket.socketpair()

    @staticmethod
    def possible() -> bool:
        """Whether standard input and output are a terminal that can do this."""
        streams = (sys.stdin, sys.stdout)
        return os.environ.get("TERM", "dumb") != "dumb" and all(s.isatty() for s in streams)

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._in)
        for end in (self._wake, self._waking):
            end.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._waking.fileno(), warn_on_full_buffer=False)
        self._handlers = {
            signal.SIGWINCH: signal.signal(signal.SIGWINCH, lambda _number, _frame: None),
            signal.SIGTSTP: signal.signal(signal.SIGTSTP, self._pause),
            **{number: signal.signal(number, _end) for number in _ENDING},
        }
        self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._wake.close()
        self._waking.close()

    def _begin(self) -> None:
        tty.setcbreak(self._in, termios.TCSANOW)
        self._write(_ENTER)

    def _restore(self) -> None:
        with contextlib.suppress(OSError, termios.error):  # it may have been closed
            self._write(_LEAVE)
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetattr(self._in, termios.TCSANOW, self._before)

    def _pause(self, _number: int, _frame: FrameType | None) -> None:
        """Ctrl-Z: the shell gets its terminal back, until it lets us go on."""
        self._restore()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._begin()

    def _write(self, text: str) -> None:
        data = text.encode(errors="replace")
        while data:
            data = data[os.write(self._out, data) :]

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, at least 1 each."""
        found = os.get_terminal_size(self._out)
        return found.columns or 80, found.lines or 24

    def show(self, lines: Sequence[str]) -> None:
        """Draw these, as many as there is room for; each has to fit its line."""
        _columns, room = self.size
        # Erased before it is written: behind a full line the cursor stands on its end.
        text = "\r\n".join(_REST_OF_LINE + line for line in lines[:room])
        rest = "\r\n" + _REST_OF_SCREEN if len(lines) < room else ""
        self._write(_HOME + text + rest)

    def key(self, seconds: float) -> str:
        """What was pressed within that time; "" for nothing, or if the size has changed."""
        ready, _, _ = select.select([self._in, self._wake], [], [], max(0.0, seconds))
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                self._wake.recv(4096)
        if self._in not in ready:
            return ""
        pressed = os.read(self._in, 64)
        if not pressed:
            return "quit"  # nobody is there any more
        return _KEYS.get(pressed, _KEYS.get(pressed[:1], ""))


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
