"""`tcpcrypt connect`, `listen` and `proxy` as processes, with what they tell as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SECONDS = 20.0
HOST = "127.0.0.1"
TCPCRYPT = (sys.executable, "-m", "tcpcrypt.cli.tcpcrypt")


def wait_until(true: Callable[[], bool]) -> None:
    """Raises `TimeoutError` if it never is."""
    end = time.monotonic() + SECONDS
    while not true():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)


class Program:
    """One process; what it writes is read all the time."""

    def __init__(self, *words: str, keys: Path, stdin: int | None = subprocess.PIPE) -> None:
        self.process = subprocess.Popen(
            (*TCPCRYPT, *words),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "TCPCRYPT_KEYS": str(keys)},
        )
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.told: list[str] = []
        self.out = bytearray()
        self._readers = [
            threading.Thread(target=reader, daemon=True) for reader in (self._errors, self._output)
        ]
        for thread in self._readers:
            thread.start()

    def _errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.put(line.decode().rstrip("\n"))
        self.lines.put(None)

    def _output(self) -> None:
        assert self.process.stdout is not None
        while data := os.read(self.process.stdout.fileno(), 1 << 16):
            self.out += data

    def line(self) -> str | None:
        """The next line that it tells; None at the end."""
        line = self.lines.get(timeout=SECONDS)
        if line is not None:
            self.told.append(line)
        return line

    def event(self, name: str) -> dict[str, Any]:
        """The next event of that name, with --json."""
        while (line := self.line()) is not None:
            found: dict[str, Any] = json.loads(line)
            if found["event"] == name:
                return found
        raise AssertionError(f"no {name!r} in {self.told}")

    def port(self) -> int:
        """Where it listens."""
        return int(self.event("listening")["address"].rpartition(":")[2])

    def write(self, data: bytes, *, end: bool = False) -> None:
        stdin = self.process.stdin
        assert stdin is not None
        stdin.write(data)
        stdin.flush()
        if end:
            stdin.close()

    def interrupt(self, number: int = signal.SIGINT) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit status, after which all that it told is in `told` and `out`."""
        status = self.process.wait(SECONDS)
        for thread in self._readers:
            thread.join(SECONDS)
        while self.line() is not None:
            pass
        return status

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(SECONDS)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()


class Programs:
    """Starts programs for two users, and ends what is left of them."""

    def __init__(self, directory: Path) -> None:
        self.ours, self.theirs = directory / "ours", directory / "theirs"
        self._all: list[Program] = []

    def start(self, *words: str, keys: Path | None = None, **more: Any) -> Program:
        program = Program(*words, keys=keys or self.ours, **more)
        self._all.append(program)
        return program

    def listen(self, *words: str, **more: Any) -> Program:
        return self.start("listen", f"{HOST}:0", "--json", *words, keys=self.theirs, **more)

    def connect(self, port: int, *words: str, **more: Any) -> Program:
        return self.start("connect", f"{HOST}:{port}", "--json", *words, **more)

    def stop(self) -> None:
        for program in self._all:
            program.stop()


@contextlib.contextmanager
def plain_service(answer: Any) -> Iterator[int]:
    """A service in plain TCP: `answer(sock)` for each connection, in a thread."""

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=handle, args=(sock,), daemon=True).start()

    def handle(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.settimeout(SECONDS)
            answer(sock)

    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def echo(sock: socket.socket) -> None:
    """Send all of it back, and end when the other end does."""
    while data := sock.recv(1 << 16):
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def receive_all(sock: socket.socket) -> bytes:
    """Until the end of the stream."""
    found = bytearray()
    while data := sock.recv(1 << 16):
        found += data
    return bytes(found)
