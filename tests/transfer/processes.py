"""Sender and receiver as processes of their own, to be killed; a relay between them."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tcpcrypt.transfer.codes import MessageError
from tcpcrypt.transfer.messages import Ack, Put, Receipt
from tcpcrypt.transfer.parser import Parser
from tcpcrypt.transfer.receiver import Receiving
from tcpcrypt.transfer.rules import Rules
from tcpcrypt.transfer.sender import Sending
from tcpcrypt.transfer.source import Entry, entries
from tcpcrypt.transfer.store import Store

PATIENCE = 30.0


def forked(run: Callable[[], None], *others: socket.socket) -> int:
    """A process that does that and nothing else; `others` are not its own."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for sock in others:
                sock.close()
            run()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return pid


def receive(sock: socket.socket, out: Path, rules: Rules) -> None:
    """Two threads, as a real receiver has them."""
    store = Store(out, rules)
    receiving = Receiving(store.account("client"))

    def read() -> None:
        try:
            while size := sock.recv_into(receiving.get_buffer()):
                receiving.received(size)
            receiving.receive_eof()
        except (OSError, MessageError):
            os._exit(1)  # the other end was killed

    threading.Thread(target=read, daemon=True).start()
    while not receiving.finished:
        for message in receiving.work():
            sock.sendall(message)
        receiving.wait(1)


def send(sock: socket.socket, files: list[Path]) -> None:
    wanted = [e for file in files for e in entries(str(file)) if isinstance(e, Entry)]
    sending = Sending(wanted, peer="b")

    def read() -> None:
        buffer = bytearray(65536)
        try:
            while size := sock.recv_into(buffer):
                sending.receive_data(memoryview(buffer)[:size])
        except OSError:
            pass  # the other end was killed: that is what this is about
        finally:
            over.set()
            sending.wake()

    over = threading.Event()
    threading.Thread(target=read, daemon=True).start()
    while not sending.finished and not over.is_set():
        buffers = sending.data_to_send()
        for buffer in buffers:
            sock.sendall(buffer)
        if not buffers:
            sending.wait(1)
    sock.shutdown(socket.SHUT_WR)


class Overheard:
    """What B has promised."""

    def __init__(self) -> None:
        self.acked: dict[tuple[bytes, ...], int] = {}
        self.receipts: set[tuple[bytes, ...]] = set()
        self._paths: dict[int, tuple[bytes, ...]] = {}
        self._parsers = {"a": Parser(), "b": Parser()}

    def feed(self, side: str, data: bytes) -> None:
        for message in self._parsers[side].feed(data):
            if isinstance(message, Put):
                self._paths[message.file] = message.path
            elif isinstance(message, Ack):
                self.acked[self._paths[message.file]] = message.offset
            elif isinstance(message, Receipt) and message.path:
                self.receipts.add(message.path)


def kill_at(
    out: Path, files: list[Path], rules: Rules, *, offset: int, delay: float, victim: str
) -> Overheard:
    """Carry `offset` bytes from A to B, wait `delay` seconds, kill the `victim`, `a` or `b`."""
    (a_end, a_relay), (b_end, b_relay) = socket.socketpair(), socket.socketpair()
    children = {
        "a": forked(lambda: send(a_end, files), b_end, a_relay, b_relay),
        "b": forked(lambda: receive(b_end, out, rules), a_end, a_relay, b_relay),
    }
    a_end.close()
    b_end.close()
    overheard, carried, due = Overheard(), 0, None
    end = time.monotonic() + PATIENCE
    with selectors.DefaultSelector() as selector:
        selector.register(a_relay, selectors.EVENT_READ, ("a", b_relay))
        selector.register(b_relay, selectors.EVENT_READ, ("b", a_relay))
        while time.monotonic() < end and selector.get_map():
            if due is not None and time.monotonic() >= due:
                break
            for key, _ in selector.select(0.0005 if due is not None else 1):
                side, other = key.data
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                try:
                    data = sock.recv(max(1, min(65536, offset - carried)) if side == "a" else 65536)
                except OSError:
                    data = b""
                if not data:
                    selector.unregister(sock)
                    continue
                if side == "a":
                    carried += len(data)
                overheard.feed(side, data)
                with contextlib.suppress(OSError):
                    other.sendall(data)
                if side == "a" and carried >= offset:
                    selector.unregister(sock)
                    due = time.monotonic() + delay
    os.kill(children[victim], signal.SIGKILL)
    os.waitpid(children.pop(victim), 0)
    for sock in (a_relay, b_relay):
        sock.close()
    for pid in children.values():
        reap(pid)
    return overheard


def reap(pid: int) -> None:
    """The other end has seen that its peer is gone, and ends by itself, or is ended."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError("a process outlives its connection")
