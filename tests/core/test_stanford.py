"""The Stanford profile: what it says otherwise than RFC 8548, and what it does not have."""

import pytest
from support.hosts import (
    Host,
    connect,
    data_of,
    drain,
    events,
    exchange,
    fallback,
    negotiate,
    open_pair,
    outcome,
    region,
    simultaneous,
)

from tcpcrypt.core import records
from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Aborted, Role, StreamEnded
from tcpcrypt.core.negotiation import Opener
from tcpcrypt.core.policy import BOTH, Mode, Policy
from tcpcrypt.core.session import Session
from tcpcrypt.crypto.schedule import SessionSecret
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import FallbackReason, LocalError, PeerReason, TruncationError
from tcpcrypt.registry import CONTROL_REKEY, AeadId, Tep
from tcpcrypt.wire.profile import PROFILES, RFC8548, STANFORD, ResumptionForm

P256, P521 = Tep.ECDHE_P256, Tep.ECDHE_P521
HEAD = "fd{:02x}454e"


def config(**more) -> Config:
    settings: dict = {"teps": (P256, P521), "aeads": (1, 2)} | more
    return Config(**settings).in_profile(STANFORD)


def host(**more) -> Host:
    return Host(config(**more))


def option(contents: str) -> str:
    return HEAD.format(4 + len(contents) // 2) + contents


def said(client: Host, server: Host, **more) -> list[str]:
    """The three options of a handshake, in hex."""
    seen = negotiate(client.negotiation(Opener.ACTIVE), server.negotiation(Opener.PASSIVE), **more)
    return [octets.hex() for _who, _syn, _ack, octets in seen.segments]


def resumable(**more) -> tuple[Host, Host]:
    """Two hosts with one session in common."""
    client, server = host(**more), host(**more)
    one, other = connect(client, server)
    exchange(one, other)
    assert one.session_id == other.session_id
    return client, server


# --- configuration -----------------------------------------------------------------


def test_a_configuration_in_this_profile_keeps_what_it_knows() -> None:
    base = Config(rekey_after_bytes=1 << 20, active_b=True)
    there = base.in_profile(STANFORD)
    assert there.teps == (P256,)
    assert there.aeads == (AeadId.AES_128_GCM, AeadId.AES_256_GCM)
    assert (there.rekey_after_bytes, there.active_b, there.extensions) == (None, False, {})
    assert there.in_profile(STANFORD) is there
    assert there.in_profile(RFC8548).profile is RFC8548
    assert Config(teps=(0x23,), enabled=False).in_profile(STANFORD).teps == ()
    assert Config(aeads=(0x10,), enabled=False).in_profile(STANFORD).aeads == (0x10,)


@pytest.mark.parametrize(
    ("settings", "what"), [({"teps": (0x23, 0x24)}, "TEPs"), ({"aeads": (0x10,)}, "AEAD")]
)
def test_a_configuration_without_anything_it_knows(settings: dict, what: str) -> None:
    with pytest.raises(LocalError, match=f"none of the configured {what}.*profile stanford"):
        Config(**settings).in_profile(STANFORD)


def test_policies_name_profiles() -> None:
    assert Policy(Mode.REQUIRE).profiles == (RFC8548,)
    assert Policy(Mode.REQUIRE, profile="stanford").profiles == (STANFORD,)
    assert Policy(Mode.REQUIRE, profile=BOTH).profiles == (RFC8548, STANFORD)
    policy = Policy(Mode.REQUIRE, profile=BOTH)
    assert policy.configure(Config()).profile is RFC8548
    assert policy.configure(Config(), STANFORD).profile is STANFORD
    assert set(PROFILES) == {"rfc8548", "stanford"}
    assert all(profile.lacks == () for profile in PROFILES.values() if profile is RFC8548)
    assert len(STANFORD.lacks) == 2


# --- the options -------------------------------------------------------------------


def test_fresh_options() -> None:
    assert said(host(), host()) == [option("2122"), option("21"), option("")]


def test_application_aware_options() -> None:
    """The global suboption stands behind the TEPs in a fresh exchange."""
    client, server = resumable(application_aware=True)
    assert said(host(application_aware=True), host()) == [
        option("212202"),
        option("21"),
        option(""),
    ]
    assert said(host(), host(application_aware=True))[1] == option("2102")
    syn, answer, ack = said(client, server)
    assert syn.startswith("fd11454e212202a1")
    assert (answer, ack) == (option("02a1"), "")


@pytest.mark.parametrize("bits", ["02", "04", "06"])
def test_the_aware_byte_of_an_answer_that_resumes(bits: str) -> None:
    """There it tells of both sides: bit 0x02 is the answering one's."""
    client, _server = resumable(application_aware=True)
    negotiation = client.negotiation(Opener.ACTIVE)
    negotiation.option_to_send(syn=True, ack=False, room=40)
    octets = bytes.fromhex(option(bits + "a1"))
    negotiation.segment_received(syn=True, ack=True, options=region(octets))
    negotiation.option_to_send(syn=False, ack=True, room=40)
    assert outcome(negotiation).peer_application_aware is (bits != "04")


def test_bit_b_is_not_heard_and_not_sent() -> None:
    negotiation = host().negotiation(Opener.PASSIVE)
    octets = bytes.fromhex(option("0121"))
    negotiation.segment_received(syn=True, ack=False, options=region(octets))
    assert negotiation.option_to_send(syn=True, ack=True, room=40).hex() == option("21")


def test_a_simultaneous_open_goes_on_in_plain_tcp() -> None:
    """Nothing tells who is A."""
    first, second = (host().negotiation(Opener.ACTIVE) for _ in range(2))
    simultaneous(first, second)
    assert fallback(first).reason is FallbackReason.SAME_ROLE
    assert fallback(second).reason is FallbackReason.SAME_ROLE


def test_where_there_is_little_room_the_first_tep_stays() -> None:
    client, server = resumable()
    for room, contents in ((18, "2122a1"), (15, "21a1"), (14, "2122"), (5, "21")):
        negotiation = client.negotiation(Opener.ACTIVE)
        sent = negotiation.option_to_send(syn=True, ack=False, room=room).hex()
        assert sent[8:].startswith(contents)
        negotiation.abandon()
    assert fallback_of(server, room=4) is FallbackReason.NO_OPTION_SPACE


def fallback_of(client: Host, room: int) -> FallbackReason:
    negotiation = client.negotiation(Opener.ACTIVE)
    negotiation.option_to_send(syn=True, ack=False, room=room)
    return fallback(negotiation).reason


# --- resumption --------------------------------------------------------------------


def test_a_session_is_resumed_again_and_again() -> None:
    client, server = resumable()
    for _ in range(10):
        one, other = connect(client, server)
        one.send_data(b"question")
        other.send_data(b"answer")
        exchange(one, other)
        assert one.resumed
        assert other.resumed
        assert one.session_id == other.session_id
        assert one.session_id[0] == 0xA1
        assert data_of(events(one)) == b"answer"
        assert data_of(events(other)) == b"question"


def test_the_next_session_id_names_the_session() -> None:
    client, server = resumable()
    syn, answer, ack = said(client, server)
    assert syn.startswith(option("2122a1" + 18 * "0")[:14])
    assert (answer, ack) == (option("a1"), "")
    asked = syn[-18:]
    # What was asked for was not spent on the server, which saw no first ACK as data.
    one, other = connect(*resumable())
    assert one.session_id[1:10].hex() != asked
    assert other.session_id == one.session_id


def test_the_first_ack_of_a_resumed_connection_carries_no_option() -> None:
    client, server = resumable()
    active, passive = client.negotiation(Opener.ACTIVE), server.negotiation(Opener.PASSIVE)
    negotiate(active, passive)
    assert outcome(active).resuming
    assert outcome(passive).resuming
    assert active.finished
    assert active.option_to_send(syn=False, ack=True, room=40) == b""
    assert not active.awaits_init1


def test_a_fresh_connection_waits_with_its_first_ack_for_init1() -> None:
    active, passive = host().negotiation(Opener.ACTIVE), host().negotiation(Opener.PASSIVE)
    assert not active.awaits_init1
    negotiate(active, passive)
    assert active.awaits_init1
    assert not passive.awaits_init1
    active.segment_received(syn=False, ack=True, options=b"")
    assert not active.awaits_init1


def test_only_the_host_that_opened_resumes() -> None:
    """The real daemon does not look for sessions that it accepted."""
    client, server = resumable()
    assert said(server, client)[0] == option("2122")
    # Nor is one accepted from who should not ask.
    secret = SessionSecret(Secret(bytes(range(32))), 1, ResumptionForm.SESSION_ID)
    asked = secret.resume_ids()[0]
    here = host()
    here.cache.store(b"peer", tep=P256, aead=1, original_role=Role.A, secret=secret)
    negotiation = here.negotiation(Opener.PASSIVE)
    octets = bytes.fromhex(option("21a1" + asked.hex()))
    negotiation.segment_received(syn=True, ack=False, options=region(octets))
    assert negotiation.option_to_send(syn=True, ack=True, room=40).hex() == option("21")


def test_a_server_that_forgot_makes_a_fresh_exchange() -> None:
    client, server = resumable()
    server.cache.flush()
    syn, answer, ack = said(client, server)
    assert len(syn) > len(option("2122"))
    assert (answer, ack) == (option("21"), option(""))


def test_an_answer_that_resumes_what_was_not_offered() -> None:
    for client in (host(), resumable()[0]):
        negotiation = client.negotiation(Opener.ACTIVE)
        negotiation.option_to_send(syn=True, ack=False, room=40)
        octets = bytes.fromhex(option("a2"))
        negotiation.segment_received(syn=True, ack=True, options=region(octets))
        assert fallback(negotiation).reason is FallbackReason.RESUMPTION_MISMATCH


def test_an_answer_with_data_means_nothing() -> None:
    negotiation = resumable()[0].negotiation(Opener.ACTIVE)
    negotiation.option_to_send(syn=True, ack=False, room=40)
    octets = bytes.fromhex(option("a1" + "00" * 9))
    negotiation.segment_received(syn=True, ack=True, options=region(octets))
    assert fallback(negotiation).reason is FallbackReason.NO_COMMON_TEP


def test_sessions_of_one_dialect_are_not_resumed_in_the_other() -> None:
    client, server = resumable()
    for both in (client, server):
        both.config = Config(teps=(P256,))
    assert negotiated(client, server) == (False, False)
    client, server = Host(Config(teps=(P256,))), Host(Config(teps=(P256,)))
    exchange(*connect(client, server))
    for both in (client, server):
        both.config = config()
    assert negotiated(client, server) == (False, False)


def negotiated(client: Host, server: Host) -> tuple[bool, bool]:
    active, passive = client.negotiation(Opener.ACTIVE), server.negotiation(Opener.PASSIVE)
    negotiate(active, passive)
    return outcome(active).resuming, outcome(passive).resuming


def test_names_of_sessions() -> None:
    secret = SessionSecret(Secret(bytes(range(32))), 1, ResumptionForm.SESSION_ID)
    names = secret.identifiers(3, 0, b"\xa1")
    assert secret.resume_ids() == (names[0][1:],) * 2
    following = secret.peek_next()
    assert following.form is ResumptionForm.SESSION_ID
    assert names[1:] == following.identifiers(2, 1, b"\xa1")
    assert names[0][1:] == secret.use(0xA1, b"")[0][1:10]


# --- the streams -------------------------------------------------------------------


def test_each_write_is_one_frame() -> None:
    one, other = open_pair(host(frame_data=1000), host())
    one.send_data(bytes(2500))
    frames = [bytes(one.bytes_to_send()) for _ in range(3)]
    assert [len(frame) for frame in frames] == [1020, 1020, 520]
    assert one.bytes_to_send() == b""
    for frame in frames:
        assert int.from_bytes(frame[1:3], "big") == len(frame) - 3
        other.receive_data(frame)
    assert len(data_of(events(other))) == 2500


@pytest.mark.parametrize("step", [1, 7, 1021])
def test_the_peer_may_split_frames_as_it_likes(step: int) -> None:
    one, other = open_pair(host(), host())
    one.send_data(bytes(range(256)) * 20)
    exchange(one, other, step=step)
    assert data_of(events(other)) == bytes(range(256)) * 20


def test_streams_are_not_lent() -> None:
    one, other = open_pair(host(), host())
    other.send_data(b"not an Init message")
    exchange(one, other)
    events(one)
    assert one.lend() is None


def test_a_stream_ends_with_tcp_fin_alone() -> None:
    one, other = open_pair(host(), host())
    one.send_data(b"all of it")
    before = drain(one)
    one.finish()
    assert drain(one) == b""
    assert one.fin_queued
    other.receive_data(before)
    other.receive_eof()
    assert events(other)[-1] == StreamEnded(authenticated=False)
    other.finish()
    one.receive_eof()
    assert events(one) == [StreamEnded(authenticated=False)]
    one.receive_eof()
    assert one.error is None


def test_a_fin_flag_ends_the_stream_too() -> None:
    """The real daemon sets it where FIN shares a segment with data."""
    one, other = open_pair(host(), host())
    assert one._sender is not None
    one._sender.seal(b"all of it", fin=True)
    other.receive_data(drain(one))
    assert [type(e) for e in events(other)][-1] is StreamEnded
    other.receive_eof()
    assert other.error is None


def test_a_fin_within_a_frame_is_no_end() -> None:
    one, other = open_pair(host(), host())
    one.send_data(b"all of it")
    other.receive_data(drain(one)[:-1])
    other.receive_eof()
    assert truncated(other) is PeerReason.TRUNCATED


def test_a_fin_before_the_keys_is_no_end() -> None:
    _one, other = connect(host(), host())
    other.receive_eof()
    assert truncated(other) is PeerReason.FIN_DURING_EXCHANGE


def truncated(session: Session) -> PeerReason:
    found = events(session)
    assert isinstance(found[-1], Aborted)
    assert isinstance(found[-1].error, TruncationError)
    return found[-1].error.reason


def test_there_is_no_rekeying() -> None:
    one, other = open_pair(host(), host())
    for ask in (one.rekey, one.keep_alive):
        with pytest.raises(LocalError, match="profile stanford has no rekeying"):
            ask()
    one.send_data(b"x")
    frame = bytearray(drain(one))
    frame[0] |= CONTROL_REKEY
    other.receive_data(frame)
    assert other.error is not None
    assert other.error.reason is PeerReason.FRAME_CONTROL


def test_no_nonce_is_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """There 32 bits of offset begin anew after 4 GiB; here the connection ends."""
    one, other = open_pair(host(), host())
    sender, receiver = one._sender, other._receiver
    assert isinstance(sender, records.RecordSender)
    assert isinstance(receiver, records.RecordReceiver)
    sender._offset = receiver._offset = (1 << 32) - 10
    one.send_data(b"the last")
    exchange(one, other)
    assert data_of(events(other)) == b"the last"
    one.send_data(b"one too many")
    assert drain(one) == b""
    assert one.error is not None
    assert one.error.reason is PeerReason.STREAM_TOO_LONG
    assert isinstance(events(one)[-1], Aborted)


@pytest.mark.parametrize("late", [Role.A, Role.B])
def test_an_init_message_that_is_sealed_as_data_is_none(late: Role) -> None:
    """The real daemon repeats Init2 by a timer, and seals it if there are keys by then."""
    one, other = connect(host(), host())
    init1 = drain(one)
    other.receive_data(init1)
    init2 = drain(other)
    one.receive_data(init2)
    sender, receiver = (one, other) if late is Role.A else (other, one)
    events(receiver)
    sender.send_data(init1 if late is Role.A else init2)
    sender.send_data(b"what was meant")
    receiver.receive_data(drain(sender))
    found = events(receiver)
    assert data_of(found) == b""
    assert isinstance(found[-1], Aborted)
    assert found[-1].error.reason is PeerReason.INIT_AS_DATA


def test_data_may_look_like_another_init_message() -> None:
    one, other = open_pair(host(), host())
    octets = bytes.fromhex("15101a0e0000006e") + bytes(102)
    one.send_data(octets)
    one.send_data(octets)
    exchange(one, other)
    assert data_of(events(other)) == octets * 2


def test_the_first_frame_is_looked_at_here_whoever_moves_the_others() -> None:
    one, other = open_pair(host(), host())
    other.finish()
    drain(other)
    assert other.lend() is None
    one.send_data(b"first")
    other.receive_data(drain(one))
    events(other)
    lease = other.lend()
    assert lease is not None
    assert lease.sealing is None
