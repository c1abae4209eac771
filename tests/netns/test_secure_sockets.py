"""`tcpcrypt.sockets` over real daemons: TCP's own option, and who stands behind it."""

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from netns.network import PORT, Network
from netns.trusting import Pair, pair_of, policy

from tcpcrypt import sockets
from tcpcrypt.errors import (
    AuthenticationError,
    FallbackReason,
    NoEncryptionError,
    ResetError,
    TruncationError,
)
from tcpcrypt.sockets import Failure, SecureSocket, State

PATIENCE = 15.0


@pytest.fixture
def two(pair: Network, tmp_path: Path) -> Pair:
    return pair_of(pair, tmp_path)


def wrapped(
    two: Pair, client_peer: str, server_peer: str, transport: str = "eno"
) -> tuple[SecureSocket, SecureSocket]:
    """Both programs' ends of one connection between the hosts, not yet asked about."""
    with two.network.listen() as listening:
        one = two.network.connect()
        other, _address = listening.accept()
    client = sockets.wrap(one, peer=client_peer, transport=transport, control=two.client.control)
    server = sockets.wrap(
        other,
        peer=server_peer,
        server_side=True,
        transport=transport,
        control=two.server.control,
    )
    for end in (client, server):
        end.settimeout(PATIENCE)
    return client, server


@pytest.mark.parametrize("transport", ["eno", "auto"])
def test_the_daemons_encrypt_and_tell_who_it_is(two: Pair, transport: str) -> None:
    two.start(policy("tofu"))
    two.meet()
    pins = [f"pin:{side.fingerprint()}" for side in (two.server, two.client)]
    client, server = wrapped(two, *pins, transport)
    with client, server:
        assert client.transport == server.transport == "eno"
        client.sendall(b"question")
        assert server.recv(100) == b"question"
        server.sendall(b"answer")
        assert client.recv(100) == b"answer"
        assert client.state is server.state is State.AES_MODE
        assert client.session_id == server.session_id
        assert len(client.session_id or b"") == 33
        assert client.peer_identity == two.server.fingerprint()
        assert server.peer_identity == two.client.fingerprint()
        assert client.cipher == "AES-128-GCM"
        sessid = client.getsockopt(socket.IPPROTO_TCP, "TCP_ENO_SESSID")
        assert sessid == client.session_id
        client.shutdown(socket.SHUT_WR)
        assert server.recv(100) == b""
        server.sendall(b"half")
        assert client.recv(100) == b"half"
        server.close()
        assert client.recv(100) == b""


def test_the_wrong_identity_is_refused_before_a_byte(two: Pair, tmp_path: Path) -> None:
    two.start(policy("tofu"))
    two.meet()
    other = sockets.KeyDirectory.at(tmp_path / "other").identity.fingerprint
    client, server = wrapped(two, f"pin:{other}", "tofu")
    with client, server:
        with pytest.raises(AuthenticationError, match=other):
            client.sendall(b"secret")
        assert client.failure is Failure.AUTHENTICATION
        assert client.state is State.FAIL
        with pytest.raises((ResetError, TruncationError)):
            server.recv(100)


def test_a_policy_that_proves_nothing_is_not_enough(two: Pair) -> None:
    two.start(policy("none"))
    client, server = wrapped(two, "tofu", "insecure-unauthenticated")
    with client, server:
        with pytest.raises(AuthenticationError, match="no proof"):
            client.sendall(b"secret")
        with pytest.raises((ResetError, TruncationError)):
            server.recv(100)


def test_a_key_that_is_compared_with_none_is_not_enough(two: Pair) -> None:
    """The other end proves a key of its own accord, and anybody could: no policy asks for it."""
    two.client.start(policy("none", pq="prefer"))
    two.server.start(policy("tofu", "opportunistic"))
    client, server = wrapped(two, "tofu", "insecure-unauthenticated")
    with client, server:
        with pytest.raises(AuthenticationError, match="does not remember"):
            client.sendall(b"secret")
        with pytest.raises((ResetError, TruncationError)):
            server.recv(100)


def test_encryption_alone_is_enough_for_who_says_so(two: Pair) -> None:
    two.start(policy("none"))
    client, server = wrapped(two, "insecure-unauthenticated", "insecure-unauthenticated")
    with client, server:
        client.sendall(b"x")
        assert server.recv(1) == b"x"
        assert client.peer_identity is None


def test_a_dying_daemon_is_no_end_of_file(two: Pair) -> None:
    two.start(policy("none"))
    anybody = "insecure-unauthenticated"
    client, server = wrapped(two, anybody, anybody)
    with client, server:
        client.sendall(b"x")
        assert server.recv(1) == b"x"
        two.client.daemon.process.kill()
        two.client.daemon.process.wait()
        with pytest.raises((ResetError, TruncationError)):
            client.recv(1)
        assert client.state is State.FAIL


@pytest.mark.parametrize(
    "rule",
    [
        ("-p", "tcp", "--tcp-flags", "SYN,ACK", "SYN"),
        ("-p", "tcp", "--tcp-flags", "SYN,ACK", "SYN,ACK"),
        ("-p", "tcp", "--tcp-flags", "SYN,ACK", "ACK"),
    ],
    ids=["SYN", "SYN-ACK", "ACK"],
)
def test_a_stripped_option_lets_no_byte_through(
    path: Network, tmp_path: Path, rule: tuple[str, ...]
) -> None:
    """RFC 8547 section 4.6: without the option there is plain TCP, and no secure socket."""
    two = pair_of(path, tmp_path)
    two.start('[[policy]]\nmode = "opportunistic"\nmatch.ports = 80\n')
    path.meddle(*rule, "-j", "TCPOPTSTRIP", "--strip-options", "69")
    anybody = "insecure-unauthenticated"
    with path.listen() as listening, ThreadPoolExecutor(1) as pool:
        one = path.connect()
        other, _address = listening.accept()
        client = sockets.wrap(one, peer=anybody, transport="eno", control=two.client.control)
        server = sockets.wrap(
            other, peer=anybody, server_side=True, transport="eno", control=two.server.control
        )
        server.settimeout(PATIENCE)
        with client, server:
            got = pool.submit(server.recv, 100)
            with pytest.raises((NoEncryptionError, ResetError)):
                client.sendall(b"secret")
            with pytest.raises((NoEncryptionError, ResetError, TruncationError)):
                got.result(PATIENCE)
            # The end that finds it out first resets the connection, and the other one with it.
            found = [end.error for end in (client, server)]
            assert FallbackReason.NOT_ENCRYPTED in [getattr(e, "reason", None) for e in found]
    assert PORT == 80
