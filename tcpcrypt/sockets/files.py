"""Files over a secure connection, as `socket.makefile` makes them."""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from tcpcrypt.sockets.secure import SecureSocket

__all__ = ["ConnectionFile", "open_file"]


class ConnectionFile(io.RawIOBase):
    """The raw file; the connection stays open as long as one is."""

    def __init__(self, connection: SecureSocket, mode: str) -> None:
        super().__init__()
        self._connection = connection
        self._mode = mode
        self._timed_out = False
        connection._files += 1

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        """As of `socket.SocketIO`: a file that has timed out once is not read again."""
        self._checkClosed()
        self._checkReadable()  # type: ignore[attr-defined]
        if self._timed_out:
            raise OSError("cannot read from timed out object")
        try:
            return self._connection.recv_into(buffer)
        except BlockingIOError:
            return None
        except TimeoutError:
            self._timed_out = self._connection.error is None
            raise

    def write(self, data: ReadableBuffer) -> int | None:
        """Some of `data`; None if there is no room."""
        self._checkClosed()
        self._checkWritable()  # type: ignore[attr-defined]
        try:
            return self._connection.send(data)
        except BlockingIOError:
            return None

    def readable(self) -> bool:
        """By mode."""
        return not self.closed and "r" in self._mode

    def writable(self) -> bool:
        """By mode."""
        return not self.closed and "w" in self._mode

    def seekable(self) -> bool:
        """Never."""
        return False

    def fileno(self) -> int:
        """The connection's."""
        return self._connection.fileno()

    @property
    def name(self) -> int:
        """The descriptor, as files over sockets have it."""
        return -1 if self.closed else self.fileno()

    @property
    def mode(self) -> str:
        """`rb`, `wb` or `rwb`."""
        return self._mode

    def close(self) -> None:
        """Let go of the connection."""
        if not self.closed:
            super().close()
            self._connection._release_file()


def open_file(
    connection: SecureSocket,
    mode: str,
    buffering: int | None,
    *,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
) -> IO[Any]:
    """The file for `makefile`; its arguments are those of `socket.makefile`."""
    if not set(mode) <= {"r", "w", "b"}:
        raise ValueError(f"invalid mode {mode!r} (only r, w, b allowed)")
    reading, writing, binary = "r" in mode or "w" not in mode, "w" in mode, "b" in mode
    size = io.DEFAULT_BUFFER_SIZE if buffering is None or buffering < 0 else buffering
    if size == 0 and not binary:
        raise ValueError("unbuffered streams must be binary")
    raw = ConnectionFile(connection, ("r" if reading else "") + ("w" if writing else "") + "b")
    buffered: Any = raw
    if size and reading and writing:
        buffered = io.BufferedRWPair(raw, raw, size)
    elif size and reading:
        buffered = io.BufferedReader(raw, size)
    elif size:
        buffered = io.BufferedWriter(raw, size)
    file: IO[Any] = buffered if binary else io.TextIOWrapper(buffered, encoding, errors, newline)
    return file
