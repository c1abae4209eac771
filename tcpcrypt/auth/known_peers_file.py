"""The file of known peers: read warily, changed by one at a time, replaced whole.

Whoever changes it holds the lock `known_peers.lock` from reading to writing,
so that writers that run at once lose nothing of each other; who reads needs
none, because the file is replaced and never written into.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from tcpcrypt.auth.known_peers import SIZE_MAX, KnownPeers
from tcpcrypt.auth.learned import Learned, remember
from tcpcrypt.auth.secret_file import (
    MissingFileError,
    make_directory,
    opened_directory,
    read_file,
    replace_file,
)
from tcpcrypt.errors import LocalError

__all__ = ["KnownPeersFile"]

_T = TypeVar("_T")
_Signature = tuple[int, int, int, int]

_PATIENCE: Final = 10.0
"""Seconds to wait for another writer."""
_PAUSE: Final = 0.005
_NOTHING: Final = hashlib.sha256().digest()
_RACY: Final = 100_000_000
"""Nanoseconds; the clock of file systems moves in steps of at most ten milliseconds."""


class KnownPeersFile:
    """One file and what it said when it was last read well."""

    def __init__(self, path: Path, *, patience: float = _PATIENCE) -> None:
        """Reads nothing yet.  `patience`: seconds to wait for another writer."""
        self.path = path
        self._name = str(path)
        self.current = KnownPeers()
        """Not to be changed; stays as it is while the file is faulty."""
        self._signature: _Signature | None = None
        self._digest = _NOTHING
        self._racy = False
        self._patience = patience

    def refresh(self) -> bool:
        """Read the file if it may have changed; whether it says something else now.

        No file knows nobody.  Raises `KnownPeersError` for a malformed one,
        `LocalError` for one that others may write or that cannot be read; then
        `current` stays.
        """
        if not self._racy and self._look() == self._signature:
            return False
        found: os.stat_result | None
        try:
            data, found = read_file(self.path, SIZE_MAX)
        except MissingFileError:
            data, found = b"", None
        digest = hashlib.sha256(data).digest()
        if same := digest == self._digest:
            known = self.current
        else:
            known = KnownPeers() if found is None else KnownPeers.parse(data, str(self.path))
        self._remember(known, digest, found)
        return not same

    def update(self, change: Callable[[KnownPeers], _T]) -> _T:
        """Change the file by `change`, which gets what it says now; returns its result.

        Nothing is written if `change` raises or changes nothing.  Raises
        `LocalError` as `refresh` does, if another writer does not end, or if
        the file cannot be written.
        """
        make_directory(self.path.parent)
        with opened_directory(self.path.parent) as directory, self._locked(directory):
            self.refresh()
            changed = self.current.copy()
            result = change(changed)
            if changed != self.current:
                text = changed.format()
                found = replace_file(self.path, text)
                self._remember(changed, hashlib.sha256(text).digest(), found)
        return result

    def learn(self, learned: Iterable[Learned]) -> list[Learned]:
        """Write down what was learnt; returns what was.  Raises `LocalError` as `update`.

        Many at once cost as much as one.
        """
        now = int(time.time())
        return self.update(lambda known: remember(known, learned, now))

    def _remember(self, known: KnownPeers, digest: bytes, found: os.stat_result | None) -> None:
        self.current, self._digest = known, digest
        self._signature = None if found is None else _signature(found)
        # Replaced once more within a tick of the clock, a file can look the same.
        self._racy = found is not None and time.time_ns() - found.st_ctime_ns < _RACY

    def _look(self) -> _Signature | None:
        try:
            return _signature(os.stat(self._name))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LocalError(f"{self.path}: {error.strerror}") from error

    @contextlib.contextmanager
    def _locked(self, directory: int) -> Iterator[None]:
        name = f"{self.path.name}.lock"
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            lock = os.open(name, flags, 0o600, dir_fd=directory)
        except OSError as error:
            raise LocalError(f"{self.path}.lock: {error.strerror}") from error
        try:
            deadline = time.monotonic() + self._patience
            while not _lock(lock):
                if time.monotonic() >= deadline:
                    raise LocalError(
                        f"{self.path}.lock: another process holds it for more than"
                        f" {self._patience:g} s"
                    )
                time.sleep(_PAUSE)
            yield
        finally:
            os.close(lock)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _signature(found: os.stat_result) -> _Signature:
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
