"""Options that someone on the path takes out or changes: nobody ends up with less."""

import pytest
from support.hosts import Host, drain, fallback, outcome, region
from support.terms import TA, Conditions, identity, ta_host

from tcpcrypt.core.negotiation import Negotiation, Opener
from tcpcrypt.errors import FallbackReason

A_KEY, B_KEY = identity(1), identity(2)
STRICT, EITHER = (TA,), (TA, 0x23)


def hosts(teps: tuple[int, ...], versions: tuple[int, ...] = (1,)) -> tuple[Host, Host]:
    return (
        ta_host(Conditions(A_KEY, versions), teps),
        ta_host(Conditions(B_KEY, (2, 1)), EITHER),
    )


def through(
    client: Host, server: Host, *, syn: bytes | None = None, synack: bytes | None = None
) -> tuple[Negotiation, Negotiation, bytes, bytes]:
    """A handshake in which these options take the places of those that were sent."""
    active, passive = client.negotiation(Opener.ACTIVE), server.negotiation(Opener.PASSIVE)
    sent = active.option_to_send(syn=True, ack=False, room=40)
    passive.segment_received(syn=True, ack=False, options=region(sent if syn is None else syn))
    answer = passive.option_to_send(syn=True, ack=True, room=40)
    given = answer if synack is None else synack
    active.segment_received(syn=True, ack=True, options=region(given))
    ack = active.option_to_send(syn=False, ack=True, room=40)
    passive.segment_received(syn=False, ack=True, options=region(ack))
    return active, passive, sent, answer


@pytest.mark.parametrize("synack", ["", "450301", "45040123", "450401a0", "450701a0544102"])
def test_a_strict_a_takes_nothing_else_than_what_it_offered(synack: str) -> None:
    """ENO dropped, an empty answer, a plain TEP, data cut off, another version.

    Policy then refuses the connection (`require_encryption`); see the daemon's tests.
    """
    active, _, sent, _ = through(*hosts(STRICT), synack=bytes.fromhex(synack))
    assert sent.hex() == "4506a0544101"
    wanted = FallbackReason.NO_COMMON_TEP if synack else FallbackReason.NO_ENO_IN_SYN_ACK
    assert fallback(active).reason is wanted


@pytest.mark.parametrize("syn", ["", "450323"])
def test_a_strict_a_whose_offer_was_stripped_gets_no_session(syn: str) -> None:
    active, _, _, answer = through(*hosts(STRICT), syn=bytes.fromhex(syn))
    assert answer.hex() == ("45040123" if syn else "")
    fallback(active)


def test_0x20_stripped_from_an_offer_of_both_opens_no_frame() -> None:
    """Who only removes it gains nothing: the options as sent are in the keys."""
    client, server = hosts(EITHER)
    active, passive, sent, _ = through(client, server, syn=bytes.fromhex("450323"))
    assert sent.hex() == "450723a0544101"
    assert outcome(active).tep == outcome(passive).tep == 0x23
    one, other = client.session(active), server.session(passive)
    one.send_data(b"secret")
    other.receive_data(drain(one))
    one.receive_data(drain(other))
    other.receive_data(drain(one))
    assert other.error is not None


@pytest.mark.parametrize("synack", [None, "450701a0544102", "450701a0544101"])
def test_version_2_stripped_is_no_session_of_version_1(synack: str | None) -> None:
    """The SYN says version 2 to A and 1 to B; whatever B's answer is made to be."""
    client, server = hosts(STRICT, (2,))
    active, passive, sent, answer = through(
        client,
        server,
        syn=bytes.fromhex("4506a0544101"),
        synack=None if synack is None else bytes.fromhex(synack),
    )
    assert sent.hex() == "4506a0544102"
    assert answer.hex() == "450701a0544101"
    if synack != "450701a0544102":
        assert fallback(active).reason is FallbackReason.NO_COMMON_TEP
        return
    one, other = client.session(active), server.session(passive)
    other.receive_data(drain(one))
    one.receive_data(drain(other))
    assert other.error is not None
    assert not one.established
    assert not other.established


def test_a_resumption_stripped_to_a_fresh_offer_aborts() -> None:
    client, server = hosts(STRICT)
    active, passive, *_ = through(client, server)
    one, other = client.session(active), server.session(passive)
    for _ in range(2):
        other.receive_data(drain(one))
        one.receive_data(drain(other))
    assert other.peer_proved
    active, passive, sent, _ = through(client, server, syn=bytes.fromhex("4506a0544101"))
    assert len(sent) == 20
    one, other = client.session(active), server.session(passive)
    assert not one.resumed
    other.receive_data(drain(one))
    one.receive_data(drain(other))
    assert one.error is not None
    assert not other.established


def test_an_answer_with_another_identifier_is_ignored() -> None:
    client, server = hosts(STRICT)
    synack = bytes.fromhex("451401a0544101" + "77" * 13)
    active, *_ = through(client, server, synack=synack)
    assert fallback(active).reason is FallbackReason.RESUMPTION_MISMATCH


def test_global_bits_are_bound_in_a_resumed_session_too() -> None:
    """RFC 8548 does not bind them there: with a plain TEP the change goes unseen."""
    for teps, unseen in ((STRICT, False), ((0x23,), True)):
        client = ta_host(Conditions(A_KEY), teps)
        server = ta_host(Conditions(B_KEY), teps)
        active, passive, *_ = through(client, server)
        one, other = client.session(active), server.session(passive)
        one.send_data(b"x")
        for _ in range(2):
            other.receive_data(drain(one))
            one.receive_data(drain(other))
        active, passive = client.negotiation(Opener.ACTIVE), server.negotiation(Opener.PASSIVE)
        syn = active.option_to_send(syn=True, ack=False, room=40)
        passive.segment_received(syn=True, ack=False, options=region(syn))
        answer = bytearray(passive.option_to_send(syn=True, ack=True, room=40))
        answer[2] |= 2
        active.segment_received(syn=True, ack=True, options=region(bytes(answer)))
        ack = active.option_to_send(syn=False, ack=True, room=40)
        passive.segment_received(syn=False, ack=True, options=region(ack))
        assert outcome(active).resuming
        one, other = client.session(active), server.session(passive)
        one.send_data(b"x")
        other.receive_data(drain(one))
        assert (other.error is None) is unseen
