"""A file for what was encrypted, which nobody else is to read."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from tcpcrypt.errors import LocalError

__all__ = ["open_private"]

_MODE: Final = 0o600


def open_private(path: Path) -> int:
    """The file, empty, of this user and readable to nobody else, as a descriptor.

    Raises `LocalError` if it cannot be written, or is no regular file of this user.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, _MODE)
    except OSError as error:
        raise LocalError(f"{path}: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
        # One of several names may have been made by somebody else, for it to be emptied.
        regular = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
        if not regular or found.st_uid != os.geteuid():
            raise LocalError(f"{path}: not a regular file of this user with one name; name another")
        os.fchmod(descriptor, _MODE)
        os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
