"""In-band negotiation: the bytes, their bounds, and what will not do."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.conversations import UNAUTHENTICATED, End, carry, connected, finished, taken, told

from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Role
from tcpcrypt.errors import FallbackReason, NoCommonTEPError, NoEncryptionError
from tcpcrypt.sockets.preface import MAGIC, PREFACE_MAX, VERSION, Preface, Usual
from tcpcrypt.sockets.state import Failure, State

HEAD = bytes.fromhex("54 43 45 4e 4f 01")


def receive(preface: Preface, data: bytes, step: int) -> None:
    for start in range(0, len(data), step):
        preface.receive(data[start : start + step])


def test_the_bytes_are_those_of_the_specification() -> None:
    """`TCENO`, the version, and the SYN-form option of each end: kind 69."""
    assert (MAGIC + bytes((VERSION,))) == HEAD
    config = Config(teps=(0x23,))
    a, b = Preface(config, Role.A), Preface(config, Role.B)
    assert a.to_send == HEAD + bytes.fromhex("45 03 23")
    assert b.to_send == b""
    b.receive(a.to_send)
    assert b.to_send == HEAD + bytes.fromhex("45 04 01 23")
    a.receive(b.to_send)
    assert a.outcome is not None
    assert b.outcome is not None
    # RFC 8547 section 4.8: the two options, A's first; nothing else is hashed.
    transcript = bytes.fromhex("45 03 23 45 04 01 23")
    assert a.outcome.eno_transcript.startswith(transcript)
    assert a.outcome.eno_transcript == b.outcome.eno_transcript
    assert a.outcome.role is Role.A
    assert b.outcome.role is Role.B
    assert (a.sent_len, a.received_len) == (9, 10)
    assert (b.sent_len, b.received_len) == (10, 9)


def test_what_follows_the_preface_is_left_alone() -> None:
    config = Config()
    a, b = Preface(config, Role.A), Preface(config, Role.B)
    assert b.receive(a.to_send + b"Init1") == b"Init1"
    assert bytes(b.receive(b"more")) == b"more"
    assert b.received_len == len(a.to_send)


def test_it_comes_byte_by_byte() -> None:
    config = Config()
    a, b = Preface(config, Role.A), Preface(config, Role.B)
    for index, byte in enumerate(a.to_send):
        assert b.outcome is None
        assert b.to_send == b""
        assert not b.receive(bytes([byte])), index
    assert b.outcome is not None


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", FallbackReason.NO_PREFACE),
        (b"TCENQ", FallbackReason.NO_PREFACE),
        (b"TCENO\x02", FallbackReason.NO_PREFACE),
        (b"TCENO\x00", FallbackReason.NO_PREFACE),
        (HEAD + b"\xfd", FallbackReason.ILL_FORMED),
        (HEAD + b"\x45\x00", FallbackReason.ILL_FORMED),
        (HEAD + b"\x45\x01", FallbackReason.ILL_FORMED),
        (HEAD + b"\x45\x29", FallbackReason.ILL_FORMED),
        (HEAD + b"\x45\xff", FallbackReason.ILL_FORMED),
        # RFC 8547 section 4.4: suboption data past the end; a reserved length byte.
        (HEAD + b"\x45\x04\x9f\xa3", FallbackReason.ILL_FORMED),
    ],
)
def test_what_is_no_preface_is_refused_at_its_first_wrong_byte(
    role: Role, data: bytes, reason: FallbackReason
) -> None:
    for step in (1, len(data)):
        preface = Preface(Config(), role)
        with pytest.raises(NoEncryptionError) as refused:
            receive(preface, data, step)
        assert refused.value.reason is reason
        assert preface.outcome is None


def test_two_that_both_connect_agree_on_nothing() -> None:
    """RFC 8547 section 4.3: the ends play different roles."""
    a = Preface(Config(), Role.A)
    with pytest.raises(NoEncryptionError) as refused:
        a.receive(Preface(Config(), Role.A).to_send)
    assert refused.value.reason is FallbackReason.SAME_ROLE


@given(st.booleans(), st.binary(max_size=100), st.integers(1, 100))
def test_no_bytes_of_a_peer_are_held_beyond_the_bound(head: bool, data: bytes, step: int) -> None:
    preface = Preface(Config(), Role.B)
    with contextlib.suppress(NoEncryptionError):
        receive(preface, HEAD[: head * 6] + data, step)
    assert len(preface._received) <= PREFACE_MAX == 46


def test_ends_without_a_protocol_in_common_both_say_so(tmp_path: Path) -> None:
    a = End.at(tmp_path / "a", UNAUTHENTICATED).converse(Role.A)
    b = End.at(tmp_path / "b", "tofu").converse(Role.B)
    carry(a, b)
    for end in (a, b):
        assert isinstance(end.error, NoCommonTEPError)
        assert end.failure is Failure.NO_COMMON_TEP
        assert told(end).states == [State.FAIL]


def test_a_peer_in_plain_tcp_is_told_nothing(tmp_path: Path) -> None:
    b = End.at(tmp_path / "b").converse(Role.B)
    b.receive_data(b"SSH-2.0-OpenSSH_9.2\r\n")
    assert b.failure is Failure.NO_ENCRYPTION
    assert taken(b) == b""


def test_abandoning_is_idempotent() -> None:
    preface = Preface(Config(), Role.A)
    preface.abandon()
    preface.abandon()


def agree(usual: tuple[Usual, Usual]) -> tuple[Preface, Preface]:
    config = Config(teps=(0x23,))
    a = Preface(config, Role.A, usual=usual[0])
    b = Preface(config, Role.B, usual=usual[1])
    assert b.receive(a.to_send + b"Init1") == b"Init1"
    assert a.receive(b.to_send + b"Init2") == b"Init2"
    return a, b


def test_what_is_usual_is_negotiated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Usual(), Usual()
    first = agree(usual)
    made = []
    monkeypatch.setattr(Preface, "_negotiate", lambda *_: made.append(1))
    again = agree(usual)
    assert not made
    for one, other in zip(first, again, strict=True):
        assert one.outcome == other.outcome
        assert one.to_send == other.to_send
        assert one.only_offer == other.only_offer
        assert (one.sent_len, one.received_len) == (other.sent_len, other.received_len)


def test_another_answer_than_the_usual_one_is_judged_for_itself() -> None:
    """Also where the own offer came from what is usual, and nobody has negotiated yet."""
    usual = Usual(), Usual()
    agree(usual)
    a = Preface(Config(teps=(0x23,)), Role.A, usual=usual[0])
    with pytest.raises(NoEncryptionError):
        a.receive(HEAD + bytes.fromhex("45 04 01 24"))
    a = Preface(Config(teps=(0x23,)), Role.A, usual=usual[0])
    a.receive(HEAD + bytes.fromhex("45 04 03 23"))
    assert a.outcome is not None
    assert a.outcome.peer_application_aware


def test_who_may_resume_does_not_offer_what_is_usual(tmp_path: Path) -> None:
    ends = End.at(tmp_path / "a", "tofu"), End.at(tmp_path / "b", "tofu")
    for turn in range(4):
        a, b = connected(*ends)
        assert a.resumed is b.resumed is (turn > 0)
        finished(a, b)
    ends[0].keys.outgoing.flush()
    assert connected(*ends)[0].resumed is False


def test_options_that_peers_make_up_are_not_kept_without_bound() -> None:
    usual = Usual()
    for number in range(300):
        other = bytes((0x25 + number % 80, 0x24 if number < 80 else 0x22, 0x23, 0x7F - number % 7))
        b = Preface(Config(teps=(0x23,)), Role.B, usual=usual)
        with contextlib.suppress(NoEncryptionError):
            b.receive(HEAD + bytes((0x45, 2 + len(other))) + other)
        assert len(usual.outcomes) <= 64
    assert usual.outcomes
