"""RFC 8548 section 3.3: everything that can be wrong with Init1 and Init2."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.hosts import Host, connect, drain, events, exchange

from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Aborted, Role
from tcpcrypt.core.exchange import TABLE, Exchange, ExchangeState, Stimulus
from tcpcrypt.core.session import Session
from tcpcrypt.errors import LocalError, PeerError, PeerReason

KEY_A = 9 + 2 * 3 + 32
"""Offset of Pub_A in an Init1 that offers three AEADs."""


def client_and_server(**config) -> tuple[Session, Session]:
    return connect(Host(Config(teps=(0x23,), **config)), Host(Config(teps=(0x23,))))


def reason_of(session: Session) -> PeerReason:
    found = events(session)
    assert isinstance(found[-1], Aborted)
    assert not session.established
    return found[-1].error.reason


def server_given(change) -> Session:
    one, other = client_and_server()
    other.receive_data(change(bytearray(drain(one))))
    return other


def client_given(change) -> Session:
    one, other = client_and_server()
    other.receive_data(drain(one))
    one.receive_data(change(bytearray(drain(other))))
    return one


def put(position: int, new: bytes):
    def change(message: bytearray) -> bytearray:
        message[position : position + len(new)] = new
        return message

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put(0, b"\0"), PeerReason.INIT_MAGIC),
        (put(3, b"\0"), PeerReason.INIT_MAGIC),
        (put(0, bytes.fromhex("097105e0")), PeerReason.INIT_MAGIC),
        (put(4, b"\xff\xff\xff\xff"), PeerReason.INIT_TOO_LONG),
        (put(4, (8193).to_bytes(4, "big")), PeerReason.INIT_TOO_LONG),
        (put(4, bytes(4)), PeerReason.INIT_TOO_SHORT),
        (put(4, (7).to_bytes(4, "big")), PeerReason.INIT_TOO_SHORT),
        (put(4, (78).to_bytes(4, "big")), PeerReason.INIT_TOO_SHORT),
        (put(8, b"\0"), PeerReason.INIT_NO_CIPHERS),
        (put(8, b"\xff"), PeerReason.INIT_TOO_SHORT),
        (put(9, bytes.fromhex("7777 7778 7779")), PeerReason.NO_COMMON_AEAD),
        (put(KEY_A, bytes(32)), PeerReason.ZERO_SHARED_SECRET),
    ],
)
def test_bad_init1_aborts(change, reason: PeerReason) -> None:
    assert reason_of(server_given(change)) is reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put(0, b"\0"), PeerReason.INIT_MAGIC),
        (put(4, b"\xff\xff\xff\xff"), PeerReason.INIT_TOO_LONG),
        (put(4, (73).to_bytes(4, "big")), PeerReason.INIT_TOO_SHORT),
        (put(8, b"\x77\x77"), PeerReason.AEAD_NOT_OFFERED),
        (put(42, bytes(32)), PeerReason.ZERO_SHARED_SECRET),
    ],
)
def test_bad_init2_aborts(change, reason: PeerReason) -> None:
    assert reason_of(client_given(change)) is reason


@pytest.mark.parametrize("tep", [0x21, 0x22], ids=hex)
def test_48_5_bad_nist_points_abort(tep: int) -> None:
    config = Config(teps=(tep,))
    for lead, reason in ((2 + 2, PeerReason.BAD_PUBLIC_KEY), (0, PeerReason.BAD_PUBLIC_KEY)):
        one, other = connect(Host(config), Host(config))
        message = bytearray(drain(one))
        message[KEY_A + 2] = lead
        other.receive_data(message)
        assert reason_of(other) is reason
    one, other = connect(Host(config), Host(config))
    message = bytearray(drain(one))
    message[KEY_A + 1] ^= 0x40
    other.receive_data(message)
    assert reason_of(other) is PeerReason.INIT_PUBLIC_KEY_LENGTH


def test_48_3_3_ignored_tail_is_accepted_and_enters_the_keys() -> None:
    """E13: "the transmitted encodings" are hashed, so a changed tail shows."""

    def with_tail(message: bytearray) -> bytearray:
        message[4:8] = (len(message) + 3).to_bytes(4, "big")
        return message + b"abc"

    one, other = client_and_server()
    other.receive_data(with_tail(bytearray(drain(one))))
    one.receive_data(drain(other))
    assert one.established
    assert other.established
    assert one.session_id != other.session_id


def test_48_3_3_b_chooses_by_its_own_preference() -> None:
    server = Host(Config(aeads=(0x10, 0x01)))
    one, other = connect(Host(), server)
    exchange(one, other)
    assert one.aead == other.aead == 0x10


@given(st.binary(max_size=200), st.booleans())
def test_garbage_ends_in_a_named_reason_or_waits(garbage: bytes, valid_prefix: bool) -> None:
    one, other = client_and_server()
    prefix = drain(one)[: len(garbage) % 79] if valid_prefix else b""
    for byte in prefix + garbage:
        other.receive_data(bytes((byte,)))
    if other.error is not None:
        assert isinstance(other.error.reason, PeerReason)
        assert not other.established
    else:
        assert (
            prefix + garbage == drain(one)[: len(prefix + garbage)]
            or not other.established
            or valid_prefix
        )


def test_machine_refuses_what_its_table_lacks() -> None:
    one, _ = client_and_server()
    machine = Exchange(Config(), one.negotiated)
    assert machine.state is ExchangeState.AWAITING_INIT2
    with pytest.raises(LocalError, match="start as A in state awaiting Init2"):
        machine._step(Stimulus.START_A, b"")
    with pytest.raises(PeerError):
        machine.receive(b"nonsense")
    assert machine.state is ExchangeState.FAILED
    with pytest.raises(PeerError):
        machine.receive(b"nonsense")
    machine.abandon()
    machine._init1 = None
    with pytest.raises(LocalError, match="Init2 without Init1"):
        machine._complete(b"")


def test_every_row_leads_on() -> None:
    for (state, stimulus), (method, following) in TABLE.items():
        assert callable(getattr(Exchange, method))
        assert (following is ExchangeState.FAILED) == (stimulus is Stimulus.FAULT)
        assert state is not following or stimulus is Stimulus.FAULT


def test_a_resumed_session_has_no_exchange() -> None:
    client, server = Host(), Host()
    exchange(*connect(client, server))
    one, _ = connect(client, server)
    assert one.resumed
    assert one.role is Role.A
    with pytest.raises(LocalError):
        one._beginning.receive(b"x")
