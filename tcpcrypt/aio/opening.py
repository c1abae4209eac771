"""Opening and accepting connections for asyncio protocols.

`create_connection` and `serve` are what the loop's `create_connection` and
`create_server` are, with `peer=`.  The streams stand on them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from tcpcrypt.aio.channel import Channel, Converse, OnState, ProtocolFactory
from tcpcrypt.aio.server import HANDSHAKES, OnFailure, SecureServer
from tcpcrypt.aio.transport import SecureTransport
from tcpcrypt.core.events import Role
from tcpcrypt.errors import LocalError
from tcpcrypt.sockets.arrangement import arrange, service_scope
from tcpcrypt.sockets.conversation import Conversation
from tcpcrypt.sockets.keys import Keys
from tcpcrypt.sockets.opening import TRANSPORTS
from tcpcrypt.sockets.peer import PeerSpec
from tcpcrypt.sockets.secure import prepare

__all__ = [
    "BACKLOG",
    "Address",
    "accepting",
    "bound",
    "check_transport",
    "create_connection",
    "serve",
]

Address = tuple[str, int] | tuple[str, int, int, int]
"""As `socket` has it: host and port, for IPv6 perhaps flow information and zone."""

BACKLOG: Final = 1024
"""Connections that may wait in the kernel to be accepted."""
_EYEBALLS_DELAY: Final = 0.25
"""Seconds until the next address of a name is tried beside the first (RFC 8305 section 8)."""


async def create_connection(
    protocol_factory: ProtocolFactory,
    address: Address | None = None,
    *,
    peer: str,
    pq: str | None = None,
    timeout: float | None = 5.0,
    transport: str = "auto",
    keys: Keys = None,
    control: Path | str | None = None,
    on_state: OnState | None = None,
    sock: socket.socket | None = None,
    local_addr: tuple[str, int] | None = None,
) -> tuple[SecureTransport, asyncio.BaseProtocol]:
    """Connect, and make a protocol for the connection once it is in AES_MODE.

    `timeout` bounds resolving and connecting, in seconds; the handshake has five
    of its own.  `pq`, `transport`, `keys` and `control` are as for
    `tcpcrypt.sockets.connect`.  `sock`, connected already, may stand for
    `address`.  `on_state` is called with each `StateChanged`.

    Raises `OSError` where TCP gets no connection, and the errors of
    `tcpcrypt.sockets.connect` where it is not secure; no byte of the application was
    sent then.
    """
    spec = PeerSpec.parse(peer, pq)
    check_transport(transport)
    if (address is None) == (sock is None):
        raise LocalError("give either an address or a connected socket")
    # What is missing here is known before anybody is asked.
    arranged = None
    if address is not None and transport != "eno":
        arranged = arrange(spec, Role.A, service_scope(*address[:2]), keys)
    loop = asyncio.get_running_loop()
    settled: asyncio.Future[None] = loop.create_future()

    def tell(channel: Channel) -> None:
        if not settled.done():
            if channel.error is None:
                settled.set_result(None)
            else:
                settled.set_exception(channel.error)

    def in_band(raw: asyncio.Transport) -> Conversation:
        if arranged is not None:
            return Conversation(Role.A, arranged)
        scope = service_scope(*raw.get_extra_info("peername")[:2])
        return Conversation(Role.A, arrange(spec, Role.A, scope, keys))

    converse = _chosen(in_band, spec, transport, control, accepted=False)

    channel = Channel(loop, converse, protocol_factory, tell, on_state)
    try:
        async with asyncio.timeout(timeout):
            if address is None:
                await loop.create_connection(lambda: channel, sock=sock)
            else:
                await loop.create_connection(
                    lambda: channel,
                    *address[:2],
                    local_addr=local_addr,
                    **_eyeballs(loop, address[0]),
                )
        await settled
    except BaseException:
        # Cancelled, too: nobody has the connection then.
        channel.give_up(ConnectionAbortedError("connecting was given up"))
        if settled.done() and not settled.cancelled():
            settled.exception()  # it is told of already
        raise
    return channel.transport, channel.application


async def serve(
    protocol_factory: ProtocolFactory,
    address: Address | None = None,
    *,
    peer: str,
    pq: str | None = None,
    transport: str = "auto",
    keys: Keys = None,
    control: Path | str | None = None,
    on_state: OnState | None = None,
    on_failure: OnFailure | None = None,
    sock: socket.socket | None = None,
    backlog: int = BACKLOG,
    reuse_port: bool = False,
    handshakes: int = HANDSHAKES,
    start_serving: bool = True,
) -> SecureServer:
    """Listen, and make a protocol for each connection that reaches AES_MODE.

    `sock`, bound already, may stand for `address`, whose host may be empty for
    all addresses of this host.  `on_failure` is called with the address of
    each peer whose handshake failed, and the error.  At most `handshakes`
    connections are short of AES_MODE at a time.  Raises `OSError` where nothing
    can listen there, `LocalError` for keys that are not there.
    """
    converse = accepting(peer, keys, transport, control, handshakes, pq=pq)
    server = SecureServer(
        await bound(address, sock, backlog, reuse_port=reuse_port),
        converse,
        protocol_factory,
        on_state=on_state,
        on_failure=on_failure,
        handshakes=handshakes,
    )
    if start_serving:
        server.start()
    return server


def accepting(
    peer: str,
    keys: Keys,
    transport: str,
    control: Path | str | None,
    handshakes: int,
    *,
    pq: str | None = None,
) -> Converse:
    """What makes the conversations of a server.

    Raises `LocalError`: a key that is not there is told of now, not to each client.
    """
    spec = PeerSpec.parse(peer, pq)
    check_transport(transport)
    if handshakes < 1:
        raise LocalError("a server that makes no handshake has no connections")
    if transport != "eno":
        arrange(spec, Role.B, "", keys)

    def in_band(raw: asyncio.Transport) -> Conversation:
        return Conversation(Role.B, arrange(spec, Role.B, _client(raw), keys))

    return _chosen(in_band, spec, transport, control, accepted=True)


def _chosen(
    in_band: Callable[[asyncio.Transport], Conversation],
    spec: PeerSpec,
    transport: str,
    control: Path | str | None,
    *,
    accepted: bool,
) -> Converse:
    """What makes conversations by that transport (`tcpcrypt.sockets.opening`)."""
    if transport == "inband":
        return in_band
    # Late, for a program that has no daemon needs nothing of it.
    from tcpcrypt.aio.kernel import (  # noqa: PLC0415
        KernelConversation,
        ask_daemon,
        daemon_there,
    )

    async def ask(raw: asyncio.Transport) -> Conversation | KernelConversation:
        insist = transport == "eno"
        answer = await ask_daemon(raw, spec, control, accepted=accepted, insist=insist)
        return in_band(raw) if answer is None else answer

    def converse(
        raw: asyncio.Transport,
    ) -> Conversation | Awaitable[Conversation | KernelConversation]:
        return ask(raw) if transport == "eno" or daemon_there(control) else in_band(raw)

    return converse


async def bound(
    address: Address | None, sock: socket.socket | None, backlog: int, *, reuse_port: bool
) -> list[socket.socket]:
    """Listening sockets: one for each address of that name, or `sock`."""
    if sock is not None and address is None:
        sock.setblocking(False)
        prepare(sock)
        sock.listen(backlog)
        return [sock]
    if sock is not None or address is None:
        raise LocalError("give either an address or a bound socket")
    host, port = address[:2]
    found = await asyncio.get_running_loop().getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    with contextlib.ExitStack() as undo:
        listeners = []
        for family, where in dict.fromkeys((family, where) for family, *_, where in found):
            listener = socket.create_server(
                where, family=family, backlog=backlog, reuse_port=reuse_port
            )
            undo.callback(listener.close)
            prepare(listener)
            listener.setblocking(False)
            listeners.append(listener)
        undo.pop_all()
    return listeners


def check_transport(transport: str) -> None:
    if transport not in TRANSPORTS:
        raise LocalError(f"transport={transport!r} is none of {', '.join(TRANSPORTS)}")


def _eyeballs(loop: asyncio.AbstractEventLoop, host: str) -> dict[str, Any]:
    # uvloop tries one address after the other, and has no word for anything else.
    if not isinstance(loop, asyncio.BaseEventLoop):
        return {}
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return {"happy_eyeballs_delay": _EYEBALLS_DELAY}
    return {}  # there is one, and racing costs


def _client(raw: asyncio.Transport) -> str:
    """Under which name sessions with a client are kept."""
    return str(raw.get_extra_info("peername")[0])
