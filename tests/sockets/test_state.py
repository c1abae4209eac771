"""The visible states: the table, and each of its edges walked by a conversation."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.conversations import UNAUTHENTICATED, End, carry, connected, finished, taken, told

from tcpcrypt import errors
from tcpcrypt.core.events import Role
from tcpcrypt.errors import (
    HandshakeTimeoutError,
    IntegrityError,
    LocalError,
    PeerReason,
    ResetError,
    TruncationError,
)
from tcpcrypt.sockets.arrangement import arrange
from tcpcrypt.sockets.conversation import Conversation
from tcpcrypt.sockets.peer import PeerSpec
from tcpcrypt.sockets.state import TABLE, Failure, State, Step

WAY = [State.EXCHANGE_KEYS, State.DERIVE_KEYS, State.AES_MODE]
PEERS = ["tofu", UNAUTHENTICATED]


@pytest.fixture(params=PEERS)
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[End, End]:
    return End.at(tmp_path / "a", request.param), End.at(tmp_path / "b", request.param)


def test_the_table_goes_one_way_and_ends_in_fail() -> None:
    order = list(State)
    assert all(order.index(new) == order.index(old) + 1 for (old, _step), new in TABLE.items())
    assert not any(step is Step.FAULT for _old, step in TABLE)
    assert State.FAIL not in TABLE.values()
    assert not any(old in (State.AES_MODE, State.FAIL) for old, _step in TABLE)


@pytest.mark.parametrize("failure", list(Failure))
def test_a_failure_names_an_exception(failure: Failure) -> None:
    assert failure.exception.__name__ == failure.value
    assert failure.exception.__name__ in errors.__all__


def test_a_failure_is_found_by_the_nearest_class() -> None:
    class OwnError(IntegrityError):
        pass

    assert Failure.of(OwnError(PeerReason.FRAME_TAG)) is Failure.INTEGRITY
    assert Failure.of(errors.PeerError(PeerReason.INIT_MAGIC)) is Failure.PEER
    assert Failure.of(errors.TcpcryptError("something")) is Failure.LOCAL


@pytest.mark.parametrize(
    "error",
    [
        errors.NoEncryptionError(errors.FallbackReason.NO_PREFACE),
        errors.NoCommonTEPError(),
        errors.AuthenticationError(PeerReason.AUTHENTICATION),
        errors.IdentityChangedError(PeerReason.IDENTITY_CHANGED),
        errors.IntegrityError(PeerReason.FRAME_TAG),
        errors.HandshakeTimeoutError(PeerReason.TIMEOUT),
        errors.TruncationError(PeerReason.TRUNCATED),
        errors.ResetError(PeerReason.RESET),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_happens_to_a_connection_is_an_os_error(error: OSError) -> None:
    assert isinstance(error, ConnectionError)
    assert isinstance(error.errno, int)
    assert str(error) == error.args[0]


def test_timeouts_and_resets_are_those_of_the_standard_library() -> None:
    assert isinstance(HandshakeTimeoutError(PeerReason.TIMEOUT), TimeoutError)
    assert isinstance(ResetError(PeerReason.RESET), ConnectionResetError)
    assert not issubclass(LocalError, OSError)


@pytest.mark.parametrize("step", [1, None], ids=["byte by byte", "whole"])
def test_both_ends_go_the_same_way(ends: tuple[End, End], step: int | None) -> None:
    client, server = ends
    # Where nobody proves anything every exchange is fresh (`sockets.arrangement`).
    for resumed in (False, True, True) if client.peer == "tofu" else (False, False):
        a, b = client.converse(Role.A), server.converse(Role.B)
        assert a.state is b.state is State.INIT
        assert a.session_id is b.session_id is None
        assert a.cipher is None
        carry(a, b, step=step)
        assert told(a).states == told(b).states == WAY
        assert a.session_id == b.session_id is not None
        assert len(a.session_id or b"") == 33
        assert a.resumed is b.resumed is resumed
        assert a.cipher == b.cipher == "AES-128-GCM"
        assert a.deadline is b.deadline is None
        assert a.tep == b.tep
        finished(a, b)


def test_each_end_knows_the_other(tmp_path: Path) -> None:
    client, server = End.at(tmp_path / "a"), End.at(tmp_path / "b")
    a, b = connected(client, server)
    assert a.peer_identity == server.keys.identity.fingerprint
    assert b.peer_identity == client.keys.identity.fingerprint


def test_nobody_is_known_without_authentication(tmp_path: Path) -> None:
    a, b = connected(
        End.at(tmp_path / "a", UNAUTHENTICATED), End.at(tmp_path / "b", UNAUTHENTICATED)
    )
    assert a.peer_identity is b.peer_identity is None
    assert not (tmp_path / "a" / "identity").exists()


def steps_of(ends: tuple[End, End], role: Role, state: State) -> tuple:
    """An end in this state, and the other one.

    A fresh connection goes through EXCHANGE_KEYS, a resumed one waits in DERIVE_KEYS.
    """
    client, server = ends
    a, b = client.converse(Role.A), server.converse(Role.B)
    wanted, other = (a, b) if role is Role.A else (b, a)
    for _ in range(10):
        if wanted.state is state:
            return wanted, other
        for byte in taken(a):
            b.receive_data(bytes([byte]))
            if wanted.state is state:
                return wanted, other
        for byte in taken(b):
            a.receive_data(bytes([byte]))
            if wanted.state is state:
                return wanted, other
    raise AssertionError(state)


REACHED = [
    (Role.A, State.INIT, False),
    (Role.B, State.INIT, False),
    (Role.A, State.EXCHANGE_KEYS, False),
    (Role.B, State.EXCHANGE_KEYS, False),
    (Role.A, State.DERIVE_KEYS, True),
    (Role.A, State.AES_MODE, False),
    (Role.B, State.AES_MODE, False),
]


@pytest.fixture(params=REACHED, ids=lambda c: f"{c[0].name}-{c[1].name}")
def reached(request: pytest.FixtureRequest, tmp_path: Path) -> tuple:
    role, state, resumed = request.param
    ends = End.at(tmp_path / "a"), End.at(tmp_path / "b")
    if resumed:
        finished(*connected(*ends))
    return (*steps_of(ends, role, state), state)


def failed(conversation, old: State, kind: type, failure: Failure) -> None:
    seen = told(conversation)
    assert seen.states[-1] is State.FAIL
    assert conversation.state is State.FAIL
    assert type(conversation.error) is kind
    assert seen.error is conversation.error
    assert conversation.failure is failure
    assert not seen.data
    assert conversation.deadline is None
    if old is State.AES_MODE:
        with pytest.raises(kind):
            conversation.send(b"data")
    conversation.receive_data(b"more")
    conversation.receive_eof()
    assert conversation.next_event() is None


def test_rst_fails_in_every_state(reached: tuple) -> None:
    conversation, _other, state = reached
    conversation.receive_reset()
    failed(conversation, state, ResetError, Failure.RESET)


def test_fin_without_finp_fails_in_every_state(reached: tuple) -> None:
    """RFC 8548 section 3.7: never an end of file."""
    conversation, _other, state = reached
    conversation.receive_eof()
    failed(conversation, state, TruncationError, Failure.TRUNCATION)


def test_garbage_fails_in_every_state(reached: tuple) -> None:
    conversation = reached[0]
    conversation.receive_data(b"\x00\xff" * 40_000)
    assert conversation.state is State.FAIL
    assert isinstance(conversation.error, OSError)
    assert not told(conversation).data


def test_no_data_goes_out_before_aes_mode(reached: tuple) -> None:
    conversation, _other, state = reached
    if state is not State.AES_MODE:
        with pytest.raises(LocalError, match=state.value):
            conversation.send(b"data")
        with pytest.raises(LocalError):
            conversation.finish()
        assert conversation.lend() is None
        assert conversation.state is state


def test_closing_wipes_and_is_a_failure_before_aes_mode(reached: tuple) -> None:
    conversation, _other, state = reached
    conversation.close()
    conversation.close()
    if state is State.AES_MODE:
        assert conversation.state is State.AES_MODE
        assert conversation.error is None
    else:
        failed(conversation, state, LocalError, Failure.LOCAL)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_deadline_is_absolute_however_bytes_drip(ends: tuple[End, End]) -> None:
    """Five seconds in all: a byte now and then does not prolong them."""
    client, server = ends
    clock = Clock()
    b = server.converse(Role.B, clock=clock)
    assert b.deadline == 105.0
    data = taken(client.converse(Role.A))[:13]
    for byte in data[:-1]:
        clock.now += 4.9 / len(data)
        b.receive_data(bytes([byte]))
        b.handle_timeout()
        assert b.state is State.INIT
        assert b.deadline == 105.0
    clock.now = 105.0
    b.handle_timeout()
    failed(b, State.INIT, HandshakeTimeoutError, Failure.HANDSHAKE_TIMEOUT)


def test_there_is_no_deadline_any_more_in_aes_mode(ends: tuple[End, End]) -> None:
    clock = Clock()
    a, b = ends[0].converse(Role.A, clock=clock), ends[1].converse(Role.B, clock=clock)
    carry(a, b)
    clock.now += 1000
    a.handle_timeout()
    a.expire("no room")
    assert a.state is State.AES_MODE
    assert a.seconds_left > 1e9


def test_one_that_has_to_give_way_times_out(ends: tuple[End, End]) -> None:
    b = ends[1].converse(Role.B)
    b.expire("no room")
    failed(b, State.INIT, HandshakeTimeoutError, Failure.HANDSHAKE_TIMEOUT)


def test_data_that_came_before_a_failure_stand(ends: tuple[End, End]) -> None:
    a, b = connected(*ends)
    a.send(b"authentic")
    good = taken(a)
    a.send(b"forged")
    bad = bytearray(taken(a))
    bad[-1] ^= 1
    b.receive_data(good + bad)
    seen = told(b)
    assert seen.data == b"authentic"
    assert isinstance(seen.error, IntegrityError)
    assert b.failure is Failure.INTEGRITY


def test_half_close(ends: tuple[End, End]) -> None:
    a, b = connected(*ends)
    a.send(b"question")
    a.finish()
    assert a.fin_due
    carry(a, b)
    seen = told(b)
    assert (seen.data, seen.ended) == (b"question", True)
    b.receive_eof()
    assert b.state is State.AES_MODE
    b.send(b"answer")
    b.finish()
    carry(a, b)
    seen = told(a)
    assert (seen.data, seen.ended) == (b"answer", True)
    with pytest.raises(LocalError):
        a.send(b"more")
    assert a.over
    a.receive_reset()
    assert a.error is None


@given(st.lists(st.binary(max_size=200), max_size=5), st.booleans(), st.booleans())
def test_no_bytes_of_a_stranger_make_it_raise(pieces: list[bytes], as_a: bool, begun: bool) -> None:
    """Whatever comes is an event, and never data of a program."""
    arrangement = arrange(PeerSpec.parse(UNAUTHENTICATED), Role.A if as_a else Role.B, "s:1")
    conversation = Conversation(Role.A if as_a else Role.B, arrangement)
    if begun:
        other = Conversation(Role.B if as_a else Role.A, arrangement)
        for chunk in other.data_to_send() if not as_a else conversation.data_to_send():
            (conversation if not as_a else other).receive_data(chunk)
        if as_a:
            conversation.receive_data(b"".join(bytes(x) for x in other.data_to_send()))
        assert conversation.state is State.EXCHANGE_KEYS
    for piece in pieces:
        conversation.receive_data(piece)
    conversation.receive_eof()
    seen = told(conversation)
    assert seen.data == b""
    assert State.AES_MODE not in seen.states
    assert conversation.state is State.FAIL
    assert isinstance(conversation.error, OSError)
