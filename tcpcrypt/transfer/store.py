"""The directory that files arrive in.

    <out>/...                           what was delivered
    <out>/.stx/lock                     one receiver at a time
    <out>/.stx/<client>/<id>.part       what is under way
    <out>/.stx/<client>/delivered       what its sender may not know of yet

`<client>` is a digest of the client's name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from typing import Final

from tcpcrypt.errors import LocalError
from tcpcrypt.transfer.account import Account
from tcpcrypt.transfer.codes import Code, TransferError
from tcpcrypt.transfer.disk import Disk
from tcpcrypt.transfer.names import PRIVATE, Path, check_path, shown
from tcpcrypt.transfer.part import Part
from tcpcrypt.transfer.rules import Rules

__all__ = ["Store"]

_LOCK: Final = b"lock"
_PRIVATE_MODE: Final = 0o700
_OTHERS: Final = 0o077
_NAME_LEN: Final = 32
_NO_FOLDER: Final[Path] = ()


class Store:
    """One for a receiver; its methods may be called by any thread."""

    def __init__(
        self, directory: str | os.PathLike[str], rules: Rules, disk: Disk | None = None
    ) -> None:
        """Make `.stx` there, and lock it.

        Raises `OSError` if the directory cannot be written, `LocalError` if
        another receiver uses it or if `.stx` is open to others.
        """
        self.rules = rules
        self.disk = Disk() if disk is None else disk
        self.directory = os.fspath(directory)
        self._lock = threading.RLock()
        self._accounts: dict[str, Account] = {}
        self._claims: dict[Path, Part] = {}
        self._root = self.disk.open_root(os.fsencode(directory))
        try:
            self._private = self._open_private()
        except BaseException:
            self.disk.close(self._root)
            raise

    def account(self, name: str, *, folder: bytes | None = None) -> Account:
        """What a client has; `leave` ends what this begins.

        `name` is what the client has proved to be, in any characters: its key is
        a digest of it.  `folder` is the one that its files arrive in, one
        component; None: the directory itself, where a quota cannot be.  Raises
        `TransferError` (NAME, EXISTS), `LocalError` and `OSError`.
        """
        if folder is None and self.rules.quota is not None:
            raise LocalError("a quota needs a folder for each client")
        with self._lock:
            account = self._accounts.get(name)
            if account is None:
                account = self._accounts[name] = self._open_account(name, folder)
            if account.prefix != (_NO_FOLDER if folder is None else (folder,)):
                raise LocalError(f"{name} has another folder at the moment")
            account.users += 1
            return account

    def leave(self, account: Account) -> None:
        """A connection has done with the account."""
        with self._lock:
            account.users -= 1
            if account.users == 0:
                self._accounts.pop(account.name, None)
                account.close()

    def close(self) -> None:
        """Close what is open, and give up the lock."""
        with self._lock:
            for account in self._accounts.values():
                account.close()
            self._accounts.clear()
            for fd in (self._locked, self._private, self._root):
                self.disk.close(fd)

    # --- for accounts ------------------------------------------------------------------

    def claim(self, path: Path, part: Part) -> None:
        """Nobody else writes this name.  Raises `TransferError` (BUSY)."""
        with self._lock:
            if path in self._claims:
                raise TransferError(Code.BUSY, shown(path))
            self._claims[path] = part
            part.claimed = path

    def unclaim(self, part: Part) -> None:
        """Others may."""
        with self._lock:
            if part.claimed is not None:
                self._claims.pop(part.claimed, None)
                part.claimed = None

    def check_space(self, fd: int, need: int, part: Part) -> None:
        """Whether there is room for `need` bytes of `part` beside what others are to have.

        Raises `TransferError` (NO_SPACE).
        """
        room = self.disk.free(fd) - self.rules.reserve
        with self._lock:
            accounts = list(self._accounts.values())
        # Both sums hold `need`; the first is quick, and too large while bytes arrive.
        if sum(account.announced for account in accounts) <= room:
            return
        if need and need + sum(account.outstanding(part) for account in accounts) > room:
            raise TransferError(Code.NO_SPACE, f"{need} bytes are needed, {max(room, 0)} free")

    # --- inside ------------------------------------------------------------------------

    def _open_private(self) -> int:
        private = self._folder(self._root, PRIVATE)
        try:
            node = self.disk.node(private)
            if node.mode & _OTHERS or node.owner != os.geteuid():
                raise LocalError(
                    f"{self.directory}/.stx is not this user's alone: chmod 700, or remove it"
                )
            self.private = node.device, node.inode
            """The folder that no name of a file leads to."""
            self._locked = self._open_lock(private)
        except BaseException:
            self.disk.close(private)
            raise
        return private

    def _open_lock(self, private: int) -> int:
        try:
            fd = self.disk.create(private, _LOCK, 0o600)
        except FileExistsError:
            fd = self.disk.open(private, _LOCK)
        if not self.disk.lock(fd):
            self.disk.close(fd)
            raise LocalError(f"another receiver uses {self.directory}")
        return fd

    def _open_account(self, name: str, folder: bytes | None) -> Account:
        key = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:_NAME_LEN]
        base, prefix = self._root, _NO_FOLDER
        if folder is not None:
            check_path((folder,))
            base, prefix = self._folder(self._root, folder, 0o777), (folder,)
        home = self._folder(self._private, key.encode())
        return Account(self, name, home, base, prefix)

    def _folder(self, at: int, name: bytes, mode: int = _PRIVATE_MODE) -> int:
        with contextlib.suppress(FileExistsError):
            self.disk.make_folder(at, name, mode)
        self.disk.sync(at)  # who made it may not have come to that
        return self.disk.open_folder(at, name)
