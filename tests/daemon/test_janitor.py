"""The janitor cleans up after a parent that was killed, and only then."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tcpcrypt.daemon.janitor import Janitor
from tcpcrypt.daemon.process import Process, fork
from tcpcrypt.errors import LocalError
from tcpcrypt.tools.netns import wait_until


def ended(pid: int) -> bool:
    """Whether a process is gone, or waits to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def parent_of(janitor_from: Callable[[], Janitor]) -> tuple[Process, int]:
    """A parent with a janitor, ready to be killed; and the janitor's process."""
    reading, writing = os.pipe()

    def body() -> int:
        janitor = janitor_from()
        os.write(writing, b"%d" % janitor.pid)
        time.sleep(60)
        return 0

    parent = fork(body)
    pid = int(os.read(reading, 20))
    os.close(reading)
    os.close(writing)
    return parent, pid


def test_it_cleans_up_after_a_parent_that_was_killed(tmp_path: Path) -> None:
    parent, pid = parent_of(lambda: Janitor((tmp_path / "cleaned").touch))
    assert not (tmp_path / "cleaned").exists()
    parent.kill()
    parent.wait(5)
    wait_until((tmp_path / "cleaned").exists, "cleaning")
    wait_until(lambda: ended(pid), "end of the janitor")


def test_a_goodbye_is_the_end_of_it(tmp_path: Path) -> None:
    janitor = Janitor((tmp_path / "cleaned").touch)
    janitor.dismiss()
    janitor.dismiss()
    assert ended(janitor.pid)
    assert not (tmp_path / "cleaned").exists()


def test_the_worker_is_dead_before_it_cleans(tmp_path: Path) -> None:
    """Even one that did not ask to die with its parent."""
    worker = fork(lambda: time.sleep(60) or 0)
    seen = tmp_path / "seen"

    def clean() -> None:
        seen.write_text(str(ended(worker.pid)))

    parent, _pid = parent_of(lambda: Janitor(clean, worker=worker.fileno()))
    parent.kill()
    parent.wait(5)
    wait_until(lambda: seen.exists() and seen.read_text(), "cleaning")
    assert seen.read_text() == "True"
    worker.wait(5)


def test_a_successor_knows_more(tmp_path: Path) -> None:
    """The one before goes, though the successor has a copy of its pipe."""

    def both() -> Janitor:
        first = Janitor((tmp_path / "first").touch)
        second = Janitor((tmp_path / "second").touch)
        first.dismiss()
        assert ended(first.pid)
        return second

    parent, pid = parent_of(both)
    parent.kill()
    parent.wait(5)
    wait_until((tmp_path / "second").exists, "cleaning")
    wait_until(lambda: ended(pid), "end of the janitor")
    assert not (tmp_path / "first").exists()


def test_it_tries_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tcpcrypt.daemon.janitor._PAUSE", 0.05)

    def clean() -> None:
        with (tmp_path / "tries").open("a") as file:
            file.write("x")
        if (tmp_path / "tries").stat().st_size < 3:
            raise LocalError("someone else holds the lock")

    parent, pid = parent_of(lambda: Janitor(clean))
    parent.kill()
    parent.wait(5)
    wait_until(lambda: ended(pid), "end of the janitor")
    assert (tmp_path / "tries").read_text() == "xxx"


def test_it_gives_up_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tcpcrypt.daemon.janitor._PAUSE", 0.01)

    def clean() -> None:
        with (tmp_path / "tries").open("a") as file:
            file.write("x")
        raise LocalError("never")

    parent, pid = parent_of(lambda: Janitor(clean))
    parent.kill()
    parent.wait(5)
    wait_until(lambda: ended(pid), "end of the janitor")
    assert (tmp_path / "tries").read_text() == "x" * 5


def test_signals_that_end_the_daemon_do_not_end_it(tmp_path: Path) -> None:
    parent, pid = parent_of(lambda: Janitor((tmp_path / "cleaned").touch))
    for number in (1, 2, 15):
        os.kill(pid, number)
    time.sleep(0.1)
    assert not ended(pid)
    parent.kill()
    parent.wait(5)
    wait_until((tmp_path / "cleaned").exists, "cleaning")
