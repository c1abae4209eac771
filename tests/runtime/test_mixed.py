"""Who opens through the BPF program and who through the queue; the queue alone accepts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tcpcrypt.auth.tep import AuthenticatedTep
from tcpcrypt.core.config import Config
from tcpcrypt.registry import Tep
from tcpcrypt.runtime.mixed import MixedBackend
from tcpcrypt.wire.profile import STANFORD


class Recorder:
    """Stands for a backend and notes what it is asked."""

    evicted = 7

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.socket = object()

    def __getattr__(self, name: str) -> Any:
        def note(*_arguments: object, **_named: object) -> object:
            self.asked.append(name)
            return self.socket

        return note


PROVING = replace(
    Config(),
    teps=(Tep.EXPERIMENTAL,),
    extensions={Tep.EXPERIMENTAL: AuthenticatedTep(None)},  # type: ignore[arg-type]
)
OPENING = ["opener", "connect", "connected", "release"]


@pytest.mark.parametrize(
    ("config", "by_queue"),
    [
        (Config(), False),
        (replace(Config(), application_aware=True), False),
        (replace(Config(), application_aware=True, require_application_aware=True), True),
        (replace(Config(), active_b=True), True),
        (Config().in_profile(STANFORD), True),
        (PROVING, True),
    ],
)
def test_what_the_program_cannot_judge_opens_through_the_queue(
    config: Config, by_queue: bool
) -> None:
    sockops, queued = Recorder(), Recorder()
    backend = MixedBackend(sockops, queued)  # type: ignore[arg-type]
    sock: Any = backend.opener(4, 0, config)
    backend.connect(sock, ("192.0.2.1", 80), None, lambda: None)  # type: ignore[arg-type]
    backend.connected(sock)
    backend.release(sock)
    used, other = (queued, sockops) if by_queue else (sockops, queued)
    assert used.asked == OPENING
    assert other.asked == ["release"]
    # What comes under its number afterwards is another socket.
    backend.connected(sock)
    assert sockops.asked[-1] == "connected"


def test_the_queue_accepts_and_the_program_is_told_nothing() -> None:
    sockops, queued = Recorder(), Recorder()
    backend = MixedBackend(sockops, queued)  # type: ignore[arg-type]
    backend.configure(Config())
    backend.adopt_listener(None, None)  # type: ignore[arg-type]
    backend.accepted(None, None)  # type: ignore[arg-type]
    assert queued.asked == ["configure", "adopt_listener", "accepted"]
    assert not sockops.asked
    assert backend.evicted == 7
