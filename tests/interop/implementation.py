"""An implementation, as a small file describes it, and how it runs on a host."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import STDOUT
from typing import Any, Self

from tcpcrypt.tools.netns import Host, wait_until

__all__ = ["PORT", "Implementation", "Running"]

PORT = 80
_USER = "games"
"""Any account with neither rights nor processes; a proxy's rules tell its packets by it."""
_SETTLING = 1.0
"""Seconds for a program that does not say when it is ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Implementation:
    """One file of `implementations/`; braces in its texts are filled in."""

    name: str
    modes: tuple[str, ...]
    """The dialects that it speaks."""
    command: tuple[str, ...]
    encrypts: bool = True
    aware: bool = False
    """Its files say whether the application is aware of encryption."""
    program: str = ""
    """The environment variable that names it; empty: it is part of this tree."""
    ready: str = ""
    """Text in `{directory}/output` that tells that it serves."""
    setup: tuple[list[str], ...] = ()
    """Commands that come before it."""
    rules: str = ""
    """For iptables-restore."""
    libraries: str = ""
    """From the directory of the program."""
    queue: int = 0
    """A netfilter queue that must have lost nothing, or what it lost is told."""
    families: tuple[int, ...] = (4, 6)
    files: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises `TypeError` for what is no description."""
        lists = ("modes", "command", "setup", "families")
        values: dict[str, Any] = tomllib.loads(path.read_text())
        return cls(**{k: tuple(v) if k in lists else v for k, v in values.items()})

    @property
    def missing(self) -> str:
        """Why it cannot run here; empty: it can."""
        if self.program and not os.environ.get(self.program):
            return f"{self.program} is not set"
        if self.program and not Path(os.environ[self.program]).exists():
            return f"{os.environ[self.program]} ({self.program}) does not exist"
        return ""

    def run(self, host: Host, profile: str, tep: int, aead: int, *, aware: bool = False) -> Running:
        """Start it; returns when it serves."""
        return Running(self, host, profile, tep, aead, aware=aware)


class Running:
    """One that runs."""

    def __init__(
        self,
        what: Implementation,
        host: Host,
        profile: str,
        tep: int,
        aead: int,
        *,
        aware: bool,
    ) -> None:
        self.what = what
        self.host = host
        self._directory = tempfile.TemporaryDirectory(prefix="tcpcrypt-interop-")
        directory = Path(self._directory.name)
        directory.chmod(0o755)
        self._output = directory / "output"
        self.process = None
        program = os.environ.get(what.program, "")
        filled = {
            "python": sys.executable,
            "program": program,
            "beside": str(Path(program).parent),
            "directory": str(directory),
            "port": PORT,
            "user": _USER,
            "profile": profile,
            "teps": [tep],
            "aeads": [aead],
            "aware": str(aware).lower(),
        }
        for name, text in what.files.items():
            (directory / name).write_text(text.format_map(filled))
        environment = dict(os.environ)
        environment |= {k: v.format_map(filled) for k, v in what.environment.items()}
        if what.libraries:
            beside = Path(program).parent / what.libraries
            environment["LD_LIBRARY_PATH"] = str(beside)
        if what.rules:
            host.run("iptables-restore", input=what.rules.format_map(filled))
        for words in what.setup:
            host.run(*(word.format_map(filled) for word in words), env=environment)
        if not what.command:
            return
        command = [word.format_map(filled) for word in what.command]
        with self._output.open("a") as output:
            self.process = host.start(
                *command, stdout=output, stderr=STDOUT, env=environment, cwd="/"
            )
        if what.ready:
            wait_until(lambda: what.ready in self.output, f"{what.name}'s start", 30)
        else:
            wait_until(lambda: self._queued() is not None, f"{what.name}'s queue", 30)

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    @property
    def died(self) -> str:
        """How it ended, if it has."""
        status = self.process.poll() if self.process is not None else None
        return "" if status is None else f"{self.what.name} died ({status})"

    def _queued(self) -> list[str] | None:
        text = self.host.run("cat", "/proc/net/netfilter/nfnetlink_queue").stdout
        for line in text.splitlines():
            if line.split()[0] == str(self.what.queue):
                return line.split()
        return None

    @property
    def overflowed(self) -> int:
        """Packets that its queue has lost."""
        found = self._queued() if self.what.queue else None
        return int(found[5]) + int(found[6]) if found is not None else 0

    def events(self, *names: str) -> list[dict[str, str]]:
        """Of a log in words `key=value`."""
        lines = [
            dict(word.partition("=")[::2] for word in shlex.split(line))
            for line in self.output.splitlines()
            if line.startswith("time=")
        ]
        return [line for line in lines if line.get("event") in names]
