"""A file that always holds the state of a host, as JSON, complete at any moment."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Final

from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.host import Host

__all__ = ["StatusFile"]

_PERIOD: Final = 0.5
"""Seconds between two looks; the file is written when something has changed."""


class StatusFile:
    """Keeps `path` up to date; replaced, never half written.  No secret is in it."""

    def __init__(self, host: Host, path: Path) -> None:
        self._host = host
        self._path = path
        self._last = ""

    def start(self) -> None:
        """Write now, and whenever something changes.

        Raises `LocalError` if the file cannot be written; a failure later on
        is left to pass, because connections matter more than their list.
        """
        try:
            self.write()
        except OSError as error:
            raise LocalError(f"{self._path}: {error.strerror}") from error
        self._host.loop.call_every(_PERIOD, self._again)

    def _again(self) -> None:
        with contextlib.suppress(OSError):
            self.write()

    def write(self) -> None:
        """Write now, if there is something new.  Raises `OSError`."""
        host = self._host
        text = json.dumps(
            {
                "pid": os.getpid(),
                "counters": dataclasses.asdict(host.tally.counters),
                "connections": host.overview.sessions(),
            },
            indent=2,
        )
        if text != self._last:
            temporary = self._path.with_name(self._path.name + ".new")
            temporary.write_text(text + "\n")
            temporary.replace(self._path)
            self._last = text
