"""The daemon's parent and a worker that hangs up."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from tcpcrypt.daemon import crew
from tcpcrypt.daemon.crew import Crew
from tcpcrypt.daemon.process import fork
from tcpcrypt.daemon.words import ENDED


def crew_without(body: Callable[[], int], reason: str = ENDED) -> Crew:
    """A crew that has lost its worker, which runs `body`."""
    found = object.__new__(Crew)
    found._ending = False
    found._reason = ""
    found._relays = ()
    found._broker = SimpleNamespace(close=lambda: None)  # type: ignore[assignment]
    found._worker = fork(body)
    found._on_lost(reason)
    return found


def test_a_worker_that_ends_by_itself_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    def body() -> int:
        time.sleep(0.1)
        raise SystemExit("tcpcryptd: the parent process does not read")

    found = crew_without(body)
    assert found._worker.wait(0) == 1
    assert found._reason == ENDED
    assert "does not read" in capfd.readouterr().err


def test_a_worker_that_goes_on_without_its_parent_is_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crew, "_LAST_WORDS", 0.05)

    def body() -> int:
        time.sleep(60)
        return 0

    assert crew_without(body)._worker.wait(30) == -9


def test_a_worker_that_says_nonsense_has_no_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "_LAST_WORDS", 50.0)
    began = time.monotonic()

    def body() -> int:
        time.sleep(100)
        return 0

    assert crew_without(body, "a message is too long")._worker.wait(30) == -9
    assert time.monotonic() - began < 40
