"""TEP 0x20 in SYN options: versions, the two forms, the room, what may be resumed."""

import hashlib

import pytest
from support.hosts import Host, connect, events, exchange, fallback, negotiate, outcome, region
from support.terms import TA, Conditions, identity, only, ta_host

from tcpcrypt.auth.tep import RESUMPTION_LIFETIME, AuthenticatedTep
from tcpcrypt.auth.terms import PeerProof
from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Established, PeerProved
from tcpcrypt.core.negotiation import Negotiation, Opener
from tcpcrypt.core.tep import Offer
from tcpcrypt.errors import FallbackReason

A_KEY, B_KEY = identity(1), identity(2)
TIMESTAMPS = 20
"""Bytes that a Linux SYN with all its options leaves."""


def pair(versions: tuple[int, ...] = (1,), teps: tuple[int, ...] = (TA,)) -> tuple[Host, Host]:
    return ta_host(Conditions(A_KEY, versions), teps), ta_host(Conditions(B_KEY, versions), teps)


def syn(host: Host, room: int = 40) -> str:
    negotiation = host.negotiation(Opener.ACTIVE)
    option = negotiation.option_to_send(syn=True, ack=False, room=room)
    negotiation.abandon()
    return option.hex()


def answer(host: Host, contents: str) -> str | FallbackReason:
    """The SYN-ACK's option to a SYN with these contents, or why there is none."""
    negotiation = host.negotiation(Opener.PASSIVE)
    octets = bytes.fromhex(contents)
    option = bytes((69, 2 + len(octets))) + octets
    negotiation.segment_received(syn=True, ack=False, options=region(option))
    if negotiation.outcome is not None:
        return fallback(negotiation).reason
    return negotiation.option_to_send(syn=True, ack=True, room=40).hex()


def test_options_of_a_fresh_exchange() -> None:
    client, server = pair()
    assert syn(client) == "4506a0544101"
    assert answer(server, "a0544101") == "450701a0544101"
    both = ta_host(Conditions(A_KEY, (2, 1)), (TA, 0x23))
    # Least preferred first; what is last needs no length byte.
    assert syn(both) == "450723a0544102"
    other = ta_host(Conditions(A_KEY), (0x23, TA))
    assert syn(other) == "450882a054410123"


def test_b_answers_the_version_that_was_offered_and_no_other() -> None:
    accepts_both = ta_host(Conditions(B_KEY, (2, 1)))
    for version in ("01", "02"):
        assert answer(accepts_both, "a05441" + version) == "450701a05441" + version
    assert answer(accepts_both, "a0544103") is FallbackReason.NO_COMMON_TEP
    only_first = ta_host(Conditions(B_KEY, (1,)), (TA, 0x23))
    assert answer(only_first, "a0544102") is FallbackReason.NO_COMMON_TEP
    assert answer(only_first, "23a0544102") == "45040123"
    assert answer(only_first, "23a0544101") == "450701a0544101"


@pytest.mark.parametrize(
    "contents",
    [
        "20",
        "a0",
        "a054",
        "a05441",
        "a0544201",
        "a054410100",
        "a0544101" + "00" * 9,
        "a0544101" + "00" * 12,
        "a0544101" + "00" * 18,
        "20a0544101",
    ],
)
def test_other_data_are_not_valid(contents: str) -> None:
    """RFC 8547 section 4.5: the TEP says what is; then another one may be chosen."""
    _, server = pair()
    assert answer(server, contents) is FallbackReason.NO_COMMON_TEP
    client, _ = pair()
    negotiation = client.negotiation(Opener.ACTIVE)
    negotiation.option_to_send(syn=True, ack=False, room=40)
    octets = b"\x01" + bytes.fromhex(contents)
    option = bytes((69, 2 + len(octets))) + octets
    negotiation.segment_received(syn=True, ack=True, options=region(option))
    assert fallback(negotiation).reason is FallbackReason.NO_COMMON_TEP


@pytest.mark.parametrize("length", range(16, 21))
def test_an_unknown_resumption_is_a_fresh_offer_and_never_of_another_tep(length: int) -> None:
    server = ta_host(Conditions(B_KEY), (TA, 0x23))
    data = "544101" + "77" * (length - 3)
    assert answer(server, "a0" + data) == "450701a0544101"
    with_plain = f"{0x80 | length - 1:02x}a0{data}23"
    assert answer(server, with_plain) == "450701a0544101"


def test_a_resumption_has_twenty_bytes_either_way() -> None:
    client, server = pair(teps=(TA, 0x23))
    exchange(*connect(client, server))
    active, passive = client.negotiation(Opener.ACTIVE), server.negotiation(Opener.PASSIVE)
    seen = negotiate(active, passive, room=TIMESTAMPS, passive_room=TIMESTAMPS)
    (_, _, _, first), (_, _, _, second), _ = seen.segments
    assert first.hex().startswith("4514a0544101")
    assert second.hex().startswith("451401a0544101")
    assert len(first) == len(second) == TIMESTAMPS
    assert first[6:15] != second[7:16]
    one, other = client.session(active), server.session(passive)
    assert one.resumed
    exchange(one, other)
    assert one.session_id == other.session_id
    assert one.session_id[0] == 0xA0


def test_with_a_byte_less_the_session_is_kept_and_the_exchange_fresh() -> None:
    client, server = pair(teps=(TA, 0x23))
    exchange(*connect(client, server))
    assert syn(client, room=19) == "450723a0544101"
    assert syn(client, room=6) == "4506a0544101"
    assert syn(client, room=5) == ""
    assert len(client.cache) == 1
    assert syn(client, room=21).startswith("451523a0544101"), "index 1 was not spent"


@pytest.mark.parametrize("room", [19, 20])
def test_a_passive_opener_without_room_exchanges_keys(room: int) -> None:
    client, server = pair()
    exchange(*connect(client, server))
    active, passive = client.negotiation(Opener.ACTIVE), server.negotiation(Opener.PASSIVE)
    negotiate(active, passive, passive_room=room)
    assert outcome(active).resuming is (room == 20)
    exchange(*(one := (client.session(active), server.session(passive))))
    assert one[0].session_id == one[1].session_id


def test_sn_binds_both_options_and_where_the_nonces_end() -> None:
    spec = AuthenticatedTep(Conditions())
    assert spec.sn(b"ab", b"c", b"options") == b"abc" + hashlib.sha256(b"options").digest()
    assert spec.sn(b"ab", b"cd", b"45..ab45..cd") != spec.sn(b"abc", b"d", b"45..abc45..d")


def test_what_was_authenticated_is_resumed_before_what_was_not() -> None:
    """Otherwise a chain of plain sessions would keep two hosts from ever authenticating."""
    client, server = pair(teps=(TA, 0x23))
    plain_client, plain_server = Host(Config(teps=(0x23,))), Host(Config(teps=(0x23,)))
    plain_client.cache, plain_server.cache = client.cache, server.cache
    exchange(*connect(client, server))
    exchange(*connect(plain_client, plain_server))
    one, _ = connect(client, server)
    assert one.resumed, "the older chain, because it is the TEP's"
    assert one.tep == TA
    client.cache.flush_identity(lambda _: True)
    assert len(client.cache) == 1
    one, _ = connect(client, server)
    assert (one.resumed, one.tep) == (False, TA)
    # A peer that asks for the plain one is answered with an exchange that proves.
    asking = Host(Config(teps=(0x23, TA), extensions=client.config.extensions))
    asking.cache = client.cache
    assert syn(asking).startswith("451982a0544101a3"), "both in one SYN"
    one, _ = connect(asking, server)
    assert (one.resumed, one.tep) == (False, TA)
    # Where policy does not ask for proofs, the plain session goes on.
    one, _ = connect(plain_client, plain_server)
    assert (one.resumed, one.tep) == (True, 0x23)


def test_a_session_is_resumed_in_its_version_only() -> None:
    client, server = pair((1, 2))
    exchange(*connect(client, server))
    newer = ta_host(Conditions(A_KEY, (2, 1)))
    newer.cache = client.cache
    one, _ = connect(newer, server)
    assert not one.resumed, "the opener would offer the other version"
    option = syn(client)
    changed = option[4:].replace("a0544101", "a0544102")
    assert answer(server, changed) == "450701a0544102"
    assert answer(server, option[4:]).startswith("451401a0544101")  # type: ignore[union-attr]


@pytest.mark.parametrize("who", ["client", "server"])
def test_trust_is_asked_at_every_resumption(who: str) -> None:
    client, server = pair()
    exchange(*connect(client, server))
    refused = client if who == "client" else server
    tep = refused.config.extensions[TA]
    assert isinstance(tep, AuthenticatedTep)
    assert isinstance(tep.terms, Conditions)
    tep.terms.asked.clear()
    other_key = B_KEY if who == "client" else A_KEY
    tep.terms.accept = only(bytes(32))
    one, other = connect(client, server)
    assert tep.terms.asked == [PeerProof(other_key.public, "", 1)]
    assert not one.resumed
    exchange(one, other)
    assert not one.established
    assert not other.established


def test_an_algorithm_that_is_not_configured_any_more_is_not_resumed() -> None:
    client, server = pair()
    exchange(*connect(client, server))
    narrower = Host(Config(teps=(TA,), extensions=client.config.extensions, aeads=(0x10,)))
    narrower.cache = client.cache
    assert syn(narrower) == "4506a0544101"
    assert len(syn(client)) == 40


def test_a_session_lives_for_a_day_from_its_exchange() -> None:
    now = [1000.0]
    client, server = pair()
    for host in (client, server):
        host.cache._clock = lambda: now[0]
    exchange(*connect(client, server))
    for resumed, wait in ((True, RESUMPTION_LIFETIME - 1), (True, 0.0), (False, 1.0)):
        now[0] += wait
        one, other = connect(client, server)
        exchange(one, other)
        assert one.resumed is resumed, "being resumed does not renew it"


def test_in_a_simultaneous_open_versions_must_be_the_same() -> None:
    from support.hosts import simultaneous

    def host(versions: tuple[int, ...], *, b: bool) -> Negotiation:
        tep = AuthenticatedTep(Conditions(A_KEY if b else B_KEY, versions))
        config = Config(teps=(TA,), extensions={TA: tep}, active_b=b)
        return Negotiation(config, Opener.ACTIVE)

    first, second = host((1, 2), b=False), host((1, 2), b=True)
    simultaneous(first, second)
    assert outcome(first).variant == outcome(second).variant == b"\x01"
    first, second = host((1, 2), b=False), host((2, 1), b=True)
    first_syn = first.option_to_send(syn=True, ack=False, room=40)
    second.option_to_send(syn=True, ack=False, room=40)
    second.segment_received(syn=True, ack=False, options=region(first_syn))
    fallback(second)


def test_offers_are_read_as_offers() -> None:
    spec = AuthenticatedTep(Conditions(None, (2, 1)))
    assert spec.read_offer(b"TA\x01") == Offer(variant=b"\x01")
    assert spec.read_answer(b"TA\x02" + b"i" * 9 + b"nonc") == Offer(b"i" * 9, b"nonc", b"\x02")


def test_events_and_identities_on_both_sides() -> None:
    client, server = pair()
    for resumed in (False, True):
        one, other = connect(client, server)
        exchange(one, other)
        for session, key in ((one, B_KEY), (other, A_KEY)):
            first, second = events(session)
            assert isinstance(first, Established)
            assert first.resumed is resumed
            proof = PeerProof(key.public, "", 1)
            assert first.peer_identity == session.peer_identity == proof.pack()
            assert second == PeerProved(proof.pack())
            assert session.peer_proved
