"""The policy routes that bring marked packets to this host, and the sysctls they need."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.rules import MARK_INNER, MARK_MASK, MARK_STEERED

__all__ = ["TABLE_LOCAL", "Routing"]

TABLE_LOCAL: Final = 29795
"""Routing table by which every address is local."""
_RULE_PRIORITY: Final = 29795
"""Behind the local table (0), before the main one (32766)."""
_MARKS: Final = (MARK_STEERED, MARK_INNER)


class Routing:
    """`ip rule`, `ip route` and sysctls of both families."""

    _SYSCTLS: Final = {
        # A connection that the daemon opens with MARK_INNER gives its mark to the
        # application's accepted socket, so that the answers come back to us.
        4: ("net/ipv4/tcp_fwmark_accept", "net/ipv4/fwmark_reflect"),
        6: ("net/ipv6/fwmark_reflect",),
    }

    def __init__(self, families: Sequence[int] = (4, 6)) -> None:
        self._families = tuple(families)
        self._before: dict[Path, str] = {}

    def install(self) -> None:
        """Idempotent.  Raises `LocalError` if a command or sysctl fails."""
        # Rules that are there already are those of a daemon that was killed, and
        # then the sysctls are as it set them; the kernel's default was 0.
        killed = self.remove()
        for family in self._families:
            self._add(family)
            for name in self._SYSCTLS[family]:
                path = Path("/proc/sys") / name
                try:
                    before = path.read_text().strip()
                    if killed:
                        self._before[path] = "0"
                    elif before != "1":
                        self._before[path] = before
                    path.write_text("1")
                except OSError as error:
                    raise LocalError(f"{path}: {error.strerror}") from error

    def repair(self) -> None:
        """Put back what somebody has taken out; at no moment is there less than before."""
        for family in self._families:
            self._add(family, check=False)  # one that is there cannot be added

    def missing(self) -> int:
        """How many rules and routes somebody has taken out since `install`."""
        found = 0
        for family in self._families:
            rules = self._tell(family, "rule", "show", "pref", str(_RULE_PRIORITY))
            routes = self._tell(family, "route", "show", "table", str(TABLE_LOCAL))
            found += max(0, len(_MARKS) - len(rules)) + (not routes)
        return found

    def _add(self, family: int, *, check: bool = True) -> None:
        everywhere = "0.0.0.0/0" if family == 4 else "::/0"
        route = ("local", everywhere, "dev", "lo", "table", str(TABLE_LOCAL))
        self._ip(family, "route", "replace", *route)
        for mark in _MARKS:
            self._ip(family, "rule", "add", *self._rule(mark), check=check)

    def _delete(self, family: int) -> int:
        found = 0
        for mark in _MARKS:
            while self._ip(family, "rule", "del", *self._rule(mark), check=False):
                found += 1
        return found

    def remove(self) -> int:
        """Take it all back; how many rules there were.  Idempotent."""
        found = 0
        for family in self._families:
            found += self._delete(family)
            self._ip(family, "route", "flush", "table", str(TABLE_LOCAL), check=False)
        while self._before:
            path, value = self._before.popitem()
            path.write_text(value)
        return found

    @staticmethod
    def _rule(mark: int) -> tuple[str, ...]:
        return (
            *("pref", str(_RULE_PRIORITY), "fwmark", f"{mark:#x}/{MARK_MASK:#x}"),
            *("lookup", str(TABLE_LOCAL)),
        )

    def _ip(self, family: int, *words: str, check: bool = True) -> bool:
        done = self._run(family, *words)
        if check and done.returncode:
            raise LocalError(f"{' '.join(done.args)}: {done.stderr.strip()}")
        return done.returncode == 0

    def _tell(self, family: int, *words: str) -> list[str]:
        return self._run(family, *words).stdout.splitlines()

    @staticmethod
    def _run(family: int, *words: str) -> subprocess.CompletedProcess[str]:
        argv = ("ip", f"-{family}", *words)
        try:
            return subprocess.run(argv, capture_output=True, text=True, check=False)
        except OSError as error:
            raise LocalError(f"ip: {error.strerror}") from error
