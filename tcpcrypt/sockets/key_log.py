"""The key log of this process: for finding faults, and never without being told to.

Lines are those of the daemon (`tcpcrypt.core.key_log`), for `tcpcrypt decode`.  The file
is this user's alone, made with mode 0600, refused otherwise; who starts it is told on the
standard error, whatever the program does with its own messages.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tcpcrypt.core.key_log import KeyLog

if TYPE_CHECKING:
    from tcpcrypt.daemon.key_log import KeyLogFile

__all__ = ["VARIABLE", "key_log", "log_keys"]

VARIABLE: Final = "TCPCRYPT_KEYLOG"
_LOUD: Final = "whoever reads this file can decrypt every secure connection of this process"


class _Log:
    """The one file; `asked` tells that the environment was looked at."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked = False
        self.file: KeyLogFile | None = None


_log: Final = _Log()


def log_keys(path: str | os.PathLike[str] | None) -> None:
    """Append a line to `path` for each secure connection from now on; None: no more.

    Without a call the environment variable TCPCRYPT_KEYLOG counts.  Raises
    `LocalError` for a file that others may read or write, or have put there; then all
    stays as it was.
    """
    with _log.lock:
        _open(path)


def _open(path: str | os.PathLike[str] | None) -> None:
    from tcpcrypt.daemon.key_log import KeyLogFile  # noqa: PLC0415 (no use to most programs)

    # Who has `write` of the former one may be in it: it is closed with its last user.
    _log.file = None if path is None else KeyLogFile(Path(path), _tell)
    _log.asked = True


def key_log() -> KeyLog | None:
    """What a session is to be given; None where nobody asked for a log.

    Raises `LocalError` where the environment names a file that cannot be used:
    who asks for a log and gets none would not know why.
    """
    if not _log.asked:
        with _log.lock:
            # Another thread may have said meanwhile that there is to be none.
            if not _log.asked:
                _open(_named() or None)
    file = _log.file
    return None if file is None else file.write


def _named() -> str:
    """The file of the environment, which counts only where it is the user's own."""
    own = os.geteuid() == os.getuid() and os.getegid() == os.getgid()
    return os.environ.get(VARIABLE, "") if own else ""


def _tell(event: str, fields: Mapping[str, object]) -> None:
    what = _LOUD if event == "keylog" else "lines are lost: it cannot be written"
    print(f"tcpcrypt: KEY LOG {fields['file']}: {what}", file=sys.stderr, flush=True)
