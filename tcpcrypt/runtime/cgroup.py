"""The control group (version 2) of this process, to which BPF programs are attached.

The kernel asks the programs of the group in which a socket was made, so it has
to be that of the process that makes the daemon's.  It is not changed: whoever
started the daemon has chosen it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tcpcrypt.errors import LocalError

__all__ = ["open_own_cgroup"]

_MOUNTS: Final = Path("/proc/self/mounts")
# The same on every architecture.
_FSOPEN: Final = 430
_FSCONFIG: Final = 431
_FSMOUNT: Final = 432
_CLOEXEC: Final = 1
_FSCONFIG_CMD_CREATE: Final = 6

_libc = ctypes.CDLL(None, use_errno=True)


def open_own_cgroup() -> int:
    """A descriptor of the directory of this process's control group.

    Where no cgroup2 file system is mounted one is, for the moment and for this
    process alone.  Raises `LocalError`.
    """
    path = _own_path().lstrip("/")
    for root in _mounts():
        with contextlib.suppress(OSError):
            return _opened(path, None, root)
    try:
        mounted = _private_mount()
    except OSError as error:
        raise LocalError(
            f"cgroup v2 is not mounted, and cannot be for us: {error.strerror}"
        ) from error
    try:
        return _opened(path, mounted, ".")
    except OSError as error:
        raise LocalError(f"the own control group cannot be opened: {error.strerror}") from error
    finally:
        os.close(mounted)


def _own_path() -> str:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return line[3:]
    raise LocalError("this kernel has no cgroup v2")


def _mounts() -> Iterator[str]:
    # Bytes: users name what they mount as they like, and four characters alone are escaped.
    for line in _MOUNTS.read_bytes().split(b"\n"):
        _device, directory, kind, *_ = *line.split(b" "), b"", b""
        if kind == b"cgroup2":
            yield directory.decode("unicode_escape")


def _opened(path: str, base: int | None, root: str) -> int:
    """The directory, if this process is in that group.  Raises `OSError`."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    directory = os.open(os.path.join(root, path), flags, dir_fd=base)
    try:
        members = os.open("cgroup.procs", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
        with open(members) as file:
            # What is mounted may be a part of the tree, in which names mean something else.
            if str(os.getpid()) not in file.read().split():
                raise FileNotFoundError(0, "this process is in another control group")
    except BaseException:
        os.close(directory)
        raise
    return directory


def _private_mount() -> int:
    """A descriptor of the root of a cgroup2 file system that nobody else sees."""
    context = _syscall(_FSOPEN, ctypes.c_char_p(b"cgroup2"), _CLOEXEC)
    try:
        _syscall(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _syscall(_FSMOUNT, context, _CLOEXEC, 0)
    finally:
        os.close(context)


def _syscall(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
