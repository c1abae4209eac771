"""The options of draft-ietf-tcpinc-api-06: values and errors."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon.overview import (
    PEER,
    SESSION,
    TRANSCRIPT,
    Memory,
    Service,
    authenticated,
    entry,
    peer,
    plain,
    serving,
)

from tcpcrypt.daemon import control
from tcpcrypt.daemon.sockopt import Option, Value, getsockopt, setsockopt

EXAMPLE = Path(__file__).parents[2] / "examples" / "authenticate.py"
OF_AN_ENCRYPTED_ONE = [
    *(Option.TCP_ENO_SESSID, Option.TCP_ENO_NEGTEP, Option.TCP_ENO_PEER_GOPT),
    *(Option.TCP_ENO_ROLE, Option.TCP_ENO_SELF_NAME, Option.TCP_ENO_PEER_NAME),
    *(Option.TCP_ENO_TRANSCRIPT, Option.TCP_CRYPT_CONF),
]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with serving(tmp_path / "control.sock") as running:
        yield running


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection over the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _address = listener.accept()
    with one, other:
        yield one, other


@pytest.fixture
def sock(ends: tuple[socket.socket, socket.socket]) -> socket.socket:
    return ends[0]


def know(service: Service, sock: socket.socket, facts: dict[str, Any]) -> None:
    service.memory.by_socket[sock.getsockname(), sock.getpeername()] = facts


def failure(service: Service, sock: socket.socket, option: Option) -> int:
    with pytest.raises(OSError) as caught:
        getsockopt(sock, option, control=service.path)
    assert caught.value.strerror
    assert caught.value.errno
    return caught.value.errno


@pytest.mark.parametrize(
    ("option", "value"),
    [
        (Option.TCP_ENO_ENABLED, -1),
        (Option.TCP_ENO_SESSID, bytes.fromhex(SESSION)),
        (Option.TCP_ENO_NEGTEP, 0x23),
        (Option.TCP_ENO_TEPS, b"\x23\x24"),
        (Option.TCP_ENO_SELF_GOPT, 0),
        (Option.TCP_ENO_PEER_GOPT, 1),
        (Option.TCP_ENO_AA_MANDATORY, 0),
        (Option.TCP_ENO_TEP_MANDATORY, 1),
        (Option.TCP_ENO_ROLE, 0),
        (Option.TCP_ENO_SELF_NAME, b"\0" + bytes.fromhex(SESSION)),
        (Option.TCP_ENO_PEER_NAME, b"\1" + bytes.fromhex(SESSION)),
        (Option.TCP_ENO_RAW, b""),
        (Option.TCP_ENO_TRANSCRIPT, bytes.fromhex(TRANSCRIPT)),
        (Option.TCP_CRYPT_CONF, 1),
    ],
    ids=lambda value: value.name if isinstance(value, Option) else "",
)
def test_values(service: Service, sock: socket.socket, option: Option, value: Value) -> None:
    know(service, sock, entry(1, "-", "-"))
    assert getsockopt(sock, option, control=service.path) == value
    assert getsockopt(sock.fileno(), option, control=service.path) == value


def test_the_options_of_another_dialect(service: Service, sock: socket.socket) -> None:
    transcript = "fd07454e212202" + "fd04454e" + "fd05454e21" + "fd04454e"
    session = entry(1, "-", "-", profile="stanford", transcript=transcript)
    know(service, sock, session)
    for option, value in (
        (Option.TCP_ENO_TEPS, b"\x21\x22"),
        (Option.TCP_ENO_SELF_GOPT, 2),
        (Option.TCP_ENO_PEER_GOPT, 0),
        (Option.TCP_ENO_TRANSCRIPT, bytes.fromhex(transcript)),
    ):
        assert getsockopt(sock, option, control=service.path) == value


def test_who_the_peer_is(service: Service, sock: socket.socket) -> None:
    """The whole fingerprint, and only of a key that was proved."""
    ends = (sock.getsockname(), sock.getpeername())
    for changes in ({}, {"proved": False}, {"fingerprint": None}):
        service.memory.by_socket[ends] = authenticated(1, "-", "-", **changes)
        if changes:
            with pytest.raises(OSError, match="not proved an identity") as caught:
                getsockopt(sock, Option.TCP_CRYPT_PEER_IDENTITY, control=service.path)
            assert caught.value.errno == errno.ENODATA
        else:
            value = getsockopt(sock, Option.TCP_CRYPT_PEER_IDENTITY, control=service.path)
            assert value == PEER.encode()


def test_the_other_role(service: Service, sock: socket.socket) -> None:
    resumed = "a3" + SESSION[2:]
    know(service, sock, entry(1, "-", "-", role="B", session=resumed, policy=1))

    def get(option: Option) -> Value:
        return getsockopt(sock, option, control=service.path)

    assert get(Option.TCP_ENO_ROLE) == 1
    assert get(Option.TCP_ENO_NEGTEP) == 0xA3
    assert get(Option.TCP_ENO_SELF_NAME) == b"\1" + bytes.fromhex(resumed)
    assert get(Option.TCP_ENO_PEER_NAME) == b"\0" + bytes.fromhex(resumed)
    assert get(Option.TCP_ENO_SELF_GOPT) == 1
    assert get(Option.TCP_ENO_PEER_GOPT) == 0
    assert get(Option.TCP_ENO_TEPS) == b"\x23"
    assert get(Option.TCP_ENO_TEP_MANDATORY) == 0


@pytest.mark.parametrize("option", OF_AN_ENCRYPTED_ONE, ids=lambda option: option.name)
def test_errors_never_look_like_values(
    service: Service, sock: socket.socket, option: Option
) -> None:
    assert failure(service, sock, option) == errno.EINVAL  # none of the daemon's
    know(service, sock, plain(1, "-", "-"))
    assert failure(service, sock, option) == errno.EINVAL
    for state in ("connecting", "exchanging"):
        know(service, sock, plain(1, "-", "-", state))
        assert failure(service, sock, option) == errno.ENOTCONN
    with socket.socket() as unconnected:
        assert failure(service, unconnected, option) == errno.ENOTCONN


def test_what_configures_can_be_read_of_a_plain_connection(
    service: Service, sock: socket.socket
) -> None:
    assert failure(service, sock, Option.TCP_ENO_ENABLED) == errno.EINVAL
    know(service, sock, plain(1, "-", "-"))
    assert getsockopt(sock, Option.TCP_ENO_ENABLED, control=service.path) == -1
    assert getsockopt(sock, Option.TCP_ENO_TEP_MANDATORY, control=service.path) == 1
    assert failure(service, sock, Option.TCP_ENO_TEPS) == errno.EINVAL


def test_what_the_daemon_does_not_tell(service: Service, sock: socket.socket) -> None:
    know(service, sock, entry(1, "-", "-", transcript=None, aead=None, role=None))
    for option in (
        *(Option.TCP_ENO_TRANSCRIPT, Option.TCP_CRYPT_CONF, Option.TCP_ENO_ROLE),
        *(Option.TCP_ENO_TEPS, Option.TCP_CRYPT_ACONF, Option.TCP_CRYPT_CACHE_FLUSH),
    ):
        assert failure(service, sock, option) == errno.ENOPROTOOPT


def test_a_host_without_a_daemon(tmp_path: Path, sock: socket.socket) -> None:
    for option in OF_AN_ENCRYPTED_ONE:
        with pytest.raises(OSError, match="no tcpcryptd answers") as caught:
            getsockopt(sock, option, control=tmp_path / "nobody")
        assert caught.value.errno == errno.ENOPROTOOPT


def test_waiting_for_the_handshake(service: Service, sock: socket.socket) -> None:
    know(service, sock, plain(1, "-", "-", "exchanging"))
    honest, asked = service.memory.find, []

    def settle(local: tuple[str, int], remote: tuple[str, int]) -> dict[str, Any] | None:
        asked.append(local)
        if len(asked) == 5:
            know(service, sock, entry(1, "-", "-"))
        return honest(local, remote)

    service.memory.find = settle  # type: ignore[method-assign]
    got = getsockopt(sock, Option.TCP_ENO_SESSID, control=service.path, wait=20)
    assert got == bytes.fromhex(SESSION)


# --- setting -----------------------------------------------------------------------


def setting_fails(service: Service, sock: socket.socket, option: Option, value: Value) -> int:
    with pytest.raises(OSError) as caught:
        setsockopt(sock, option, value, control=service.path)
    assert caught.value.errno
    return caught.value.errno


CONFIGURING: list[tuple[Option, Value]] = [
    (Option.TCP_ENO_ENABLED, 0),
    (Option.TCP_ENO_TEPS, b"\x23"),
    (Option.TCP_ENO_SELF_GOPT, 2),
    (Option.TCP_ENO_AA_MANDATORY, 1),
    (Option.TCP_ENO_RAW, b"\x23"),
    (Option.TCP_CRYPT_ACONF, b"\0\1"),
    (Option.TCP_CRYPT_BCONF, b"\0\1"),
]


@pytest.mark.parametrize(("option", "value"), CONFIGURING, ids=lambda value: str(value)[-15:])
def test_what_had_to_be_set_before_the_syn(
    service: Service, sock: socket.socket, option: Option, value: Value
) -> None:
    assert setting_fails(service, sock, option, value) == errno.EISCONN
    with socket.socket() as unconnected:
        assert setting_fails(service, unconnected, option, value) == errno.EOPNOTSUPP


@pytest.mark.parametrize("option", OF_AN_ENCRYPTED_ONE, ids=lambda option: option.name)
def test_what_is_only_read(service: Service, sock: socket.socket, option: Option) -> None:
    assert setting_fails(service, sock, option, 1) == errno.ENOPROTOOPT


def test_mandatory_encryption_leaves_an_encrypted_connection_alone(
    service: Service, ends: tuple[socket.socket, socket.socket]
) -> None:
    one, other = ends
    know(service, one, entry(1, "-", "-"))
    setsockopt(one, Option.TCP_ENO_TEP_MANDATORY, 1, control=service.path)
    one.sendall(b"x")
    assert other.recv(1) == b"x"


@pytest.mark.parametrize("known", [True, False])
def test_mandatory_encryption_aborts_a_plain_connection(
    service: Service, ends: tuple[socket.socket, socket.socket], known: bool
) -> None:
    one, other = ends
    if known:
        know(service, one, plain(1, "-", "-"))
    setsockopt(one.fileno(), Option.TCP_ENO_TEP_MANDATORY, 1, control=service.path)
    with pytest.raises(ConnectionResetError):
        other.recv(1)
    with pytest.raises(OSError):
        one.send(b"x")


def test_mandatory_encryption_is_too_late_and_too_early(
    service: Service, sock: socket.socket
) -> None:
    know(service, sock, plain(1, "-", "-", "exchanging"))
    assert setting_fails(service, sock, Option.TCP_ENO_TEP_MANDATORY, 1) == errno.EISCONN
    assert setting_fails(service, sock, Option.TCP_ENO_TEP_MANDATORY, 0) == errno.EINVAL
    with socket.socket() as unconnected:
        got = setting_fails(service, unconnected, Option.TCP_ENO_TEP_MANDATORY, 1)
    assert got == errno.EOPNOTSUPP


def test_flushing_what_a_connection_left(
    service: Service, sock: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert setting_fails(service, sock, Option.TCP_CRYPT_CACHE_FLUSH, 1) == errno.EINVAL
    know(service, sock, entry(1, "-", "-"))
    service.memory.known = [peer("127.0.0.1"), peer("10.0.0.2")]
    setsockopt(sock, Option.TCP_CRYPT_CACHE_FLUSH, 1, control=service.path)
    assert service.memory.known == [peer("10.0.0.2")]
    assert setting_fails(service, sock, Option.TCP_CRYPT_CACHE_FLUSH, 0) == errno.EINVAL
    stranger = struct.pack("3i", 1, 4321, 4321)
    monkeypatch.setattr(control, "_credentials", lambda _sock: stranger)
    assert setting_fails(service, sock, Option.TCP_CRYPT_CACHE_FLUSH, 1) == errno.EACCES


# --- the example ---------------------------------------------------------------------


class OneSide(Memory):
    """A daemon that knows every connection, in one role."""

    def __init__(self, role: str, session: str | None) -> None:
        super().__init__()
        self.role, self.session = role, session

    def find(self, _local: tuple[str, int], _remote: tuple[str, int]) -> dict[str, Any]:
        if self.session is None:
            return plain(1, "-", "-")
        return entry(1, "-", "-", role=self.role, session=self.session)


def authenticate(
    tmp_path: Path, sessions: tuple[str | None, str | None], passwords: tuple[str, str]
) -> list[tuple[int, str, str]]:
    """Run both sides of the example; status, output and errors of server and client."""
    for name, password in zip(("server", "client"), passwords, strict=True):
        (tmp_path / name).write_text(password)

    def start(name: str, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            (
                *(sys.executable, EXAMPLE, name, *words),
                *("--password-file", tmp_path / name, "--control", tmp_path / f"{name}.sock"),
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(EXAMPLE.parents[1])},
        )

    with (
        serving(tmp_path / "server.sock", OneSide("B", sessions[0])),
        serving(tmp_path / "client.sock", OneSide("A", sessions[1])),
        start("server", "0", "--once", "--address", "127.0.0.1") as server,
    ):
        assert server.stdout is not None
        port = server.stdout.readline().split()[-1]
        with start("client", "127.0.0.1", port, "--say", "good morning") as client:
            results = []
            for process in (server, client):
                out, err = process.communicate(timeout=60)
                results.append((process.returncode, out, err))
    return results


def test_the_example_authenticates(tmp_path: Path) -> None:
    server, client = authenticate(tmp_path, (SESSION, SESSION), ("secret", "secret\n"))
    assert server == (0, f"authenticated 127.0.0.1, session {SESSION}\n", "")
    text = f"authenticated 127.0.0.1, session {SESSION}\nyou said: good morning\n"
    assert client == (0, text, "")


@pytest.mark.parametrize(
    ("sessions", "passwords"),
    [
        ((SESSION, SESSION), ("secret", "guess")),
        ((SESSION, SESSION[:-2] + "00"), ("secret", "secret")),
    ],
    ids=["another password", "somebody in the middle"],
)
def test_the_example_refuses(
    tmp_path: Path, sessions: tuple[str, str], passwords: tuple[str, str]
) -> None:
    for status, out, err in authenticate(tmp_path, sessions, passwords):
        assert (status, out) == (1, "")
        assert err.startswith("refused: the other end has another password")


def test_the_example_says_nothing_on_a_plain_connection(tmp_path: Path) -> None:
    server, client = authenticate(tmp_path, (None, None), ("secret", "secret"))
    text = "refused: [Errno 22] the connection is not encrypted: it is plain TCP\n"
    assert server == (1, "", text)
    assert client == (1, "", text)
