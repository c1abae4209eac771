"""The traffic programs (`traffic.c`) in a lab, and the processor time that it all takes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tcpcrypt.errors import LocalError
from tcpcrypt.tools.netns import Host

__all__ = ["KINDS", "Target", "Traffic", "cpu_of"]

Target = tuple[str, int]
"""Address and port."""

KINDS: Final = ("once", "echo", "sink")
"""What services do with what comes."""
_FLAGS: Final = ("-O2", "-Wall", "-Wextra")
_MARGIN: Final = 60.0
"""Seconds that a program may take beyond those that it is to run."""


class Traffic:
    """The compiled programs.  Raises `LocalError` where they cannot be compiled."""

    def __init__(self, directory: Path) -> None:
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler is None:
            raise LocalError(
                "a C compiler is needed for the programs that send and receive "
                "(Debian: apt-get install gcc libc6-dev)"
            )
        self._program = str(directory / "traffic")
        source = Path(__file__).with_name("traffic.c")
        done = subprocess.run(
            (compiler, *_FLAGS, "-o", self._program, source),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LocalError(f"{source}: {done.stderr.strip()}")

    def serve(self, host: Host, at: Target, kind: str) -> subprocess.Popen[str]:
        """Start a service of one of KINDS; it listens when this returns."""
        words = (self._program, "serve", at[0], str(at[1]), kind)
        service = host.start(*words, stdout=subprocess.PIPE, text=True)
        if service.stdout is None or service.stdout.readline() != "ready\n":
            raise LocalError(f"{host.name}: no service at {at[0]} port {at[1]}")
        return service

    def open(self, host: Host, to: Target, at_once: int, seconds: float) -> dict[str, Any]:
        """Connections one after another: `ok`, `failed`, `seconds`, `p50_ms`, `p99_ms`, `cpu_s`."""
        return self._run(host, "open", to, at_once, seconds)

    def bulk(self, host: Host, to: Target, flows: int, seconds: float) -> dict[str, Any]:
        """As much as goes: `bytes`, `seconds` until they had arrived, `cpu_s`."""
        return self._run(host, "bulk", to, flows, seconds)

    def ping(self, host: Host, to: Target, size: int, seconds: float) -> dict[str, Any]:
        """There and back: `count`, `seconds`, `p50_us`, `p99_us`, `cpu_s`."""
        return self._run(host, "ping", to, size, seconds)

    def _run(
        self, host: Host, what: str, to: Target, number: int, seconds: float
    ) -> dict[str, Any]:
        words = (self._program, what, to[0], str(to[1]), str(number), str(seconds))
        done = host.run(*words, timeout=seconds + _MARGIN)
        print(done.stderr, end="", file=sys.stderr)
        said: dict[str, Any] = json.loads(done.stdout)
        return said


def cpu_of(pid: int) -> float:
    """Processor time of a process and all that descend from it, in seconds."""
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for one, parent, spent in _processes():
        ticks[one] = spent
        children.setdefault(parent, []).append(one)
    total, waiting = 0, [pid]
    while waiting:
        one = waiting.pop()
        total += ticks.get(one, 0)
        waiting += children.get(one, [])
    return total / float(os.sysconf("SC_CLK_TCK"))


def _processes() -> Iterator[tuple[int, int, int]]:
    """Number, parent and processor time in ticks, of each process."""
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (directory / "stat").read_text().rpartition(")")[2].split()
                yield int(directory.name), int(fields[1]), sum(map(int, fields[11:13]))
