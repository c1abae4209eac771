"""Every system call of the receiver's storage, one method each.

What a test replaces to cut the power between any two of them.  Descriptors are
those of the operating system; names are single components, relative to the
descriptor of their folder, and links are never followed.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = ["PIECES_MAX", "Disk", "Node"]

PIECES_MAX: Final = 64
"""Pieces that are written with one call; systems take 1024."""

_NOREPLACE: Final = 1
_COMMON: Final = os.O_CLOEXEC | os.O_NOFOLLOW
_FOLDER: Final = _COMMON | os.O_RDONLY | os.O_DIRECTORY
_UNSUPPORTED: Final = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}
_libc: Final = ctypes.CDLL(None, use_errno=True)
_SYNCFS_TELLS: Final = (5, 8)
"""Linux from which on `syncfs` says that something could not be written."""


@dataclass(frozen=True, slots=True)
class Node:
    """What a name stands for."""

    device: int
    inode: int
    size: int
    is_folder: bool
    is_file: bool
    mode: int
    """Permission bits."""
    owner: int
    links: int = 1
    """Names that it has."""

    @classmethod
    def of(cls, found: os.stat_result) -> Node:
        """From what `stat` says."""
        mode = found.st_mode
        return cls(
            found.st_dev,
            found.st_ino,
            found.st_size,
            stat.S_ISDIR(mode),
            stat.S_ISREG(mode),
            stat.S_IMODE(mode),
            found.st_uid,
            found.st_nlink,
        )


class Disk:
    """The real one.  Every method raises `OSError`."""

    def open_root(self, path: bytes) -> int:
        """The folder that everything is in; links on the way to it are its owner's."""
        return os.open(path, os.O_CLOEXEC | os.O_RDONLY | os.O_DIRECTORY)

    def open_folder(self, at: int, name: bytes) -> int:
        """A folder in a folder."""
        return os.open(name, _FOLDER, dir_fd=at)

    def make_folder(self, at: int, name: bytes, mode: int) -> None:
        """Raises `FileExistsError` for whatever is there."""
        os.mkdir(name, mode, dir_fd=at)

    def create(self, at: int, name: bytes, mode: int) -> int:
        """A new, empty file.  Raises `FileExistsError`."""
        return os.open(name, _COMMON | os.O_RDWR | os.O_CREAT | os.O_EXCL, mode, dir_fd=at)

    def open(self, at: int, name: bytes, *, write: bool = True) -> int:
        """A file that is there; never waits for what is none."""
        flags = os.O_RDWR if write else os.O_RDONLY
        return os.open(name, _COMMON | flags | os.O_NONBLOCK, dir_fd=at)

    def close(self, fd: int) -> None:
        """Forget a descriptor."""
        os.close(fd)

    def read(self, fd: int, buffer: WriteableBuffer, offset: int) -> int:
        """Fill the beginning of `buffer`; 0 at the end."""
        return os.preadv(fd, [buffer], offset)

    def write(self, fd: int, data: ReadableBuffer, offset: int) -> None:
        """All of `data`."""
        view = memoryview(data).cast("B")
        while view:
            done = os.pwrite(fd, view, offset)
            view, offset = view[done:], offset + done

    def write_pieces(self, fd: int, pieces: Sequence[memoryview], offset: int) -> None:
        """All of `pieces`, `PIECES_MAX` at most, one behind the other."""
        done = os.pwritev(fd, pieces, offset)
        for piece in pieces:
            if done < len(piece):  # a disk that is almost full, say
                self.write(fd, piece[done:], offset + done)
            done = max(done - len(piece), 0)
            offset += len(piece)

    def truncate(self, fd: int, size: int) -> None:
        """Cut a file to `size` bytes."""
        os.ftruncate(fd, size)

    def set_mode(self, fd: int, mode: int) -> None:
        """Permission bits."""
        os.fchmod(fd, mode)

    def set_mtime(self, fd: int, mtime: int) -> None:
        """Nanoseconds since 1970."""
        os.utime(fd, ns=(mtime, mtime))

    def sync_data(self, fd: int) -> None:
        """The bytes of a file are durable."""
        os.fdatasync(fd)

    def sync(self, fd: int) -> None:
        """A file, or the names in a folder, are durable."""
        os.fsync(fd)

    def sync_all(self, fd: int) -> bool:
        """All that was written to the file system of `fd` is durable.

        False if the system cannot do that; nothing is durable then.
        """
        syncfs = getattr(_libc, "syncfs", None)
        if syncfs is None or _kernel() < _SYNCFS_TELLS:
            return False
        if syncfs(fd):
            number = ctypes.get_errno()
            if number in _UNSUPPORTED:
                return False
            raise OSError(number, os.strerror(number))
        return True

    def node(self, fd: int) -> Node:
        """What a descriptor stands for."""
        return Node.of(os.fstat(fd))

    def look(self, at: int, name: bytes) -> Node | None:
        """What a name stands for, if anything; a link stands for itself."""
        try:
            return Node.of(os.stat(name, dir_fd=at, follow_symlinks=False))
        except FileNotFoundError:
            return None

    def names(self, at: int) -> list[bytes]:
        """The names in a folder."""
        return [os.fsencode(name) for name in os.listdir(at)]

    def rename(self, at: int, name: bytes, to: int, new: bytes) -> None:
        """Replaces what is there, at once."""
        os.rename(name, new, src_dir_fd=at, dst_dir_fd=to)

    def rename_new(self, at: int, name: bytes, to: int, new: bytes) -> None:
        """Replaces nothing.  Raises `FileExistsError`."""
        try:
            renameat2 = _libc.renameat2
        except AttributeError:
            number = errno.ENOSYS
        else:
            if not renameat2(at, name, to, new, _NOREPLACE):
                return
            number = ctypes.get_errno()
        if number not in _UNSUPPORTED:
            raise OSError(number, os.strerror(number))
        # A link is as exclusive; for a moment the file has both names.
        os.link(name, new, src_dir_fd=at, dst_dir_fd=to, follow_symlinks=False)
        os.unlink(name, dir_fd=at)

    def remove(self, at: int, name: bytes) -> None:
        """Remove a file."""
        os.unlink(name, dir_fd=at)

    def free(self, fd: int) -> int:
        """Bytes that this process may still write to the file system."""
        found = os.statvfs(fd)
        return found.f_bavail * found.f_frsize

    def lock(self, fd: int) -> bool:
        """Whether the file is this process's own now, until it ends."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _kernel() -> tuple[int, ...]:
    """Version of the system, two numbers; none if it has no such."""
    return tuple(int(word) for word in os.uname().release.split(".")[:2] if word.isdigit())
