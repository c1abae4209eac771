"""`tcpcrypt proxy`: a plain service and a plain program, and nothing plain in between."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.programs import HOST, SECONDS, Program, Programs, echo, plain_service, receive_all

from tcpcrypt.cli import tcpcrypt as command

DATA = bytes(range(256)) * 16384
"""4 MiB: more than every buffer on the way."""


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    started = Programs(tmp_path)
    yield started
    started.stop()


def chain(programs: Programs, service: int, *words: str) -> tuple[int, Program, Program]:
    """The port for programs, the proxy of the client and that of the server."""
    server = programs.start(
        *("proxy", "server", f"{HOST}:0", f"{HOST}:{service}", "--json", *words),
        keys=programs.theirs,
    )
    client = programs.start(
        "proxy", "client", f"{HOST}:0", f"{HOST}:{server.port()}", "--json", *words
    )
    return client.port(), client, server


def program(port: int) -> socket.socket:
    return socket.create_connection((HOST, port), SECONDS)


def end(*proxies: Program) -> None:
    for proxy in proxies:
        proxy.interrupt()
    assert [proxy.wait() for proxy in proxies] == [0] * len(proxies)


def test_what_goes_in_comes_out(programs: Programs) -> None:
    with plain_service(echo) as service:
        port, client, server = chain(programs, service)
        for size in (1, 70_000, len(DATA)):
            with program(port) as sock:
                sender = threading.Thread(target=sock.sendall, args=(DATA[:size],))
                sender.start()
                found = bytearray()
                while len(found) < size:
                    found += sock.recv(1 << 16) or pytest.fail("ended too early")
                sender.join()
                assert found == DATA[:size]
                sock.shutdown(socket.SHUT_WR)
                assert sock.recv(1) == b""
            for proxy in (client, server):
                assert proxy.event("connected")["cipher"] == "AES-128-GCM"
                ended = proxy.event("ended")
                assert (ended["sent"], ended["received"]) == (size, size)
        end(client, server)


def test_each_direction_ends_by_itself(programs: Programs) -> None:
    def count(sock: socket.socket) -> None:
        size = len(receive_all(sock))
        time.sleep(0.1)
        sock.sendall(b"%d" % size)

    with plain_service(count) as service:
        port, client, server = chain(programs, service)
        with program(port) as sock:
            sock.sendall(DATA)
            sock.shutdown(socket.SHUT_WR)
            assert receive_all(sock) == b"%d" % len(DATA)
        end(client, server)


def test_a_service_that_ends_first(programs: Programs) -> None:
    def push(sock: socket.socket) -> None:
        sock.sendall(DATA)
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == b"thanks"

    with plain_service(push) as service:
        port, client, server = chain(programs, service)
        with program(port) as sock:
            assert receive_all(sock) == DATA
            sock.sendall(b"thanks")
        assert client.event("ended")["sent"] == 6
        end(client, server)


def test_many_at_once(programs: Programs) -> None:
    with plain_service(echo) as service:
        port, client, server = chain(programs, service)
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(program(port)) for _ in range(50)]
            for number, sock in enumerate(socks):
                sock.sendall(b"%03d" % number)
            assert [sock.recv(3) for sock in socks] == [b"%03d" % n for n in range(50)]
        end(client, server)


def test_nothing_goes_to_who_is_not_encrypted(programs: Programs) -> None:
    """The far end is the service itself: it must not see a byte of the program."""
    got = bytearray()

    def collect(sock: socket.socket) -> None:
        while data := sock.recv(4096):
            got.extend(data)
            sock.sendall(b"HTTP/1.0 400\r\n")

    with plain_service(collect) as service:
        client = programs.start("proxy", "client", f"{HOST}:0", f"{HOST}:{service}", "--json")
        with program(client.port()) as sock:
            sock.sendall(b"secret")
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        assert client.event("failed")["error"] == "NoEncryptionError"
        end(client)
    assert got.startswith(b"TCENO")
    assert b"secret" not in got


def test_a_service_sees_nobody_who_has_not_proved_himself(programs: Programs) -> None:
    seen: list[socket.socket] = []
    with plain_service(seen.append) as service:
        server = programs.start(
            *("proxy", "server", f"{HOST}:0", f"{HOST}:{service}", "--json"),
            keys=programs.theirs,
        )
        port = server.port()
        with program(port) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert server.event("failed")["error"] == "NoEncryptionError"
        client = programs.start(
            *("proxy", "client", f"{HOST}:0", f"{HOST}:{port}", "--json"),
            *("--peer", "insecure-unauthenticated"),
        )
        with program(client.port()) as sock, pytest.raises(ConnectionResetError):
            sock.recv(1)
        assert server.event("failed")["error"] == "NoCommonTEPError"
        end(client, server)
    assert seen == []


def test_a_service_that_is_not_there(programs: Programs) -> None:
    """Refused is not the same as ended: the program sees a reset."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        port, client, server = chain(programs, taken.getsockname()[1])
        with program(port) as sock, pytest.raises(ConnectionResetError):
            sock.recv(1)
        assert server.event("failed")["error"] == "ConnectionRefusedError"
        assert client.event("failed")["error"] == "ResetError"
        end(client, server)


def test_a_program_that_resets_resets_all_the_way(programs: Programs) -> None:
    outcome: list[str] = []
    told = threading.Event()

    def service(sock: socket.socket) -> None:
        sock.sendall(b"x")
        try:
            outcome.append(repr(sock.recv(100)))
        except ConnectionResetError:
            outcome.append("reset")
        told.set()

    with plain_service(service) as port_of_service:
        port, client, server = chain(programs, port_of_service)
        with program(port) as sock:
            assert sock.recv(1) == b"x"
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert told.wait(SECONDS)
        assert outcome == ["reset"]
        end(client, server)


def test_more_than_as_many_as_allowed(programs: Programs) -> None:
    with plain_service(echo) as service:
        port, client, server = chain(programs, service, "--connections", "1")
        with program(port) as one:
            one.sendall(b"x")
            assert one.recv(1) == b"x"
            # The reset may be there before `connect` has returned.
            with pytest.raises(ConnectionResetError), program(port) as other:
                other.recv(1)
            assert "connections already" in client.event("failed")["message"]
            one.sendall(b"y")
            assert one.recv(1) == b"y"
        end(client, server)


def test_what_is_there_may_end_after_ctrl_c(programs: Programs) -> None:
    with plain_service(echo) as service:
        port, client, server = chain(programs, service)
        with program(port) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            client.interrupt()
            assert client.event("draining")["connections"] == 1
            with pytest.raises(ConnectionRefusedError):
                program(port)
            sock.sendall(DATA[:1000])
            sock.shutdown(socket.SHUT_WR)
            assert receive_all(sock) == DATA[:1000]
        assert client.wait() == 0
        assert json.loads(client.told[-1])["event"] == "ended"
        end(server)


def test_a_second_ctrl_c_resets_them(programs: Programs) -> None:
    with plain_service(echo) as service:
        port, client, server = chain(programs, service, "--drain", "3600")
        with program(port) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            server.interrupt(signal.SIGTERM)
            server.event("draining")
            server.interrupt(signal.SIGTERM)
            assert server.wait() == 0
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        end(client)


def test_a_drain_has_an_end(programs: Programs) -> None:
    with plain_service(echo) as service:
        port, client, server = chain(programs, service, "--drain", "0.2")
        with program(port) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            end(client)
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        end(server)


@pytest.mark.parametrize("role", ["client", "server"])
def test_what_cannot_begin_says_so_at_once(programs: Programs, role: str) -> None:
    proxy = programs.start("proxy", role, f"{HOST}:0", f"{HOST}:9", "--peer", "psk:nowhere")
    assert proxy.wait() == 1
    assert "nowhere" in proxy.told[-1]
    with socket.create_server((HOST, 0)) as taken:
        address = f"{HOST}:{taken.getsockname()[1]}"
        proxy = programs.start("proxy", role, address, f"{HOST}:9")
        assert proxy.wait() == 1
        assert "in use" in proxy.told[-1]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("client",),
        ("client", "7000"),
        ("both", "7000", "h:1"),
        ("server", "7000", "h:1", "--connections", "0"),
        ("server", "7000", "h:1", "--drain", "x"),
    ],
)
def test_usage(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(["proxy", *words])
    assert caught.value.code == 2
    assert "usage: tcpcrypt proxy" in capsys.readouterr().err


@pytest.mark.parametrize("role", ["client", "server"])
def test_help_has_an_example(role: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(["proxy", role, "--help"])
    assert caught.value.code == 0
    assert f"example: tcpcrypt proxy {role}" in capsys.readouterr().out
