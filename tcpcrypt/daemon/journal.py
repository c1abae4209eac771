"""systemd's journal, by its native protocol: one datagram with fields an entry.

The protocol (systemd, "Native Journal Protocol") is `NAME=value` and a
newline; a value that holds a newline is written as `NAME`, a newline, its
length as 64 bits little-endian, the value and a newline.  An entry too large
for a datagram would need a memory file; ours are bounded far below that.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tcpcrypt.errors import LocalError

__all__ = ["SOCKET", "Journal", "is_journal"]

SOCKET: Final = Path("/run/systemd/journal/socket")


def is_journal(fd: int, variable: str | None) -> bool:
    """Whether `fd` leads to the journal, by what systemd put into JOURNAL_STREAM.

    That is `device:inode` of the stream systemd gave to the service.  The
    variable alone tells nothing: a shell of the service that redirects stderr
    hands it on.
    """
    device, colon, inode = (variable or "").partition(":")
    if not colon:
        return False
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


class Journal:
    """The journal of this host.  Sending never blocks and never fails loudly."""

    def __init__(self, path: Path = SOCKET) -> None:
        """Raises `LocalError` if nobody listens there."""
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.connect(os.fspath(path))
        except OSError as error:
            self._socket.close()
            raise LocalError(f"{path}: {error.strerror}") from error

    def send(self, fields: Mapping[str, str]) -> bool:
        """Whether the journal took the entry.  Names are upper-case, as the journal wants them."""
        entry = b"".join(_field(name, value) for name, value in fields.items())
        try:
            self._socket.send(entry)
        except BlockingIOError:
            return False
        except OSError:
            return self._send_anew(entry)
        return True

    def _send_anew(self, entry: bytes) -> bool:
        """The journal may have been started again, and listen on another socket."""
        try:
            self._socket.connect(os.fspath(self._path))
            self._socket.send(entry)
        except OSError:
            return False
        return True

    def close(self) -> None:
        self._socket.close()


def _field(name: str, value: str) -> bytes:
    data = value.encode(errors="backslashreplace")
    if b"\n" in data:
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"
