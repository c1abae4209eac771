"""One file on its way in.

What arrives is written to `<transfer id>.part` in the receiver's own directory.
Nothing else is kept of an unfinished transfer, so that nothing else can be
wrong: when its sender comes back, digests of what lies there are its offer
(`messages.Have`), one for the whole length and one for each mebibyte up to
sixteen before that.  Acknowledgements before the end are of whole mebibytes,
and no more than a window is ever under way without being durable; so whatever a
power cut has left behind, what was acknowledged is among what is offered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from tcpcrypt.errors import LocalError
from tcpcrypt.transfer.codes import Code, TransferError
from tcpcrypt.transfer.digest import Digest, Hasher, Hashing
from tcpcrypt.transfer.disk import Node
from tcpcrypt.transfer.journal import Delivery
from tcpcrypt.transfer.messages import UNKNOWN_SIZE, WINDOW_MAX, End, Kind, Put
from tcpcrypt.transfer.names import Path

if TYPE_CHECKING:
    from tcpcrypt.transfer.account import Account

__all__ = ["GRID", "Part"]

GRID: Final = 1 << 20
"""Acknowledgements before the end are multiples of this."""
_READ: Final = 1 << 20
_PERMISSIONS: Final = 0o777
_OWNER: Final = 0o600

Beat = Callable[[], None]


class Part:
    """What one transfer has written; made by `Account.offer`.

    The connection's reader writes while its writer makes durable.  A newer
    connection with the same transfer takes it over (`revoke`): from then on
    every method raises `TransferError` (SUPERSEDED).
    """

    def __init__(self, account: Account, put: Put, path: Path) -> None:
        self.account = account
        self.put = put
        self.path = path
        """Where it is to be, below the account's folder."""
        self.name = put.transfer_id.hex().encode() + b".part"
        self.need = 0
        """Bytes of the disk that are kept free for it."""
        self.written = 0
        self.durable = 0
        self.begun = False
        self.ended = False
        self.delivery: Delivery | None = None
        """Set if an earlier connection has delivered the file."""
        self.claimed: Path | None = None
        self.digest = Digest(put.algorithm, bytes(32))
        self._fd: int | None = None
        self._node: Node | None = None
        self._broken: OSError | None = None
        self._named = False
        self._offers: dict[int, Hasher] = {0: put.algorithm.new()}
        self._hasher: Hasher = self._offers[0]
        self._lock = threading.Lock()
        self._revoked = False
        self.placed = False

    # --- the offer -----------------------------------------------------------------

    @property
    def prefixes(self) -> tuple[tuple[int, bytes], ...]:
        """Lengths and digests of what is there, as in a HAVE."""
        return tuple(
            (offset, hasher.digest()) for offset, hasher in sorted(self._offers.items()) if offset
        )

    def examine(self, fd: int, beat: Beat) -> None:
        """Read what is there, once; `beat` is called every mebibyte.

        What is offered is durable before: its sender may be unable to go back
        behind it, and windows of several connections, each cut off, would be
        under way at once.
        """
        disk = self.account.disk
        if self.delivery is None:
            self._settle(fd)
        size = disk.node(fd).size
        # What was acknowledged last may be just a whole window behind.
        points = {at for at in range(size // GRID * GRID, size - WINDOW_MAX - 1, -GRID) if at > 0}
        points.add(size)
        if self.delivery is not None:
            points = {size}
        hasher, at, buffer = self.put.algorithm.new(), 0, memoryview(bytearray(_READ))
        for point in sorted(points):
            while at < point:
                took = disk.read(fd, buffer[: min(_READ, point - at)], at)
                if not took:
                    return  # it became shorter: what was read so far is the offer
                hasher.update(buffer[:took])
                at += took
                beat()
            if at:
                self._offers[at] = hasher.copy()

    # --- the bytes -----------------------------------------------------------------

    def begin(self, offset: int) -> None:
        """The sender goes on at `offset`: one of the offered, or 0.

        Raises `TransferError` (SIZE for any other) and `OSError`.
        """
        with self._lock:
            self._check()
            hasher = self._offers.get(offset)
            if hasher is None or (offset and self.delivery is not None):
                raise TransferError(Code.SIZE, f"offset {offset} was not offered")
            self.delivery = None
            self._hasher, self._offers = hasher, {}
            mode = self.put.mode & _PERMISSIONS | _OWNER
            self._fd = self.account.open_part(self.name, mode, offset)
            self.written, self.begun = offset, True
            self.durable = offset // GRID * GRID  # see `examine`

    def write(
        self,
        offset: int,
        pieces: Sequence[memoryview],
        hashing: Hashing,
        release: Callable[[], None] | None = None,
    ) -> None:
        """Bytes behind those that are written.

        `pieces` must stay as they are until `release` is called.  Raises
        `TransferError` and `OSError`.
        """
        if offset != self.written:
            raise TransferError(Code.SIZE, f"offset {offset} does not follow {self.written}")
        size = sum(map(len, pieces))
        end = offset + size
        if end > self.put.size and self.put.size != UNKNOWN_SIZE:
            raise TransferError(Code.SIZE, f"more than the {self.put.size} bytes announced")
        limit = self.account.rules.max_size
        if limit is not None and end > limit:
            raise TransferError(Code.TOO_LARGE, f"more than {limit} bytes")
        self.account.charge(size)
        with self._lock:
            self._check()
            self.account.disk.write_pieces(self._open(), pieces, offset)
            self.written = end
        hashing.update(self._hasher, pieces, release)

    def end(self, end: End, hashing: Hashing) -> None:
        """The sender says that this is all.

        Raises `TransferError`: SIZE, or DIGEST if what arrived is not what was sent.
        """
        if not self.begun and self.delivery is not None:
            self._compare(end, self.delivery.size, self._offers.get(end.size))
            self.ended = True
            return
        if not self.begun:
            self.begin(end.size)
        hashing.settle()
        self._compare(end, self.written, self._hasher)
        if self.put.size not in {UNKNOWN_SIZE, end.size}:
            raise TransferError(Code.SIZE, f"{end.size} bytes, {self.put.size} announced")
        with self._lock:
            self._check()
            fd, disk = self._open(), self.account.disk
            disk.set_mtime(fd, self.put.mtime)
            self._node = node = disk.node(fd)
            wanted = self.put.mode & _PERMISSIONS
            if wanted & _OWNER != _OWNER:
                disk.set_mode(fd, wanted & node.mode)
            if node.size < GRID:
                # Many of these wait together to be synced.
                self._fd = None
                disk.close(fd)
        self.ended = True

    def _compare(self, end: End, size: int, hasher: Hasher | None) -> None:
        if hasher is None or end.size != size:
            raise TransferError(Code.SIZE, f"{end.size} bytes were sent, {size} arrived")
        self.digest = Digest(self.put.algorithm, hasher.digest())
        if self.digest != end.digest:
            raise TransferError(Code.DIGEST)

    # --- durable -------------------------------------------------------------------

    @property
    def broken(self) -> bool:
        """Whether a sync has failed: only `sync_whole` may be asked, which says so."""
        return self._broken is not None

    def due(self, *, late: bool) -> bool:
        """Whether a `sync` pays: half a window is waiting for it; or anything, if it is `late`.

        Each costs both ends an answer; and nobody is to wait for the other half.
        """
        enough = GRID if late else max(GRID, self.account.rules.window // 2)
        return self.begun and not self.ended and self.written - self.durable >= enough

    def sync(self) -> int:
        """What is written becomes durable; returns up to where it may be acknowledged.

        Raises `TransferError` and `OSError`.
        """
        with self._lock:
            upto, fd = self.written, self._open()
        self._settle(fd)
        with self._lock:
            self._check()  # a descriptor that was taken away may be another file's
            self.durable = upto // GRID * GRID
        return self.durable

    def _settle(self, fd: int) -> None:
        disk = self.account.disk
        try:
            disk.sync_data(fd)
            if not self._named:
                disk.sync(self.account.home)  # the name is as durable as the bytes
                self._named = True
        except OSError as error:
            self._broken = error  # the system tells of it once
            raise

    def sync_whole(self) -> None:
        """All of the file is durable, its times and permissions with it."""
        disk, fd = self.account.disk, self._fd
        if self._broken is not None:
            raise self._broken
        if fd is None:
            fd = disk.open(self.account.home, self.name, write=False)
            try:
                disk.sync(fd)
            finally:
                disk.close(fd)
        else:
            disk.sync(fd)

    def cut_back(self) -> int:
        """Only what a sync has made durable stays; returns how many bytes went."""
        with self._lock:
            disk, fd = self.account.disk, self._open()
            gone = disk.node(fd).size - self.durable
            disk.truncate(fd, self.durable)
        return gone

    def delivery_to(self, path: Path) -> Delivery:
        """The line of the journal, once the file has ended."""
        node = self._node
        if node is None:
            raise LocalError("the file has not ended")
        return Delivery(self.put.transfer_id, node.device, node.inode, node.size, path)

    def place(self, to: int, name: bytes, *, replace: bool) -> None:
        """Give the file its name in the folder `to`.

        Raises `FileExistsError` if there is one and it is not to be replaced,
        `TransferError` and `OSError`.
        """
        disk, home = self.account.disk, self.account.home
        with self._lock:
            self._check()
            if replace:
                disk.rename(home, self.name, to, name)
            else:
                disk.rename_new(home, self.name, to, name)
            self.placed = True

    # --- the end -------------------------------------------------------------------

    def revoke(self) -> None:
        """Somebody else goes on with it, or nobody; idempotent."""
        with self._lock:
            self._revoked = True
            fd, self._fd = self._fd, None
            if fd is not None:
                self.account.disk.close(fd)

    @property
    def is_file(self) -> bool:
        """Whether there is anything to store."""
        return self.put.kind is Kind.FILE

    def _open(self) -> int:
        self._check()
        if self._fd is None:
            raise TransferError(Code.PROTOCOL, "bytes of a file that has not begun")
        return self._fd

    def _check(self) -> None:
        if self._revoked:
            raise TransferError(Code.SUPERSEDED)
