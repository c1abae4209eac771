"""Connections that a daemon encrypts, for asyncio: what it says decides, before the first byte."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aio.ends import HOST, Ends
from daemon.overview import PEER, Service, authenticated, entry, plain, serving

from tcpcrypt import aio
from tcpcrypt.errors import (
    AuthenticationError,
    LocalError,
    NoEncryptionError,
    ResetError,
    TruncationError,
)
from tcpcrypt.sockets.state import Failure, State, StateChanged

ANYBODY = "insecure-unauthenticated"
FACTS = authenticated(1, "-", "-")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with serving(tmp_path / "control.sock") as running:
        yield running


class Kernel:
    """TCP connections of which a daemon says what it is told to; the far end is plain."""

    def __init__(self, service: Service, ends: Ends) -> None:
        self.service, self.ends = service, ends
        self.changes: list[StateChanged] = []

    async def connect(
        self, facts: dict[str, Any] | None, peer: str = "tofu", transport: str = "eno"
    ) -> tuple[asyncio.StreamReader, aio.SecureWriter]:
        """Our end; `far` is the other one."""
        with socket.create_server((HOST, 0)) as listener:
            sock = socket.create_connection(listener.getsockname())
            self.far, _ = listener.accept()
        if facts is not None:
            addresses = sock.getsockname(), sock.getpeername()
            self.service.memory.by_socket[addresses] = facts
        sock.setblocking(False)
        self.far.settimeout(10)
        try:
            return await aio.connect(
                sock=sock,
                peer=peer,
                transport=transport,
                keys=self.ends.client_keys,
                control=self.service.path,
                on_state=self.changes.append,
            )
        except Exception:
            with pytest.raises(ConnectionResetError):
                await self.hear(1)
            raise

    async def hear(self, size: int) -> bytes:
        """What comes to the far end."""
        return await asyncio.to_thread(self.far.recv, size)


@pytest.fixture
def kernel(service: Service, ends: Ends) -> Iterator[Kernel]:
    made = Kernel(service, ends)
    yield made
    made.far.close()


@pytest.mark.parametrize("transport", ["eno", "auto"])
def test_one_that_is_whom_it_has_to_be(kernel: Kernel, transport: str) -> None:
    async def main() -> None:
        reader, writer = await kernel.connect(FACTS, f"pin:{PEER}", transport)
        assert (writer.state, writer.peer_identity) == (State.AES_MODE, PEER)
        assert writer.cipher == "AES-128-GCM"
        assert writer.session_id is not None
        assert writer.resumed is False
        with pytest.raises(OSError, match="ask the daemon"):
            writer.getsockopt(socket.IPPROTO_TCP, "TCP_ENO_SESSID")
        writer.write(bytearray(b"hello"))
        assert await kernel.hear(100) == b"hello"
        kernel.far.sendall(b"answer")
        assert await reader.readexactly(6) == b"answer"
        writer.write(b"last")
        writer.write_eof()
        assert await kernel.hear(100) == b"last"
        assert await kernel.hear(100) == b""
        kernel.far.sendall(b"half")
        kernel.far.shutdown(socket.SHUT_WR)
        assert await reader.read() == b"half"
        assert writer.failure is None
        writer.close()
        await writer.wait_closed()
        assert [change.new for change in kernel.changes] == [
            State.EXCHANGE_KEYS,
            State.DERIVE_KEYS,
            State.AES_MODE,
        ]

    kernel.ends.run(main)


@pytest.mark.parametrize(
    ("facts", "peer", "error", "match"),
    [
        (None, "tofu", NoEncryptionError, "does not encrypt"),
        (plain(1, "-", "-"), ANYBODY, NoEncryptionError, "does not encrypt"),
        (entry(1, "-", "-"), "tofu", AuthenticationError, "no proof"),
        (FACTS, "pin:" + PEER[:-1] + "a", AuthenticationError, "pinned is"),
        (FACTS, "psk:site-b", AuthenticationError, "site-b"),
    ],
)
def test_no_byte_goes_to_any_other(
    kernel: Kernel, facts: Any, peer: str, error: type[Exception], match: str
) -> None:
    async def main() -> None:
        with pytest.raises(error, match=match):
            await kernel.connect(facts, peer)
        assert kernel.changes[-1].new is State.FAIL

    kernel.ends.run(main)


def test_auto_negotiates_within_the_stream_where_the_daemon_does_not(kernel: Kernel) -> None:
    async def main() -> None:
        connecting = asyncio.create_task(kernel.connect(None, transport="auto"))
        while not hasattr(kernel, "far"):
            await asyncio.sleep(0.005)
        assert await kernel.hear(5) == b"TCENO"
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting

    kernel.ends.run(main)


def test_a_daemon_that_is_not_there(kernel: Kernel) -> None:
    async def main() -> None:
        kernel.service.path.unlink()
        with pytest.raises(LocalError):
            await kernel.connect(FACTS)

    kernel.ends.run(main)


def test_a_daemon_that_dies_is_no_end_of_file(kernel: Kernel) -> None:
    async def main() -> None:
        reader, writer = await kernel.connect(FACTS)
        kernel.service.path.unlink()
        kernel.far.sendall(b"half an ans")
        kernel.far.shutdown(socket.SHUT_WR)
        assert await reader.readexactly(11) == b"half an ans"
        with pytest.raises(TruncationError, match="gone"):
            await reader.read()
        assert writer.failure is Failure.TRUNCATION

    kernel.ends.run(main)


def test_a_reset_is_no_end_of_file(kernel: Kernel) -> None:
    async def main() -> None:
        reader, writer = await kernel.connect(FACTS)
        kernel.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        kernel.far.close()
        with pytest.raises(ResetError):
            await reader.read()
        assert writer.state is State.FAIL

    kernel.ends.run(main)


def test_a_server(kernel: Kernel) -> None:
    async def main() -> None:
        async with await aio.create_server(
            (HOST, 0), peer="tofu", transport="eno", control=kernel.service.path
        ) as server:
            address = server.sockets[0].getsockname()
            with socket.socket() as client:
                client.bind((HOST, 0))
                addresses = address, client.getsockname()
                kernel.service.memory.by_socket[addresses] = FACTS
                client.connect(address)
                reader, writer = await server.accept()
                assert writer.peer_identity == PEER
                client.sendall(b"x")
                assert await reader.read(1) == b"x"
                writer.close()
            with socket.create_connection(address) as plain_one:
                plain_one.setblocking(False)
                with pytest.raises(ConnectionResetError):
                    await asyncio.get_running_loop().sock_recv(plain_one, 1)
            assert server.failures == {Failure.NO_ENCRYPTION: 1}

    kernel.far = socket.socket()
    kernel.ends.run(main)
