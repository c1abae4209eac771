"""The client library, against a real server and against things that are none."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon.overview import SESSION, TRANSCRIPT, Service, entry, peer, plain, serving

from tcpcrypt.core.events import Role
from tcpcrypt.daemon import requests
from tcpcrypt.daemon.client import (
    Client,
    ControlError,
    DaemonNotRunningError,
    NoAnswerError,
    SessionInfo,
    endpoints,
)
from tcpcrypt.daemon.control import ControlSocket

HERE, THERE = ("10.0.0.1", 4000), ("10.0.0.2", 443)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with serving(tmp_path / "control.sock") as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.path) as made:
        yield made


@pytest.fixture
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection over the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _address = listener.accept()
    with one, other:
        yield one, other


def test_every_call(service: Service, client: Client) -> None:
    service.memory.connections = [entry(1, "10.0.0.1:4000", "10.0.0.2:443")]
    service.memory.known = [peer("10.0.0.2")]
    service.memory.by_socket[HERE, THERE] = service.memory.connections[0]
    assert client.status()["pid"] == 4711
    assert [session.id for session in client.sessions()] == [1]
    assert client.peers() == [peer("10.0.0.2")]
    assert [policy["mode"] for policy in client.policy()] == ["never", "require"]
    session = client.find(HERE, THERE)
    assert session == SessionInfo(
        id=1,
        direction="outgoing",
        client="10.0.0.1:4000",
        service="10.0.0.2:443",
        state="encrypted",
        policy=2,
        since=1_790_000_000.25,
        session_id=bytes.fromhex(SESSION),
        tep=0x23,
        kex="X25519",
        aead=1,
        role=Role.A,
        resumed=False,
        transcript=bytes.fromhex(TRANSCRIPT),
        rekeys=0,
        profile="rfc8548",
        sent=78,
        received=1256,
    )
    assert session.encrypted
    assert session.settled
    assert client.find(THERE, HERE) is None
    assert client.flush("10.0.0.2") == 1
    client.trust_changed()
    assert service.looked == [True]


def test_a_plain_connection(service: Service, client: Client) -> None:
    service.memory.by_socket[HERE, THERE] = plain(1, "10.0.0.1:4000", "10.0.0.2:443")
    session = client.find(HERE, THERE)
    assert session is not None
    assert not session.encrypted
    assert (session.session_id, session.role, session.resumed) == (None, None, None)


def test_sessions_of_all_pages(
    service: Service, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.memory.connections = [entry(n, "10.0.0.1:1", "10.0.0.2:2") for n in range(1, 51)]
    sessions = requests.METHODS["sessions"]
    params = dict(sessions.params) | {"limit": requests.Param(lambda _place, value: value, 20)}
    monkeypatch.setitem(
        requests.METHODS,  # type: ignore[arg-type]
        "sessions",
        sessions._replace(params=params),
    )
    assert [session.id for session in client.sessions()] == list(range(1, 51))


def test_a_socket_is_found_by_its_descriptor(
    service: Service, client: Client, connected: tuple[socket.socket, socket.socket]
) -> None:
    one, other = connected
    service.memory.by_socket[one.getsockname(), one.getpeername()] = entry(1, "-", "-")
    service.memory.by_socket[other.getsockname(), other.getpeername()] = entry(2, "-", "-")
    for sock, number in ((one, 1), (other, 2)):
        for given in (sock, sock.fileno()):
            found = client.find_socket(given)
            assert found is not None
            assert found.id == number
    assert one.fileno() >= 0
    assert one.getblocking()


def test_a_mapped_address_is_found_as_ipv4(service: Service, client: Client) -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        one = socket.create_connection(("127.0.0.1", listener.getsockname()[1]))
        other, _address = listener.accept()
    with one, other:
        assert other.getpeername()[0] == "::ffff:127.0.0.1"
        service.memory.by_socket[one.getpeername(), one.getsockname()] = entry(1, "-", "-")
        assert client.find_socket(other) is not None


def test_what_is_no_connected_tcp_socket() -> None:
    with socket.socket() as sock, pytest.raises(OSError, match="not connected"):
        endpoints(sock)
    with socket.socket() as sock, pytest.raises(OSError, match="not connected"):
        endpoints(sock.fileno())
    with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(OSError, match="not one of"):
        endpoints(sock)
    ends = socket.socketpair()
    with ends[0], ends[1], pytest.raises(OSError, match="not one of TCP"):
        endpoints(ends[0].fileno())
    reading, writing = os.pipe()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="non-socket"):
        endpoints(reading)
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(reading)
    os.close(writing)
    with pytest.raises(OSError, match="Bad file descriptor"):
        endpoints(reading)


def test_refusals_are_errors_with_a_code(service: Service, client: Client) -> None:
    with pytest.raises(ControlError, match=r'method: "nonsense" is none of') as caught:
        client.call("nonsense")
    assert caught.value.code == "unknown-method"
    with pytest.raises(ControlError, match=r"params\.peer"):
        client.flush("nobody")
    assert client.status()["pid"] == 4711


def test_no_daemon(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with pytest.raises(DaemonNotRunningError) as caught:
        Client(path).status()
    assert str(caught.value) == (
        f"no tcpcryptd answers at {path} (No such file or directory); `tcpcrypt up` or"
        " `systemctl start tcpcryptd` starts it, --control names another socket"
    )
    ControlSocket(path).close(remove=False)
    with pytest.raises(DaemonNotRunningError, match="Connection refused"):
        Client(path).status()
    with pytest.raises(DaemonNotRunningError, match="AF_UNIX path too long"):
        Client(tmp_path / ("x" * 200)).status()


def test_a_daemon_that_was_started_again_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with serving(path):
        client = Client(path)
        assert client.status()["pid"] == 4711
    with serving(path):
        assert client.status()["pid"] == 4711
    with pytest.raises(DaemonNotRunningError):
        client.status()


def answering(path: Path, answer: bytes) -> threading.Thread:
    """Somebody who answers one request with `answer`, and hangs up."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def answer_one() -> None:
        with listener:
            sock, _address = listener.accept()
            with sock:
                sock.recv(1 << 16)
                sock.sendall(answer)

    thread = threading.Thread(target=answer_one)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (b"", "hung up"),
        (b'{"v":1,"result', "hung up"),
        (b"nonsense\n", "not one of version 1"),
        (b"\xff\n", "not one of version 1"),
        (b"[" * 50_000 + b"\n", "not one of version 1"),
        (b"[]\n", "not one of version 1"),
        (b'{"v":2,"result":{}}\n', "not one of version 1"),
        (b'{"v":1}\n', "not one of version 1"),
        (b'{"v":1,"error":"no"}\n', "not one of version 1"),
        (b'{"v":1,"result":{"session":{"id":1}}}\n', "oddly"),
        (
            b'{"v":1,"result":{"session":'
            + json.dumps(entry(1, "-", "-", session="xyz")).encode()
            + b"}}\n",
            "oddly",
        ),
    ],
)
def test_answers_that_are_none(tmp_path: Path, answer: bytes, match: str) -> None:
    thread = answering(tmp_path / "sock", answer)
    with pytest.raises(NoAnswerError, match=match):
        Client(tmp_path / "sock").find(HERE, THERE)
    thread.join(5)


def test_a_daemon_that_does_not_answer(tmp_path: Path) -> None:
    listener = ControlSocket(tmp_path / "control.sock")  # accepts, as the kernel does; no more
    began = time.monotonic()
    client = Client(listener.path, timeout=0.2)
    for _ in range(2):
        with pytest.raises(NoAnswerError, match=r"no answer within 0\.2 s"):
            client.status()
    assert 0.4 <= time.monotonic() - began < 5
    listener.close()


def test_waiting_does_not_count_as_silence(service: Service) -> None:
    service.memory.by_socket[HERE, THERE] = plain(1, "-", "-", "connecting")
    with Client(service.path, timeout=1) as client:
        session = client.find(HERE, THERE, wait=1.5)
    assert session is not None
    assert not session.settled
