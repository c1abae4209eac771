"""RFC 8547 through `Negotiation`: what is sent, what is accepted, how it ends."""

import pytest
from support.hosts import (
    Host,
    Seen,
    connect,
    events,
    exchange,
    fallback,
    negotiate,
    outcome,
    region,
    simultaneous,
)

from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Aborted, Established, Role
from tcpcrypt.core.negotiation import Negotiation, Opener
from tcpcrypt.errors import FallbackReason, LocalError, PeerReason

X25519 = Config(teps=(0x23,))


def active(config: Config = X25519, **more) -> Negotiation:
    return Negotiation(config, Opener.ACTIVE, **more)


def passive(config: Config = X25519, **more) -> Negotiation:
    return Negotiation(config, Opener.PASSIVE, **more)


def answer_to(option: str, config: Config = X25519) -> tuple[Negotiation, bytes]:
    """What a passive opener says to a SYN with this option region."""
    n = passive(config)
    n.segment_received(syn=True, ack=False, options=region(bytes.fromhex(option)))
    return n, n.option_to_send(syn=True, ack=True, room=40)


def after_answer(option: str, config: Config = X25519) -> Negotiation:
    """An active opener that received a SYN-ACK with this option region."""
    n = active(config)
    n.option_to_send(syn=True, ack=False, room=40)
    n.segment_received(syn=True, ack=True, options=region(bytes.fromhex(option)))
    return n


def test_wire_of_the_three_way_handshake() -> None:
    """RFC 8547 sections 4.1, 4.6 and 4.8, byte for byte."""
    a, b = active(), passive()
    seen = negotiate(a, b)
    assert [option.hex() for *_, option in seen.segments] == ["450323", "45040123", "4502"]
    for n, role in ((a, Role.A), (b, Role.B)):
        result = outcome(n)
        assert result.role is role
        assert result.tep == result.tep_byte == 0x23
        assert result.eno_transcript.hex() == "45032345040123"
        assert not result.resuming
        assert (result.nonce_a, result.nonce_b) == (b"", b"")
    assert b.finished
    assert not a.finished


def test_47_4_6_active_opener_repeats_eno_until_first_non_syn_segment() -> None:
    a, b = active(), passive()
    negotiate(a, b)
    assert a.option_to_send(syn=False, ack=True, room=40).hex() == "4502"
    assert a.option_to_send(syn=False, ack=True, room=1) == b""
    a.segment_received(syn=True, ack=True, options=b"")  # a SYN-ACK again: not a non-SYN segment
    assert a.option_to_send(syn=False, ack=True, room=40).hex() == "4502"
    a.segment_received(syn=False, ack=True, options=b"")
    assert a.finished
    assert a.option_to_send(syn=False, ack=True, room=40) == b""
    assert b.option_to_send(syn=False, ack=True, room=40) == b""


def test_47_4_6_syn_form_option_is_frozen_across_retransmissions() -> None:
    a, b = active(), passive()
    first = a.option_to_send(syn=True, ack=False, room=40)
    assert a.option_to_send(syn=True, ack=False, room=20) == first
    b.segment_received(syn=True, ack=False, options=region(first))
    b.segment_received(syn=True, ack=False, options=region(first))
    answer = b.option_to_send(syn=True, ack=True, room=40)
    b.segment_received(syn=True, ack=False, options=region(first))
    assert b.option_to_send(syn=True, ack=True, room=40) == answer
    a.segment_received(syn=True, ack=True, options=region(answer))
    assert a.option_to_send(syn=True, ack=False, room=40) == first
    a.segment_received(syn=True, ack=True, options=region(answer))
    assert a.option_to_send(syn=False, ack=True, room=40).hex() == "4502"
    outcome(a)


@pytest.mark.parametrize(
    ("lost", "client", "server"),
    [
        ("syn", FallbackReason.NO_ENO_IN_SYN_ACK, FallbackReason.NO_ENO_IN_SYN),
        ("synack", FallbackReason.NO_ENO_IN_SYN_ACK, FallbackReason.NO_ENO_IN_FIRST_ACK),
    ],
)
def test_47_4_6_stripped_option_falls_back_on_both_sides(lost, client, server) -> None:
    a, b = active(), passive()
    seen = negotiate(a, b, strip={lost})
    assert fallback(a).reason is client
    assert fallback(b).reason is server
    assert a.finished
    assert b.finished
    assert seen.segments[-1][-1] == b""
    for n in (a, b):
        assert n.option_to_send(syn=False, ack=True, room=40) == b""
        assert n.option_to_send(syn=True, ack=True, room=40) == b""


def test_47_9_first_ack_stripped_leaves_a_enabled_and_b_plain() -> None:
    """The RFC's type-2 middlebox failure: A never goes back, B never went."""
    a, b = active(), passive()
    negotiate(a, b, strip={"ack"})
    outcome(a)
    assert fallback(b).reason is FallbackReason.NO_ENO_IN_FIRST_ACK


def test_47_4_2_syn_ack_always_has_an_explicit_global_suboption_with_b() -> None:
    for syn in ("450323", "450421a3", "45 05 20 23 a1".replace(" ", "")):
        _, answer = answer_to(syn)
        assert answer[2] & 0x01


@pytest.mark.parametrize(
    ("syn", "reason"),
    [
        ("", FallbackReason.NO_ENO_IN_SYN),
        ("4502", FallbackReason.NO_COMMON_TEP),
        ("450300", FallbackReason.NO_COMMON_TEP),
        ("450321", FallbackReason.NO_COMMON_TEP),
        ("4504 23 23", FallbackReason.NO_COMMON_TEP),
        ("45030123", FallbackReason.ILL_FORMED),
        ("45040123", FallbackReason.SAME_ROLE),
        ("450323450323", FallbackReason.DUPLICATE_ENO),
        ("450323fd05454e23", FallbackReason.DUPLICATE_ENO),
        ("45048023", FallbackReason.ILL_FORMED),
        ("450380", FallbackReason.ILL_FORMED),
        ("45ff23", FallbackReason.ILL_FORMED),
        ("fd05454e23", FallbackReason.NO_ENO_IN_SYN),
    ],
)
def test_47_4_6_unusable_syn_is_answered_in_silence(syn: str, reason: FallbackReason) -> None:
    n, answer = answer_to(syn)
    assert answer == b""
    assert fallback(n).reason is reason


@pytest.mark.parametrize(
    ("synack", "reason"),
    [
        ("", FallbackReason.NO_ENO_IN_SYN_ACK),
        ("450323", FallbackReason.SAME_ROLE),  # an echo of the SYN's own option
        ("450301", FallbackReason.NO_COMMON_TEP),  # vacuous
        ("45040124", FallbackReason.NO_COMMON_TEP),
        ("4505012323", FallbackReason.NO_COMMON_TEP),
        ("450401a3", FallbackReason.NO_COMMON_TEP),  # E10: v=1 that was not asked for
        ("450d01a3" + "00" * 9, FallbackReason.RESUMPTION_MISMATCH),
        ("450380", FallbackReason.ILL_FORMED),
        ("45040123" * 2, FallbackReason.DUPLICATE_ENO),
    ],
)
def test_47_4_6_unusable_syn_ack_ends_in_plain_tcp(synack: str, reason: FallbackReason) -> None:
    n = after_answer(synack)
    assert fallback(n).reason is reason
    assert n.option_to_send(syn=False, ack=True, room=40) == b""


def test_47_4_5_last_valid_tep_of_b_wins_whatever_a_prefers() -> None:
    config = Config(teps=(0x23, 0x21, 0x24))
    n = after_answer("450501" + "2324", config)
    assert n.option_to_send(syn=False, ack=True, room=40)
    assert outcome(n).tep == 0x24
    n = after_answer("4506 01 23 24 22", config)
    n.option_to_send(syn=False, ack=True, room=40)
    assert outcome(n).tep == 0x24, "0x22 was not offered, so it is not valid"


def test_47_4_5_b_answers_with_the_one_tep_it_prefers() -> None:
    assert answer_to("4505212324", Config(teps=(0x24, 0x23)))[1].hex() == "45040124"
    assert answer_to("4505212324", Config(teps=(0x21, 0x23)))[1].hex() == "45040121"


def test_48_3_5_v_bit_with_under_nine_bytes_is_a_fresh_offer() -> None:
    for data in range(9):
        assert answer_to(f"{0x45:02x}{3 + data:02x}a3" + "aa" * data)[1].hex() == "45040123"


def test_e9_too_long_resumption_data_is_a_fresh_offer() -> None:
    assert answer_to("4515a3" + "aa" * 18)[1].hex() == "45040123"
    assert answer_to("4514a3" + "aa" * 17)[1].hex() == "45040123"


def test_47_4_2_application_awareness_is_sent_and_read() -> None:
    aware = Config(teps=(0x23,), application_aware=True)
    a, b = active(aware), passive(aware)
    seen = negotiate(a, b)
    assert [option.hex() for *_, option in seen.segments] == ["45040223", "45040323", "4502"]
    assert outcome(a).peer_application_aware
    assert outcome(b).peer_application_aware
    a, b = active(aware), passive()
    negotiate(a, b)
    assert not outcome(a).peer_application_aware
    assert outcome(b).peer_application_aware


def test_47_4_2_mandatory_application_aware_mode() -> None:
    strict = Config(teps=(0x23,), application_aware=True, require_application_aware=True)
    a, b = active(), passive(strict)
    negotiate(a, b)
    assert fallback(b).reason is FallbackReason.NOT_APPLICATION_AWARE
    a, b = active(strict), passive()
    negotiate(a, b)
    assert fallback(a).reason is FallbackReason.NOT_APPLICATION_AWARE
    a, b = active(strict), passive(strict)
    negotiate(a, b)
    outcome(a)


def test_47_4_4_simultaneous_open_needs_one_b() -> None:
    ours = Config(teps=(0x24, 0x23), active_b=True)
    a, b = active(Config(teps=(0x23, 0x24))), active(ours)
    simultaneous(a, b)
    assert outcome(a).role is Role.A
    assert outcome(b).role is Role.B
    assert outcome(a).tep == outcome(b).tep == 0x24, "B's order, increasing preference"
    assert outcome(a).eno_transcript == outcome(b).eno_transcript
    assert a.option_to_send(syn=False, ack=True, room=40).hex() == "4502"


def test_47_4_3_simultaneous_open_without_b_ends_plain() -> None:
    a, b = active(), active()
    simultaneous(a, b)
    assert fallback(a).reason is FallbackReason.SAME_ROLE
    assert fallback(b).reason is FallbackReason.SAME_ROLE


def test_47_4_6_simultaneous_open_in_other_orders() -> None:
    b_config = Config(teps=(0x23,), active_b=True)
    # The peer's SYN-ACK comes before the own one leaves.
    a, b = active(), active(b_config)
    syn_a = a.option_to_send(syn=True, ack=False, room=40)
    syn_b = b.option_to_send(syn=True, ack=False, room=40)
    a.segment_received(syn=True, ack=False, options=region(syn_b))
    assert a.option_to_send(syn=True, ack=False, room=40) == syn_a
    a.segment_received(syn=True, ack=True, options=region(syn_b))
    assert a.outcome is None
    assert a.option_to_send(syn=True, ack=True, room=40) == syn_a
    outcome(a)
    # The SYN-ACK is lost, an ACK with ENO comes instead.
    a = active()
    a.option_to_send(syn=True, ack=False, room=40)
    a.segment_received(syn=True, ack=False, options=region(syn_b))
    assert a.option_to_send(syn=True, ack=True, room=40) == syn_a
    assert a.option_to_send(syn=False, ack=True, room=40).hex() == "4502"
    a.segment_received(syn=False, ack=True, options=region(b"\x45\x02"))
    outcome(a)


def test_47_4_6_syn_ack_of_simultaneous_open_must_repeat_the_syn() -> None:
    b = active(Config(teps=(0x23,), active_b=True))
    b.option_to_send(syn=True, ack=False, room=40)
    b.segment_received(syn=True, ack=False, options=region(bytes.fromhex("450323")))
    b.segment_received(syn=True, ack=True, options=region(bytes.fromhex("4504 00 23")))
    assert fallback(b).reason is FallbackReason.SYN_CHANGED


def test_47_4_6_retransmitted_syn_without_eno_means_plain_tcp() -> None:
    b = passive()
    b.segment_received(syn=True, ack=False, options=region(bytes.fromhex("450323")))
    b.segment_received(syn=True, ack=False, options=b"")
    assert fallback(b).reason is FallbackReason.NO_ENO_IN_SYN
    assert b.option_to_send(syn=True, ack=True, room=40) == b""


def test_no_room_takes_fewer_suboptions_then_none() -> None:
    config = Config(teps=(0x23, 0x24, 0x21))
    for room, expected in ((5, "4505212423"), (4, "45042423"), (3, "450323")):
        n = active(config)
        assert n.option_to_send(syn=True, ack=False, room=room).hex() == expected
    n = active(config)
    assert n.option_to_send(syn=True, ack=False, room=2) == b""
    assert fallback(n).reason is FallbackReason.NO_OPTION_SPACE


def test_no_room_in_a_retransmission_drops_eno_for_good() -> None:
    """RFC 8547 section 4.6: an active opener may drop ENO from a SYN-only segment."""
    n = active()
    n.option_to_send(syn=True, ack=False, room=40)
    assert n.option_to_send(syn=True, ack=False, room=0) == b""
    assert fallback(n).reason is FallbackReason.SYN_RETRANSMITTED_PLAIN


def test_no_room_in_the_syn_ack_or_first_ack() -> None:
    a, b = active(), passive()
    negotiate(a, b, passive_room=3)
    assert fallback(b).reason is FallbackReason.NO_OPTION_SPACE
    b = passive()
    b.segment_received(syn=True, ack=False, options=region(bytes.fromhex("450323")))
    assert b.option_to_send(syn=True, ack=True, room=4)
    assert b.option_to_send(syn=True, ack=True, room=0) == b""
    assert fallback(b).reason is FallbackReason.NO_OPTION_SPACE
    n = after_answer("45040123")
    assert n.option_to_send(syn=False, ack=True, room=1) == b""
    assert fallback(n).reason is FallbackReason.NO_OPTION_SPACE


def test_no_room_after_enabling_never_goes_back() -> None:
    a, b = active(), passive()
    negotiate(a, b)
    assert b.option_to_send(syn=True, ack=True, room=0) == b""
    outcome(b)


def test_disabled_configuration_is_silent() -> None:
    off = Config(enabled=False)
    for n in (active(off), passive(off)):
        assert fallback(n).reason is FallbackReason.DISABLED
        assert n.option_to_send(syn=True, ack=n is not None, room=40) == b""
        n.segment_received(syn=True, ack=True, options=region(bytes.fromhex("45040123")))
        assert fallback(n).reason is FallbackReason.DISABLED


def test_segments_out_of_place() -> None:
    n = passive()
    with pytest.raises(LocalError, match="cannot send SYN-ACK in state start"):
        n.option_to_send(syn=True, ack=True, room=40)
    n.segment_received(syn=False, ack=True, options=region(b"\x45\x02"))
    assert fallback(n).reason is FallbackReason.OUT_OF_ORDER


def test_a_segment_that_tcp_would_not_take_decides_nothing() -> None:
    """RFC 9293 section 3.10.7.3: a challenge ACK in SYN-SENT; segments without ACK."""
    n = active()
    n.option_to_send(syn=True, ack=False, room=40)
    for option in (b"", b"\x45\x02"):
        n.segment_received(syn=False, ack=True, options=region(option))
    n.segment_received(syn=True, ack=True, options=bytes.fromhex("45040123"))
    assert n.option_to_send(syn=False, ack=True, room=40).hex() == "4502"
    assert not n.finished
    b = passive()
    b.segment_received(syn=True, ack=False, options=region(bytes.fromhex("450323")))
    b.option_to_send(syn=True, ack=True, room=40)
    b.segment_received(syn=False, ack=False, options=region(b"\x45\x02"))
    assert b.outcome is None


def test_encryption_needs_both_options() -> None:
    n = active()
    assert not n.finished
    with pytest.raises(LocalError, match="both options"):
        n._enable()


def test_47_4_7_non_syn_contents_and_repetition_are_ignored() -> None:
    for ack in ("450580ff00", "45024502", "4502fd04454e"):
        b = passive()
        b.segment_received(syn=True, ack=False, options=region(bytes.fromhex("450323")))
        b.option_to_send(syn=True, ack=True, room=40)
        b.segment_received(syn=False, ack=True, options=region(bytes.fromhex(ack)))
        outcome(b)
    b = passive()
    b.segment_received(syn=True, ack=False, options=region(bytes.fromhex("450323")))
    b.option_to_send(syn=True, ack=True, room=40)
    b.segment_received(syn=False, ack=True, options=bytes.fromhex("4501"))
    assert fallback(b).reason is FallbackReason.ILL_FORMED


# --- resumption ----------------------------------------------------------------


def used(client: Host, server: Host) -> None:
    """One fresh connection, so that both caches hold a secret."""
    exchange(*connect(client, server))


def test_48_3_5_resumption_suboptions_on_the_wire() -> None:
    client, server = Host(X25519), Host(X25519)
    used(client, server)
    a, b = client.negotiation(Opener.ACTIVE), server.negotiation(Opener.PASSIVE)
    syn, synack, ack = (option for *_, option in negotiate(a, b).segments)
    assert syn[:3].hex() == "4514a3"
    assert len(syn) == 3 + 9 + 8
    assert synack[:4].hex() == "451501a3"
    assert len(synack) == 4 + 9 + 8
    assert ack.hex() == "4502"
    ra, rb = outcome(a), outcome(b)
    assert ra.resuming
    assert rb.resuming
    assert ra.tep_byte == rb.tep_byte == 0xA3
    assert (ra.nonce_a, ra.nonce_b) == (syn[12:], synack[13:]) == (rb.nonce_a, rb.nonce_b)


def test_48_3_5_other_teps_may_stand_beside_a_resumption() -> None:
    client, server = Host(), Host()
    used(client, server)
    n = client.negotiation(Opener.ACTIVE)
    option = n.option_to_send(syn=True, ack=False, room=40)
    assert option[:5].hex() == "45162124a3"
    used(client, server)
    assert client.negotiation(Opener.ACTIVE).option_to_send(syn=True, ack=False, room=20)[2] == 0xA3


def test_48_3_5_roles_swap_and_nonces_follow_the_original_roles() -> None:
    client, server = Host(X25519), Host(X25519)
    used(client, server)
    a, b = server.negotiation(Opener.ACTIVE), client.negotiation(Opener.PASSIVE)
    syn, synack, _ = (option for *_, option in negotiate(a, b).segments)
    for result in (outcome(a), outcome(b)):
        assert result.resuming
        assert (result.nonce_b, result.nonce_a) == (syn[12:], synack[13:])
    one, other = server.session(a), client.session(b)
    one.send_data(b"from the original B")
    exchange(one, other)
    assert one.session_id == other.session_id
    assert one.session_id[0] == 0xA3


def test_48_3_5_every_attempt_burns_an_index() -> None:
    """Lowest i not yet used, successfully or not; the window bridges lost ones."""
    client, server = Host(X25519), Host(X25519)
    used(client, server)
    identifiers = set()
    for _ in range(3):
        lost = client.negotiation(Opener.ACTIVE)
        identifiers.add(lost.option_to_send(syn=True, ack=False, room=40)[3:12])
        lost.abandon()
    assert len(identifiers) == 3
    a, b = client.negotiation(Opener.ACTIVE), server.negotiation(Opener.PASSIVE)
    negotiate(a, b)
    a.abandon()  # what has its outcome stays so
    assert outcome(a).resuming
    assert outcome(b).resuming
    # Past the window the secret is not recognised any more: a fresh exchange.
    for _ in range(4):
        lost = client.negotiation(Opener.ACTIVE)
        lost.option_to_send(syn=True, ack=False, room=40)
        lost.abandon()
    a, b = client.negotiation(Opener.ACTIVE), server.negotiation(Opener.PASSIVE)
    negotiate(a, b)
    assert not outcome(a).resuming
    assert not outcome(b).resuming
    assert outcome(a).tep_byte == 0x23


def test_48_3_5_a_syn_alone_moves_nothing_and_a_replay_cannot_resume() -> None:
    client, server = Host(X25519), Host(X25519)
    used(client, server)
    a = client.negotiation(Opener.ACTIVE)
    syn = a.option_to_send(syn=True, ack=False, room=40)
    first, replay = server.negotiation(Opener.PASSIVE), server.negotiation(Opener.PASSIVE)
    for b, answer in ((first, "451501a3"), (replay, "45040123")):
        b.segment_received(syn=True, ack=False, options=region(syn))
        assert b.option_to_send(syn=True, ack=True, room=40)[:4].hex() == answer
        assert len(server.cache) == 1
    for b in (replay, first):
        b.segment_received(syn=False, ack=True, options=region(b"\x45\x02"))
    assert not outcome(replay).resuming
    assert outcome(first).ticket is not None
    late = server.negotiation(Opener.PASSIVE)
    late.segment_received(syn=True, ack=False, options=region(syn))
    assert late.option_to_send(syn=True, ack=True, room=40).hex() == "45040123"


def test_48_3_5_a_secret_that_is_gone_when_the_ack_comes_ends_the_connection() -> None:
    client, server = Host(X25519), Host(X25519)
    used(client, server)
    a, b = client.negotiation(Opener.ACTIVE), server.negotiation(Opener.PASSIVE)
    seen = Seen()
    seen.carry("A", a, b, syn=True, ack=False)
    seen.carry("B", b, a, syn=True, ack=True)
    server.cache.flush()
    seen.carry("A", a, b, syn=False, ack=True)
    assert outcome(b).ticket is None, "ss[i] secures one connection only"
    session = server.session(b)
    (event,) = events(session)
    assert isinstance(event, Aborted)
    assert event.error.reason is PeerReason.RESUMPTION_REPLAYED
    assert not session.established
    assert session.bytes_to_send() == b""


def test_48_3_5_parallel_opens_resume_once_and_make_fresh_exchanges_otherwise() -> None:
    client, server = Host(X25519), Host(X25519)
    used(client, server)
    actives = [client.negotiation(Opener.ACTIVE) for _ in range(3)]
    passives = [server.negotiation(Opener.PASSIVE) for _ in range(3)]
    seen = Seen()
    for a, b in zip(actives, passives, strict=True):
        seen.carry("A", a, b, syn=True, ack=False)
    for a, b in zip(actives, passives, strict=True):
        seen.carry("B", b, a, syn=True, ack=True)
    for a, b in zip(actives, passives, strict=True):
        seen.carry("A", a, b, syn=False, ack=True)
    assert [outcome(b).resuming for b in passives] == [True, False, False]
    for a, b in zip(actives, passives, strict=True):
        one, other = client.session(a), server.session(b)
        exchange(one, other)
        assert one.session_id == other.session_id


def test_48_3_5_a_handshake_that_fell_back_gives_its_secret_free() -> None:
    client, server = Host(X25519), Host(X25519)
    used(client, server)
    b = server.negotiation(Opener.PASSIVE)
    a = client.negotiation(Opener.ACTIVE)
    negotiate(a, b, strip={"ack"})
    fallback(b)
    a, b = client.negotiation(Opener.ACTIVE), server.negotiation(Opener.PASSIVE)
    negotiate(a, b)
    assert outcome(b).resuming


def test_48_3_5_unknown_identifier_is_answered_by_a_fresh_exchange() -> None:
    client, server = Host(), Host()
    used(client, server)
    server.cache.flush()
    a, b = client.negotiation(Opener.ACTIVE), server.negotiation(Opener.PASSIVE)
    negotiate(a, b)
    assert not outcome(a).resuming
    one, other = client.session(a), server.session(b)
    exchange(one, other)
    assert one.session_id == other.session_id


def test_48_3_5_no_resumption_where_configuration_forbids_it() -> None:
    client, server = Host(X25519), Host(X25519)
    used(client, server)
    never = Config(teps=(0x23,), resume=False)
    b = Negotiation(never, Opener.PASSIVE, resumption=server.cache)
    a = client.negotiation(Opener.ACTIVE)
    negotiate(a, b)
    assert not outcome(a).resuming
    a = Negotiation(never, Opener.ACTIVE, resumption=client.cache, peer=client.peer)
    assert a.option_to_send(syn=True, ack=False, room=40).hex() == "450323"
    last = Config(teps=(0x23,), cache=False)
    a = Negotiation(last, Opener.ACTIVE, resumption=client.cache, peer=client.peer)
    assert a.option_to_send(syn=True, ack=False, room=40)[2] == 0xA3
    assert len(client.cache) == 0, "the chain's last use"
    unkept = Host(Config(teps=(0x23,), cache=False))
    used(unkept, server)
    assert len(unkept.cache) == 0


def test_48_3_5_short_room_falls_to_a_fresh_exchange_on_both_sides() -> None:
    client, server = Host(X25519), Host(X25519)
    used(client, server)
    a = client.negotiation(Opener.ACTIVE)
    assert a.option_to_send(syn=True, ack=False, room=19).hex() == "450323"
    a, b = client.negotiation(Opener.ACTIVE), server.negotiation(Opener.PASSIVE)
    seen = negotiate(a, b, passive_room=20)
    assert seen.segments[1][-1].hex() == "45040123"
    assert not outcome(a).resuming
    one, other = client.session(a), server.session(b)
    exchange(one, other)
    assert one.session_id == other.session_id


def test_48_3_5_tep_no_longer_configured_is_not_offered() -> None:
    client, server = Host(X25519), Host(X25519)
    used(client, server)
    n = Negotiation(Config(teps=(0x24,)), Opener.ACTIVE, resumption=client.cache, peer=client.peer)
    assert n.option_to_send(syn=True, ack=False, room=40).hex() == "450324"


def test_48_3_5_simultaneous_open_may_resume() -> None:
    first = Host(X25519)
    second = Host(Config(teps=(0x23,), active_b=True))
    used(first, second)
    a, b = first.negotiation(Opener.ACTIVE), second.negotiation(Opener.ACTIVE)
    simultaneous(a, b)
    assert outcome(a).resuming
    assert outcome(b).resuming
    one, other = first.session(a), second.session(b)
    exchange(one, other)
    assert one.session_id == other.session_id
    # Incompatible halves: both go to a fresh exchange.
    first.negotiation(Opener.ACTIVE).option_to_send(syn=True, ack=False, room=40)
    a, b = first.negotiation(Opener.ACTIVE), second.negotiation(Opener.ACTIVE)
    simultaneous(a, b)
    assert not outcome(a).resuming
    assert not outcome(b).resuming
    one, other = first.session(a), second.session(b)
    exchange(one, other)
    assert one.session_id == other.session_id


def test_48_3_5_crossing_syns_of_two_connections_both_go_fresh() -> None:
    one, other = Host(X25519), Host(X25519)
    used(one, other)
    from_one, from_other = one.negotiation(Opener.ACTIVE), other.negotiation(Opener.ACTIVE)
    syns = [n.option_to_send(syn=True, ack=False, room=40) for n in (from_one, from_other)]
    at_other, at_one = other.negotiation(Opener.PASSIVE), one.negotiation(Opener.PASSIVE)
    at_other.segment_received(syn=True, ack=False, options=region(syns[0]))
    at_one.segment_received(syn=True, ack=False, options=region(syns[1]))
    seen = Seen()
    for passive_side, active_side in ((at_other, from_one), (at_one, from_other)):
        # Each side burned index i by opening, so it does not recognise the other's.
        seen.carry("B", passive_side, active_side, syn=True, ack=True)
        seen.carry("A", active_side, passive_side, syn=False, ack=True)
        assert not outcome(active_side).resuming
        assert not outcome(passive_side).resuming


def test_48_3_5_opening_while_the_peer_resumes_does_not_spend_its_secret() -> None:
    one, other = Host(X25519), Host(X25519)
    used(one, other)
    a, b = one.negotiation(Opener.ACTIVE), other.negotiation(Opener.PASSIVE)
    seen = Seen()
    seen.carry("A", a, b, syn=True, ack=False)
    own = other.negotiation(Opener.ACTIVE)
    assert own.option_to_send(syn=True, ack=False, room=40).hex() == "450323"
    seen.carry("B", b, a, syn=True, ack=True)
    seen.carry("A", a, b, syn=False, ack=True)
    assert outcome(a).resuming
    first, second = one.session(a), other.session(b)
    exchange(first, second)
    assert first.session_id == second.session_id
    own = other.negotiation(Opener.ACTIVE)
    assert own.option_to_send(syn=True, ack=False, room=40)[2] == 0xA3


def test_48_3_5_ten_resumptions_in_a_row_with_changing_openers() -> None:
    one, other = Host(), Host()
    used(one, other)
    seen = set()
    for turn in range(10):
        client, server = (one, other) if turn % 3 else (other, one)
        first, second = connect(client, server)
        exchange(first, second)
        assert first.resumed
        assert second.resumed
        assert first.session_id == second.session_id
        assert any(isinstance(event, Established) for event in events(first))
        seen.add(first.session_id)
    assert len(seen) == 10


def test_only_what_names_no_session_comes_out_the_same_again() -> None:
    client, server = Host(X25519), Host(X25519)
    a, b = client.negotiation(Opener.ACTIVE), server.negotiation(Opener.PASSIVE)
    assert not a.repeatable
    first = [option for *_, option in negotiate(a, b).segments]
    assert a.repeatable
    assert b.repeatable
    again = client.negotiation(Opener.ACTIVE), server.negotiation(Opener.PASSIVE)
    assert [option for *_, option in negotiate(*again).segments] == first
    assert outcome(again[0]) == outcome(a)
    assert not client.cache.keeps(client.peer)
    used(client, server)
    assert client.cache.keeps(client.peer)
    a, b = client.negotiation(Opener.ACTIVE), server.negotiation(Opener.PASSIVE)
    negotiate(a, b)
    assert not a.repeatable
    assert not b.repeatable


def test_an_offer_of_a_session_that_is_gone_is_not_what_is_usual() -> None:
    client, server = Host(X25519), Host(X25519)
    used(client, server)
    server.cache.flush()
    a, b = client.negotiation(Opener.ACTIVE), server.negotiation(Opener.PASSIVE)
    negotiate(a, b)
    assert not outcome(b).resuming
    assert not a.repeatable
    assert not b.repeatable
