"""Peers that are silent, drip, lie or leave: the typed failure, in time, others undisturbed."""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import struct
import time
from pathlib import Path

import pytest
from support.conversations import UNAUTHENTICATED

from tcpcrypt import sockets
from tcpcrypt.auth.psk import create_psk
from tcpcrypt.errors import (
    AuthenticationError,
    HandshakeTimeoutError,
    IdentityChangedError,
    LocalError,
    NoCommonTEPError,
    NoEncryptionError,
    PeerError,
    PeerReason,
    ResetError,
    TruncationError,
)
from tcpcrypt.sockets import Failure, KeyDirectory, State, arrangement, listener

PATIENCE = 10.0
PREFACE = bytes.fromhex("54 43 45 4e 4f 01 45 04 02 23")
RESET = struct.pack("ii", 1, 0)


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second instead of five."""
    for name in ("_BASE", "_UNAUTHENTICATED"):
        config = getattr(arrangement, name)
        monkeypatch.setattr(arrangement, name, arrangement.replace(config, handshake_timeout=0.5))


def silent(sock: socket.socket) -> None:
    while sock.recv(1000):
        pass


def drip(sock: socket.socket) -> None:
    """A byte of a preface now and then, as long as anybody listens."""
    data = PREFACE[:8] + bytes(40)
    for byte in data:
        sock.sendall(bytes([byte]))
        time.sleep(0.05)


def after_preface(sock: socket.socket, more: bytes) -> None:
    received = b""
    while len(received) < 8:
        received += sock.recv(1000)
    sock.sendall(bytes.fromhex("54 43 45 4e 4f 01 45 04 01 23") + more)
    silent(sock)


BEHAVIOURS = {
    "garbage": (lambda s: s.sendall(os.urandom(8192)), NoEncryptionError, Failure.NO_ENCRYPTION),
    "plain text": (lambda s: s.sendall(b"220 hi\r\n"), NoEncryptionError, Failure.NO_ENCRYPTION),
    "early close": (lambda s: s.recv(1000), TruncationError, Failure.TRUNCATION),
    "early reset": (
        lambda s: (s.recv(1), s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)),
        ResetError,
        Failure.RESET,
    ),
    "huge option": (
        lambda s: s.sendall(PREFACE[:7] + b"\xff" * 1000),
        NoEncryptionError,
        Failure.NO_ENCRYPTION,
    ),
    "preface, then close": (
        lambda s: (s.sendall(PREFACE[:9]), s.shutdown(socket.SHUT_WR), silent(s)),
        TruncationError,
        Failure.TRUNCATION,
    ),
}


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_a_service_that_does_not_behave(plain, client_keys: Path, name: str) -> None:
    behave, error, failure = BEHAVIOURS[name]
    plain.serve(behave)
    changes = []
    began = time.monotonic()
    with pytest.raises(error) as raised:
        sockets.connect(
            plain.address,
            peer="tofu",
            keys=client_keys,
            transport="inband",
            on_state=changes.append,
        )
    assert time.monotonic() - began < 4
    assert changes[-1].new is State.FAIL
    assert changes[-1].reason == str(raised.value)
    assert Failure.of(raised.value) is failure


@pytest.mark.parametrize("behave", [silent, drip], ids=["silent", "drip"])
@pytest.mark.usefixtures("hurry")
def test_a_service_that_takes_its_time(plain, client_keys: Path, behave) -> None:
    plain.serve(behave)
    began = time.monotonic()
    with pytest.raises((HandshakeTimeoutError, NoEncryptionError)) as raised:
        sockets.connect(plain.address, peer="tofu", keys=client_keys, transport="inband")
    if behave is silent:
        assert isinstance(raised.value, HandshakeTimeoutError)
        assert raised.value.reason is PeerReason.TIMEOUT
        assert "has not offered" in str(raised.value)
    assert time.monotonic() - began < 4


def test_the_deadline_is_five_seconds() -> None:
    assert arrangement.HANDSHAKE_TIMEOUT == 5.0
    assert arrangement._BASE.handshake_timeout == 5.0
    assert arrangement._UNAUTHENTICATED.handshake_timeout == 5.0


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\x09\x71\x05\xe0\xff\xff\xff\xff", PeerReason.INIT_TOO_LONG),
        (b"\x09\x71\x05\xe0\x00\x00\x10\x01", PeerReason.INIT_TOO_LONG),
        (b"\x09\x71\x05\xe0\x00\x00\x00\x08", PeerReason.INIT_TOO_SHORT),
        (b"\x15\x10\x1a\x0e\x00\x00\x00\x08", PeerReason.INIT_MAGIC),
    ],
)
def test_lengths_are_bounded_before_anything_is_kept(
    plain, client_keys: Path, message: bytes, reason: PeerReason
) -> None:
    plain.serve(lambda sock: after_preface(sock, message + bytes(64)))
    with pytest.raises(PeerError) as raised:
        sockets.connect(plain.address, peer=UNAUTHENTICATED, transport="inband")
    assert raised.value.reason is reason
    assert Failure.of(raised.value) is Failure.PEER


# --- a server -----------------------------------------------------------------------


def raw(address: tuple[str, int], data: bytes = b"") -> socket.socket:
    sock = socket.create_connection(address, PATIENCE)
    sock.sendall(data)
    return sock


def test_silent_clients_keep_nobody_waiting(listen, connect, pool) -> None:
    listening = listen()
    mute = [raw(listening.getsockname(), PREFACE[: at % 9]) for at in range(50)]
    accepted = pool.submit(listening.accept)
    began = time.monotonic()
    client = connect(listening.getsockname())
    server, address = accepted.result(PATIENCE)
    assert time.monotonic() - began < 3
    assert server.state is State.AES_MODE
    assert address == client.getsockname()
    server.close()
    for sock in mute:
        sock.close()


@pytest.mark.usefixtures("hurry")
def test_a_silent_client_is_returned_failed_at_its_deadline(listen) -> None:
    listening = listen()
    with raw(listening.getsockname()) as sock:
        server, address = listening.accept()
        assert address == sock.getsockname()
        assert server.state is State.FAIL
        assert server.failure is Failure.HANDSHAKE_TIMEOUT
        for use in (lambda: server.recv(1), lambda: server.sendall(b"x"), server.do_handshake):
            with pytest.raises(HandshakeTimeoutError):
                use()
        server.close()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


@pytest.mark.parametrize(
    ("data", "failure"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", Failure.NO_ENCRYPTION),
        (PREFACE + b"\x15\x10\x1a\x0e\xff\xff\xff\xff", Failure.NO_COMMON_TEP),
        (bytes.fromhex("54 43 45 4e 4f 01 45 02"), Failure.NO_COMMON_TEP),
    ],
)
def test_a_client_that_does_not_behave_is_returned_failed(
    listen, data: bytes, failure: Failure
) -> None:
    listening = listen()
    with raw(listening.getsockname(), data):
        server, _address = listening.accept()
        assert server.failure is failure
        with pytest.raises(OSError):
            server.recv(1)


def test_too_many_handshakes_make_the_oldest_give_way(
    listen, connect, pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "HANDSHAKES_MAX", 5)
    listening = listen()
    mute = [raw(listening.getsockname()) for _ in range(8)]
    for sock in mute[:3]:
        server, address = listening.accept()
        assert server.failure is Failure.HANDSHAKE_TIMEOUT
        assert address == sock.getsockname()
    assert len(listening._running) == 5
    accepted = pool.submit(lambda: [listening.accept()[0] for _ in range(2)])
    connect(listening.getsockname())
    states = {server.state for server in accepted.result(PATIENCE)}
    assert states == {State.FAIL, State.AES_MODE}
    for sock in mute:
        sock.close()


def test_who_gives_way_may_have_something_to_say_at_that_moment(
    listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listener and the oldest handshake are readable in the same turn."""
    monkeypatch.setattr(listener, "HANDSHAKES_MAX", 3)
    listening = listen()
    mute = [raw(listening.getsockname()) for _ in range(3)]
    listening.settimeout(0)
    while len(listening._running) < 3:
        with pytest.raises(BlockingIOError):
            listening.accept()
    mute.append(raw(listening.getsockname()))
    mute[0].sendall(b"T")
    select.select([listening._sock], [], [], PATIENCE)
    listening.settimeout(PATIENCE)
    server, address = listening.accept()
    assert server.failure is Failure.HANDSHAKE_TIMEOUT
    assert address == mute[0].getsockname()
    assert len(listening._running) == 3
    for sock in mute:
        sock.close()


def test_silent_clients_give_way_where_descriptors_are_scarce(listen) -> None:
    """A listener with room for more handshakes than for descriptors does not fail by them."""
    listening = listen()
    mute = [raw(listening.getsockname()) for _ in range(6)]
    free = os.dup(0)
    os.close(free)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 3, before[1]))
    try:
        servers = [listening.accept()[0] for _ in range(3)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert {server.failure for server in servers} == {Failure.HANDSHAKE_TIMEOUT}
    assert "no room" in str(servers[0].error)
    for sock in mute:
        sock.close()


def test_silent_clients_give_way_where_keys_cannot_be_read_for_want_of_descriptors(
    listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening = listen()
    listening.settimeout(0)
    mute = [raw(listening.getsockname())]
    while not listening._running:
        with pytest.raises(BlockingIOError):
            listening.accept()
    failing = [OSError(errno.EMFILE, "Too many open files"), OSError(errno.EIO, "gone")]
    secure = listening._secure

    def scarce(sock: socket.socket, address: object) -> object:
        if not failing:
            return secure(sock, address)
        raise LocalError("known_peers") from failing.pop(0)

    monkeypatch.setattr(listening, "_secure", scarce)
    listening.settimeout(PATIENCE)
    mute += [raw(listening.getsockname())]
    server, _address = listening.accept()
    assert "no room" in str(server.error)
    mute += [raw(listening.getsockname())]
    with pytest.raises(LocalError, match="known_peers"):
        listening.accept()
    for sock in mute:
        sock.close()


def test_memory_of_a_client_that_is_nobody_yet_is_bounded(listen) -> None:
    listening = listen()
    listening.settimeout(0.2)
    with raw(listening.getsockname(), b"TCENO\x01\x45\x28" + bytes(37)):
        with pytest.raises(TimeoutError):
            listening.accept()
        (waiting,) = listening._running
        assert len(waiting.conversation._preface._received) == 45
    assert arrangement._BASE.max_init_len == 4096


# --- who it is --------------------------------------------------------------------------


def refused(listening, pool, client_keys: Path, peer: str, error: type) -> OSError:
    accepted = pool.submit(listening.accept)
    with pytest.raises(error) as raised:
        sockets.connect(listening.getsockname(), peer=peer, keys=client_keys, transport="inband")
    server, _address = accepted.result(PATIENCE)
    assert server.state is State.FAIL
    server.close()
    return raised.value


def test_a_pinned_key(listen, connect, pool, server_keys: Path, client_keys: Path) -> None:
    listening = listen()
    own = KeyDirectory.at(server_keys).identity.fingerprint
    accepted = pool.submit(listening.accept)
    client = connect(listening.getsockname(), peer=f"pin:{own}")
    assert client.peer_identity == own
    accepted.result(PATIENCE)[0].close()
    # What is pinned in words is not written down.
    assert not (client_keys / "known_peers").exists()


def test_another_key_than_the_pinned_one(listen, pool, tmp_path, client_keys: Path) -> None:
    other = KeyDirectory.at(tmp_path / "other").identity.fingerprint
    error = refused(listen(), pool, client_keys, f"pin:{other}", IdentityChangedError)
    assert other in str(error)
    assert Failure.of(error) is Failure.IDENTITY_CHANGED


def test_one_of_several_pinned_keys(listen, connect, pool, tmp_path: Path) -> None:
    directories = (tmp_path / "x", tmp_path / "client")
    allowed = [KeyDirectory.at(path).identity.fingerprint for path in directories]
    listening = listen(peer=f"pin:{','.join(allowed)}")
    accepted = pool.submit(listening.accept)
    connect(listening.getsockname())
    assert accepted.result(PATIENCE)[0].peer_identity == allowed[1]
    accepted = pool.submit(listening.accept)
    with pytest.raises((ResetError, TruncationError), match="may not accept"):
        sockets.connect(
            listening.getsockname(), peer="tofu", keys=tmp_path / "stranger", transport="inband"
        )
    server, _address = accepted.result(PATIENCE)
    assert server.failure is Failure.AUTHENTICATION
    with pytest.raises(AuthenticationError):
        server.recv(1)


def test_a_key_that_changed_since_the_first_contact(
    listen, connect, pool, server_keys: Path, client_keys: Path
) -> None:
    listening = listen()
    address = listening.getsockname()
    accepted = pool.submit(listening.accept)
    connect(address).close()
    accepted.result(PATIENCE)[0].close()
    assert "tofu" in (client_keys / "known_peers").read_text()
    (server_keys / "identity").unlink()  # installed anew
    error = refused(listening, pool, client_keys, "tofu", IdentityChangedError)
    assert "tcpcrypt peers trust" in str(error)
    assert f"{address[0]}:{address[1]}" in str(error)


def test_a_first_contact_that_cannot_be_remembered_is_none(listen, pool, client_keys: Path) -> None:
    listening = listen()
    KeyDirectory.at(client_keys).trust()
    (client_keys / "known_peers.lock").mkdir()
    error = refused(listening, pool, client_keys, "tofu", LocalError)
    assert "known_peers" in str(error)
    (client_keys / "known_peers.lock").rmdir()
    # It is no second one either.
    accepted = pool.submit(listening.accept)
    sockets.connect(
        listening.getsockname(), peer="tofu", keys=client_keys, transport="inband"
    ).close()
    accepted.result(PATIENCE)[0].close()
    assert "tofu" in (client_keys / "known_peers").read_text()


def test_a_pre_shared_key(listen, connect, pool, server_keys: Path, client_keys: Path) -> None:
    for keys in (server_keys, client_keys):
        keys.mkdir(mode=0o700)
        (keys / "psk").mkdir(mode=0o700)
    create_psk(server_keys / "psk", "pump")
    (client_keys / "psk" / "pump").touch(mode=0o600)
    (client_keys / "psk" / "pump").write_bytes((server_keys / "psk" / "pump").read_bytes())
    listening = listen(peer="psk:pump")
    accepted = pool.submit(listening.accept)
    client = connect(listening.getsockname(), peer="psk:pump")
    client.sendall(b"x")
    server = accepted.result(PATIENCE)[0]
    assert server.recv(10) == b"x"
    server.close()
    # A client that has another key of that name, and one that has none.
    (client_keys / "psk" / "pump").unlink()
    create_psk(client_keys / "psk", "pump")
    assert refused(listening, pool, client_keys, "psk:pump", OSError)
    assert refused(listening, pool, client_keys, "tofu", OSError)


def test_ends_that_want_different_things(listen, pool, client_keys: Path) -> None:
    error = refused(listen(), pool, client_keys, UNAUTHENTICATED, NoCommonTEPError)
    assert "authenticate in different ways" in str(error)


def test_a_revoked_key_is_not_resumed(listen, connect, pool, client_keys, server_keys) -> None:
    from tcpcrypt.auth.known_peers import KnownPeer, TrustLevel
    from tcpcrypt.auth.known_peers_file import KnownPeersFile

    listening = listen()
    accepted = pool.submit(listening.accept)
    client = connect(listening.getsockname())
    key = client.peer_identity
    assert key is not None
    accepted.result(PATIENCE)[0].close()
    scope = "elsewhere:1"
    KnownPeersFile(client_keys / "known_peers").update(
        lambda known: known.put(KnownPeer(key, scope, 0, None, TrustLevel.REVOKED))
    )
    error = refused(listening, pool, client_keys, "tofu", AuthenticationError)
    assert "revoked" in str(error)
    error = refused(listening, pool, client_keys, f"pin:{key}", AuthenticationError)
    assert "revoked" in str(error)
