"""A check of this host: what was looked for, what was found, what that means, what to do."""

from __future__ import annotations

import enum
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from tcpcrypt.errors import LocalError

__all__ = ["Check", "Facts", "Finding", "Need", "Report", "examine"]

_COMMAND_SECONDS: Final = 20.0
Subject = TypeVar("Subject")


class Need(enum.Enum):
    """How much depends on a check."""

    REQUIRED = "required"
    """Without it no daemon runs."""
    OPTIONAL = "optional"
    """Without it something does not work, which its meaning names."""
    INFORMATION = "information"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one look."""

    ok: bool
    what: str
    """In a few words."""


@dataclass(frozen=True, slots=True)
class Check(Generic[Subject]):
    """One row of a table of checks."""

    group: str
    name: str
    need: Need
    look: Callable[[Subject], Finding]
    meaning: str
    """What it means if `look` says that all is not well."""
    remedy: str
    """What to do then."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Where to look: this host, or a tree of files that stands for one."""

    root: Path = field(default_factory=lambda: Path("/"))

    def read(self, path: str) -> str | None:
        """A file's text without white space around it; None if it cannot be read."""
        try:
            return (self.root / path).read_text(errors="replace").strip()
        except OSError:
            return None

    def lines(self, path: str) -> list[str]:
        """A file's lines; none if it cannot be read."""
        return (self.read(path) or "").splitlines()

    def run(self, *argv: str) -> str | None:
        """What a command prints; None if it is not there or fails."""
        try:
            done = subprocess.run(
                argv,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_COMMAND_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None


@dataclass(frozen=True, slots=True)
class Report:
    """A check and what it found, as `--json` tells it."""

    group: str
    name: str
    need: Need
    ok: bool
    what: str
    meaning: str
    remedy: str

    @property
    def fatal(self) -> bool:
        """No daemon runs."""
        return self.need is Need.REQUIRED and not self.ok

    def as_json(self) -> dict[str, Any]:
        """The form of `--json`."""
        return {
            "group": self.group,
            "name": self.name,
            "need": self.need.value,
            "ok": self.ok,
            "found": self.what,
            "meaning": None if self.ok else self.meaning,
            "remedy": None if self.ok else self.remedy,
        }


def examine(checks: Iterable[Check[Subject]], subject: Subject) -> list[Report]:
    """Look at everything.  A look that fails is a finding that is not well."""
    reports = []
    for check in checks:
        try:
            finding = check.look(subject)
        except (LocalError, OSError, ValueError, subprocess.SubprocessError) as error:
            finding = Finding(False, str(error) or type(error).__name__)
        reports.append(
            Report(
                *(check.group, check.name, check.need, finding.ok, finding.what),
                *(check.meaning, check.remedy),
            )
        )
    return reports
