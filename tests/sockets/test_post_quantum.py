"""`pq=`: keys that are agreed on by X25519MLKEM768, by both APIs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tcpcrypt import aio
from tcpcrypt.auth.terms import VERSION_HYBRID, VERSION_X25519, PeerProof
from tcpcrypt.crypto import hybrid
from tcpcrypt.errors import LocalError, NoCommonTEPError, TcpcryptError
from tcpcrypt.sockets import SecureListener, SecureSocket
from tcpcrypt.sockets.inband import InBandSocket
from tcpcrypt.sockets.peer import PeerSpec

pytestmark = pytest.mark.skipif(
    not hybrid.available(), reason="the installed cryptography has no ML-KEM"
)
Make = Callable[..., SecureSocket]
Listen = Callable[..., SecureListener]


def version(end: SecureSocket) -> int:
    """By what the keys were agreed on."""
    assert isinstance(end, InBandSocket)
    established = end.conversation.established
    assert established is not None
    return PeerProof.unpack(established.peer_identity or b"").version


def pair(
    listen: Listen, connect: Make, pool: ThreadPoolExecutor, ours: str | None, theirs: str | None
) -> tuple[SecureSocket, SecureSocket]:
    listener = listen(pq=theirs)
    accepted = pool.submit(listener.accept)
    client = connect(listener.getsockname(), pq=ours)
    return client, accepted.result()[0]


@pytest.mark.parametrize(
    ("ours", "theirs", "meant"),
    [
        (None, None, VERSION_X25519),
        ("off", "prefer", VERSION_X25519),
        ("prefer", None, VERSION_HYBRID),
        ("require", None, VERSION_HYBRID),
        ("require", "require", VERSION_HYBRID),
    ],
)
def test_what_both_ends_agree_on(
    listen: Listen,
    connect: Make,
    pool: ThreadPoolExecutor,
    *,
    ours: str | None,
    theirs: str | None,
    meant: int,
) -> None:
    client, server = pair(listen, connect, pool, ours, theirs)
    with client, server:
        client.sendall(b"question")
        assert server.recv(100) == b"question"
        assert version(client) == version(server) == meant


@pytest.mark.parametrize(("ours", "theirs"), [(None, "require"), ("require", "off")])
def test_ends_that_do_not_agree_say_nothing(
    listen: Listen, connect: Make, pool: ThreadPoolExecutor, ours: str | None, theirs: str
) -> None:
    listener = listen(pq=theirs)
    accepted = pool.submit(listener.accept)
    with pytest.raises(NoCommonTEPError):
        connect(listener.getsockname(), pq=ours)
    server, _address = accepted.result()
    with server, pytest.raises(TcpcryptError):
        server.recv(1)


def test_a_session_is_not_resumed_past_what_is_required(
    listen: Listen, connect: Make, pool: ThreadPoolExecutor
) -> None:
    """A session of X25519 does not become one that a quantum computer could not read."""
    listener = listen()
    found = []
    for pq in (None, None, "require", "require"):
        accepted = pool.submit(listener.accept)
        client = connect(listener.getsockname(), pq=pq)
        server, _address = accepted.result()
        found.append((client.resumed, version(client)))
        client.close()
        assert server.recv(1) == b""
        server.close()
    assert found == [(False, 1), (True, 1), (False, 2), (True, 2)]


def test_words_that_are_none() -> None:
    with pytest.raises(LocalError, match="none of off, prefer, require"):
        PeerSpec.parse("tofu", "always")
    with pytest.raises(LocalError, match="prove who they are"):
        PeerSpec.parse("insecure-unauthenticated", "require")
    assert PeerSpec.parse("insecure-unauthenticated", "off").pq == "off"


def test_streams_have_it_too(tmp_path: Path) -> None:
    async def main() -> None:
        server = await aio.create_server(
            ("127.0.0.1", 0), peer="tofu", pq="require", keys=tmp_path / "b", transport="inband"
        )
        address = server.sockets[0].getsockname()
        with pytest.raises(NoCommonTEPError):
            await aio.connect(address, peer="tofu", keys=tmp_path / "a", transport="inband")
        reader, writer = await aio.connect(
            address, peer="tofu", pq="require", keys=tmp_path / "a", transport="inband"
        )
        there, back = await server.accept()
        back.write(b"answer")
        assert await reader.readexactly(6) == b"answer"
        writer.close()
        assert await there.read() == b""
        back.close()
        server.close()

    asyncio.run(asyncio.wait_for(main(), 20))
