"""Connections that a daemon encrypts: what it says decides, before the first byte."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon.overview import PEER, SESSION, Service, authenticated, entry, plain, serving

from tcpcrypt import sockets
from tcpcrypt.errors import (
    AuthenticationError,
    FallbackReason,
    HandshakeTimeoutError,
    LocalError,
    NoEncryptionError,
    ResetError,
    TruncationError,
)
from tcpcrypt.sockets import Failure, SecureSocket, State, StateChanged, kernel

ANYBODY = "insecure-unauthenticated"
PATIENCE = 10.0


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_PATIENCE", 0.3)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with serving(tmp_path / "control.sock") as running:
        yield running


class Ends:
    """A TCP connection of which the daemon says what `know` tells it."""

    def __init__(self, service: Service) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.sock = socket.create_connection(listener.getsockname())
            self.other, _address = listener.accept()
        self.other.settimeout(PATIENCE)
        self.service = service
        self.changes: list[StateChanged] = []

    def know(self, facts: dict[str, Any]) -> None:
        addresses = self.sock.getsockname(), self.sock.getpeername()
        self.service.memory.by_socket[addresses] = facts

    def wrap(
        self, peer: str = "tofu", transport: str = "eno", pq: str | None = None
    ) -> SecureSocket:
        secured = sockets.wrap(
            self.sock,
            peer=peer,
            pq=pq,
            transport=transport,
            control=self.service.path,
            on_state=self.changes.append,
        )
        secured.settimeout(PATIENCE)
        return secured


@pytest.fixture
def ends(service: Service) -> Iterator[Ends]:
    made = Ends(service)
    yield made
    made.other.close()
    made.sock.close()


def test_one_that_is_whom_it_has_to_be(ends: Ends) -> None:
    ends.know(authenticated(1, "-", "-"))
    with ends.wrap() as secured:
        assert secured.state is State.INIT
        assert secured.cipher is secured.session_id is secured.resumed is None
        secured.sendall(b"hello")
        assert ends.other.recv(10) == b"hello"
        assert [change.new for change in ends.changes] == [
            State.EXCHANGE_KEYS,
            State.DERIVE_KEYS,
            State.AES_MODE,
        ]
        assert secured.session_id == bytes.fromhex(SESSION)
        assert secured.peer_identity == PEER
        assert secured.cipher == "AES-128-GCM"
        assert secured.resumed is False
        assert secured.pending() == 0
        assert secured.session.psk == "site-a"


@pytest.mark.parametrize("peer", [f"pin:{PEER}", "psk:site-a", ANYBODY])
def test_each_way_to_ask(ends: Ends, peer: str) -> None:
    ends.know(authenticated(1, "-", "-"))
    with ends.wrap(peer) as secured:
        assert secured.send(b"x") == 1


def test_post_quantum_keys_are_looked_for(ends: Ends) -> None:
    ends.know(authenticated(1, "-", "-") | {"kex": "X25519"})
    with ends.wrap("tofu", pq="require") as secured:
        with pytest.raises(AuthenticationError, match="X25519MLKEM768"):
            secured.send(b"x")
        assert secured.state is State.FAIL


def test_any_key_will_do_for_who_serves(ends: Ends) -> None:
    ends.know(authenticated(1, "-", "-", direction="incoming", trust=None, psk=None))
    with ends.wrap("tofu") as secured:
        assert secured.send(b"x") == 1


REFUSED = {
    "nobody proved": ("tofu", authenticated(1, "-", "-", proved=False), AuthenticationError),
    "a key like any other": (
        "tofu",
        authenticated(1, "-", "-", trust=None, psk=None),
        AuthenticationError,
    ),
    "no authentication": ("tofu", entry(1, "-", "-"), AuthenticationError),
    "another key": (f"pin:{PEER[:-1]}a", authenticated(1, "-", "-"), AuthenticationError),
    "another secret": ("psk:site-b", authenticated(1, "-", "-"), AuthenticationError),
    "no secret": ("psk:site-a", authenticated(1, "-", "-", psk=None), AuthenticationError),
    "plain": (ANYBODY, plain(1, "-", "-"), NoEncryptionError),
    "unknown": (ANYBODY, None, NoEncryptionError),
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_that_is_not(ends: Ends, name: str) -> None:
    """The typed failure before the first byte in either direction, and a reset."""
    peer, facts, error = REFUSED[name]
    if facts is not None:
        ends.know(facts)
    ends.other.sendall(b"from a stranger")
    with ends.wrap(peer) as secured:
        for use in (lambda: secured.sendall(b"secret"), lambda: secured.recv(10)):
            with pytest.raises(error) as raised:
                use()
        assert secured.state is State.FAIL
        assert secured.failure is Failure.of(raised.value)
        assert secured.error is raised.value
        assert ends.changes[-1].new is State.FAIL
        assert secured.session_id is secured.peer_identity is None
    with pytest.raises(ConnectionResetError):
        assert ends.other.recv(10) == b""
    if error is NoEncryptionError:
        assert raised.value.reason is FallbackReason.NOT_ENCRYPTED


def test_a_daemon_that_is_still_at_it(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "HANDSHAKE_TIMEOUT", 0.2)
    ends.know(plain(1, "-", "-", state="exchanging"))
    with ends.wrap() as secured, pytest.raises(HandshakeTimeoutError):
        secured.recv(1)


def test_a_daemon_that_is_late_is_asked_again(ends: Ends) -> None:
    """Busy, it may hear of a connection after its program has."""
    asked = []
    memory = ends.service.memory
    find = memory.find

    def late(local: tuple[str, int], remote: tuple[str, int]) -> dict[str, Any] | None:
        asked.append(time.monotonic())
        return find(local, remote) if asked[-1] - asked[0] > 0.25 else None

    memory.find = late  # type: ignore[method-assign]
    ends.know(authenticated(1, "-", "-"))
    with ends.wrap() as secured:
        secured.sendall(b"x")
        assert secured.state is State.AES_MODE


def test_no_daemon_is_no_secure_socket(ends: Ends, tmp_path: Path) -> None:
    secured = sockets.wrap(ends.sock, peer="tofu", transport="eno", control=tmp_path / "none")
    with secured, pytest.raises(LocalError, match="no tcpcryptd"):
        secured.sendall(b"secret")
    assert secured.failure is Failure.LOCAL


def test_closing_before_the_first_use(ends: Ends) -> None:
    secured = ends.wrap()
    secured.close()
    assert secured.failure is Failure.LOCAL
    assert ends.changes[-1].new is State.FAIL


@pytest.mark.parametrize("facts", [None, plain(1, "-", "-")], ids=["unknown", "plain"])
def test_auto_is_in_band_unless_the_daemon_encrypts(
    ends: Ends, facts: dict[str, Any] | None, client_keys: Path
) -> None:
    if facts is not None:
        ends.know(facts)
    secured = sockets.wrap(ends.sock, peer="tofu", keys=client_keys, control=ends.service.path)
    assert secured.transport == "inband"
    secured.abort()


def test_auto_takes_the_daemon_where_it_encrypts(ends: Ends) -> None:
    ends.know(authenticated(1, "-", "-"))
    with ends.wrap(transport="auto") as secured:
        assert secured.transport == "eno"


def test_auto_without_a_daemon_is_in_band(ends: Ends, tmp_path: Path, client_keys: Path) -> None:
    (tmp_path / "stale.sock").touch()
    for control in (tmp_path / "none", tmp_path / "stale.sock"):
        assert not kernel.encrypted_by_daemon(ends.sock, control)


def established(ends: Ends) -> SecureSocket:
    ends.know(authenticated(1, "-", "-"))
    secured = ends.wrap()
    secured.do_handshake()
    return secured


def test_the_end_of_the_stream_is_the_daemons_word(ends: Ends) -> None:
    with established(ends) as secured:
        ends.other.sendall(b"all")
        ends.other.shutdown(socket.SHUT_WR)
        buffer = bytearray(10)
        assert secured.recv_into(buffer) == 3
        assert secured.recv(10) == b""
        assert secured.recv(10) == b""
        secured.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError):
            secured.sendall(b"more")
    assert ends.other.recv(10) == b""


@pytest.mark.parametrize("how", ["restarted", "gone"])
def test_an_end_without_its_daemon_is_a_truncation(
    ends: Ends, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secured = established(ends)
    with secured:
        if how == "restarted":
            status = ends.service.memory.status()
            monkeypatch.setattr(ends.service.memory, "status", lambda: status | {"worker": 9})
        else:
            secured._control = tmp_path / "none"
        ends.other.shutdown(socket.SHUT_WR)
        with pytest.raises(TruncationError, match="daemon"):
            secured.recv(10)


def test_a_reset_is_typed(ends: Ends) -> None:
    secured = established(ends)
    with secured:
        ends.other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        ends.other.close()
        with pytest.raises(ResetError, match="tcpcrypt sessions"):
            secured.recv(10)
        with pytest.raises(ResetError):
            secured.sendall(b"x")
        with pytest.raises(ResetError):
            secured.shutdown(socket.SHUT_WR)


def test_timeouts_and_backpressure(ends: Ends) -> None:
    with established(ends) as secured:
        secured.settimeout(0.02)
        with pytest.raises(TimeoutError):
            secured.recv(1)
        with pytest.raises(TimeoutError):
            secured.sendall(bytes(50_000_000))
        secured.setblocking(False)
        with pytest.raises(BlockingIOError):
            secured.recv(1)
        with pytest.raises(BlockingIOError):
            secured.sendall(bytes(50_000_000))
        secured.abort()


def test_closing_wakes_a_waiting_thread(ends: Ends, pool) -> None:
    secured = established(ends)
    waiting = pool.submit(secured.recv, 10)
    time.sleep(0.05)
    secured.abort()
    with pytest.raises(OSError, match=r"closed|daemon|reset"):
        waiting.result(PATIENCE)


def test_options_are_the_daemons(ends: Ends) -> None:
    with established(ends) as secured:
        tcp = socket.IPPROTO_TCP
        assert secured.getsockopt(tcp, "TCP_ENO_SESSID") == bytes.fromhex(SESSION)
        secured.setsockopt(tcp, "TCP_ENO_TEP_MANDATORY", 1)
        for call in (
            lambda: secured.getsockopt(tcp, "TCP_NO_SUCH_OPTION"),
            lambda: secured.setsockopt(tcp, "TCP_NO_SUCH_OPTION", 1),
        ):
            with pytest.raises(OSError, match="no option"):
                call()
