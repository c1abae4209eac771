"""TLS 1.3 by Python's own `ssl`: what somebody writes who wants no other program.

    python bench/tls_relay.py client LISTEN_ADDRESS PORT TO_ADDRESS PORT CERTIFICATE
    python bench/tls_relay.py server LISTEN_ADDRESS PORT TO_ADDRESS PORT CERTIFICATE KEY

Two threads a connection.  TLS has no half-closed connections in `ssl`: what
ends on one side ends on both.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import threading

SIZE = 256 << 10
STACK = 256 << 10


def copy(source: socket.socket, sink: socket.socket) -> None:
    buffer = bytearray(SIZE)
    view = memoryview(buffer)
    with contextlib.suppress(OSError):
        while size := source.recv_into(buffer):
            sink.sendall(view[:size])
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def relay(client: socket.socket, role: str, to: tuple[str, int], context: ssl.SSLContext) -> None:
    try:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if role == "server":
            client = context.wrap_socket(client, server_side=True)
        other = socket.create_connection(to)
        other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if role == "client":
            other = context.wrap_socket(other, server_hostname="server")
    except OSError as error:
        print(f"{role}: {error}", file=sys.stderr)
        client.close()
        return
    with client, other:
        back = threading.Thread(target=copy, args=(other, client), daemon=True)
        back.start()
        copy(client, other)
        back.join()


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
