"""The two programs of an interop case: `serve PORT`, and `talk HOST PORT CASE...`.

They know nothing of encryption.  All data follow from a seed, so that each side
can tell the first byte that is wrong, and whether fewer came than were sent.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import struct
import sys
import threading
import time
from typing import Final, NamedTuple

_REQUEST: Final = struct.Struct("!4sBQQQ")
_MAGIC: Final = b"itop"
_CHUNK: Final = 1 << 16
MARKER: Final = b"plaintext that nobody on the path may read "
"""Stands in all data, every few kilobytes."""


class Order(NamedTuple):
    """What one connection does."""

    seed: int
    up: int
    """Bytes from client to server."""
    down: int
    server_first: bool
    half_close: bool
    """The client ends its stream before the server answers."""


class WrongError(Exception):
    """Other bytes came than were sent."""


class CutOffError(Exception):
    """The stream had an end before its end, which looked like one."""


def data(seed: int, size: int) -> bytes:
    """The bytes of one direction."""
    block = MARKER + random.Random(seed).randbytes(4096)
    return (block * (size // len(block) + 1))[:size]


def receive(sock: socket.socket, expected: bytes) -> int:
    """Take `expected` from `sock`; returns how many bytes came.  Raises `WrongError`."""
    at = 0
    while at < len(expected):
        chunk = sock.recv(min(_CHUNK, len(expected) - at))
        if not chunk:
            break
        if chunk != expected[at : at + len(chunk)]:
            wanted = expected[at : at + len(chunk)]
            first = at + next(
                i for i, (a, b) in enumerate(zip(chunk, wanted, strict=False)) if a != b
            )
            got = chunk[first - at :]
            where = expected.find(got[:16]) if len(got) >= 16 else -1
            found = f"what belongs at {where}" if where >= 0 else f"{got[:24].hex()}"
            raise WrongError(f"byte {first} of {len(expected)} is wrong: {found}")
        at += len(chunk)
    return at


def exactly(sock: socket.socket, expected: bytes) -> None:
    """Raises `CutOffError` if the stream ends early."""
    came = receive(sock, expected)
    if came < len(expected):
        raise CutOffError(f"stream ended after {came} of {len(expected)} bytes")


def answer(sock: socket.socket, server_first: bool) -> None:
    """The server's part of one connection."""
    if server_first:
        sock.sendall(data(1, 64))
    head = b""
    while len(head) < _REQUEST.size:
        more = sock.recv(_REQUEST.size - len(head))
        if not more:
            return
        head += more
    magic, flags, seed, up, down = _REQUEST.unpack(head)
    if magic != _MAGIC:
        raise WrongError("request is not one")
    exactly(sock, data(seed, up))
    if flags & 1 and sock.recv(1):
        raise WrongError("bytes came behind the end")
    sock.sendall(data(seed + 1, down))
    sock.shutdown(socket.SHUT_WR)
    # Until the client has ended, too: closing early could reset what is on its way.
    sock.settimeout(3)
    sock.recv(1)


def ask(address: tuple[str, int], order: Order, patience: float) -> None:
    """The client's part of one connection."""
    with socket.create_connection(address, patience) as sock:
        sock.settimeout(patience)
        if order.server_first:
            exactly(sock, data(1, 64))
        flags = int(order.half_close)
        sock.sendall(_REQUEST.pack(_MAGIC, flags, order.seed, order.up, order.down))
        sender = threading.Thread(target=_send, args=(sock, data(order.seed, order.up), flags))
        sender.start()
        try:
            exactly(sock, data(order.seed + 1, order.down))
            if sock.recv(1):
                raise WrongError("bytes came behind the end")
        finally:
            sender.join(patience)


def _send(sock: socket.socket, octets: bytes, half_close: int) -> None:
    try:
        sock.sendall(octets)
        if half_close:
            sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the other half of the connection tells


class Tally:
    """What became of all connections."""

    def __init__(self) -> None:
        self.right = 0
        self.wrong: list[str] = []
        self.cut_off: list[str] = []
        self.failed: list[str] = []
        self._lock = threading.Lock()

    def run(self, what, *arguments) -> None:  # type: ignore[no-untyped-def]
        """Do one connection and note how it went."""
        try:
            what(*arguments)
        except WrongError as error:
            with self._lock:
                self.wrong.append(str(error))
        except CutOffError as error:
            with self._lock:
                self.cut_off.append(str(error))
        except OSError as error:
            with self._lock:
                self.failed.append(f"{type(error).__name__}: {error}")
        else:
            with self._lock:
                self.right += 1

    def text(self) -> str:
        return json.dumps(
            {
                "right": self.right,
                "wrong": self.wrong,
                "cut_off": self.cut_off,
                "failed": self.failed,
            }
        )


def serve(port: int, tally: Tally, patience: float, *, server_first: bool) -> None:
    """Answer connections for ever; a line on stdout for each that was wrong."""

    def one(sock: socket.socket) -> None:
        with sock:
            sock.settimeout(patience)
            before = len(tally.wrong)
            tally.run(answer, sock, server_first)
            for text in tally.wrong[before:]:
                print(text, flush=True)

    with socket.create_server(("", port), backlog=1024) as listener:
        print("serving", flush=True)
        while True:
            sock, _address = listener.accept()
            threading.Thread(target=one, args=(sock,), daemon=True).start()


def talk(address: tuple[str, int], order: Order, count: int, at_once: int, patience: float) -> str:
    """`count` connections, `at_once` of them at a time."""
    tally = Tally()
    turns = iter(range(count))
    lock = threading.Lock()

    def worker() -> None:
        while True:
            with lock:
                turn = next(turns, None)
            if turn is None:
                return
            tally.run(ask, address, order._replace(seed=order.seed + 2 * turn), patience)
            if at_once == 1:
                time.sleep(0.05)  # secrets for the next one have to be stored

    workers = [threading.Thread(target=worker) for _ in range(at_once)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    return tally.text()


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["serve", "talk"])
    parser.add_argument("--host", default="")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seed", type=int, default=7)
    for name, default in (("up", 0), ("down", 0), ("count", 1), ("at-once", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--server-first", action="store_true")
    parser.add_argument("--half-close", action="store_true")
    parser.add_argument("--patience", type=float, default=20.0)
    given = parser.parse_args()
    if given.part == "serve":
        serve(given.port, Tally(), given.patience, server_first=given.server_first)
    order = Order(given.seed, given.up, given.down, given.server_first, given.half_close)
    print(talk((given.host, given.port), order, given.count, given.at_once, given.patience))
    return 0


if __name__ == "__main__":
    sys.exit(main())
