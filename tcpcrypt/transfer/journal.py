"""What was delivered and may not be known to its sender yet.

A receiver that dies, or loses its link, between the moment a file gets its name
and the moment its sender reads the RECEIPT would, when the sender tries again,
find the name taken.  So a line is durable before a file is renamed:

    <transfer id> <device> <inode> <size> <path> <CRC-32 of that>

It counts if the file of that name is still that inode.  When the sender ends
its connection in order it has read everything, and the lines go.
"""

from __future__ import annotations

import contextlib
import zlib
from dataclasses import dataclass
from typing import Final

from tcpcrypt.transfer.disk import Disk, Node
from tcpcrypt.transfer.names import Path

__all__ = ["Delivery", "Journal"]

_NAME: Final = b"delivered"
_SIZE_MAX: Final = 32 << 20
_COUNT_MAX: Final = 65536
_COLUMNS: Final = 6


@dataclass(frozen=True, slots=True)
class Delivery:
    """One file that has, or was about to get, its name."""

    transfer_id: bytes
    device: int
    inode: int
    size: int
    path: Path

    def is_at(self, node: Node | None) -> bool:
        """Whether what is there now is that file."""
        return node is not None and (node.device, node.inode, node.size) == (
            self.device,
            self.inode,
            self.size,
        )

    def line(self) -> bytes:
        """As in the file."""
        path = b"/".join(self.path).hex().encode()
        head = b"%s %d %d %d %s" % (
            self.transfer_id.hex().encode(),
            self.device,
            self.inode,
            self.size,
            path,
        )
        return b"%s %08x\n" % (head, zlib.crc32(head))

    @classmethod
    def read(cls, line: bytes) -> Delivery | None:
        """None for a line that a crash has torn."""
        head, _, crc = line.rpartition(b" ")
        words = head.split(b" ")
        if len(words) != _COLUMNS - 1 or crc != b"%08x" % zlib.crc32(head):
            return None
        try:
            return cls(
                bytes.fromhex(words[0].decode()),
                int(words[1]),
                int(words[2]),
                int(words[3]),
                tuple(bytes.fromhex(words[4].decode()).split(b"/")),
            )
        except ValueError:
            return None


class Journal:
    """The deliveries of one client; its owner sees to it that one thread writes."""

    def __init__(self, disk: Disk, folder: int) -> None:
        self._disk = disk
        try:
            self._fd = disk.open(folder, _NAME)
        except FileNotFoundError:
            self._fd = disk.create(folder, _NAME, 0o600)
            disk.sync(folder)
        self._known: dict[bytes, Delivery] = {}
        self._end = 0
        self._load()

    def find(self, transfer_id: bytes) -> Delivery | None:
        """The last delivery of a transfer."""
        return self._known.get(transfer_id)

    def add(self, deliveries: list[Delivery]) -> int:
        """Write down; returns the descriptor that is to be synced before anything is renamed."""
        text = b"".join(delivery.line() for delivery in deliveries)
        if self._end + len(text) > _SIZE_MAX:
            self._disk.truncate(self._fd, 0)
            self._end = 0
            self._known.clear()
        self._disk.write(self._fd, text, self._end)
        self._end += len(text)
        for delivery in deliveries:
            self._known[delivery.transfer_id] = delivery
        while len(self._known) > _COUNT_MAX:
            del self._known[next(iter(self._known))]
        return self._fd

    def confirm(self, transfer_ids: set[bytes]) -> None:
        """Their sender knows of them.

        The file is emptied with the last one; lines that survive do no harm.
        """
        for transfer_id in transfer_ids:
            self._known.pop(transfer_id, None)
        if not self._known and self._end:
            with contextlib.suppress(OSError):
                self._disk.truncate(self._fd, 0)
                self._end = 0

    def close(self) -> None:
        """Close the file."""
        self._disk.close(self._fd)

    def _load(self) -> None:
        size = min(self._disk.node(self._fd).size, _SIZE_MAX)
        buffer, at = bytearray(size), 0
        while at < size:
            took = self._disk.read(self._fd, memoryview(buffer)[at:], at)
            if not took:
                break
            at += took
        for line in bytes(buffer[:at]).split(b"\n"):
            delivery = Delivery.read(line)
            if delivery is not None:
                self._known[delivery.transfer_id] = delivery
        self._end = at
        if at and buffer[at - 1] != ord("\n"):
            # What is torn stays behind a line of its own.
            self._disk.write(self._fd, b"\n", at)
            self._end += 1
