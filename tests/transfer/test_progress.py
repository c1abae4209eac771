"""What is told of a transfer: to a terminal, to a program, to a file."""

from __future__ import annotations

import io
import json
import re

import pytest

from tcpcrypt.transfer.progress import Meter, Progress, readable, shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def screen(text: str) -> list[str]:
    """Lines as a terminal shows them in the end."""
    lines = []
    for line in text.split("\n"):
        cells: list[str] = []
        for part in line.split("\r"):
            cells[: len(part)] = part
        lines.append("".join(cells).rstrip())
    return lines


@pytest.fixture
def clock() -> Clock:
    return Clock()


def on_terminal(clock: Clock, columns: int = 80, **more: bool) -> tuple[Progress, Terminal]:
    err = Terminal()
    progress = Progress(
        io.StringIO(), err, program="stx-send", clock=clock, columns=lambda: columns, **more
    )
    return progress, err


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"),
     (1 << 60, "1024.0 PiB"), (1 << 70, "1048576.0 PiB")],
)  # fmt: skip
def test_sizes_are_readable(size: int, text: str) -> None:
    assert readable(size) == text


def test_nothing_in_a_name_moves_the_cursor() -> None:
    assert shown("naïve.txt") == "naïve.txt"
    assert shown("a\x1b[2Jb\r\n\udcff\u202e") == r"a\x1b[2Jb\r\n\udcff\u202e"


def test_the_rate_is_that_of_late(clock: Clock) -> None:
    meter = Meter(clock)
    assert meter.rate == 0
    assert meter.left(100) is None
    assert meter.left(0) == 0.0
    for _ in range(100):
        clock.now += 0.1
        meter.add(100)
    assert meter.rate == pytest.approx(1000)
    for _ in range(300):
        clock.now += 0.1
        meter.add(10)
    assert meter.rate == pytest.approx(100, rel=0.01)
    assert meter.left(1000) == pytest.approx(10, rel=0.01)
    clock.now += 1000
    assert meter.rate < 1
    assert meter.seconds == pytest.approx(1040)


def test_a_terminal_shows_name_bar_rate_and_time(clock: Clock) -> None:
    progress, err = on_terminal(clock)
    assert progress.counts
    progress.expect(4 << 20)
    progress.file("photos/a.jpg")
    for _ in range(10):
        clock.now += 0.1
        progress.arrived(100 << 10)
    line = screen(err.getvalue())[-1]
    tail = re.escape("] 1000.0 KiB of 4.0 MiB  1000.0 KiB/s  00:03 left")
    assert re.fullmatch(r"photos/a\.jpg  \[#{2,4}\.{7,12}" + tail, line)
    progress.close()
    assert screen(err.getvalue())[-1] == ""


@pytest.mark.parametrize("columns", [1, 20, 30, 40, 60, 80, 200])
def test_the_line_fits_whatever_its_width(clock: Clock, columns: int) -> None:
    progress, err = on_terminal(clock, columns)
    progress.expect(1 << 40)
    progress.file("a/very/long/name/of/a/file/in/many/folders/" * 2)
    for done in (0, 1 << 20, 1 << 30):
        clock.now += 1
        progress.arrived(done)
    for line in screen(err.getvalue()):
        assert len(line) <= max(columns - 1, 20)


def test_without_a_total_there_is_neither_bar_nor_time(clock: Clock) -> None:
    progress, err = on_terminal(clock)
    progress.expect(None)
    clock.now = 1.0
    progress.arrived(1 << 20)
    line = screen(err.getvalue())[-1]
    assert line.strip().startswith("1.0 MiB  ")
    assert "left" not in line
    assert "[" not in line


def test_a_message_does_not_leave_half_a_line(clock: Clock) -> None:
    progress, err = on_terminal(clock)
    progress.expect(1000)
    clock.now = 1.0
    progress.arrived(10)
    progress.say("retry", "trying again")
    assert screen(err.getvalue()) == ["stx-send: trying again", ""]
    progress.file_done("a: delivered")
    progress.file_done("b: delivered as b.1", notable=True)
    assert screen(err.getvalue())[1:] == ["stx-send: b: delivered as b.1", ""]


def test_the_line_is_not_drawn_more_often_than_it_is_read(clock: Clock) -> None:
    progress, err = on_terminal(clock)
    progress.expect(1000)
    for _ in range(1000):
        clock.now += 0.001
        progress.arrived(1)
    assert err.getvalue().count("\r") <= 12


def test_what_was_there_before_is_no_speed(clock: Clock) -> None:
    out = io.StringIO()
    progress = Progress(out, io.StringIO(), program="p", as_json=True, clock=clock)
    progress.expect(2000)
    clock.now = 1.0
    progress.arrived(1000, before=True)
    clock.now = 2.0
    progress.arrived(100)
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert events[0] == {
        "event": "progress", "file": "", "bytes": 1000, "total": 2000, "rate": 0, "eta": None,
    }  # fmt: skip
    assert events[1]["bytes"] == 1100
    assert 40 <= events[1]["rate"] <= 110
    assert events[1]["eta"] == pytest.approx(900 / events[1]["rate"], rel=0.02)


def test_json_has_an_event_a_line_and_nothing_else(clock: Clock) -> None:
    out, err = io.StringIO(), Terminal()
    progress = Progress(out, err, program="p", as_json=True, clock=clock)
    progress.expect(10)
    progress.file("a\nb")
    progress.say("connected", "in words", cipher="AES-128-GCM")
    progress.file_done("in words", file="a\nb")
    progress.fault("did not work", status=3)
    progress.close()
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [
        {"event": "connected", "cipher": "AES-128-GCM"},
        {"event": "file", "file": "a\nb"},
        {"event": "error", "message": "did not work", "status": 3},
    ]
    assert err.getvalue() == ""


def test_a_file_gets_lines_and_no_drawings(clock: Clock) -> None:
    err = io.StringIO()
    progress = Progress(io.StringIO(), err, program="p", clock=clock)
    assert not progress.counts
    progress.expect(10)
    clock.now = 5.0
    progress.arrived(5)
    progress.file_done("a: delivered")
    progress.close()
    assert err.getvalue() == "p: a: delivered\n"


def test_quiet_tells_of_faults_alone(clock: Clock) -> None:
    progress, err = on_terminal(clock, quiet=True)
    progress.expect(10)
    clock.now = 5.0
    progress.arrived(5)
    progress.say("done", "all is well")
    progress.fault("all is not well")
    assert err.getvalue() == "stx-send: all is not well\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "00:00"), (59.6, "01:00"), (3599, "59:59"), (3600, "1:00:00"), (90_000, "1d 01:00"),
     (1e12, "--:--")],
)  # fmt: skip
def test_the_time_that_is_left(clock: Clock, seconds: float, text: str) -> None:
    progress, err = on_terminal(clock, 100)
    progress.expect(10**6 + int(seconds * 10**6))
    clock.now = 1.0
    progress.arrived(10**6)
    assert f"  {text} left" in screen(err.getvalue())[-1]


class Gone(io.StringIO):
    def write(self, _text: str) -> int:
        raise BrokenPipeError


def test_a_reader_that_has_gone_stops_no_transfer(clock: Clock) -> None:
    progress = Progress(Gone(), Gone(), program="p", as_json=True, clock=clock)
    progress.say("done", "")
    progress.fault("")
    Progress(Gone(), Gone(), program="p", clock=clock).fault("")
