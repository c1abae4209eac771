"""`tcpcrypt sessions --watch`: on a terminal, into a pipe, and how both end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon.overview import SESSION, Memory, Service, authenticated, entry, plain, serving

from tcpcrypt.cli import tcpcrypt as command
from tcpcrypt.cli.sessions import _peer
from tcpcrypt.cli.sessions_watch import Look, View, changes, rate
from tcpcrypt.cli.table import table_lines
from tcpcrypt.daemon.client import SessionInfo

PERIOD = "0.1"
PATIENCE = 20.0
HEEDING = (
    "import os, signal, sys\n"
    "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
    "os.execv(sys.executable, [sys.executable, '-m', 'tcpcrypt.cli.tcpcrypt', *sys.argv[1:]])\n"
)
"""Tests that run in the background ignore Ctrl-C, and so does what they start, but for this."""
BEGIN = "import fcntl, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n" + HEEDING
"""A session leader takes the terminal, as a login does; Ctrl-C comes from there."""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with serving(tmp_path / "control.sock") as running:
        running.memory.connections = [entry(1, "10.0.0.1:1001", "10.0.0.2:80", sent=1000)]
        yield running


class Terminal:
    """A pseudo-terminal with a `tcpcrypt sessions --watch` on it."""

    def __init__(self, path: Path, columns: int = 200, lines: int = 20, *words: str) -> None:
        self._master, self.slave = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self.slave)
        self.seen = ""
        self.process = subprocess.Popen(
            (
                *(sys.executable, "-c", BEGIN, "sessions", "--watch", PERIOD),
                *("--control", str(path), *words),
            ),
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            cwd="/",
            env={**os.environ, "TERM": "xterm", "NO_COLOR": "1"},
        )

    def resize(self, columns: int, lines: int) -> None:
        size = struct.pack("4H", lines, columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)  # the kernel sends SIGWINCH

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def _read(self) -> None:
        if select.select([self._master], [], [], 0.05)[0]:
            self.seen += os.read(self._master, 1 << 16).decode()

    def screen(self) -> list[str]:
        """What the last whole drawing shows."""
        whole = self.seen.split("\x1b[H")[1:-1]  # the last may still be under way
        text = whole[-1].partition("\r\r\n\x1b[J")[0] if whole else ""
        return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", text).split("\r\r\n")

    def until(self, condition: Callable[[list[str]], object]) -> list[str]:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self._read()
            if condition(screen := self.screen()):
                return screen
        raise AssertionError("\n".join(self.screen()) + repr(self.seen[-500:]))

    def ends(self) -> int:
        """Its exit status, once it has ended with the terminal as it was."""
        end = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < end:
            self._read()
        status = self.process.wait(1)
        self._read()
        assert self.seen.endswith("\x1b[?25h\x1b[?1049l")
        assert self.seen.count("\x1b[?1049h") == self.seen.count("\x1b[?1049l")
        assert termios.tcgetattr(self.slave) == self.before
        return status

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        os.close(self._master)
        os.close(self.slave)


@pytest.fixture
def terminal(service: Service) -> Iterator[Callable[..., Terminal]]:
    with contextlib.ExitStack() as stack:

        def make(*arguments: Any) -> Terminal:
            one = Terminal(service.path, *arguments)
            stack.callback(one.close)
            return one

        yield make


def test_it_shows_what_comes_moves_and_goes(
    service: Service, terminal: Callable[..., Terminal]
) -> None:
    shown = terminal()
    screen = shown.until(lambda lines: any("10.0.0.2:80" in line for line in lines))
    assert screen[0].startswith("tcpcryptd, nfqueue: 1 encrypted; sent ")
    assert screen[1].startswith("since its start: 3 fresh, 17 resumed, 1 fallback")
    assert screen[2].split()[:4] == ["ID", "CLIENT", "SERVICE", "STATE"]
    assert SESSION in screen[3]
    assert screen[-1] == "q ends"
    service.memory.connections = [
        entry(1, "10.0.0.1:1001", "10.0.0.2:80", sent=9_001_000),
        plain(2, "10.0.0.1:1002", "10.0.0.3:80"),
    ]
    shown.until(lambda lines: re.search(r"MB|kB", lines[0]) and "10.0.0.3:80" in lines[3])
    service.memory.connections = []
    shown.until(lambda lines: lines[0].startswith("tcpcryptd, nfqueue: no connections"))
    shown.press(b"q")
    assert shown.ends() == 0


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda shown: shown.press(b"\x03"), 0),
        (lambda shown: shown.press(b"q"), 0),
        (lambda shown: shown.process.send_signal(signal.SIGTERM), 128 + signal.SIGTERM),
    ],
    ids=["ctrl-c", "q", "sigterm"],
)
def test_however_it_ends_the_terminal_is_as_it_was(
    terminal: Callable[..., Terminal], end: Callable[[Terminal], None], status: int
) -> None:
    shown = terminal()
    shown.until(lambda lines: len(lines) > 3)
    assert not termios.tcgetattr(shown.slave)[3] & termios.ECHO
    end(shown)
    assert shown.ends() == status


def test_ctrl_z_gives_the_terminal_back_and_takes_it_again(
    terminal: Callable[..., Terminal],
) -> None:
    shown = terminal()
    shown.until(lambda lines: len(lines) > 3)
    # From a terminal alone it would not stop: nobody is there to let it go on.
    shown.process.send_signal(signal.SIGTSTP)
    os.waitid(os.P_PID, shown.process.pid, os.WSTOPPED)
    shown._read()
    assert shown.seen.endswith("\x1b[?25h\x1b[?1049l")
    assert termios.tcgetattr(shown.slave) == shown.before
    shown.seen = ""
    shown.process.send_signal(signal.SIGCONT)
    shown.until(lambda lines: len(lines) > 3)
    assert "\x1b[?1049h" in shown.seen
    shown.press(b"q")
    assert shown.ends() == 0


def test_another_size_and_keys_that_scroll(
    service: Service, terminal: Callable[..., Terminal]
) -> None:
    service.memory.connections = [
        entry(number, f"10.0.0.1:{number}", "10.0.0.2:80") for number in range(1, 101)
    ]
    shown = terminal(120, 14)

    def first(number: int) -> Callable[[list[str]], bool]:
        return lambda lines: len(lines) > 3 and lines[3].split()[:1] == [str(number)]

    screen = shown.until(first(100))
    assert len(screen) == 14
    assert screen[-1] == "q ends, arrows scroll; 90 more"
    shown.press(b"\x1b[B")
    shown.until(first(99))
    shown.press(b"\x1b[6~")
    shown.until(first(90))
    shown.press(b"G")
    screen = shown.until(first(10))
    assert screen[-2].split()[0] == "1"
    shown.resize(40, 8)
    screen = shown.until(lambda lines: len(lines) == 8)
    assert max(map(len, screen)) <= 40
    shown.press(b"\x1b[H")
    shown.until(first(100))
    shown.press(b"q")
    assert shown.ends() == 0


def test_a_daemon_that_goes_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    memory = Memory([entry(7, "10.0.0.1:1", "10.0.0.2:80")])
    with contextlib.ExitStack() as stack:
        with serving(path, memory):
            shown = Terminal(path)
            stack.callback(shown.close)
            shown.until(lambda lines: any("10.0.0.2:80" in line for line in lines))
        shown.until(lambda lines: "no tcpcryptd answers" in lines[0])
        with serving(path, memory):
            shown.until(lambda lines: any("10.0.0.2:80" in line for line in lines))
            shown.press(b"q")
            assert shown.ends() == 0


# --- into a pipe -------------------------------------------------------------------------


@contextlib.contextmanager
def piped(path: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        (
            *(sys.executable, "-c", HEEDING, "sessions", "--watch", PERIOD),
            *("--control", str(path), *words),
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_line_for_each_change(service: Service) -> None:
    with piped(service.path) as process:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", words[0])
        assert words[1:4] == ["new", "1", "10.0.0.1:1001"]
        assert words[-1] == SESSION
        service.memory.connections = [
            authenticated(2, "10.0.0.1:1002", "10.0.0.3:5432", proved=False)
        ]
        lines = [process.stdout.readline().split()[1:3] for _ in range(2)]
        assert lines == [["gone", "1"], ["new", "2"]]
        service.memory.connections = [authenticated(2, "10.0.0.1:1002", "10.0.0.3:5432")]
        assert process.stdout.readline().split()[1:3] == ["changed", "2"]
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_an_object_for_each_change(service: Service) -> None:
    with piped(service.path, "--json") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert (first["change"], first["session"]["session"]) == ("new", SESSION)
        assert first["time"] > 1_700_000_000
        service.call(service.server.close)
        found = [json.loads(process.stdout.readline()) for _ in range(2)]
        assert [one["change"] for one in found] == ["daemon", "gone"]
        assert "no tcpcryptd answers" in found[0]["reason"]


def test_a_reader_that_goes_ends_it_quietly(service: Service) -> None:
    with piped(service.path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        service.memory.connections = []
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


# --- without a process ---------------------------------------------------------------------


def test_without_a_daemon_there_is_nothing_to_watch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "nobody")
    assert command.main(["sessions", "--watch", "--control", path]) == 1
    assert "no tcpcryptd answers" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-1", "nan", "soon", "3601"])
def test_a_period_that_is_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(["sessions", f"--watch={text}"])
    assert caught.value.code == 2
    assert "is not a number of seconds from 0.1 to 3600" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bytes_", "seconds", "text"),
    [
        *((0, 1.0, None), (1, 2.0, None), (5, 0.0, None), (1, 1.0, "1 B"), (999, 1.0, "999 B")),
        *((999.6, 1.0, "1.0 kB"), (1234, 1.0, "1.2 kB"), (123_400, 1.0, "123 kB")),
        *((2_000_000, 2.0, "1.0 MB"), (5e12, 1.0, "5000 GB")),
    ],
)
def test_rates(bytes_: float, seconds: float, text: str | None) -> None:
    assert rate(bytes_, seconds) == text


def test_another_daemon_begins_its_numbers_anew() -> None:
    one = SessionInfo.from_json(entry(1, "10.0.0.1:1", "10.0.0.2:80"))
    found = changes({(1.0, 1): one}, {(2.0, 1): one})
    assert [change.what for change in found] == ["gone", "new"]


def test_what_a_daemon_says_cannot_move_the_cursor() -> None:
    view = View(_peer, colours=False)
    evil = SessionInfo.from_json(plain(1, "10.0.0.1:1\x1b[2J", "10.0.0.2:80"))
    look = Look(1.0, {(1.0, 1): evil}, {"backend": "\x1b[2J", "counters": {"fresh": "\x1b[2J"}})
    for lines in (
        view.lines(Look(0.0), look, 300, 20),
        view.lines(Look(0.0), Look(1.0, missing="\x1b[2J" * 9), 20, 20),
    ):
        assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (40, 4), (80, 5), (500, 200)])
def test_nothing_is_drawn_beyond_the_screen(size: tuple[int, int]) -> None:
    sessions = {
        (1.0, n): SessionInfo.from_json(entry(n, "10.0.0.1:1", "10.0.0.2:80")) for n in range(9)
    }
    view = View(_peer, colours=False)
    lines = view.lines(Look(0.0), Look(1.0, sessions, {"backend": "nfqueue"}), *size)
    assert len(lines) <= size[1]
    assert max(map(len, lines)) <= size[0]


def test_colours_take_no_room() -> None:
    rows = [(1, "encrypted", "x"), (2, "plain", "y")]
    for width in range(25):
        plain_, bright = (
            table_lines(("N", "STATE", "Z"), rows, coloured=colours, width=width)
            for colours in (False, True)
        )
        assert [re.sub(r"\x1b\[\d*m", "", line) for line in bright] == plain_
        assert max(map(len, plain_)) <= width
    assert "\x1b[32mencrypted\x1b[0m" in bright[1]
