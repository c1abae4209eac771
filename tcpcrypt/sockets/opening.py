"""`connect`, `create_server` and `wrap`: how a program comes by secure sockets."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Final

from tcpcrypt.core.events import Role
from tcpcrypt.errors import LocalError
from tcpcrypt.sockets.arrangement import Arrangement, arrange, service_scope
from tcpcrypt.sockets.conversation import Conversation
from tcpcrypt.sockets.inband import InBandSocket
from tcpcrypt.sockets.keys import Keys
from tcpcrypt.sockets.listener import SecureListener
from tcpcrypt.sockets.peer import PeerSpec
from tcpcrypt.sockets.secure import OnState, SecureSocket, reset

__all__ = ["Transport", "connect", "create_server", "wrap"]

TRANSPORTS: Final = ("auto", "inband", "eno")
Transport = str
"""`inband`: within the streams, with a program at the other end that does so, too.
`eno`: by the daemon of this host, in TCP's own options.  `auto`: by the daemon
where it says that it encrypts the connection, otherwise within the streams."""


def connect(
    address: tuple[str, int],
    *,
    peer: str,
    pq: str | None = None,
    timeout: float | None = 5.0,
    transport: Transport = "auto",
    keys: Keys = None,
    on_state: OnState | None = None,
    source_address: tuple[str, int] | None = None,
    name: str | None = None,
    control: Path | str | None = None,
) -> SecureSocket:
    """A connection to a service, in AES_MODE.

    `address`: host and port, as for `socket.create_connection`.  `peer`: who it
    has to be, and `pq`: whether keys are agreed on with ML-KEM, too
    (`tcpcrypt.sockets.peer`).  `timeout`: seconds for finding the host
    and for connecting; the handshake has its own 5 s, and the socket blocks
    afterwards until `settimeout` says otherwise.  `keys`: the directory of keys
    (`tcpcrypt.sockets.keys`).  `name`: under which the service's key is known,
    `HOST:PORT`, where that is not its address.  `control`: the daemon's socket.

    Raises the typed errors of `tcpcrypt.errors`, `LocalError` for what this host
    does not have, and `OSError` as `socket.create_connection` does.
    """
    host, port = address[0], address[1]
    spec, scope = PeerSpec.parse(peer, pq), _scope(name, host, port)
    _check(transport)
    # What is missing here is known before anybody is asked.
    arranged = None if transport == "eno" else arrange(spec, Role.A, scope, keys)
    sock = socket.create_connection((host, port), timeout, source_address)
    try:
        secured = _secure(
            sock, spec, Role.A, arranged, transport=transport, on_state=on_state, control=control
        )
        secured.do_handshake()
    except BaseException:
        reset(sock)
        raise
    return secured


def create_server(
    address: tuple[str, int],
    *,
    peer: str,
    pq: str | None = None,
    family: int = socket.AF_INET,
    backlog: int | None = None,
    reuse_port: bool = False,
    dualstack_ipv6: bool = False,
    transport: Transport = "auto",
    keys: Keys = None,
    on_state: OnState | None = None,
    control: Path | str | None = None,
) -> SecureListener:
    """A listener, whose `accept` returns secure connections.

    `peer`: who those that connect have to be.  `on_state` is told of each change
    of each connection.  All else as for `socket.create_server` and `connect`.
    Raises `LocalError` for keys that are not there, `OSError` for an address
    that cannot be served.
    """
    spec = PeerSpec.parse(peer, pq)
    _check(transport)
    if transport != "eno":
        arrange(spec, Role.B, "", keys)

    def secure(sock: socket.socket, peer_address: Any) -> SecureSocket:
        arranged = None
        if transport != "eno":
            arranged = arrange(spec, Role.B, str(peer_address[0]), keys)
        return _secure(
            sock, spec, Role.B, arranged, transport=transport, on_state=on_state, control=control
        )

    sock = socket.create_server(
        address,
        family=family,
        backlog=backlog,
        reuse_port=reuse_port,
        dualstack_ipv6=dualstack_ipv6,
    )
    return SecureListener(sock, secure)


def wrap(
    sock: socket.socket,
    *,
    peer: str,
    pq: str | None = None,
    server_side: bool = False,
    transport: Transport = "auto",
    keys: Keys = None,
    on_state: OnState | None = None,
    name: str | None = None,
    control: Path | str | None = None,
) -> SecureSocket:
    """A secure socket over one that is connected, which is used no more afterwards.

    Nothing may have been sent or read on it.  `server_side`: this end accepted.
    The handshake is done at the first use, and its 5 s count from here.  All
    else as for `connect`.
    """
    spec = PeerSpec.parse(peer, pq)
    _check(transport)
    remote = sock.getpeername()
    role = Role.B if server_side else Role.A
    if role is Role.B:
        scope = str(remote[0]) if isinstance(remote, tuple) else ""
    elif name is None and not isinstance(remote, tuple):
        raise LocalError("a socket without an address: say under which name the key is known")
    else:
        scope = _scope(name, *(remote[:2] if isinstance(remote, tuple) else ("", 0)))
    arranged = None if transport == "eno" else arrange(spec, role, scope, keys)
    timeout = sock.gettimeout()
    # The same connection, and `sock` is closed as after `detach`.
    own = socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())
    try:
        secured = _secure(
            own, spec, role, arranged, transport=transport, on_state=on_state, control=control
        )
    except BaseException:
        reset(own)
        raise
    secured.settimeout(timeout)
    return secured


def _secure(
    sock: socket.socket,
    spec: PeerSpec,
    role: Role,
    arranged: Arrangement | None,
    *,
    transport: Transport,
    on_state: OnState | None,
    control: Path | str | None,
) -> SecureSocket:
    if transport != "inband":
        # Late, for a program that has no daemon needs nothing of it.
        from tcpcrypt.sockets.kernel import KernelSocket, encrypted_by_daemon  # noqa: PLC0415

        if arranged is None or encrypted_by_daemon(sock, control, accepted=role is Role.B):
            return KernelSocket(sock, spec, control, on_state)
    if arranged is None:  # `eno` alone, which has returned
        raise LocalError("no arrangement")
    return InBandSocket(sock, Conversation(role, arranged), on_state)


def _scope(name: str | None, host: str, port: int) -> str:
    if name is None:
        return service_scope(host, port)
    named, _colon, number = name.rpartition(":")
    if not number.isdecimal():
        raise LocalError(f"name={name!r} is not HOST:PORT")
    return service_scope(named.removeprefix("[").removesuffix("]"), int(number))


def _check(transport: Transport) -> None:
    if transport not in TRANSPORTS:
        raise LocalError(f"transport={transport!r} is none of {', '.join(TRANSPORTS)}")
