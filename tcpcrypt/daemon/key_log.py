"""The key log: a file from which whoever has it reads every connection.

For finding faults in captures (`tcpcrypt decode`).  It is written only where an
administrator names a file, root alone may read it, and the log says so at each
start.  The file is opened before the processes part; the worker has it for
appending, and cannot read it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Final

from tcpcrypt.core.key_log import KeyLine
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.context import Report

__all__ = ["WARNING", "KeyLogFile"]

WARNING: Final = "whoever reads this file can decrypt every connection of this host"
_MODE: Final = 0o600
_OTHERS: Final = 0o077


class KeyLogFile:
    """Appends a line for each session; `write` is a `KeyLog`."""

    def __init__(self, path: Path, report: Report) -> None:
        """Open or make the file.

        Raises `LocalError` for one that others may read or write, or have put there.
        """
        self._path = path
        self._report = report
        self._lost = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self._fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY, _MODE)
        except OSError as error:
            raise LocalError(f"key log {path}: {error.strerror}") from error
        try:
            self._check(os.fstat(self._fd))
        except LocalError:
            self.close()
            raise
        report("keylog", {"file": str(path), "warning": WARNING})

    def _check(self, found: os.stat_result) -> None:
        path = self._path
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise LocalError(f"key log {path}: not a regular file with one name")
        if found.st_uid != os.geteuid():
            raise LocalError(
                f"key log {path}: belongs to user {found.st_uid}, who could read it; name another"
            )
        if found.st_mode & _OTHERS:
            raise LocalError(
                f"key log {path}: others may read or write it (mode"
                f" {stat.S_IMODE(found.st_mode):04o}); `chmod {_MODE:o} {path}`, or name another"
            )

    def write(self, line: KeyLine) -> None:
        """Append a line.  A disk that is full is reported once, and harms no connection."""
        data = f"{line.build()}\n".encode()
        if self._lost:
            data = b"\n" + data  # what is there may end within a line
        written = 0
        with contextlib.suppress(OSError):
            written = os.write(self._fd, data)
        if written == len(data):
            self._lost = 0
            return
        self._lost += 1
        if self._lost == 1:
            self._report("keylog_failed", {"file": str(self._path), "lost": line.match.hex()})

    def close(self) -> None:
        """Close the file.  Idempotent."""
        descriptor, self._fd = self._fd, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        """Whoever was the last to write has gone."""
        if hasattr(self, "_fd"):
            self.close()
