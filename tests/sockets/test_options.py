"""The options of draft-ietf-tcpinc-api-06, by name, of a connection within the streams."""

from __future__ import annotations

import errno
import socket

import pytest

from tcpcrypt.daemon.sockopt import Option
from tcpcrypt.sockets import SecureSocket, options
from tcpcrypt.sockets.conversation import Conversation

TCP = socket.IPPROTO_TCP
Pair = tuple[SecureSocket, SecureSocket]


def test_the_names_are_those_that_the_daemon_answers_to() -> None:
    names = {option.name for option in Option}
    assert names > set(options._READ)
    assert names > options._BEFORE_THE_OFFER


def test_values(pair: Pair) -> None:
    client, server = pair
    session_id = client.session_id
    assert session_id is not None
    for end, role in ((client, 0), (server, 1)):
        assert end.getsockopt(TCP, "TCP_ENO_ENABLED") == 1
        assert end.getsockopt(TCP, "TCP_ENO_SESSID") == session_id
        assert end.getsockopt(TCP, "TCP_ENO_NEGTEP") == session_id[0] == 0xA0
        assert end.getsockopt(TCP, "TCP_ENO_TEPS") == b"\x20"
        # RFC 8547 section 4.2: bit a at both ends, bit b at the one that answered.
        assert end.getsockopt(TCP, "TCP_ENO_SELF_GOPT") == 2 + role
        assert end.getsockopt(TCP, "TCP_ENO_PEER_GOPT") == 2 + (1 - role)
        assert end.getsockopt(TCP, "TCP_ENO_AA_MANDATORY") == 0
        assert end.getsockopt(TCP, "TCP_ENO_TEP_MANDATORY") == 1
        assert end.getsockopt(TCP, "TCP_ENO_ROLE") == role
        assert end.getsockopt(TCP, "TCP_ENO_SELF_NAME") == bytes([role]) + session_id
        assert end.getsockopt(TCP, "TCP_ENO_PEER_NAME") == bytes([1 - role]) + session_id
        assert end.getsockopt(TCP, "TCP_ENO_RAW") == b""
        assert end.getsockopt(TCP, "TCP_CRYPT_CONF") == 1
        assert end.getsockopt(TCP, "TCP_CRYPT_PEER_IDENTITY") == (end.peer_identity or "").encode()
    transcript = client.getsockopt(TCP, "TCP_ENO_TRANSCRIPT")
    assert transcript == server.getsockopt(TCP, "TCP_ENO_TRANSCRIPT")
    assert isinstance(transcript, bytes)
    assert transcript.startswith(b"\x45")


def number(call) -> int:
    with pytest.raises(OSError) as raised:
        call()
    assert raised.value.strerror
    return raised.value.errno or 0


def test_errors_never_look_like_values(pair: Pair) -> None:
    client = pair[0]
    for name, what in (
        ("TCP_CRYPT_ACONF", errno.ENOPROTOOPT),
        ("TCP_NO_SUCH_OPTION", errno.ENOPROTOOPT),
    ):
        assert number(lambda name=name: client.getsockopt(TCP, name)) == what
    for name, value, what in (
        ("TCP_ENO_ENABLED", 0, errno.EISCONN),
        ("TCP_ENO_TEPS", b"\x23", errno.EISCONN),
        ("TCP_CRYPT_ACONF", b"\x00\x01", errno.EISCONN),
        ("TCP_ENO_SESSID", b"", errno.ENOPROTOOPT),
        ("TCP_ENO_TEP_MANDATORY", 0, errno.EINVAL),
        ("TCP_CRYPT_CACHE_FLUSH", 2, errno.EINVAL),
    ):
        assert number(lambda n=name, v=value: client.setsockopt(TCP, n, v)) == what


def test_nothing_is_told_before_aes_mode(tmp_path) -> None:
    from support.conversations import End

    from tcpcrypt.core.events import Role

    conversation: Conversation = End.at(tmp_path / "a").converse(Role.A)
    assert number(lambda: options.read(conversation, "TCP_ENO_SESSID")) == errno.ENOTCONN
    assert not conversation.flush_resumption()


def test_nobody_is_identified_without_authentication(listen, connect, pool) -> None:
    anybody = "insecure-unauthenticated"
    listener = listen(peer=anybody)
    accepted = pool.submit(listener.accept)
    client = connect(listener.getsockname(), peer=anybody)
    accepted.result(10)[0].close()
    asked = lambda: client.getsockopt(TCP, "TCP_CRYPT_PEER_IDENTITY")  # noqa: E731
    assert number(asked) == errno.ENODATA


def test_a_flushed_session_is_not_resumed(listen, connect, pool) -> None:
    listener = listen()
    for flush in (False, True, False):
        accepted = pool.submit(listener.accept)
        client = connect(listener.getsockname())
        accepted.result(10)[0].close()
        if flush:
            assert client.resumed
            client.setsockopt(TCP, "TCP_ENO_TEP_MANDATORY", 1)
            client.setsockopt(TCP, "TCP_CRYPT_CACHE_FLUSH", 1)
        client.close()
    assert client.resumed is False
