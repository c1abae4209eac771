"""Servers: one that serves in turn, one with threads, one with `select`; and their ends."""

from __future__ import annotations

import errno
import http.client
import http.server
import select
import socket
import socketserver
import threading
import time
from pathlib import Path

import pytest

from tcpcrypt import sockets
from tcpcrypt.errors import LocalError
from tcpcrypt.sockets import State

PATIENCE = 10.0


def echoed(connect, address: tuple[str, int], data: bytes) -> bytes:
    with connect(address) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as file:
            return file.read()


def test_it_is_like_a_listening_socket(listen) -> None:
    listener = listen()
    assert listener.family == socket.AF_INET
    assert listener.type == socket.SOCK_STREAM
    assert listener.getsockname()[1] > 0
    assert listener.gettimeout() == PATIENCE
    assert f"fd={listener._sock.fileno()}" in repr(listener)
    with pytest.raises(ValueError, match="Timeout"):
        listener.settimeout(-1)
    listener.setblocking(True)
    assert listener.gettimeout() is None
    listener.close()
    listener.close()
    assert listener.fileno() == -1
    with pytest.raises(OSError, match="closed") as closed:
        listener.accept()
    assert closed.value.errno == errno.EBADF


def test_accept_times_out(listen) -> None:
    listener = listen()
    listener.settimeout(0.05)
    with pytest.raises(TimeoutError):
        listener.accept()
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_threads_that_accept_each_have_their_timeout(listen, pool) -> None:
    listener = listen()
    listener.settimeout(5.0)
    first = pool.submit(listener.accept)
    time.sleep(0.05)
    listener.settimeout(0.05)
    with pytest.raises(TimeoutError):
        listener.accept()
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert not first.done()
    listener.close()
    with pytest.raises(OSError):
        first.result(PATIENCE)


def test_an_echo_server_in_turn(listen, connect, pool) -> None:
    listener = listen()

    def serve(count: int) -> None:
        for _ in range(count):
            connection, _address = listener.accept()
            with connection:
                while data := connection.recv(65_536):
                    connection.sendall(data)

    serving = pool.submit(serve, 5)
    for number in range(5):
        data = bytes([number]) * (10**number)
        assert echoed(connect, listener.getsockname(), data) == data
    serving.result(PATIENCE)


def test_an_echo_server_with_threads(listen, connect, pool) -> None:
    listener = listen()

    def handle(connection) -> None:
        with connection:
            while data := connection.recv(4096):
                connection.sendall(data)

    def serve(count: int) -> None:
        for _ in range(count):
            connection, _address = listener.accept()
            threading.Thread(target=handle, args=(connection,), daemon=True).start()

    serving = pool.submit(serve, 12)
    clients = [
        pool.submit(echoed, connect, listener.getsockname(), bytes([number]) * 30_000)
        for number in range(12)
    ]
    for number, client in enumerate(clients):
        assert client.result(PATIENCE) == bytes([number]) * 30_000
    serving.result(PATIENCE)


def test_an_echo_server_with_select(listen, connect, pool) -> None:
    """The descriptor of the listener tells of handshakes that go on, too."""
    listener = listen()
    listener.setblocking(False)
    stop = threading.Event()

    def serve() -> None:
        open_ones: list = []
        deadline = time.monotonic() + PATIENCE
        while not stop.is_set() and time.monotonic() < deadline:
            ready = [one for one in open_ones if one.pending()]
            ready += select.select([listener, *open_ones], [], [], 0 if ready else 0.05)[0]
            for one in ready:
                if one is listener:
                    try:
                        connection, _address = listener.accept()
                    except BlockingIOError:
                        continue
                    connection.setblocking(False)
                    open_ones.append(connection)
                    continue
                try:
                    data = one.recv(1000)
                except BlockingIOError:
                    continue
                if data:
                    one.sendall(data)
                else:
                    open_ones.remove(one)
                    one.close()

    serving = pool.submit(serve)
    clients = [
        pool.submit(echoed, connect, listener.getsockname(), bytes([number]) * 5000)
        for number in range(4)
    ]
    for number, client in enumerate(clients):
        assert client.result(PATIENCE) == bytes([number]) * 5000
    stop.set()
    serving.result(PATIENCE)


def test_a_server_of_the_standard_library(listen, connect) -> None:
    """`socketserver` over a listener: each connection in a thread of its own."""
    listener = listen()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            assert self.request.state is State.AES_MODE
            for line in self.rfile:
                self.wfile.write(line.upper())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        assert echoed(connect, listener.getsockname(), b"one\ntwo\n") == b"ONE\nTWO\n"
    finally:
        server.shutdown()
        thread.join(PATIENCE)


def test_http_of_the_standard_library(listen, connect) -> None:
    """Programs that were written for plain sockets, and know nothing of this."""
    listener = listen()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[::-1])

        def log_message(self, format: str, *arguments: object) -> None:
            """Not on the terminal of who tests."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        client = http.client.HTTPConnection("service")
        client.sock = connect(listener.getsockname())
        for size in (0, 10, 200_000):
            body = bytes(range(256)) * (size // 256)
            client.request("POST", "/", body)
            assert client.getresponse().read() == body[::-1]
        client.close()
    finally:
        server.shutdown()
        thread.join(PATIENCE)


def test_closing_wakes_who_waits_in_accept(listen, pool) -> None:
    listener = listen()
    listener.settimeout(None)
    waiting = pool.submit(listener.accept)
    time.sleep(0.05)
    listener.close()
    with pytest.raises(OSError):
        waiting.result(PATIENCE)


def test_closing_resets_handshakes_and_connections_that_nobody_took(listen, connect, pool) -> None:
    listener = listen()
    with socket.create_connection(listener.getsockname()) as mute:
        mute.settimeout(PATIENCE)
        listener.settimeout(0.05)
        with pytest.raises(TimeoutError):
            listener.accept()
        assert "handshakes=1" in repr(listener)
        listener.close()
        with pytest.raises(ConnectionResetError):
            mute.recv(1)


def test_keys_that_became_unsafe_are_told_of(listen, server_keys: Path) -> None:
    listener = listen()
    (server_keys / "identity").chmod(0o644)
    identity = server_keys / "identity"
    text = identity.read_bytes()
    identity.unlink()
    identity.write_bytes(text)
    identity.chmod(0o644)
    with socket.create_connection(listener.getsockname()) as sock:
        sock.settimeout(PATIENCE)
        with pytest.raises(LocalError, match="chmod 600"):
            listener.accept()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_an_address_that_is_taken(listen, server_keys: Path) -> None:
    listener = listen()
    with pytest.raises(OSError, match="in use"):
        sockets.create_server(listener.getsockname(), peer="tofu", keys=server_keys)


def test_a_program_may_close_what_has_failed(listen) -> None:
    listener = listen()
    with socket.create_connection(listener.getsockname()) as sock:
        sock.sendall(b"nonsense")
        connection, _address = listener.accept()
        connection.close()
        connection.close()
        connection.abort()
        assert connection.fileno() == -1


def test_sockets_that_do_not_block_are_shaken_hands_with_by_steps(
    client_keys: Path, server_keys: Path
) -> None:
    one, other = socket.socketpair()
    client = sockets.wrap(one, peer="tofu", keys=client_keys, name="s:1", transport="inband")
    server = sockets.wrap(
        other, peer="tofu", keys=server_keys, server_side=True, transport="inband"
    )
    ends = [client, server]
    for end in ends:
        end.setblocking(False)
    for _ in range(100):
        for end in list(ends):
            try:
                end.do_handshake()
            except BlockingIOError:
                continue
            ends.remove(end)
        if not ends:
            break
    assert client.state is server.state is State.AES_MODE
    client.abort()
    server.abort()
