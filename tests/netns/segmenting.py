"""The segment plane in a host of a lab: a process of its own, and what it reports.

Run as a program it serves until it is told to end; every event is a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tcpcrypt.core.config import Config
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.firewall import Firewall
from tcpcrypt.runtime.loop import Loop
from tcpcrypt.segment.opening import Side
from tcpcrypt.segment.service import SegmentPlane, segment_rules
from tcpcrypt.segment.table import Key
from tcpcrypt.tools.netns import Host, wait_until


class SegmentHost:
    """Starts the plane in `host`; `inner` makes it a gateway for who is behind that device."""

    def __init__(self, host: Host, *arguments: str, inner: str = "") -> None:
        self.host = host
        self._directory = tempfile.TemporaryDirectory(prefix="tcpcrypt-segment-")
        self._log = Path(self._directory.name) / "log"
        self._errors = Path(self._directory.name) / "errors"
        with self._log.open("w") as log, self._errors.open("w") as errors:
            self.process: subprocess.Popen[Any] = host.start(
                *(sys.executable, "-u", __file__, *arguments),
                *(("--inner", inner) if inner else ()),
                stdout=log,
                stderr=errors,
                env=os.environ | {"PYTHONSAFEPATH": "1"},
            )
        wait_until(lambda: self.events("started") or self.process.poll() is not None, "start", 30)
        if self.process.poll() is not None:
            raise LocalError(self.errors())

    def errors(self) -> str:
        return self._errors.read_text()

    def events(self, *names: str) -> list[dict[str, Any]]:
        lines = self._log.read_text().splitlines()
        found = [json.loads(line) for line in lines if line.endswith("}")]
        return [event for event in found if not names or event["event"] in names]

    def wait_for(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        def enough() -> list[dict[str, Any]]:
            found = self.events(name)
            return found if len(found) >= count else []

        found: list[dict[str, Any]] = wait_until(enough, f"{count} {name}")
        return found

    def stop(self) -> None:
        self.host.stop(self.process)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=80)
    parser.add_argument("--inner")
    parser.add_argument("--require", action="store_true")
    given = parser.parse_args()
    loop = Loop()

    def report(_key: Key, event: str, fields: dict[str, object]) -> None:
        print(json.dumps({"event": event, **fields}))

    config = Config(require_encryption=given.require)

    def configure(_key: Key, _side: Side) -> Config:
        return config

    plane = SegmentPlane(
        loop,
        configure,
        resumption=ResumptionCache(config),
        forwards=given.inner is not None,
        report=report,
    )
    firewall = Firewall()
    try:
        firewall.install(segment_rules([given.port], given.inner))
        for sig in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sig, lambda *_: loop.stop())
        print(json.dumps({"event": "started"}))
        loop.run()
    finally:
        plane.close()
        firewall.remove()
    print(json.dumps({"event": "stopped", "injected": plane.injected}))


if __name__ == "__main__":
    main()
