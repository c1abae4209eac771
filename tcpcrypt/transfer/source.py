"""What is sent: files and folders (`tcpcrypt.transfer.stream` has what can be read once).

A transfer id is derived from what the source is (device, inode, size, time of
the last change) and where it goes, so that the sender keeps no state of its
own: after whatever interruption the same file has the same id, and one that
changed has another.  A wrong guess costs time only, since a partial file is
gone on with for its digest, never for its name.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from tcpcrypt.errors import LocalError
from tcpcrypt.transfer.beneath import Place
from tcpcrypt.transfer.buffers import Uses
from tcpcrypt.transfer.codes import Code, TransferError
from tcpcrypt.transfer.digest import Algorithm, Digest, Hashing
from tcpcrypt.transfer.names import Path, check_component, check_path

__all__ = [
    "Entry",
    "FileSource",
    "FolderSource",
    "Prefixes",
    "Skipped",
    "Source",
    "entries",
    "file_entry",
    "lost_entry",
    "transfer_id",
]

_PROOF_READ: Final = 1 << 20
_ID_LEN: Final = 16

Prefixes = tuple[tuple[int, bytes], ...]
"""As in a HAVE."""


class Source(Protocol):
    """One thing to send; used by one thread."""

    size: int
    mode: int
    mtime: int

    def identity(self) -> bytes:
        """What makes it that file and no other."""

    def start(self, prefixes: Prefixes, algorithm: Algorithm) -> Iterator[None]:
        """Find the longest of `prefixes` that it begins with: `offset` is behind it then.

        Reads as far as that, a mebibyte a step.  Raises `TransferError`, `OSError`.
        """

    @property
    def offset(self) -> int:
        """Where it is read next."""

    def ready(self, timeout: float) -> bool:
        """Whether `read` would not wait."""

    def read(self, buffers: list[memoryview], hashing: Hashing, uses: Uses) -> int:
        """Fill `buffers`, one after the other, and hash what is in them; 0 at the end.

        Raises `TransferError` (CHANGED) and `OSError`.
        """

    def finish(self, hashing: Hashing) -> Digest:
        """The digest of all.  Raises `TransferError` (CHANGED)."""

    def acknowledged(self, offset: int) -> None:
        """Nothing before that will be asked for again."""

    def close(self) -> None:
        """Close what is open; `start` may be called again."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Something to send, and where to."""

    path: Path
    is_file: bool
    open: Callable[[], Source]
    """Raises `OSError`."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that cannot be sent."""

    path: Path
    reason: str


def entries(local: str) -> Iterator[Entry | Skipped]:
    """A file; or a folder with everything in it, under its own name.

    Links are followed where the caller names them and nowhere else.  Raises
    `OSError` if there is nothing, `TransferError` (NAME) for a name that no
    receiver takes, `LocalError` for what is neither.
    """
    name = os.path.basename(os.path.abspath(local))
    path = (os.fsencode(name),)
    check_path(path)
    found = os.stat(local)
    if stat.S_ISREG(found.st_mode):
        yield file_entry(local, path)
    elif stat.S_ISDIR(found.st_mode):
        yield from _folder(local, path)
    else:
        raise LocalError(f"{local!r} is no file and no folder: send it as standard input")


def file_entry(local: str | bytes, path: Path) -> Entry:
    """One file."""
    return Entry(path, True, lambda: FileSource(local))


def _folder(local: str, path: Path) -> Iterator[Entry | Skipped]:
    waiting = deque([Place(local)])
    while waiting:
        place = waiting.popleft()
        here = path + place.below
        yield _folder_entry(place, here)
        try:
            found = sorted(_look_into(place))
        except OSError as error:
            yield Entry(here, False, _raising(error))  # not to be left out in silence
            continue
        for name, kind in found:
            below, inside = (*here, name), place.inside(name)
            try:
                check_component(name)
                check_path(below)
            except TransferError as error:
                yield Skipped(below, error.detail)
                continue
            if kind == stat.S_IFDIR:
                waiting.append(inside)
            elif kind == stat.S_IFREG:
                yield _file_entry(inside, below)
            else:
                link = kind == stat.S_IFLNK
                yield Skipped(below, "a symbolic link" if link else "no file and no folder")


def _look_into(place: Place) -> Iterator[tuple[bytes, int]]:
    """Names and what they stand for, as in `stat.S_IFMT`."""
    fd = place.open_folder()
    try:
        with os.scandir(fd) as found:
            for item in found:
                yield os.fsencode(item.name), _kind(item)
    finally:
        os.close(fd)


def _kind(item: os.DirEntry[str]) -> int:
    if item.is_symlink():
        return stat.S_IFLNK
    if item.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    return stat.S_IFREG if item.is_file(follow_symlinks=False) else 0


def lost_entry(local: str, error: OSError | LocalError) -> Entry:
    """What has been there and cannot be sent any more: not to be left out in silence."""
    detail = str(error) if isinstance(error, LocalError) else error.strerror or str(error)
    name = os.fsencode(os.path.basename(os.path.abspath(local)))
    return Entry((name,), True, _raising(TransferError(Code.UNREADABLE, detail)))


def _raising(error: Exception) -> Callable[[], Source]:
    def raises() -> Source:
        raise error

    return raises


def _folder_entry(place: Place, path: Path) -> Entry:
    return Entry(path, False, lambda: FolderSource(place))


def _file_entry(place: Place, path: Path) -> Entry:
    return Entry(path, True, lambda: FileSource(place.named, place.below))


class FolderSource:
    """A folder, of which only the name is sent."""

    size = 0
    offset = 0

    def __init__(self, place: Place) -> None:
        fd = place.open_folder()
        try:
            found = os.fstat(fd)
        finally:
            os.close(fd)
        self.mode = stat.S_IMODE(found.st_mode)
        self.mtime = found.st_mtime_ns
        self._identity = b"folder %d %d" % (found.st_dev, found.st_ino)

    def identity(self) -> bytes:
        return self._identity

    def start(self, prefixes: Prefixes, algorithm: Algorithm) -> Iterator[None]:
        return iter(())

    def ready(self, timeout: float) -> bool:
        return True

    def read(self, buffers: list[memoryview], hashing: Hashing, uses: Uses) -> int:
        return 0

    def finish(self, hashing: Hashing) -> Digest:
        raise LocalError("a folder has no digest")

    def acknowledged(self, offset: int) -> None:
        pass

    def close(self) -> None:
        pass


class FileSource:
    """A file, which must be the same file, unchanged, from the first look to the last."""

    def __init__(self, local: str | bytes, below: Path = ()) -> None:
        """What the caller names, or `below` that (`Place`)."""
        self._place = Place(local, below)
        self._fd: int | None = None
        found = self._place.stat()
        self._seen = _seen(found)
        self.size = found.st_size
        self.mode = stat.S_IMODE(found.st_mode)
        self.mtime = found.st_mtime_ns
        self._algorithm = Algorithm.SHA256
        self._hasher = self._algorithm.new()
        self._offset = 0

    @property
    def offset(self) -> int:
        return self._offset

    def identity(self) -> bytes:
        return b"file %d %d %d %d" % self._seen

    def start(self, prefixes: Prefixes, algorithm: Algorithm) -> Iterator[None]:
        self.close()
        fd = self._fd = self._place.open(os.O_RDONLY | os.O_NONBLOCK)
        self._check(fd)
        hasher = algorithm.new()
        self._algorithm, self._hasher, self._offset = algorithm, hasher.copy(), 0
        at, buffer = 0, memoryview(bytearray(_PROOF_READ if prefixes else 0))
        for offset, digest in prefixes:
            if offset > self.size:
                return
            while at < offset:
                took = os.preadv(fd, [buffer[: min(_PROOF_READ, offset - at)]], at)
                if not took:
                    raise TransferError(Code.CHANGED, "it became shorter")
                hasher.update(buffer[:took])
                at += took
                yield
            if hasher.copy().digest() == digest:
                self._hasher, self._offset = hasher.copy(), offset

    def ready(self, timeout: float) -> bool:
        return True

    def read(self, buffers: list[memoryview], hashing: Hashing, uses: Uses) -> int:
        fd = self._open()
        if self._offset == self.size:
            return 0
        took = os.preadv(fd, buffers, self._offset)
        if not took or self._offset + took > self.size:
            raise TransferError(Code.CHANGED, "it became shorter" if not took else "it grew")
        self._offset += took
        uses.add()
        hashing.update(self._hasher, list(_filled(buffers, took)), uses.done)
        return took

    def finish(self, hashing: Hashing) -> Digest:
        fd = self._open()
        if os.pread(fd, 1, self.size):  # files of the kernel say 0 and hold something
            raise TransferError(Code.CHANGED, "it grew")
        self._check(fd)
        hashing.settle()
        return Digest(self._algorithm, self._hasher.digest())

    def acknowledged(self, offset: int) -> None:
        pass

    def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _open(self) -> int:
        if self._fd is None:
            raise LocalError("the file is not open")
        return self._fd

    def _check(self, fd: int) -> None:
        if _seen(os.fstat(fd)) != self._seen:
            raise TransferError(Code.CHANGED)


def _seen(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _filled(buffers: Iterable[memoryview], size: int) -> Iterator[memoryview]:
    for view in buffers:
        if size <= 0:
            return
        yield view[:size]
        size -= len(view)


def transfer_id(source: Source, peer: str, path: Path) -> bytes:
    """16 bytes, the same for the same file on its way to the same place."""
    hasher = hashlib.blake2b(digest_size=_ID_LEN, person=b"stx transfer id")
    for part in (peer.encode("utf-8", "surrogateescape"), source.identity(), *path):
        hasher.update(len(part).to_bytes(4, "big") + part)
    return hasher.digest()
