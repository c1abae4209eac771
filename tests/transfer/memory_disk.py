"""A disk in memory whose power can be cut between any two system calls.

What a cut leaves is more than any real file system does to a program: what was
not synced may be there, or not, or be there as garbage of the right length,
each name and each file by itself.  A rename is atomic, as POSIX has it: the old
name and the new one share their fate.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tcpcrypt.transfer.disk import Disk, Node

GARBAGE = 0xAA


class PowerCut(BaseException):
    """Nothing happens any more."""


@dataclass
class Inode:
    number: int
    mode: int
    data: bytearray | None = None
    """None: a folder."""
    durable: bytes = b""
    names: dict[bytes, Inode] = field(default_factory=dict)
    durable_names: dict[bytes, Inode] = field(default_factory=dict)


@dataclass(frozen=True)
class Rename:
    folder: Inode
    name: bytes
    to: Inode
    new: bytes
    inode: Inode


def fail(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class MemoryDisk(Disk):
    """Each method is one step; `cut_at` says before which the power goes."""

    def __init__(self, cut_at: int | None = None, *, whole: bool = True) -> None:
        self.root = Inode(1, 0o755)
        self.steps = 0
        self.calls: list[str] = []
        self.cut_at = cut_at
        self._whole = whole
        """Whether all can be synced at once."""
        self._numbers = iter(range(2, 1 << 30))
        self._open: dict[int, Inode] = {}
        self._next_fd = 1000
        self._renames: list[Rename] = []
        self.faults: dict[str, Callable[[], OSError | None]] = {}
        self.room = 1 << 40

    # --- cuts ----------------------------------------------------------------------

    def _step(self, name: str) -> None:
        if self.cut_at is not None and self.steps >= self.cut_at:
            raise PowerCut
        self.steps += 1
        self.calls.append(name)
        error = self.faults.get(name, lambda: None)()
        if error is not None:
            raise error

    def after(self, how: str, seed: int = 0) -> MemoryDisk:
        """The disk when the power is back.

        What was not synced is `kept`, `lost`, garbage (`torn`), or each of these (`mixed`).
        """
        chance = random.Random(seed)
        disk = MemoryDisk(whole=self._whole)
        disk._numbers = self._numbers
        copies: dict[int, Inode] = {}

        def kept() -> bool:
            return {"kept": True, "torn": True, "lost": False}.get(how, chance.random() < 0.5)

        moved = {id(rename): kept() for rename in self._renames}

        def content(inode: Inode) -> bytearray:
            if inode.data is None or bytes(inode.data) == inode.durable or how == "kept":
                return bytearray(inode.data or b"")
            if how == "lost" or (how == "mixed" and kept()):
                return bytearray(inode.durable)
            torn = bytearray(inode.data)
            for at in range(len(torn)):
                if at >= len(inode.durable) or inode.durable[at] != torn[at]:
                    torn[at] = GARBAGE
            return torn

        def copy(inode: Inode) -> Inode:
            if inode.number in copies:
                return copies[inode.number]
            found = copies[inode.number] = Inode(inode.number, inode.mode)
            if inode.data is not None:
                found.data = content(inode)
                found.durable = bytes(found.data)
                return found
            names = dict(inode.durable_names)
            for name in sorted(set(inode.names) | set(inode.durable_names)):
                if any(
                    (r.folder is inode and r.name == name) or (r.to is inode and r.new == name)
                    for r in self._renames
                ):
                    continue
                if inode.names.get(name) is not inode.durable_names.get(name) and kept():
                    if name in inode.names:
                        names[name] = inode.names[name]
                    else:
                        del names[name]
            for rename in self._renames:
                if rename.folder is inode:
                    if moved[id(rename)]:
                        names.pop(rename.name, None)
                    elif rename.name not in inode.durable_names and kept():
                        names[rename.name] = rename.inode
                if rename.to is inode and moved[id(rename)]:
                    names[rename.new] = rename.inode
            found.names = {name: copy(child) for name, child in names.items()}
            found.durable_names = dict(found.names)
            return found

        disk.root = copy(self.root)
        return disk

    def files(self) -> Iterator[tuple[tuple[bytes, ...], bytes]]:
        """Everything that was delivered."""
        waiting: list[tuple[tuple[bytes, ...], Inode]] = [((), self.root)]
        while waiting:
            path, inode = waiting.pop()
            for name, child in inode.names.items():
                if child.data is not None:
                    yield (*path, name), bytes(child.data)
                elif (*path, name) != (b".stx",):
                    waiting.append(((*path, name), child))

    # --- system calls --------------------------------------------------------------

    def _new_fd(self, inode: Inode) -> int:
        self._next_fd += 1
        self._open[self._next_fd] = inode
        return self._next_fd

    @property
    def open_count(self) -> int:
        return len(self._open)

    def _child(self, at: int, name: bytes) -> Inode:
        try:
            return self._open[at].names[name]
        except KeyError:
            raise fail(errno.ENOENT) from None

    def _file(self, fd: int) -> bytearray:
        data = self._open[fd].data
        assert data is not None
        return data

    def open_root(self, path: bytes) -> int:
        self._step("open_root")
        return self._new_fd(self.root)

    def open_folder(self, at: int, name: bytes) -> int:
        self._step("open_folder")
        inode = self._child(at, name)
        if inode.data is not None:
            raise fail(errno.ENOTDIR)
        return self._new_fd(inode)

    def make_folder(self, at: int, name: bytes, mode: int) -> None:
        self._step("make_folder")
        if name in self._open[at].names:
            raise fail(errno.EEXIST)
        self._open[at].names[name] = Inode(next(self._numbers), mode)

    def create(self, at: int, name: bytes, mode: int) -> int:
        self._step("create")
        if name in self._open[at].names:
            raise fail(errno.EEXIST)
        inode = self._open[at].names[name] = Inode(next(self._numbers), mode, bytearray())
        return self._new_fd(inode)

    def open(self, at: int, name: bytes, *, write: bool = True) -> int:
        self._step("open")
        inode = self._child(at, name)
        if inode.data is None:
            raise fail(errno.EISDIR)
        return self._new_fd(inode)

    def close(self, fd: int) -> None:
        del self._open[fd]

    def read(self, fd: int, buffer: object, offset: int) -> int:
        self._step("read")
        view = memoryview(buffer)  # type: ignore[arg-type]
        data = self._file(fd)[offset : offset + len(view)]
        view[: len(data)] = data
        return len(data)

    def write(self, fd: int, data: object, offset: int) -> None:
        view = bytes(memoryview(data))  # type: ignore[arg-type]
        half = len(view) // 2
        for piece, at in ((view[:half], offset), (view[half:], offset + half)):
            self._step("write")
            self._file(fd)[at : at + len(piece)] = piece

    def write_pieces(self, fd: int, pieces: Sequence[memoryview], offset: int) -> None:
        for piece in pieces:
            self.write(fd, piece, offset)
            offset += len(piece)

    def truncate(self, fd: int, size: int) -> None:
        self._step("truncate")
        del self._file(fd)[size:]

    def set_mode(self, fd: int, mode: int) -> None:
        self._step("set_mode")
        self._open[fd].mode = mode

    def set_mtime(self, fd: int, mtime: int) -> None:
        self._step("set_mtime")

    def sync_data(self, fd: int) -> None:
        self._step("sync_data")
        if fd not in self._open:
            raise fail(errno.EBADF)
        self._sync_inode(self._open[fd])

    def sync(self, fd: int) -> None:
        self._step("sync")
        self._sync_inode(self._open[fd])

    def _sync_inode(self, inode: Inode) -> None:
        if inode.data is not None:
            inode.durable = bytes(inode.data)
            return
        for rename in [r for r in self._renames if inode in (r.folder, r.to)]:
            rename.folder.durable_names.pop(rename.name, None)
            rename.to.durable_names[rename.new] = rename.inode
            self._renames.remove(rename)
        inode.durable_names = dict(inode.names)

    def sync_all(self, fd: int) -> bool:
        self._step("sync_all")
        if not self._whole:
            return False
        waiting, seen = [self.root], set()
        while waiting:
            inode = waiting.pop()
            if inode.number not in seen:
                seen.add(inode.number)
                self._sync_inode(inode)
                waiting += inode.names.values()
        return True

    def _node(self, inode: Inode) -> Node:
        size = 0 if inode.data is None else len(inode.data)
        folder = inode.data is None
        return Node(7, inode.number, size, folder, not folder, inode.mode, os.geteuid())

    def node(self, fd: int) -> Node:
        return self._node(self._open[fd])

    def look(self, at: int, name: bytes) -> Node | None:
        self._step("look")
        inode = self._open[at].names.get(name)
        return None if inode is None else self._node(inode)

    def names(self, at: int) -> list[bytes]:
        self._step("names")
        return list(self._open[at].names)

    def rename(self, at: int, name: bytes, to: int, new: bytes) -> None:
        self._step("rename")
        inode, folder, target = self._child(at, name), self._open[at], self._open[to]
        self._renames.append(Rename(folder, name, target, new, inode))
        del folder.names[name]
        target.names[new] = inode

    def rename_new(self, at: int, name: bytes, to: int, new: bytes) -> None:
        if new in self._open[to].names:
            self._step("rename_new")
            raise fail(errno.EEXIST)
        self.rename(at, name, to, new)

    def remove(self, at: int, name: bytes) -> None:
        self._step("remove")
        self._child(at, name)
        del self._open[at].names[name]

    def free(self, fd: int) -> int:
        self._step("free")
        return self.room

    def lock(self, fd: int) -> bool:
        return True
