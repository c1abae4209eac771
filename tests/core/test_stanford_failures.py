"""What ends or deceives the real Stanford daemon, tried against ours.

Each ends in a fresh exchange, in plain TCP, or in a clean abort; never in an
exception, and never in a byte that the peer did not send.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.hosts import Host, connect, data_of, drain, events, exchange, outcome, region

from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Aborted
from tcpcrypt.core.negotiation import Fallback, Negotiated, Opener
from tcpcrypt.core.session import Session
from tcpcrypt.errors import FallbackReason, IntegrityError, PeerError, PeerReason
from tcpcrypt.registry import ENO_EXID
from tcpcrypt.wire.profile import STANFORD

UNKNOWN = bytes.fromhex("a1") + bytes(range(100, 109))


def host(**more) -> Host:
    return Host(Config(profile=STANFORD, teps=(0x21, 0x22), aeads=(1, 2), **more))


def option(contents: bytes) -> bytes:
    return bytes((0xFD, 4 + len(contents))) + ENO_EXID + contents


def answer(contents: bytes) -> bytes | FallbackReason:
    """What a passive opener sends in its SYN-ACK, or why it goes on in plain TCP."""
    negotiation = host().negotiation(Opener.PASSIVE)
    negotiation.segment_received(syn=True, ack=False, options=region(option(contents)))
    if isinstance(negotiation.outcome, Fallback):
        return negotiation.outcome.reason
    return negotiation.option_to_send(syn=True, ack=True, room=40)


@pytest.mark.parametrize(
    ("contents", "answered"),
    [
        # The first suboption is unknown and another follows: a segmentation fault there.
        ("0121", option(b"\x21")),
        ("2321", option(b"\x21")),
        ("0123", FallbackReason.NO_COMMON_TEP),
        ("2322", option(b"\x22")),
        # Unknown session, no TEP beside it: an assertion there.
        (UNKNOWN.hex(), option(b"\x21")),
        ("21" + UNKNOWN.hex(), option(b"\x21")),
        ("2122" + UNKNOWN.hex(), option(b"\x21")),
        # Nothing at all, and nothing that is known.
        ("", FallbackReason.NO_COMMON_TEP),
        ("30", FallbackReason.NO_COMMON_TEP),
        ("a1", option(b"\x21")),
        ("9f", FallbackReason.ILL_FORMED),
    ],
)
def test_syns_that_end_the_real_daemon(contents: str, answered: bytes | FallbackReason) -> None:
    assert answer(bytes.fromhex(contents)) == answered


@given(st.binary(max_size=36))
def test_any_syn_is_answered_or_left_alone(contents: bytes) -> None:
    found = answer(contents)
    assert isinstance(found, FallbackReason) or found.startswith(b"\xfd")


@given(st.binary(max_size=36))
def test_any_syn_ack_is_taken_or_left_alone(contents: bytes) -> None:
    negotiation = host().negotiation(Opener.ACTIVE)
    negotiation.option_to_send(syn=True, ack=False, room=40)
    negotiation.segment_received(syn=True, ack=True, options=region(option(contents)))
    if negotiation.outcome is None:
        negotiation.option_to_send(syn=False, ack=True, room=40)
    assert isinstance(negotiation.outcome, Fallback | Negotiated)


def test_bytes_of_a_session_id_do_not_make_a_peer_application_aware() -> None:
    """There the search for the bit runs over the session ID, too."""
    for octet in (0x02, 0x03, 0x06, 0x0F):
        negotiation = host().negotiation(Opener.PASSIVE)
        syn = option(b"\x21\xa1" + bytes([octet]) * 9)
        negotiation.segment_received(syn=True, ack=False, options=region(syn))
        assert negotiation.option_to_send(syn=True, ack=True, room=40) == option(b"\x21")
        negotiation.segment_received(syn=False, ack=True, options=region(option(b"")))
        assert outcome(negotiation).peer_application_aware is False


def aborted(session: Session) -> PeerError:
    found = events(session)
    assert isinstance(found[-1], Aborted), found
    assert drain(session) == b""
    return found[-1].error


@pytest.mark.parametrize("at", [0, 1, 2, 3, 10, 40])
def test_a_segment_that_was_tampered_with_ends_the_connection(at: int) -> None:
    """There it is left out, and what follows is delivered in its place."""
    one, other = connect(host(), host())
    exchange(one, other)
    events(one)
    one.send_data(b"first")
    wire = bytearray(drain(one))
    one.send_data(b"x" * 30)
    wire += drain(one)
    tampered = bytearray(wire)
    tampered[len(wire) - 50 + at] ^= 0x40
    one.send_data(b"what comes after it")
    other.receive_data(tampered)
    other.receive_data(drain(one) + bytes(0x4000))
    found = data_of(events(other))
    assert found == b"first"
    assert other.error is not None
    assert other.error.reason in {PeerReason.FRAME_TAG, PeerReason.FRAME_TOO_SHORT}


def test_behind_a_gap_nothing_is_taken() -> None:
    """There what is sent again after a loss may be sealed in the wrong place."""
    one, other = connect(host(), host())
    exchange(one, other)
    events(other)
    one.send_data(b"before")
    other.receive_data(drain(one))
    other.receive_disorder()
    one.send_data(b"sealed for this place, but not meant for it")
    other.receive_data(drain(one))
    found = events(other)
    assert data_of(found) == b"before"
    assert isinstance(found[-1], Aborted)
    assert found[-1].error.reason is PeerReason.REPEATED_ANEW


def test_a_frame_cannot_be_replayed_or_left_out() -> None:
    for replayed in (True, False):
        one, other = connect(host(), host())
        exchange(one, other)
        frames = []
        for data in (b"first", b"second", b"third"):
            one.send_data(data)
            frames.append(drain(one))
        other.receive_data(frames[0])
        other.receive_data(frames[0] if replayed else frames[2])
        assert isinstance(aborted(other), IntegrityError)


@pytest.mark.parametrize("control", [0x01, 0x80, 0xFF])
def test_control_bits_that_the_profile_does_not_have(control: int) -> None:
    one, other = connect(host(), host())
    exchange(one, other)
    one.send_data(b"first")
    frame = bytearray(drain(one))
    frame[0] = control
    other.receive_data(frame)
    assert aborted(other).reason in set(PeerReason)
    assert data_of(events(other)) == b""


@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_in_the_place_of_init1_end_in_an_abort_or_wait(data: bytes) -> None:
    """There a wrong message lets the connection go on in plain TCP."""
    _one, other = connect(host(), host())
    other.receive_data(data)
    assert not other.established
    assert drain(other) == b""
    if other.error is not None:
        with pytest.raises(PeerError):
            other.send_data(b"in the clear?")


def test_an_init1_that_is_lost_and_comes_again_is_one_init1() -> None:
    """There the copy that a lost ACK brings about is an assertion; here TCP sees to it."""
    one, other = connect(host(), host())
    init1 = bytes(one.bytes_to_send())
    for at in range(0, len(init1), 7):  # in whatever pieces
        other.receive_data(init1[at : at + 7])
    one.receive_data(other.bytes_to_send())
    one.send_data(b"question")
    exchange(one, other)
    assert data_of(events(other)) == b"question"


def test_a_session_is_resumed_once_whoever_asks() -> None:
    """A SYN that is repeated by somebody else does not get the keys of the first one."""
    client, server = host(), host()
    exchange(*connect(client, server))
    active = client.negotiation(Opener.ACTIVE)
    syn = active.option_to_send(syn=True, ack=False, room=40)
    assert b"\xa1" in syn
    answers = []
    for _ in range(3):
        passive = server.negotiation(Opener.PASSIVE)
        passive.segment_received(syn=True, ack=False, options=region(syn))
        answers.append(passive.option_to_send(syn=True, ack=True, room=40))
        passive.segment_received(syn=False, ack=True, options=region(b""))
    assert answers == [option(b"\xa1"), option(b"\x21"), option(b"\x21")]
