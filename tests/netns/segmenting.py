"""`tcpcrypt segment` in a host of a lab, and what it tells."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tcpcrypt.errors import LocalError
from tcpcrypt.tools.netns import Host, wait_until


class SegmentHost:
    """Starts the plane in `host`; `inner` makes it a gateway for who is behind that device.

    `more` are further arguments.
    """

    def __init__(
        self,
        host: Host,
        *more: str,
        mode: str = "opportunistic",
        inner: str = "",
        port: int = 80,
    ) -> None:
        self.host = host
        self._directory = tempfile.TemporaryDirectory(prefix="tcpcrypt-segment-")
        self._log = Path(self._directory.name) / "log"
        self._errors = Path(self._directory.name) / "errors"
        with self._log.open("w") as log, self._errors.open("w") as errors:
            self.process: subprocess.Popen[Any] = host.start(
                *(sys.executable, "-m", "tcpcrypt.cli.tcpcrypt", "segment", "--json"),
                *("--port", str(port), "--mode", mode),
                *(("--inner", inner) if inner else ()),
                *more,
                stdout=log,
                stderr=errors,
                # `-m` looks into the current directory first, and what is to run
                # is what is installed.
                cwd="/",
            )
        wait_until(lambda: self.events("started") or self.process.poll() is not None, "start", 30)
        if self.process.poll() is not None:
            raise LocalError(self.errors())

    def errors(self) -> str:
        """What it wrote to stderr."""
        return self._errors.read_text()

    def events(self, *names: str) -> list[dict[str, Any]]:
        """The events with one of these names, or all."""
        lines = self._log.read_text().splitlines()
        found = [json.loads(line) for line in lines if line.endswith("}")]
        return [event for event in found if not names or event["event"] in names]

    def wait_for(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        """The events of this name, once there are `count`."""

        def enough() -> list[dict[str, Any]]:
            found = self.events(name)
            return found if len(found) >= count else []

        found: list[dict[str, Any]] = wait_until(enough, f"{count} {name}")
        return found

    def stop(self) -> int:
        """Let it end; returns its exit status."""
        return self.host.stop(self.process)
