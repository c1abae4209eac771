"""The key agreement of TEP 0x20: every value again by other means, and strict tails."""

import dataclasses
import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from support.hosts import Host, connect, drain, events, exchange
from support.terms import Conditions, identity, needs_psk, shared, ta_host

from tcpcrypt.auth.agreement import AuthenticatedAgreement, Tail1, Tail2
from tcpcrypt.auth.terms import PeerProof
from tcpcrypt.core.events import Role
from tcpcrypt.core.session import Session
from tcpcrypt.core.tep import Exchanged
from tcpcrypt.crypto.groups import group
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import AuthenticationError, PeerError, PeerReason
from tcpcrypt.wire.messages import Init1, Init2

A_KEY, B_KEY = identity(1), identity(2)
Z = bytes(32)
FIELD = 2**255 - 19


def dh(private: int, public: bytes) -> bytes:
    key = X25519PrivateKey.from_private_bytes(bytes([private]) * 32)
    return key.exchange(X25519PublicKey.from_public_bytes(public))


def mac(key: bytes, *parts: bytes) -> bytes:
    return hmac.digest(key, b"".join(parts), "sha256")


@pytest.mark.parametrize("psk", [False, True])
@pytest.mark.parametrize("shows_b", [False, True])
@pytest.mark.parametrize("shows_a", [False, True])
def test_every_value_as_the_specification_has_it(shows_a: bool, shows_b: bool, psk: bool) -> None:
    office = shared(9)
    terms_a = Conditions(A_KEY if shows_a else None, psk=office if psk else None)
    terms_b = Conditions(B_KEY if shows_b else None, psks=[office])
    a = AuthenticatedAgreement(terms_a, 1, Role.A, ephemeral=group(0x23).from_private(b"\x03" * 32))
    b = AuthenticatedAgreement(terms_b, 1, Role.B, ephemeral=group(0x23).from_private(b"\x04" * 32))
    n_a, n_b, eno = b"a" * 32, b"b" * 32, b"both options"
    init1 = Init1((1,), n_a, a.public_key, a.init1_tail())
    message1 = init1.build()
    exchanged = Exchanged(eno, 1, init1, message1)
    message2, prk = b.respond(exchanged, lambda tail: Init2(1, n_b, b.public_key, tail).build())

    psk_offered, psk_used = psk and shows_a, psk and shows_a and shows_b
    assert len(message1) == 74 + 2 + 32 * shows_a + 8 * psk_offered
    assert message1[75:76] == bytes([shows_a | psk_offered << 1])
    assert message1[76:] == A_KEY.public * shows_a + office.hint * psk_offered
    assert len(message2) == 107 + 48 * shows_b
    assert message2[74:75] == bytes([shows_b | psk_used << 1])

    i2a, i2b = message2[:75], message2[:-32]
    es_ephemeral = dh(3, b.public_key)
    se = dh(1, b.public_key) if shows_a else Z
    es = dh(2, a.public_key) if shows_b else Z
    if shows_b:
        k1 = mac(n_a, eno, message1, i2a, es_ephemeral, se)
        key = mac(k1, b"\x20\x01")[:16]
        sealed = AESGCM(key).encrypt(bytes(12), B_KEY.public, message1 + i2a)
        assert message2[75:-32] == sealed
    secret = b"\x09" * 32 if psk_used else Z
    expected = mac(n_a, eno, message1, i2b, es_ephemeral, se, es, secret)
    assert bytes(prk.view()) == expected
    assert message2[-32:] == mac(expected, b"\x21\x01")

    assert a.complete(exchanged, Init2.parse(message2, 32), message2) == prk
    name = "office" if psk_used else ""
    proved_b = PeerProof(B_KEY.public if shows_b else None, name, 1)
    proved_a = PeerProof(A_KEY.public if shows_a else None, name, 1)
    assert terms_a.asked == [proved_b]
    assert terms_b.asked == [proved_a]
    assert a.peer_identity == proved_b.pack()
    assert b.peer_identity == proved_a.pack()
    a.wipe()
    b.wipe()
    with pytest.raises(RuntimeError, match="wiped"):
        b.respond(exchanged, lambda tail: tail)
    assert A_KEY.agree(B_KEY.public) == B_KEY.agree(A_KEY.public), "statics are not wiped"


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("aead", [1, 2, 0x10])
def test_lengths_in_both_versions_with_each_aead(version: int, aead: int) -> None:
    one, other = connect(
        ta_host(Conditions(A_KEY, (version,), shared(9)), aeads=(aead,)),
        ta_host(Conditions(B_KEY, (version,), psks=[shared(9)]), aeads=(aead,)),
    )
    init1 = drain(one)
    other.receive_data(init1)
    init2 = drain(other)
    assert len(init1) == {1: 74, 2: 1258}[version] + 2 + 32 + 8
    assert len(init2) == {1: 107, 2: 1195}[version] + 48
    one.receive_data(init2)
    exchange(one, other)
    assert one.session_id == other.session_id
    proof = PeerProof.unpack(one.peer_identity or b"")
    assert proof == PeerProof(B_KEY.public, "office", version)


def test_tails_are_parsed_as_they_are_built() -> None:
    key = bytes(range(32))
    for tail in (Tail1(), Tail1(key), Tail1(key, b"h" * 8)):
        assert Tail1.parse(tail.build()) == tail
    for tail2 in (Tail2(key), Tail2(key, b"c" * 48), Tail2(key, b"c" * 48, psk_used=True)):
        assert Tail2.parse(tail2.build()) == tail2


@pytest.mark.parametrize(
    "tail",
    ["", "04", "80", "0000", "01", "01" + "11" * 31, "01" + "11" * 33, "02" + "11" * 8,
     "03" + "11" * 39, "03" + "11" * 41],
)  # fmt: skip
def test_init1_tails_that_are_none(tail: str) -> None:
    with pytest.raises(PeerError) as caught:
        Tail1.parse(bytes.fromhex(tail))
    assert caught.value.reason is PeerReason.INIT_TAIL


@pytest.mark.parametrize(
    "tail",
    ["", "00", "00" + "11" * 31, "00" + "11" * 33, "01" + "11" * 32, "01" + "11" * 79,
     "01" + "11" * 81, "02" + "11" * 32, "04" + "11" * 32, "81" + "11" * 80],
)  # fmt: skip
def test_init2_tails_that_are_none(tail: str) -> None:
    with pytest.raises(PeerError) as caught:
        Tail2.parse(bytes.fromhex(tail))
    assert caught.value.reason is PeerReason.INIT_TAIL


def started(
    client: Host | None = None, server: Host | None = None
) -> tuple[Session, Session, bytes]:
    """Both sessions, and A's Init1 on its way."""
    one, other = connect(client or ta_host(Conditions(A_KEY)), server or ta_host(Conditions(B_KEY)))
    return one, other, drain(one)


def refused(session: Session) -> PeerError:
    assert session.error is not None
    assert not session.established
    assert not session.peer_proved
    assert not events(session)[:-1]
    assert drain(session) == b""
    return session.error


NOT_CANONICAL = [FIELD, FIELD + 1, FIELD + 18, 2**255 + 9, 2**256 - 1]


@pytest.mark.parametrize("u", NOT_CANONICAL)
@pytest.mark.parametrize("place", ["Pub_A", "S_A"])
def test_only_one_encoding_of_a_key_is_taken_by_b(u: int, place: str) -> None:
    _, other, init1 = started()
    at = {"Pub_A": 47, "S_A": 80}[place]
    other.receive_data(init1[:at] + u.to_bytes(32, "little") + init1[at + 32 :])
    assert refused(other).reason is PeerReason.BAD_PUBLIC_KEY


@pytest.mark.parametrize("u", NOT_CANONICAL)
def test_only_one_encoding_of_pub_b_is_taken_by_a(u: int) -> None:
    one, other, init1 = started()
    other.receive_data(init1)
    init2 = drain(other)
    one.receive_data(init2[:42] + u.to_bytes(32, "little") + init2[74:])
    assert refused(one).reason is PeerReason.BAD_PUBLIC_KEY


class Odd:
    """Shows another key than it has."""

    def __init__(self, public: bytes) -> None:
        self.public = public

    def agree(self, peer_public: bytes) -> object:
        return B_KEY.agree(peer_public)


@pytest.mark.parametrize("u", NOT_CANONICAL)
def test_only_one_encoding_of_s_b_is_taken_by_a(u: int) -> None:
    server = ta_host(Conditions(Odd(u.to_bytes(32, "little"))))  # type: ignore[arg-type]
    one, other, init1 = started(server=server)
    other.receive_data(init1)
    one.receive_data(drain(other))
    assert refused(one).reason is PeerReason.BAD_PUBLIC_KEY


SMALL_ORDER = [
    0,
    1,
    FIELD - 1,
    # The points of order 8 (RFC 7748 section 6.1 speaks of them; any list has these).
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
]


@pytest.mark.parametrize("u", SMALL_ORDER)
@pytest.mark.parametrize("place", ["Pub_A", "S_A", "Pub_B", "S_B"])
def test_keys_of_small_order_abort(u: int, place: str) -> None:
    key = u.to_bytes(32, "little")
    server = ta_host(Conditions(Odd(key))) if place == "S_B" else None  # type: ignore[arg-type]
    one, other, init1 = started(server=server)
    if place in {"Pub_A", "S_A"}:
        at = {"Pub_A": 47, "S_A": 80}[place]
        other.receive_data(init1[:at] + key + init1[at + 32 :])
        victim = other
    else:
        other.receive_data(init1)
        init2 = drain(other)
        one.receive_data(init2[:42] + key + init2[74:] if place == "Pub_B" else init2)
        victim = one
    assert refused(victim).reason is PeerReason.ZERO_SHARED_SECRET


def test_a_wrong_psk_of_the_right_hint_is_no_proof() -> None:
    ours, theirs = shared(9), shared(9)
    first, *others = theirs.key.view()
    theirs = dataclasses.replace(theirs, key=Secret(bytes((first ^ 1, *others))))
    one, other, init1 = started(
        ta_host(Conditions(A_KEY, psk=ours)), ta_host(Conditions(B_KEY, psks=[theirs]))
    )
    other.receive_data(init1)
    one.receive_data(drain(other))
    assert isinstance(refused(one), AuthenticationError)


def test_a_psk_that_b_does_not_have_is_not_used_and_policy_decides() -> None:
    one, other, init1 = started(ta_host(Conditions(A_KEY, psk=shared(9))))
    other.receive_data(init1)
    exchange(one, other)
    assert PeerProof.unpack(one.peer_identity or b"").psk == ""
    strict = Conditions(A_KEY, psk=shared(9), accept=needs_psk("office"))
    one, other, init1 = started(ta_host(strict))
    other.receive_data(init1)
    one.receive_data(drain(other))
    assert isinstance(refused(one), AuthenticationError)
    _, other, init1 = started(
        ta_host(Conditions(A_KEY, psk=shared(9))),
        ta_host(Conditions(B_KEY, accept=needs_psk("office"))),
    )
    other.receive_data(init1)
    assert isinstance(refused(other), AuthenticationError)


@pytest.mark.parametrize("static", [None, A_KEY])
def test_b_cannot_use_a_psk_that_was_not_offered(static: object) -> None:
    one, other, init1 = started(ta_host(Conditions(static)))  # type: ignore[arg-type]
    other.receive_data(init1)
    init2 = drain(other)
    one.receive_data(init2[:74] + b"\x03" + init2[75:])
    assert refused(one).reason is PeerReason.INIT_TAIL


def test_b_computes_nothing_for_a_peer_that_its_terms_refuse() -> None:
    """And says nothing but a reset: no Init2."""
    _, other, init1 = started(server=ta_host(Conditions(B_KEY, accept=lambda _proof: False)))
    agreement = other._beginning.exchange._agreement  # type: ignore[union-attr]
    assert isinstance(agreement, AuthenticatedAgreement)
    agreement.wipe()  # any computation would raise RuntimeError
    other.receive_data(init1)
    assert isinstance(refused(other), AuthenticationError)
