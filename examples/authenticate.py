#!/usr/bin/env python3
"""Authenticate a TCP connection that tcpcrypt encrypts, with a password both sides know.

tcpcrypt keeps eavesdroppers out of any connection, but alone it cannot tell
who is at the other end.  Its session ID can: both ends have the same one
exactly if nobody sits between them.  So whoever proves that he knows the
password *and* this connection's session ID is at the other end of it.

    on one host:   examples/authenticate.py server 7000 --password-file secret
    on the other:  examples/authenticate.py client alpha 7000 --password-file secret

Both are ordinary programs on ordinary sockets; the daemon encrypts the
connection if its policies name port 7000.  The proof is HMAC-SHA256 over
TCP_ENO_SELF_NAME, which is the prover's role followed by the session ID
(draft-ietf-tcpinc-api-06): a proof can neither be reflected to its maker, nor
used on another connection.  A connection that is not encrypted is refused, and
nothing is sent on it.

Who takes part in a connection can try passwords at leisure on the proof that
he got.  Deriving the key by scrypt makes that slow, not impossible: use a long
random secret, such as `openssl rand -base64 32` prints.

Exit status: 0 authenticated, 1 not.
"""

from __future__ import annotations

import argparse
import getpass
import hashlib
import hmac
import socket
import sys
from pathlib import Path

from tcpcrypt.daemon.control import DEFAULT_PATH
from tcpcrypt.daemon.sockopt import Option, getsockopt

PROOF_LEN = 32
PATIENCE = 10.0
"""Seconds for the handshake, and for each step of the talk."""


class NotAuthenticatedError(Exception):
    """The other end is not who it should be."""


def authenticate(sock: socket.socket, key: bytes, control: Path) -> bytes:
    """Prove ourselves to the other end and let it do the same; returns the session ID.

    Raises `NotAuthenticatedError`; `OSError` if the connection is not encrypted.
    """
    # On a plain connection this raises, before anything was sent.
    own_name = getsockopt(sock, Option.TCP_ENO_SELF_NAME, control=control, wait=PATIENCE)
    peer_name = getsockopt(sock, Option.TCP_ENO_PEER_NAME, control=control)
    assert isinstance(own_name, bytes)
    assert isinstance(peer_name, bytes)
    sock.settimeout(PATIENCE)
    sock.sendall(hmac.digest(key, own_name, "sha256"))
    proof = receive(sock, PROOF_LEN)
    if not hmac.compare_digest(proof, hmac.digest(key, peer_name, "sha256")):
        raise NotAuthenticatedError("the other end has another password or another session ID")
    return own_name[1:]


def receive(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise NotAuthenticatedError("the other end hung up")
        data += more
    return bytes(data)


def derive(password: bytes) -> bytes:
    """A key that is slow to make, so that guessing passwords is."""
    salt = b"tcpcrypt examples/authenticate.py"
    return hashlib.scrypt(password, salt=salt, n=1 << 14, r=8, p=1, dklen=32)


def serve(sock: socket.socket) -> None:
    """What a service does once it knows its client: say back what it is told."""
    line = sock.makefile("r").readline(1000)
    sock.sendall(f"you said: {line}".encode())


def use(sock: socket.socket, text: str) -> None:
    sock.sendall(f"{text}\n".encode())
    print(sock.makefile("r").readline(1000).rstrip())


def main() -> int:
    arguments = parse_arguments()
    if arguments.password_file is not None:
        password = arguments.password_file.read_bytes().strip()
    else:
        password = getpass.getpass().encode()
    key = derive(password)
    if arguments.side == "client":
        with socket.create_connection((arguments.host, arguments.port), PATIENCE) as sock:
            if not check(sock, key, arguments.control):
                return 1
            use(sock, arguments.say)
        return 0
    with socket.create_server((arguments.address, arguments.port)) as listener:
        print(f"listening on port {listener.getsockname()[1]}", flush=True)
        while True:
            sock, _address = listener.accept()
            with sock:
                good = check(sock, key, arguments.control)
                if good:
                    serve(sock)
            if arguments.once:
                return 0 if good else 1


def check(sock: socket.socket, key: bytes, control: Path) -> bool:
    try:
        session_id = authenticate(sock, key, control)
    except (OSError, NotAuthenticatedError) as error:
        print(f"refused: {error}", file=sys.stderr, flush=True)
        return False
    print(f"authenticated {sock.getpeername()[0]}, session {session_id.hex()}", flush=True)
    return True


def parse_arguments() -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--password-file", type=Path, help="default: ask for the password")
    common.add_argument("--control", type=Path, default=DEFAULT_PATH, help="the daemon's socket")
    parser = argparse.ArgumentParser(description="Authenticate a connection by its session ID.")
    sides = parser.add_subparsers(dest="side", required=True)
    server = sides.add_parser("server", parents=[common])
    server.add_argument("port", type=int)
    server.add_argument("--address", default="", help="default: all of IPv4")
    server.add_argument("--once", action="store_true", help="end after the first client")
    client = sides.add_parser("client", parents=[common])
    client.add_argument("host")
    client.add_argument("port", type=int)
    client.add_argument("--say", default="hello", help="what to tell the server")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
