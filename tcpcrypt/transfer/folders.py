"""Folders of arriving files, each opened in the one before it."""

from __future__ import annotations

import contextlib
from typing import Final

from tcpcrypt.transfer.codes import Code, TransferError
from tcpcrypt.transfer.disk import Disk
from tcpcrypt.transfer.names import Path, shown

__all__ = ["Folders"]

_SETTLED_MAX: Final = 4096
"""Folders to know of; to forget them costs a sync of each."""


class Folders:
    """Descriptors of folders below one that is given; for one thread.

    A component is opened without following links, so that no path leads out,
    whoever changes what on the way (`openat2` with RESOLVE_BENEATH and
    RESOLVE_NO_SYMLINKS asks for the same, where a kernel has it).  They are
    kept until `forget`, which is soon: a folder may be moved meanwhile.
    """

    def __init__(
        self,
        disk: Disk,
        base: int,
        settled: set[Path] | None = None,
        private: tuple[int, int] | None = None,
    ) -> None:
        """`settled` is shared by all that work below `base`, and outlives them.

        `private`: device and inode of a folder in `base` that is opened by no
        name, as file systems that fold names know one by many.
        """
        self._disk = disk
        self._base = base
        self._open: dict[Path, int] = {}
        self.changed: set[Path] = set()
        """Folders that a name was made in and that are not synced."""
        self._settled: set[Path] = set() if settled is None else settled
        """Folders whose own names are durable: that one is there does not say so, for
        another connection, or a receiver that was killed, may have made it."""
        self._settling: set[Path] = set()
        self._private = private

    def find(self, path: Path) -> int | None:
        """The folder, if it is there.

        Raises `TransferError` (EXISTS) if there is something else in its place.
        """
        try:
            return self._walk(path, make=False, mode=0)
        except FileNotFoundError:
            return None

    def make(self, path: Path, mode: int = 0o777) -> int:
        """The folder, made if need be, with all above it.

        Raises `TransferError` (EXISTS) and `OSError`.
        """
        return self._walk(path, make=True, mode=mode)

    def sync(self, *, everything: int | None = None) -> None:
        """Make the names of all `changed` folders durable, with one call for many."""
        changed, self.changed = self.changed, set()
        settling, self._settling = self._settling, set()
        if not (len(changed) >= 4 and everything is not None and self._disk.sync_all(everything)):
            for path in changed:
                with contextlib.suppress(TransferError):  # what is gone need not be durable
                    if (fd := self.find(path)) is not None:
                        self._disk.sync(fd)
        if len(self._settled) + len(settling) > _SETTLED_MAX:
            self._settled.clear()
        self._settled |= settling

    def forget(self) -> None:
        """Close all."""
        found, self._open = self._open, {}
        for fd in found.values():
            self._disk.close(fd)

    def _walk(self, path: Path, *, make: bool, mode: int) -> int:
        at = self._base
        for depth in range(1, len(path) + 1):
            here = path[:depth]
            if here not in self._open:
                try:
                    self._open[here] = self._step(at, here, make=make, mode=mode)
                except (NotADirectoryError, OSError) as error:
                    if Code.of(error) is not Code.EXISTS:
                        raise
                    raise TransferError(Code.EXISTS, f"{shown(here)} is no folder") from error
            if make and here not in self._settled and here not in self._settling:
                self._settling.add(here)
                self.changed.add(here[:-1])
            at = self._open[here]
        return at

    def _step(self, at: int, here: Path, *, make: bool, mode: int) -> int:
        try:
            return self._enter(at, here)
        except FileNotFoundError:
            if not make:
                raise
        with contextlib.suppress(FileExistsError):  # another connection was quicker
            self._disk.make_folder(at, here[-1], mode | 0o700)
        self._settled.discard(here)
        return self._enter(at, here)

    def _enter(self, at: int, here: Path) -> int:
        fd = self._disk.open_folder(at, here[-1])
        if self._private is not None and len(here) == 1:
            node = self._disk.node(fd)
            if (node.device, node.inode) == self._private:
                self._disk.close(fd)
                raise TransferError(Code.NAME, f"{shown(here)!r} belongs to the receiver")
        return fd
