"""TLS 1.3 by Python's own `ssl`: what somebody writes who wants no other program.

    python bench/tls_relay.py client LISTEN_ADDRESS PORT TO_ADDRESS PORT CERTIFICATE
    python bench/tls_relay.py server LISTEN_ADDRESS PORT TO_ADDRESS PORT CERTIFICATE KEY

A thread a connection, because OpenSSL does not let two use one.  TLS has no
half-closed connections in `ssl`: what ends on one side ends on both.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import sys
import threading

SIZE = 256 << 10
STACK = 256 << 10
NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def send(sink: socket.socket, view: memoryview) -> None:
    while view:
        try:
            view = view[sink.send(view) :]
        except NOT_NOW:
            select.select([], [sink], [])


def copy(one: socket.socket, other: socket.socket) -> None:
    """Both directions, until either ends."""
    to = {one: other, other: one}
    view = memoryview(bytearray(SIZE))
    poll = select.poll()
    by_number = {sock.fileno(): sock for sock in to}
    for sock in to:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(sock, select.POLLIN)
    while True:
        for number, _events in poll.poll():
            source = by_number[number]
            while True:
                try:
                    size = source.recv_into(view)
                except NOT_NOW:
                    break
                if not size:
                    return
                send(to[source], view[:size])
                if not (isinstance(source, ssl.SSLSocket) and source.pending()):
                    break


def relay(client: socket.socket, role: str, to: tuple[str, int], context: ssl.SSLContext) -> None:
    with contextlib.ExitStack() as stack:
        stack.callback(client.close)
        try:
            if role == "server":
                client = stack.enter_context(context.wrap_socket(client, server_side=True))
            other = stack.enter_context(socket.create_connection(to))
            if role == "client":
                other = stack.enter_context(context.wrap_socket(other, server_hostname="server"))
            copy(client, other)
        except OSError as error:
            print(f"{role}: {error}", file=sys.stderr)


def main() -> None:
    role, address, port, to, to_port, certificate, *key = sys.argv[1:]
    if role == "server":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key[0])
    else:
        context = ssl.create_default_context(cafile=certificate)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    threading.stack_size(STACK)
    with socket.create_server((address, int(port)), backlog=4096) as listener:
        while True:
            client, _ = listener.accept()
            arguments = (client, role, (to, int(to_port)), context)
            threading.Thread(target=relay, args=arguments, daemon=True).start()


if __name__ == "__main__":
    main()
