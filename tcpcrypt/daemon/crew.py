"""The parent's children, and what it hears of them: the worker and the janitor."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection
from typing import Any, Final

from tcpcrypt.auth.trust import Trust
from tcpcrypt.daemon.added import Added
from tcpcrypt.daemon.broker import WORD_MAX, Broker, Heard
from tcpcrypt.daemon.confinement import Account
from tcpcrypt.daemon.control import ControlSocket
from tcpcrypt.daemon.hoard import packed
from tcpcrypt.daemon.janitor import Janitor
from tcpcrypt.daemon.metrics_socket import MetricsSocket
from tcpcrypt.daemon.process import fork
from tcpcrypt.daemon.verdicts import VerdictRelay, verdict_pair
from tcpcrypt.daemon.words import ENDED, Words
from tcpcrypt.daemon.worker import Inheritance, work
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.context import Report, Settings
from tcpcrypt.runtime.installation import LOCK, QUEUE_NUMBERS, Installation
from tcpcrypt.runtime.loop import READ, Loop
from tcpcrypt.runtime.privileges import DirectPrivileges
from tcpcrypt.runtime.segment_queue import INNER_QUEUE, OUTER_QUEUE
from tcpcrypt.runtime.sock_diag import listeners

__all__ = ["Crew", "open_installation"]

_PART: Final = 1 << 15
"""Characters of a text that go in one message; JSON may make six bytes of one."""
_MESSAGE_MAX: Final = 8 * _PART
"""Bytes."""
_VERBS: Final = (
    *("ready", "alive", "confirmed", "reloaded", "reload_failed", "drained"),
    *("learned", "trust_changed"),
)
"""What the worker says of its own accord."""
_STOP_PATIENCE: Final = 10.0
"""Seconds that the worker has to reset its connections."""
_LAST_WORDS: Final = 2.0
"""Seconds for a worker that hung up to end by itself: its standard error says why it did."""
_LOCK_PATIENCE: Final = 5.0
"""Seconds that the janitor of a daemon that was killed has to let go."""


def open_installation(settings: Settings) -> Installation:
    """Take hold of the host; waits for the janitor of a daemon that was just killed.

    Raises `LocalError`.
    """
    installation = Installation(settings)
    end = time.monotonic() + _LOCK_PATIENCE
    while _lock_is_taken() and time.monotonic() < end:
        time.sleep(0.05)
    installation.open()
    return installation


def _lock_is_taken() -> bool:
    with contextlib.suppress(OSError):
        return bool(listeners(LOCK))
    return False


class Crew:
    """Starts, hears, replaces and ends them.

    `heard` takes what the worker says; `deserted` is called once if it ends
    without having been told to, with how and why.  The worker begins at once,
    unprivileged; this process may give up its own privileges afterwards.
    """

    def __init__(
        self,
        loop: Loop,
        installation: Installation,
        account: Account | None,
        report: Report,
        *,
        trust: Trust | None,
        control: ControlSocket | None,
        metrics: MetricsSocket | None,
        confirming: bool,
        log: Collection[int],
        heard: Heard,
        deserted: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._installation = installation
        self._report = report
        self._deserted = deserted
        self._ending = False
        self._reason = ""
        self._janitor: Janitor | None = None
        self._clean: Callable[[], object] = lambda: None
        ours, theirs = Words.pair(WORD_MAX, _MESSAGE_MAX)
        relay, verdicts = verdict_pair()
        queue = installation.queue.fileno()
        segment_relay, segment_verdicts = verdict_pair()
        segments, raw = installation.segments
        hoard = None if trust is None else packed(trust, 0)
        inheritance = Inheritance(
            settings=installation.settings,
            steering=installation.steering,
            queue=queue,
            maps=installation.maps,
            words=theirs,
            verdicts=verdicts,
            segments=(segments.fileno(), segment_verdicts),
            control=control.socket if control is not None else None,
            metrics=metrics.socket if metrics is not None else None,
            trust=hoard,
            confirming=confirming,
            keep=log,
        )
        parent = os.getpid()
        self._worker = fork(lambda: work(inheritance, account, parent, report))
        theirs.close()
        verdicts.close()
        segment_verdicts.close()
        if hoard is not None:
            os.close(hoard)
        self._broker = Broker(
            loop,
            ours,
            DirectPrivileges(),
            expected=_VERBS,
            heard=heard,
            lost=self._on_lost,
        )
        added = Added(lambda: installation.named, raw.send)
        self._relays = (
            VerdictRelay(loop, relay, queue, QUEUE_NUMBERS, self._on_lost),
            VerdictRelay(
                loop,
                segment_relay,
                segments.fileno(),
                {INNER_QUEUE, OUTER_QUEUE},
                self._on_lost,
                add=added,
            ),
        )
        loop.watch(self._worker.fileno(), READ, self._on_worker_end)

    @property
    def worker(self) -> int:
        """The worker's process id."""
        return self._worker.pid

    def say(self, verb: str, value: Any = None) -> None:
        """Tell the worker."""
        self._broker.say(verb, value)

    def give(self, trust: Trust, applied: int) -> None:
        """Give the worker another state of what is known of keys; consumes it."""
        self._broker.hand("trust", packed(trust, applied))

    def say_reload(self, text: str) -> None:
        """Give the worker another configuration; it answers `reloaded` or `reload_failed`."""
        parts = [text[at : at + _PART] for at in range(0, len(text), _PART)] or [""]
        for part in parts[:-1]:
            self._broker.say("part", part)
        self._broker.say("reload", parts[-1])

    def appoint_janitor(self, clean: Callable[[], object]) -> None:
        """Have a janitor that knows the present state; one that there was may go."""
        before, self._clean = self._janitor, clean
        if before is not None:
            self._loop.forget(before.fileno())
        self._janitor = Janitor(clean, worker=self._worker.fileno())
        self._loop.watch(self._janitor.fileno(), READ, self._on_janitor_end)
        if before is not None:
            before.dismiss()

    def dismiss_janitor(self) -> None:
        """Idempotent."""
        if self._janitor is not None:
            self._loop.forget(self._janitor.fileno())
            self._janitor.dismiss()
            self._janitor = None

    def end_worker(self) -> int:
        """Let it reset its connections and end; returns its exit status.  Idempotent."""
        self._ending = True
        end = time.monotonic() + _STOP_PATIENCE
        if self._worker.wait(0) is None:
            with contextlib.suppress(LocalError):
                self._broker.say("stop", None)
            while self._worker.wait(0) is None and (left := end - time.monotonic()) > 0:
                self._loop.step(left)
        self._worker.kill()
        status = self._worker.wait(_STOP_PATIENCE)
        self._loop.forget(self._worker.fileno())
        self._hang_up()
        return 1 if status is None else status

    def _hang_up(self) -> None:
        self._broker.close()
        for relay in self._relays:
            relay.close()

    def _on_lost(self, reason: str) -> None:
        # What it may want from now on nobody would check.
        self._hang_up()
        if not self._ending:
            self._reason = self._reason or reason
            if self._worker.wait(_LAST_WORDS if reason == ENDED else 0) is None:
                self._worker.kill()

    def _on_worker_end(self, _events: int) -> None:
        status = self._worker.wait(0)
        self._loop.forget(self._worker.fileno())
        if not self._ending:
            how = f"signal {-status}" if status is not None and status < 0 else f"status {status}"
            self._deserted(
                f"the worker ended with {how}" + f" ({self._reason})" * bool(self._reason)
            )

    def _on_janitor_end(self, _events: int) -> None:
        self.dismiss_janitor()
        self.appoint_janitor(self._clean)
        self._report("janitor", {"reason": "it was killed and has a successor"})
