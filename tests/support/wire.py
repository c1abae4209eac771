"""A wire between two programs that delays, records, cuts and alters what goes over it."""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

Alter = Callable[[bytes, int], bytes]
"""Of a chunk and its offset in the stream: what goes on."""


def reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Wire:
    """Listens at `address` and carries every connection to `to`; a context manager.

    `to` and `up` may be changed at any time: a wire that is not up refuses who
    comes.  `recorded` has what went by, in both directions, if asked for.
    `cut_after` bytes from the client both ends are reset, once.
    """

    def __init__(
        self,
        to: tuple[str, int],
        *,
        delay: float = 0.0,
        record: bool = False,
        cut_after: int | None = None,
        forward: Alter | None = None,
        backward: Alter | None = None,
    ) -> None:
        self.to = to
        self.up = True
        self.delay = delay
        self.cut_after = cut_after
        self.connections = 0
        self.recorded = (bytearray(), bytearray())
        """From the client, from the server."""
        self.from_client = 0
        self.from_server = 0
        self._record = record
        self._alter = {True: forward, False: backward}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._over = False

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def cut(self) -> None:
        """Reset whatever is connected."""
        with self._lock:
            cut = set(self._open)
        self._cut(cut)

    def _cut(self, socks: set[socket.socket]) -> None:
        """Reset those of them that are connected still."""
        with self._lock:
            cut = self._open & socks
            self._open -= cut
        for sock in cut:
            # The threads that wait in it are woken by this, and not by closing.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.shutdown(socket.SHUT_RD)
            reset(sock)

    def _start(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._over:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            if not self.up:
                reset(client)
                continue
            try:
                server = socket.create_connection(self.to, 10)
            except OSError:
                reset(client)
                continue
            for sock in (client, server):
                sock.settimeout(None)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                self._open |= {client, server}
            for source, sink, forward in ((client, server, True), (server, client, False)):
                line: queue.SimpleQueue[tuple[float, bytes | None]] = queue.SimpleQueue()
                self._start(self._read, source, sink, line, forward)
                self._start(self._write, source, sink, line)

    def _read(
        self,
        source: socket.socket,
        sink: socket.socket,
        line: queue.SimpleQueue[tuple[float, bytes | None]],
        forward: bool,
    ) -> None:
        alter, offset = self._alter[forward], 0
        while True:
            try:
                data = source.recv(1 << 18)
            except OSError:
                data = b""
                self._cut({source, sink})
            with self._lock:
                if self._record:
                    self.recorded[not forward].extend(data)
                if forward:
                    self.from_client += len(data)
                else:
                    self.from_server += len(data)
                due = self.cut_after is not None and self.from_client >= self.cut_after
                if due:
                    self.cut_after = None
            if due:
                self.cut()
            length = len(data)
            if data and alter is not None:
                data = alter(data, offset)
            offset += length
            line.put((time.monotonic() + self.delay, data if length else None))
            if not length:
                return

    def _write(
        self,
        source: socket.socket,
        sink: socket.socket,
        line: queue.SimpleQueue[tuple[float, bytes | None]],
    ) -> None:
        ended = False
        while not ended:
            due, data = line.get()
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                if data is None:
                    ended = True
                    sink.shutdown(socket.SHUT_WR)
                else:
                    sink.sendall(data)
            except OSError:
                if not ended:
                    self._cut({source, sink})
                return


if __name__ == "__main__":
    import sys

    # python tests/support/wire.py PORT DELAY: prints the own port, until it is killed
    with Wire(("127.0.0.1", int(sys.argv[1])), delay=float(sys.argv[2])) as wire:
        print(wire.port, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
