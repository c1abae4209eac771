"""The log: lines that can be taken apart again, that forge nothing and flood nobody."""

from __future__ import annotations

import os
import re
import resource
import select
import shlex
import signal
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpcrypt.daemon import log as log_module
from tcpcrypt.daemon.journal import Journal
from tcpcrypt.daemon.log import Log, Priority, StreamSink, open_log
from tcpcrypt.errors import LocalError


def fields_of(line: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(line))


class Lines:
    """A sink that keeps lines, and refuses them on demand."""

    def __init__(self) -> None:
        self.lines: list[dict[str, str]] = []
        self.priorities: list[Priority] = []
        self.deaf = False

    def write(self, priority: Priority, event: str, fields: Mapping[str, str]) -> bool:
        if self.deaf:
            return False
        self.lines.append(fields_of(log_module.line(event, fields)))
        self.priorities.append(priority)
        return True

    def close(self) -> None:
        self.deaf = True


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = open_log(str(path))
    log.write("fallback", {"id": 7, "client": "[fe80::1]:4000", "reason": "peer's SYN has no ENO"})
    log.write("closed", {"id": 7, "how": "", "odd": 'a="b" \\ c'})
    log.close()
    first, second = path.read_text().splitlines()
    assert re.fullmatch(
        r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} event=fallback id=7"
        r' client=\[fe80::1\]:4000 reason="peer\'s SYN has no ENO"',
        first,
    )
    assert fields_of(second) | {"time": ""} == {
        **{"time": "", "event": "closed", "id": "7", "how": "", "odd": 'a="b" \\ c'},
    }
    assert stat.S_IMODE(path.stat().st_mode) & ~0o640 == 0


@pytest.mark.parametrize(
    "text",
    [
        "x\ntime=2026-01-01T00:00:00+0000 event=enabled id=1",
        "x\r\nevent=enabled",
        "\x1b[2J\x1b]0;owned\x07",
        "\x00\x7f\x85\x9b31m",
        "a\u2028b\u202ec\ufeffd",
        "\udcff",
        "it's",
        'a" event="enabled',
        "a\\",
    ],
)
def test_what_a_peer_says_forges_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "log"
    log = open_log(str(path))
    log.write("aborted", {"id": 1, "reason": text})
    log.close()
    raw = path.read_bytes()
    assert raw.count(b"\n") == 1
    line = raw.decode().rstrip("\n")
    assert line.isprintable()
    fields = fields_of(line)
    assert list(fields) == ["time", "event", "id", "reason"]
    assert fields["event"] == "aborted"


@given(st.dictionaries(st.sampled_from(["reason", "error", "client"]), st.text()))
def test_every_line_can_be_taken_apart(values: dict[str, str]) -> None:
    sink = Lines()
    Log(sink).write("failed", values)
    (fields,) = sink.lines
    assert fields.pop("event") == "failed"
    assert list(fields) == list(values)
    for name, value in values.items():
        assert fields[name].isprintable()
        if value.isprintable() and len(value) <= 500:
            assert fields[name] == value


def test_long_values_are_cut() -> None:
    sink = Lines()
    Log(sink).write("failed", {"reason": "x" * 100_000})
    assert sink.lines[0]["reason"] == "x" * 500 + "..."


def test_priorities_and_threshold() -> None:
    sink = Lines()
    log = Log(sink)
    for event in ("bug", "aborted", "fallback", "enabled"):
        log.write(event, {})
    assert sink.priorities == [3, 4, 5, 6]
    log.threshold = Priority.WARNING
    for event in ("bug", "aborted", "fallback", "enabled"):
        log.write(event, {})
    assert [fields["event"] for fields in sink.lines[4:]] == ["bug", "aborted"]


def test_a_flood_of_one_kind_is_counted_and_hides_no_other() -> None:
    sink, clock = Lines(), Clock()
    log = Log(sink, clock=clock)
    for number in range(5000):
        log.write("fallback", {"id": number})
    assert len(sink.lines) == 1000
    log.write("aborted", {"id": 1})
    assert sink.lines[-1]["event"] == "aborted"
    clock.now += 0.055
    for number in range(10):
        log.write("fallback", {"id": number})
    assert len(sink.lines) == 1001 + 5
    assert sink.lines[1001]["suppressed"] == "4000"
    assert "suppressed" not in sink.lines[1002]


def test_a_flood_that_is_over_is_summed_up() -> None:
    sink, clock = Lines(), Clock()
    log = Log(sink, clock=clock)
    for number in range(1003):
        log.write("fallback", {"id": number})
    clock.now += 9
    log.write("aborted", {})
    assert sink.lines[-1]["event"] == "aborted"
    clock.now += 2
    log.write("aborted", {})
    assert sink.lines[-1] == {"event": "suppressed", "kind": "fallback", "suppressed": "3"}
    log.summarize()
    assert len(sink.lines) == 1003


def test_the_end_tells_what_was_not_told() -> None:
    sink = Lines()
    log = Log(sink, clock=Clock())
    for number in range(1001):
        log.write("fallback", {"id": number})
    log.close()
    assert sink.lines[-1] == {"event": "suppressed", "kind": "fallback", "suppressed": "1"}


def test_lines_that_did_not_arrive_are_counted() -> None:
    sink = Lines()
    log = Log(sink, clock=Clock())
    sink.deaf = True
    log.write("enabled", {"id": 1})
    log.write("enabled", {"id": 2})
    sink.deaf = False
    log.write("enabled", {"id": 3})
    assert sink.lines == [{"event": "enabled", "id": "3", "suppressed": "2"}]


def test_a_reader_that_does_not_read_holds_nobody_up() -> None:
    reading, writing = os.pipe()
    log = Log(StreamSink(writing), clock=Clock())
    for number in range(2000):
        log.write(f"kind{number % 20}", {"text": "x" * 400})
    read = bytearray()
    while select.select([reading], [], [], 0)[0]:
        read += os.read(reading, 1 << 16)
    assert read.endswith(b"\n")
    lines = read.decode().splitlines()
    assert 10 < len(lines) < 1000
    log.write("enabled", {})
    log.close()
    with os.fdopen(reading) as rest:
        told = [fields_of(line) for line in rest]
    assert sum(int(fields.get("suppressed", 0)) for fields in told) == 2000 - len(lines)


def test_a_reader_that_is_gone_ends_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    log = Log(StreamSink(writing))
    log.write("enabled", {})
    log.close()


def test_a_disk_that_is_full_ends_nothing() -> None:
    log = Log(StreamSink(os.open("/dev/full", os.O_WRONLY)))
    log.write("enabled", {})
    log.close()


def test_a_file_that_was_truncated_is_written_on_from_its_start(tmp_path: Path) -> None:
    """So does logrotate with `copytruncate`."""
    path = tmp_path / "log"
    log = open_log(str(path))
    log.write("started", {})
    os.truncate(path, 0)
    log.write("ended", {})
    log.close()
    assert path.read_bytes().startswith(b"time=")
    assert path.read_text().endswith("event=ended\n")


def test_a_file_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="No such file or directory"):
        open_log(str(tmp_path / "nowhere" / "log"))


def test_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    log = open_log("stderr")
    log.write("started", {"ports": "80,443"})
    log.close()
    assert capfd.readouterr().err.endswith("event=started ports=80,443\n")


def test_a_journal_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(log_module, "Journal", lambda: Journal(tmp_path / "nobody"))
    with pytest.raises(LocalError, match="No such file"):
        open_log("journald")


def test_auto_is_stderr_where_no_journal_is(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    log = open_log()
    log.write("started", {})
    log.close()
    assert capfd.readouterr().err.endswith("event=started\n")


def test_a_line_that_was_torn_ends_before_the_next(tmp_path: Path) -> None:
    """A disk that fills up in the middle of a line, and is emptied."""
    path = tmp_path / "log"
    log = open_log(str(path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, hard))
        log.write("enabled", {"id": 1, "client": "10.0.0.1:4000"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    log.write("enabled", {"id": 2})
    log.close()
    torn, whole = path.read_text().splitlines()
    assert len(torn) == 50
    assert whole.endswith(" event=enabled id=2 suppressed=1")
