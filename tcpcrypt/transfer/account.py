"""What one client has at the receiver: its folder, what is under way, its quota."""

from __future__ import annotations

import contextlib
import errno
import threading
from typing import TYPE_CHECKING, Final

from tcpcrypt.transfer.codes import Code, TransferError
from tcpcrypt.transfer.disk import Node
from tcpcrypt.transfer.folders import Folders
from tcpcrypt.transfer.journal import Journal
from tcpcrypt.transfer.messages import UNKNOWN_SIZE, Kind, Put
from tcpcrypt.transfer.names import Path, check_path, numbered, shown
from tcpcrypt.transfer.part import Beat, Part
from tcpcrypt.transfer.rules import OnExist, Rules

if TYPE_CHECKING:
    from tcpcrypt.transfer.store import Store

__all__ = ["Account"]

_MANY: Final = 4
"""Files from which on one sync of the whole file system costs less."""
_NUMBERS_MAX: Final = 9999
_PARTS_MAX: Final = 16384
"""Unfinished transfers of one client."""
_DEPTH_MAX: Final = 64


class Account:
    """One client; shared by its connections, and made by `Store.account`."""

    def __init__(self, store: Store, name: str, home: int, base: int, prefix: Path) -> None:
        self.store = store
        self.name = name
        self.home = home
        """Descriptor of the folder with its partial files."""
        self.base = base
        """Descriptor of the folder that its files arrive in."""
        self.prefix = prefix
        """That folder, in the directory of the receiver."""
        self.users = 0
        self.announced = 0
        """Bytes of the transfers that are under way."""
        self.disk = store.disk
        self._lock = threading.RLock()
        self._active: dict[bytes, Part] = {}
        self._settled: set[Path] = set()
        self._journal = Journal(self.disk, home)
        self._parts = {name for name in self.disk.names(home) if name.endswith(b".part")}
        self._used = 0
        if self.rules.quota is not None:
            self._used = self._usage(base, 0) + self._usage(home, 0)

    @property
    def rules(self) -> Rules:
        """What the receiver takes."""
        return self.store.rules

    def folders(self) -> Folders:
        """For one thread of a connection."""
        private = None if self.prefix else self.store.private
        return Folders(self.disk, self.base, self._settled, private)

    # --- PUT -----------------------------------------------------------------------

    def offer(self, put: Put, folders: Folders, beat: Beat) -> Part:
        """Take on a file that is announced, or go on with it.

        Reads what is there of it, which may take a while: `beat` is called every
        mebibyte.  Raises `TransferError` and `OSError`.
        """
        check_path(put.path)
        self._check_bounds(put)
        part = Part(self, put, put.path)
        with self._lock:
            former = self._active.pop(put.transfer_id, None)
            if former is not None:
                self._let_go(former)
            if put.kind is Kind.FILE:
                self._claim(part, folders)
            self._active[put.transfer_id] = part
        try:
            self._examine(part, folders, beat)
            self._check_room(part)
        except BaseException:
            if part.broken:
                self.salvage(part)
            self.release(part)
            raise
        return part

    def _check_bounds(self, put: Put) -> None:
        rules = self.rules
        if not 1 <= put.block <= rules.block:
            raise TransferError(Code.BLOCK_SIZE, f"{put.block}, not 1 to {rules.block}")
        if put.size == UNKNOWN_SIZE:
            return
        if rules.max_size is not None and put.size > rules.max_size:
            raise TransferError(Code.TOO_LARGE, f"{put.size} bytes, {rules.max_size} at most")

    def _claim(self, part: Part, folders: Folders) -> None:
        """Nobody else may write that name; and it is free, or may be replaced."""
        on_exist, path = self.rules.on_exist, part.path
        delivery = self._journal.find(part.put.transfer_id)
        if delivery is not None:
            if delivery.is_at(self._look(folders, delivery.path)):
                part.delivery, part.path = delivery, delivery.path
                return
            self._journal.confirm({part.put.transfer_id})
        if on_exist is not OnExist.RENAME:
            self.store.claim(self.prefix + path, part)
        try:
            there = self._look(folders, path)
            if there is None or on_exist is OnExist.RENAME:
                return
            if on_exist is OnExist.FAIL or there.is_folder:
                raise TransferError(Code.EXISTS, shown(path))
        except BaseException:
            self.store.unclaim(part)
            raise

    def _look(self, folders: Folders, path: Path) -> Node | None:
        folder = folders.find(path[:-1])
        return None if folder is None else self.disk.look(folder, path[-1])

    def _examine(self, part: Part, folders: Folders, beat: Beat) -> None:
        if part.name in self._parts:
            self._unlink_delivered(part.name)
        if part.delivery is not None:
            folder = folders.find(part.path[:-1])
            at, name = self.base if folder is None else folder, part.path[-1]
        elif part.name in self._parts:
            at, name = self.home, part.name
        else:
            return
        fd = self.disk.open(at, name, write=False)
        try:
            part.examine(fd, beat)
        finally:
            self.disk.close(fd)

    def _unlink_delivered(self, name: bytes) -> None:
        """A kill between the two halves of `rename_new` leaves a file with both names.

        To write to it would be to write to what was delivered.
        """
        node = self.disk.look(self.home, name)
        if node is not None and node.links > 1:
            self.disk.remove(self.home, name)
            with self._lock:
                self._parts.discard(name)

    def _check_room(self, part: Part) -> None:
        """Raises `TransferError`: NO_SPACE, QUOTA, TOO_MANY."""
        size = 0 if part.put.size == UNKNOWN_SIZE else part.put.size
        there = max((offset for offset, _ in part.prefixes), default=0)
        need = max(size - there, 0)
        with self._lock:
            part.need = need
            self.announced += need
        if len(self._parts) >= _PARTS_MAX and part.name not in self._parts:
            raise TransferError(Code.TOO_MANY, f"{_PARTS_MAX} transfers are unfinished")
        self._check_quota(need)
        self.store.check_space(self.base, need, part)

    # --- what parts ask for ----------------------------------------------------------

    def open_part(self, name: bytes, mode: int, size: int) -> int:
        """A partial file, cut to `size` bytes or made.  Raises `TransferError`, `OSError`."""
        with self._lock:
            new = name not in self._parts
            self._parts.add(name)
        if new:
            try:
                return self.disk.create(self.home, name, mode)
            except OSError:
                with self._lock:
                    self._parts.discard(name)
                raise
        fd = self.disk.open(self.home, name)
        there = self.disk.node(fd).size
        if there != size:
            if there < size:
                self.disk.close(fd)
                raise TransferError(Code.STORAGE, "a partial file became shorter")
            self.disk.truncate(fd, size)
            self.charge(size - there)
        return fd

    def charge(self, size: int) -> None:
        """Count bytes towards the quota.  Raises `TransferError` (QUOTA)."""
        if self.rules.quota is None:
            return
        with self._lock:
            if size > 0:
                self._check_quota(size)
            self._used += size

    def _check_quota(self, need: int) -> None:
        quota = self.rules.quota
        if quota is not None and self._used + need > quota:
            raise TransferError(Code.QUOTA, f"{quota} bytes")

    def _usage(self, folder: int, depth: int) -> int:
        total = 0
        for name in self.disk.names(folder):
            node = self.disk.look(folder, name)
            if node is None:
                continue
            if node.is_file:
                total += node.size
            elif node.is_folder and depth < _DEPTH_MAX:
                fd = self.disk.open_folder(folder, name)
                try:
                    total += self._usage(fd, depth + 1)
                finally:
                    self.disk.close(fd)
        return total

    # --- END -------------------------------------------------------------------------

    def commit(self, parts: list[Part], folders: Folders) -> list[Code]:
        """Give files that have ended their names, durably, all at once.

        Their contents are durable before any of the names is; the names are
        durable when this returns.  `part.path` is where each is.
        """
        codes = dict.fromkeys(parts, Code.OK)
        todo = [part for part in parts if part.is_file and part.delivery is None]
        try:
            self._sync(todo, codes)
            for part in parts:
                if codes[part] is Code.OK:
                    codes[part] = self._place(part, folders)
            folders.sync(everything=self.base)
        except OSError as error:
            # Which of the names are durable is not known.
            codes = {part: Code.of(error) for part in parts}
        finally:
            folders.forget()
        return [codes[part] for part in parts]

    def _sync(self, parts: list[Part], codes: dict[Part, Code]) -> None:
        if not parts:
            return
        with self._lock:
            journal = self._journal.add([part.delivery_to(part.path) for part in parts])
        if self._sync_together(parts, codes):
            return
        for part in parts:
            try:
                part.sync_whole()
            except OSError as error:
                codes[part] = Code.of(error)
                self.salvage(part)
        self.disk.sync_data(journal)

    def _sync_together(self, parts: list[Part], codes: dict[Part, Code]) -> bool:
        """Whether all were synced with one call, or none was and the codes say so."""
        if len(parts) < _MANY or any(part.broken for part in parts):
            return False
        try:
            return self.disk.sync_all(self.base)
        except OSError as error:
            for part in parts:
                codes[part] = Code.of(error)
                self.salvage(part)
            return True

    def _place(self, part: Part, folders: Folders) -> Code:
        try:
            if not part.is_file:
                folders.make(part.path, part.put.mode & 0o777)
                return Code.OK
            folder = folders.make(part.path[:-1])
            folders.changed.add(part.path[:-1])
            if part.delivery is not None:
                return Code.OK  # perhaps a sync of its name had failed
            self._name(part, folder)
        except TransferError as error:
            return error.code
        except OSError as error:
            return Code.of(error)
        with self._lock:
            self._parts.discard(part.name)
        return Code.OK

    def _name(self, part: Part, folder: int) -> None:
        on_exist, name = self.rules.on_exist, part.path[-1]
        if on_exist is OnExist.REPLACE:
            there = self.disk.look(folder, name)
            part.place(folder, name, replace=True)
            self.charge(-there.size if there is not None and there.is_file else 0)
            return
        for number in range(1, _NUMBERS_MAX + 1):
            with contextlib.suppress(FileExistsError):
                part.place(folder, name, replace=False)
                return
            if on_exist is OnExist.FAIL:
                break
            name = numbered(part.put.path[-1], number)
            part.path = (*part.path[:-1], name)
            if self.disk.look(folder, name) is None:
                with self._lock:
                    journal = self._journal.add([part.delivery_to(part.path)])
                self.disk.sync_data(journal)
        raise FileExistsError(errno.EEXIST, "all names are taken")

    # --- the end -----------------------------------------------------------------------

    def salvage(self, part: Part) -> None:
        """A sync of it has failed, and what memory holds of it may be nowhere else.

        What was durable before stays; the rest goes, so that it is sent again.
        """
        with contextlib.suppress(OSError, TransferError):
            if part.durable:
                self.charge(-part.cut_back())
            else:
                self.discard(part)

    def discard(self, part: Part) -> None:
        """Remove what is there of a transfer that will not go on."""
        with self._lock:
            if part.name not in self._parts or self._active.get(part.put.transfer_id) is not part:
                return
            there = self.disk.look(self.home, part.name)
            self.disk.remove(self.home, part.name)
            self._parts.discard(part.name)
            self.charge(-there.size if there is not None else 0)

    def release(self, part: Part) -> None:
        """A connection has done with it; what is there stays."""
        with self._lock:
            if self._active.get(part.put.transfer_id) is part:
                del self._active[part.put.transfer_id]
            self._let_go(part)

    def confirm(self, transfer_ids: set[bytes]) -> None:
        """The client knows that these were delivered."""
        with self._lock:
            self._journal.confirm(transfer_ids)

    def outstanding(self, other_than: Part) -> int:
        """Bytes that others have to leave room for.

        To announce costs nothing.  So a file has as much again as has come of
        it, and each connection a window beside, of what was announced.
        """
        with self._lock:
            parts = [
                part
                for part in self._active.values()
                if part.need and not part.ended and part is not other_than
            ]
            windows = self.users * self.rules.window
        left = [part.put.size - part.written if part.begun else part.need for part in parts]
        earned = sum(min(size, part.written) for size, part in zip(left, parts, strict=True))
        return min(sum(left), earned + windows)

    def close(self) -> None:
        """Close what is open.  Nobody uses it any more."""
        for part in list(self._active.values()):
            self.release(part)
        self._journal.close()
        self.disk.close(self.home)
        if self.prefix:
            self.disk.close(self.base)

    def _let_go(self, part: Part) -> None:
        self.announced -= part.need
        part.need = 0
        part.revoke()
        self.store.unclaim(part)
