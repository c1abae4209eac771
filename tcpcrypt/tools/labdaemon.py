"""A `tcpcryptd` running in a lab's host, and what its log tells."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tcpcrypt.errors import LocalError
from tcpcrypt.tools.netns import Host, wait_until

__all__ = ["BACKEND", "LabDaemon"]

BACKEND = "TCPCRYPT_TEST_BACKEND"

LogLine = dict[str, str]

_START_PATIENCE: Final = 30.0
"""Seconds; a machine that is busy with other things needs most of them."""


class LabDaemon:
    """Starts the daemon in `host` and returns when its rules are in place.

    `through` is a command that runs it, as `prlimit`; `python` an interpreter of another
    installation.  The environment variable BACKEND can say what carries the option,
    unless `arguments` do.
    Raises `LocalError` with what it wrote to stderr if it does not start.
    """

    def __init__(
        self,
        host: Host,
        *arguments: str,
        through: Sequence[str] = (),
        python: str = sys.executable,
    ) -> None:
        self.host = host
        self._directory = tempfile.TemporaryDirectory(prefix="tcpcrypt-lab-")
        self._log = Path(self._directory.name) / "log"
        backend = os.environ.get(BACKEND)
        self._errors = Path(self._directory.name) / "stderr"
        with self._errors.open("w") as errors:
            self.process = host.start(
                *(*through, python, "-m", "tcpcrypt.cli.tcpcryptd"),
                *("--log-file", str(self._log)),
                *(("--backend", backend) if backend else ()),
                *arguments,
                stderr=errors,
                # `-m` looks into the current directory first, and what is to run
                # is what is installed.
                cwd="/",
            )
        try:
            wait_until(
                lambda: self.events("started") or self.process.poll() is not None,
                "start",
                _START_PATIENCE,
            )
        except TimeoutError as error:
            raise LocalError(f"tcpcryptd on {host.name}: {error}") from error
        if self.process.poll() is not None:
            raise LocalError(f"tcpcryptd on {host.name}: {self.errors()}")

    @property
    def worker(self) -> int:
        """The process that moves the data."""
        return int(self.events("started")[0].get("worker", self.process.pid))

    def errors(self) -> str:
        """What the daemon wrote to stderr."""
        return self._errors.read_text().strip()

    def log_text(self) -> str:
        """The log as it stands; empty before its first line."""
        return self._log.read_text() if self._log.exists() else ""

    def events(self, *names: str) -> list[LogLine]:
        """The log lines with one of these events, or all, as field -> text."""
        lines = [
            dict(word.partition("=")[::2] for word in shlex.split(line))
            for line in self.log_text().splitlines()
        ]
        return [line for line in lines if not names or line["event"] in names]

    def wait_for(self, *names: str, count: int = 1, timeout: float = 10) -> list[LogLine]:
        """The lines with these events, once there are `count`.  Raises `TimeoutError`."""

        def enough() -> list[LogLine]:
            found = self.events(*names)
            return found if len(found) >= count else []

        lines: list[LogLine] = wait_until(enough, f"{count} x {' or '.join(names)}", timeout)
        return lines

    def stop(self, sig: int = signal.SIGTERM) -> int:
        """End it; returns its exit status."""
        return self.host.stop(self.process, sig)
