"""Files that decide who this host is and whom it trusts: read warily, written whole.

A file that others could have written decides nothing, and a secret that others
could have read is none any more: both are refused, with what to do about it.
What is written is there in one piece or not at all, whenever the power fails.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import LocalError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = [
    "MissingFileError",
    "create_file",
    "make_directory",
    "opened_directory",
    "read_file",
    "read_secret",
    "replace_file",
]

_DIRECTORY_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_OTHERS: Final = 0o077
_OTHERS_WRITE: Final = 0o022


class MissingFileError(LocalError):
    """There is no such file."""


def read_secret(path: Path, limit: int) -> Secret:
    """What is in a file that its owner alone may read, `limit` bytes at most.

    Raises `MissingFileError`; `LocalError` for what is no such file.
    """
    with _opened(path, _OTHERS) as fd:
        if os.fstat(fd).st_size > limit:
            raise LocalError(f"{path}: longer than {limit} bytes")
        octets = bytearray(limit)
        try:
            return Secret(memoryview(octets)[: os.readv(fd, [octets])])
        finally:
            octets[:] = bytes(limit)


def read_file(path: Path, limit: int) -> tuple[bytes, os.stat_result]:
    """What is in a file that its owner alone may write, `limit` bytes at most.

    Raises `MissingFileError`; `LocalError` for what is no such file.
    """
    with _opened(path, _OTHERS_WRITE) as fd, open(fd, "rb", closefd=False) as file:
        data = file.read(limit + 1)
        if len(data) > limit:
            raise LocalError(f"{path}: longer than {limit} bytes")
        return data, os.fstat(fd)


def create_file(path: Path, data: ReadableBuffer) -> None:
    """Write a new file, mode 0600, in a directory that is made with 0700 if need be.

    Raises `LocalError`, also if there is a file already: that one stays.
    """
    make_directory(path.parent)
    with opened_directory(path.parent) as directory, _written(path, data, directory) as name:
        # Unlike a rename, a link does not replace what has got there first.
        os.link(name, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        os.unlink(name, dir_fd=directory)


def replace_file(path: Path, data: ReadableBuffer) -> os.stat_result:
    """Write a file, mode 0600, in the place of what has that name; raises `LocalError`."""
    with opened_directory(path.parent) as directory, _written(path, data, directory) as name:
        os.replace(name, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        return os.stat(path.name, dir_fd=directory)


def make_directory(path: Path) -> None:
    """Make a directory with mode 0700 where there is none; raises `LocalError`.

    And those that it stands in: secrets may be put there next, too.
    """
    with _told(path):
        missing = [one for one in (path, *path.parents) if not one.exists()]
        for one in reversed(missing):
            one.mkdir(_DIRECTORY_MODE, exist_ok=True)


@contextlib.contextmanager
def opened_directory(path: Path) -> Iterator[int]:
    """A descriptor of a directory that belongs to this user alone; raises `LocalError`."""
    with _told(path):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _check(path, os.fstat(fd), _OTHERS, _DIRECTORY_MODE)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _opened(path: Path, forbidden: int) -> Iterator[int]:
    # Not waiting for the writer of a pipe that stands in the file's place.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    with opened_directory(path.parent) as directory:
        with _told(path):
            fd = os.open(path.name, flags, dir_fd=directory)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise LocalError(f"{path}: not a regular file")
            _check(path, found, forbidden, _FILE_MODE)
            with _told(path):
                yield fd
        finally:
            os.close(fd)


@contextlib.contextmanager
def _written(path: Path, data: ReadableBuffer, directory: int) -> Iterator[str]:
    """The name of a file with `data` on the disk; what the block does is, too."""
    name = f".{path.name}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with _told(path):
        fd = os.open(name, flags, _FILE_MODE, dir_fd=directory)
        try:
            with open(fd, "wb", buffering=0) as file:
                view = memoryview(data).cast("B")
                while view:
                    view = view[file.write(view) :]
                os.fsync(fd)
            yield name
            os.fsync(directory)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
            raise


def _check(path: Path, found: os.stat_result, forbidden: int, mode: int) -> None:
    own = os.geteuid()
    if found.st_uid not in (0, own):
        raise LocalError(
            f"{path}: belongs to user {found.st_uid}, who could have put anything there; look at"
            f" it, then `chown {own} {path}`"
        )
    if found.st_mode & forbidden:
        done = "written" if forbidden == _OTHERS_WRITE else "read or written"
        raise LocalError(
            f"{path}: others could have {done} it (mode {stat.S_IMODE(found.st_mode):04o});"
            f" consider whether they have, then `chmod {mode:o} {path}`"
        )


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Errors of the system as errors that name the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: {error.strerror}") from error
    except OSError as error:
        raise LocalError(f"{path}: {error.strerror}") from error
