"""Pairs of secure sockets over loopback, and directories of keys for either end."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tcpcrypt import sockets
from tcpcrypt.sockets import SecureListener, SecureSocket

PATIENCE = 10.0
"""Seconds after which a test that waits has failed."""


@pytest.fixture
def client_keys(tmp_path: Path) -> Path:
    return tmp_path / "client"


@pytest.fixture
def server_keys(tmp_path: Path) -> Path:
    return tmp_path / "server"


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as executor:
        yield executor


@pytest.fixture
def listen(server_keys: Path) -> Iterator[Callable[..., SecureListener]]:
    """Makes listeners on a port that the kernel chooses; they are closed at the end."""
    with ExitStack() as stack:

        def made(**more: object) -> SecureListener:
            settings = {"peer": "tofu", "keys": server_keys, "transport": "inband", **more}
            listener = sockets.create_server(("127.0.0.1", 0), **settings)  # type: ignore[arg-type]
            listener.settimeout(PATIENCE)
            return stack.enter_context(listener)

        yield made


@pytest.fixture
def connect(client_keys: Path) -> Iterator[Callable[..., SecureSocket]]:
    """Connects; what is not closed is at the end."""
    with ExitStack() as stack:

        def made(address: tuple[str, int], **more: object) -> SecureSocket:
            settings = {"peer": "tofu", "keys": client_keys, "transport": "inband", **more}
            connection = sockets.connect(address[:2], **settings)  # type: ignore[arg-type]
            connection.settimeout(PATIENCE)
            return stack.enter_context(connection)

        yield made


@pytest.fixture
def pair(
    listen: Callable[..., SecureListener],
    connect: Callable[..., SecureSocket],
    pool: ThreadPoolExecutor,
) -> Iterator[tuple[SecureSocket, SecureSocket]]:
    """Both ends of one connection, in AES_MODE."""
    listener = listen()
    accepted = pool.submit(listener.accept)
    client = connect(listener.getsockname())
    server, _address = accepted.result(PATIENCE)
    server.settimeout(PATIENCE)
    with server:
        yield client, server


class Plain:
    """A listening plain socket for peers that do not behave."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = self.listening.getsockname()
        self.threads: list[threading.Thread] = []

    def serve(self, handle: Callable[[socket.socket], None]) -> None:
        def run() -> None:
            sock, _address = self.listening.accept()
            with sock:
                sock.settimeout(PATIENCE)
                with contextlib.suppress(ConnectionError):  # the other end has had enough
                    handle(sock)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.threads.append(thread)

    def close(self) -> None:
        self.listening.close()
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


@pytest.fixture
def plain() -> Iterator[Plain]:
    server = Plain()
    yield server
    server.close()
