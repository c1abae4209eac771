"""What the authenticated TEP is there for: attacks on its exchange, each of which fails.

`docs/authenticated-tep.md` says why each fails; a test's name says which it is.
"""

from collections.abc import Callable

import pytest
from cryptography.exceptions import InvalidTag
from support.hosts import Host, connect, data_of, drain, events, exchange, negotiate, outcome
from support.terms import Conditions, identity, needs_psk, only, shared, ta_host

from tcpcrypt.auth.identity import Identity
from tcpcrypt.core.events import Established, PeerProved
from tcpcrypt.core.negotiation import Opener
from tcpcrypt.core.session import Session
from tcpcrypt.crypto.aead import aead
from tcpcrypt.crypto.kdf import cprf, extract
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import (
    AuthenticationError,
    IdentityChangedError,
    IntegrityError,
    PeerError,
    PeerReason,
    TruncationError,
)

A_KEY, B_KEY, EVIL = identity(1), identity(2), identity(66)
PUB_A, S_A = 47, 80
"""Where they stand in Init1 with three AEAD algorithms."""
FIELD = 2**255 - 19


class Pretender:
    """Shows a key whose private half it does not have."""

    def __init__(self, real: Identity) -> None:
        self.public = real.public

    def agree(self, _peer_public: bytes) -> Secret:
        return Secret(b"\x5a" * 32)


def client(**more) -> Host:
    return ta_host(Conditions(**({"identity": A_KEY} | more)))


def server(**more) -> Host:
    return ta_host(Conditions(**({"identity": B_KEY} | more)))


def refused(session: Session) -> PeerError:
    """The session ended with an error, and nothing else was ever told or sent."""
    assert session.error is not None
    assert not session.established
    assert not session.peer_proved
    assert len(events(session)) == 1
    assert drain(session) == b""
    return session.error


def silent(session: Session) -> None:
    """Nothing was told, however it ended."""
    assert not session.established
    assert not session.peer_proved
    assert not [e for e in events(session) if isinstance(e, Established | PeerProved)]


def put(message: bytes, at: int, octets: bytes) -> bytes:
    return message[:at] + octets + message[at + len(octets) :]


def shortened(message: bytes, *, end: int) -> bytes:
    """The first `end` bytes as a message of their own."""
    return put(message[:end], 4, end.to_bytes(4, "big"))


# --- who may read what, who may pass for whom


@pytest.mark.parametrize("shows_a", [False, True])
def test_forged_e_b_with_the_real_s_b(shows_a: bool) -> None:
    """And S_B's key leaked later: A has sent nothing that it could open."""
    forger = ta_host(Conditions(Pretender(B_KEY)))  # type: ignore[arg-type]
    terms = Conditions(A_KEY if shows_a else None, accept=only(B_KEY.public))
    one, other = connect(ta_host(terms), forger)
    one.send_data(b"secret")
    other.receive_data(drain(one))
    one.receive_data(drain(other))
    assert terms.asked[0].key == B_KEY.public, "C_B opened, as it must: it proves nothing"
    error = refused(one)
    assert isinstance(error, AuthenticationError)
    assert "proof" in str(error)


def test_a_prober_that_claims_s_a_never_reads_s_b() -> None:
    prober = client(identity=Pretender(A_KEY))
    one, other = connect(prober, server())
    other.receive_data(drain(one))
    init2 = drain(other)
    assert B_KEY.public not in init2
    one.receive_data(init2)
    assert "cannot be opened" in str(refused(one))
    other.receive_data(b"\x00\x00\x20" + bytes(32))
    assert isinstance(refused(other), IntegrityError)


def test_a_prober_that_steals_s_a_later_reads_s_b_then() -> None:
    """A stated limit: what a prober kept of an answer lacks se, and nothing else."""
    one, other = connect(client(identity=Pretender(A_KEY)), server())
    init1 = drain(one)
    other.receive_data(init1)
    init2 = drain(other)
    e_a = one._beginning.exchange._agreement._ephemeral  # type: ignore[union-attr]
    eno, n_a, e_b = other.negotiated.eno_transcript, init1[15:47], init2[42:74]
    i2a, sealed = init2[:75], init2[75:123]
    for se, opens in ((bytes(32), False), (A_KEY.agree(e_b), True)):
        k1 = extract(n_a, eno, init1, i2a, e_a.agree(e_b), se)
        algorithm = aead(int.from_bytes(init2[8:10], "big"))
        key = bytes(cprf(k1, b"\x20", algorithm.key_len).view())
        cipher = algorithm.construct(key)
        if opens:
            assert cipher.decrypt(bytes(12), sealed, init1 + i2a) == B_KEY.public
        else:
            with pytest.raises(InvalidTag):
                cipher.decrypt(bytes(12), sealed, init1 + i2a)


def test_s_a_leaked_does_not_let_another_pass_for_b() -> None:
    """Key-compromise impersonation towards A: its thief still lacks S_B."""
    terms = Conditions(A_KEY, accept=only(B_KEY.public))
    one, other = connect(ta_host(terms), server(identity=Pretender(B_KEY)))
    other.receive_data(drain(one))
    one.receive_data(drain(other))
    assert isinstance(refused(one), AuthenticationError)


def test_s_b_leaked_does_not_let_another_pass_for_a() -> None:
    """Key-compromise impersonation towards B, by one who knows S_B, e_A and every public key."""
    one, other = connect(client(identity=Pretender(A_KEY)), server(accept=only(A_KEY.public)))
    init1 = drain(one)
    other.receive_data(init1)
    init2 = drain(other)
    e_a = one._beginning.exchange._agreement._ephemeral  # type: ignore[union-attr]
    eno, n_a, e_b = other.negotiated.eno_transcript, init1[15:47], init2[42:74]
    # What is left unknown is se; these are the secrets that the thief can make.
    es, static = e_a.agree(e_b), B_KEY.agree(init1[PUB_A : PUB_A + 32])
    guesses = [bytes(32), bytes(B_KEY.agree(A_KEY.public).view()), bytes(B_KEY.agree(e_b).view())]
    for se in guesses:
        prk = extract(n_a, eno, init1, init2[:-32], es, se, static, bytes(32))
        assert bytes(cprf(prk, b"\x21", 32).view()) != init2[-32:]
    real = extract(n_a, eno, init1, init2[:-32], es, A_KEY.agree(e_b), static, bytes(32))
    assert bytes(cprf(real, b"\x21", 32).view()) == init2[-32:], "se is all that is missing"
    other.receive_data(b"\x00\x00\x20" + bytes(32))
    assert isinstance(refused(other), IntegrityError)


def equivalent(key: bytes) -> bytes:
    """The same point plus the one of order two: its u is the inverse."""
    return pow(int.from_bytes(key, "little"), -1, FIELD).to_bytes(32, "little")


@pytest.mark.parametrize("other_key", [EVIL.public, equivalent(A_KEY.public)])
def test_unknown_key_share_by_another_s_a(other_key: bytes) -> None:
    """Another's key, or one that gives the same secrets: Init1 as sent is in every key."""
    if other_key != EVIL.public:
        assert B_KEY.agree(other_key) == B_KEY.agree(A_KEY.public)
    one, other = connect(client(), server())
    one.send_data(b"secret")
    other.receive_data(put(drain(one), S_A, other_key))
    one.receive_data(drain(other))
    assert isinstance(refused(one), AuthenticationError)
    silent(other)


def test_reflection_of_a_host_to_itself() -> None:
    one, other = connect(client(), server(identity=A_KEY))
    other.receive_data(drain(one))
    assert "own key" in str(refused(other))


class Mirror(Pretender):
    """Shows A's key to A, and does not refuse itself for it."""

    def __init__(self) -> None:
        self._shown = [EVIL.public, A_KEY.public]

    @property
    def public(self) -> bytes:  # type: ignore[override]
        return self._shown.pop(0)


def test_reflection_of_s_a_as_s_b() -> None:
    terms = Conditions(A_KEY)
    one, other = connect(ta_host(terms), server(identity=Mirror()))
    other.receive_data(drain(one))
    one.receive_data(drain(other))
    assert "own key" in str(refused(one))
    assert terms.asked == []


def test_reflection_of_the_ephemeral_key() -> None:
    one, other = connect(client(), server())
    init1 = drain(one)
    other.receive_data(init1)
    one.receive_data(put(drain(other), 42, init1[PUB_A : PUB_A + 32]))
    assert "ephemeral" in str(refused(one))


def test_a_member_of_a_group_with_one_psk_does_not_pass_for_another() -> None:
    office = shared(9)
    pinned = Conditions(
        A_KEY,
        psk=office,
        accept=lambda proof: (proof.key, proof.psk) == (B_KEY.public, "office"),
    )
    one, other = connect(ta_host(pinned), server(identity=EVIL, psks=[office]))
    other.receive_data(drain(one))
    one.receive_data(drain(other))
    assert isinstance(refused(one), AuthenticationError)


# --- every byte


def handshake(version: int) -> tuple[Host, Host]:
    office = shared(9)
    return (
        client(versions=(version,), psk=office),
        server(versions=(version,), psks=[office]),
    )


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("message", [1, 2])
def test_every_byte_of_init_is_bound(version: int, message: int) -> None:
    hosts = handshake(version)
    one, other = connect(*hosts)
    other.receive_data(drain(one))
    length = len(drain(other)) if message == 2 else other._beginning.exchange.received_len  # type: ignore[union-attr]
    masks = (0x01, 0x80) if version == 1 else (0x10,)
    # Of what belongs to ML-KEM every sixteenth byte has to do.
    kem = range(48, 48 + 1088, 16)
    for at in range(length):
        if version == 2 and 48 <= at < 48 + 1088 and at not in kem:
            continue
        for mask in masks:
            one, other = connect(*hosts)
            one.send_data(b"secret")
            sent = drain(one)
            assert len(sent) == length or message == 2
            if message == 1:
                sent = put(sent, at, bytes([sent[at] ^ mask]))
            other.receive_data(sent)
            answer = drain(other)
            if message == 2:
                answer = put(answer, at, bytes([answer[at] ^ mask]))
            one.receive_data(answer)
            assert drain(one) == b"", f"byte {at}: A sent something"
            silent(one)
            silent(other)


@pytest.mark.parametrize("stage", ["fresh", "resumed"])
@pytest.mark.parametrize("which", ["syn", "synack"])
def test_every_byte_of_both_options_is_bound(stage: str, which: str) -> None:
    from support.hosts import outcome, region

    from tcpcrypt.core.negotiation import Fallback, Opener

    length, told = 0, 0
    for position in range(40):
        for mask in (0x01, 0x02, 0x04, 0x80):
            one_host, other_host = client(), server()
            if stage == "resumed":
                exchange(*connect(one_host, other_host))
            active, passive = (
                one_host.negotiation(Opener.ACTIVE),
                other_host.negotiation(Opener.PASSIVE),
            )
            syn = active.option_to_send(syn=True, ack=False, room=40)
            changed = put(syn, position, bytes([syn[position] ^ mask])) if (
                which == "syn" and position < len(syn)
            ) else syn  # fmt: skip
            passive.segment_received(syn=True, ack=False, options=region(changed))
            synack = passive.option_to_send(syn=True, ack=True, room=40)
            answer = put(synack, position, bytes([synack[position] ^ mask])) if (
                which == "synack" and position < len(synack)
            ) else synack  # fmt: skip
            length = len(syn if which == "syn" else synack) or length
            if (changed, answer) == (syn, synack):
                continue
            active.segment_received(syn=True, ack=True, options=region(answer))
            ack = active.option_to_send(syn=False, ack=True, room=40)
            passive.segment_received(syn=False, ack=True, options=region(ack))
            if isinstance(active.outcome, Fallback) or isinstance(passive.outcome, Fallback):
                told += 1
                continue
            assert outcome(active).tep == outcome(passive).tep == 0x20
            one, other = one_host.session(active), other_host.session(passive)
            one.send_data(b"secret")
            for _ in range(4):
                other.receive_data(drain(one))
                one.receive_data(drain(other))
            assert not one.peer_proved, (position, mask)
            silent(other)
            told += 1
    assert told == 4 * length


# --- what policies ask for, and flags that say otherwise


def cleared(init1: bytes, flag: int) -> bytes:
    """Init1 without its static, or without its hint."""
    end = S_A - 1 + 1 if flag == 1 else S_A + 32
    return put(shortened(init1, end=end), S_A - 1, bytes([0 if flag == 1 else 1]))


POLICIES: dict[str, Callable[[Identity], Callable]] = {
    "none": lambda _key: lambda _proof: True,
    "tofu": lambda _key: lambda proof: proof.key is not None,
    "pinned": lambda key: only(key.public),
    "psk": lambda _key: needs_psk("office"),
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("flag", ["f1.0", "f1.1", "f2.0", "f2.1"])
def test_flags_cleared_under_each_policy(policy: str, flag: str) -> None:
    office = shared(9)
    one_terms = Conditions(A_KEY, psk=office, accept=POLICIES[policy](B_KEY))
    other_terms = Conditions(B_KEY, psks=[office], accept=POLICIES[policy](A_KEY))
    one, other = connect(ta_host(one_terms), ta_host(other_terms))
    one.send_data(b"secret")
    init1 = drain(one)
    if flag.startswith("f1"):
        init1 = cleared(init1, 1 if flag == "f1.0" else 2)
    other.receive_data(init1)
    init2 = drain(other)
    wanted_by_b = policy == "psk" or (policy in {"tofu", "pinned"} and flag == "f1.0")
    if wanted_by_b and flag.startswith("f1"):
        assert isinstance(refused(other), AuthenticationError)
        assert init2 == b""
        return
    if flag == "f2.0":
        init2 = put(shortened(init2, end=75), 74, b"\x00") + init2[-32:]
        init2 = put(init2, 4, len(init2).to_bytes(4, "big"))
    elif flag == "f2.1":
        init2 = put(init2, 74, b"\x01")
    one.receive_data(init2)
    assert isinstance(refused(one), AuthenticationError)
    silent(other)


def test_a_changed_key_is_named_as_such() -> None:
    terms = Conditions(A_KEY, accept=only(B_KEY.public), changed=True)
    one, other = connect(ta_host(terms), server(identity=EVIL))
    other.receive_data(drain(one))
    one.receive_data(drain(other))
    error = refused(one)
    assert isinstance(error, IdentityChangedError)
    assert error.reason is PeerReason.IDENTITY_CHANGED


def test_a_man_in_the_middle_shows_as_differing_session_ids_under_none() -> None:
    middle_b, middle_a = server(identity=EVIL), client(identity=EVIL)
    one, near = connect(client(), middle_b)
    far, other = connect(middle_a, server())
    exchange(one, near)
    exchange(far, other)
    assert one.session_id != other.session_id
    for policy in ("tofu", "pinned"):
        accept = only(B_KEY.public)
        one, near = connect(client(accept=accept), middle_b)
        near.receive_data(drain(one))
        one.receive_data(drain(near))
        assert isinstance(refused(one), AuthenticationError), policy


# --- who speaks when


def test_a_server_that_speaks_first_is_neither_early_nor_stuck() -> None:
    for resumed in (False, True):
        one_host, other_host = client(), server()
        if resumed:
            exchange(*connect(one_host, other_host))
        one, other = connect(one_host, other_host)
        assert one.resumed is resumed
        other.send_data(b"220 ready")
        if not resumed:
            other.receive_data(drain(one))
            init2 = drain(other)
            assert len(init2) == 155, "Init2 and no frame"
            silent(other)
            one.receive_data(init2)
        else:
            assert drain(other) == b""
        first = drain(one)
        assert len(first) == 20, "an empty frame, at once"
        other.receive_data(first)
        assert [type(e) for e in events(other)] == [Established, PeerProved]
        answer = drain(other)
        assert len(answer) == 20 + len(b"220 ready")
        one.receive_data(answer)
        assert data_of(events(one)) == b"220 ready"


def test_b_owes_no_frame_where_its_init2_was_the_proof() -> None:
    one_host, other_host = client(), server()
    for resumed in (False, True):
        one, other = connect(one_host, other_host)
        if not resumed:
            other.receive_data(drain(one))
            one.receive_data(drain(other))
        other.receive_data(drain(one))
        assert len(drain(other)) == 20 * resumed


@pytest.mark.parametrize("resumed", [False, True])
def test_a_first_frame_with_data_or_fin_needs_no_empty_one(resumed: bool) -> None:
    for data in (b"hello", b""):
        one_host, other_host = client(), server()
        if resumed:
            exchange(*connect(one_host, other_host))
        one, other = connect(one_host, other_host)
        if data:
            one.send_data(data)
        else:
            one.finish()
        if not resumed:
            other.receive_data(drain(one))
            one.receive_data(drain(other))
        # A resumed session has its keys, and sends, before there can be data.
        first = drain(one)
        assert len(first) == 20 + len(data) + 20 * resumed
        other.receive_data(first)
        assert [type(e) for e in events(other)][:2] == [Established, PeerProved]
        exchange(one, other)
        assert other.error is None


def test_a_peer_is_proved_by_its_first_frame_in_a_resumed_session() -> None:
    one_host, other_host = client(), server()
    exchange(*connect(one_host, other_host))
    one, other = connect(one_host, other_host)
    assert one.established
    assert not one.peer_proved
    assert [type(e) for e in events(one)] == [Established]
    assert not other.established
    other.receive_data(drain(one))
    assert other.established
    assert other.peer_proved
    one.receive_data(drain(other))
    assert [type(e) for e in events(one)] == [PeerProved]


def test_nobody_else_opens_the_frame_that_proves_a_peer() -> None:
    """Whom a session is lent to would not tell of it."""
    one_host, other_host = client(), server()
    exchange(*connect(one_host, other_host))
    one, other = connect(one_host, other_host)
    events(one)
    other.receive_data(drain(one))
    assert one.lend() is None
    one.receive_data(drain(other))
    assert [type(e) for e in events(one)] == [PeerProved]
    assert one.lend() is not None


def test_a_key_revoked_while_a_resumption_is_negotiated_gets_nothing() -> None:
    """A would send at once, before a frame of the peer could be judged."""
    terms = Conditions(A_KEY)
    one_host, other_host = ta_host(terms), server()
    exchange(*connect(one_host, other_host))
    active = one_host.negotiation(Opener.ACTIVE)
    passive = other_host.negotiation(Opener.PASSIVE)
    negotiate(active, passive)
    assert outcome(active).resuming
    terms.accept = lambda _proof: False
    one = one_host.session(active)
    assert isinstance(refused(one), AuthenticationError)
    ticket = outcome(active).ticket
    assert ticket is not None
    with pytest.raises(RuntimeError):
        ticket.secret.peek_next()
    other = other_host.session(passive)
    other.receive_data(drain(one))
    silent(other)


@pytest.mark.parametrize("derived", [False, True])
@pytest.mark.parametrize("how", ["eof", "reset", "timeout", "wiped"])
def test_b_forgets_a_peer_that_never_proves_itself(how: str, derived: bool) -> None:
    now = [0.0]
    one_host, other_host = client(), server()
    one, other = connect(one_host, other_host)
    other._clock = lambda: now[0]
    other.deadline = 10.0
    other.receive_data(drain(one))
    agreed = other._beginning.agreed
    assert agreed is not None
    if derived:  # while A is at work
        other.use_idle_time()
    unproved = other._unproved
    assert (unproved is not None) is derived
    assert len(other_host.cache) == 0, "and keeps nothing to resume by"
    if how == "eof":
        other.receive_eof()
        assert isinstance(other.error, TruncationError)
    elif how == "reset":
        other.receive_reset()
    elif how == "wiped":
        other.wipe()
    else:
        other.handle_timeout()
        assert other.error is None
        now[0] = 10.0
        other.handle_timeout()
        assert other.error is not None
        assert other.error.reason is PeerReason.TIMEOUT
    silent(other)
    assert agreed.prk.wiped
    assert unproved is None or unproved.following._ss.wiped
    assert len(other_host.cache) == 0


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("who", ["A", "B"])
def test_a_key_revoked_during_the_handshake_is_refused_at_its_proof(
    who: str, resumed: bool
) -> None:
    one_terms, other_terms = Conditions(A_KEY), Conditions(B_KEY)
    one_host, other_host = ta_host(one_terms), ta_host(other_terms)
    if resumed:
        exchange(*connect(one_host, other_host))
    one, other = connect(one_host, other_host)
    if not resumed:
        other.receive_data(drain(one))
    if who == "B":
        other_terms.accept = only(EVIL.public)
        one.receive_data(drain(other))
        other.receive_data(drain(one))
        assert isinstance(refused(other), AuthenticationError)
        return
    one_terms.accept = only(EVIL.public)
    other.receive_data(drain(one))
    one.receive_data(drain(other))
    assert isinstance(one.error, AuthenticationError)
    assert not one.peer_proved


def test_keys_that_change_during_the_handshake_do_not_mix() -> None:
    """A shows what it had when it began; the next connection shows what it has."""
    terms = Conditions(A_KEY)
    one, other = connect(ta_host(terms), server())
    init1 = drain(one)
    terms.identity = EVIL
    other.receive_data(init1)
    exchange(one, other)
    assert one.peer_proved
    assert other.peer_proved


# --- replays


def test_replayed_syn_init1_and_first_frame_prove_nothing() -> None:
    other_host = server()
    one, other = connect(client(), other_host)
    init1 = drain(one)
    other.receive_data(init1)
    one.send_data(b"pay")
    one.receive_data(drain(other))
    frames = drain(one)
    other.receive_data(frames)
    assert other.peer_proved
    cached = len(other_host.cache)
    # A's options are the same each time: `connect` replays the SYN.
    _, victim = connect(client(), other_host)
    victim.receive_data(init1)
    assert drain(victim)
    silent(victim)
    victim.receive_data(frames)
    assert isinstance(victim.error, IntegrityError)
    silent(victim)
    assert len(other_host.cache) == cached


def test_a_replayed_resumption_is_a_fresh_exchange() -> None:
    from support.hosts import outcome, region

    from tcpcrypt.core.negotiation import Opener

    one_host, other_host = client(), server()
    exchange(*connect(one_host, other_host))
    active = one_host.negotiation(Opener.ACTIVE)
    syn = active.option_to_send(syn=True, ack=False, room=20)
    for resumed in (True, False):
        passive = other_host.negotiation(Opener.PASSIVE)
        passive.segment_received(syn=True, ack=False, options=region(syn))
        passive.option_to_send(syn=True, ack=True, room=20)
        passive.segment_received(syn=False, ack=True, options=region(b"\x45\x02"))
        assert outcome(passive).resuming is resumed
        session = other_host.session(passive)
        silent(session)


# --- captures


@pytest.mark.parametrize("version", [1, 2])
def test_a_capture_holds_no_s_b_and_opens_with_no_static(version: int) -> None:
    one, other = connect(client(versions=(version,)), server(versions=(version,)))
    init1 = drain(one)
    other.receive_data(init1)
    init2 = drain(other)
    one.send_data(b"hello")
    one.receive_data(init2)
    capture = init1 + init2 + drain(one)
    assert B_KEY.public not in capture
    assert A_KEY.public in capture, "the stated limit"
    assert b"hello" not in capture
    # Both static keys leak: se and es can be computed, ES cannot.
    part_a, part_b = init1[-65:-33], init2[-113:-81]
    se, es = A_KEY.agree(part_b), B_KEY.agree(part_a)
    length = 32 if version == 1 else 64
    eno, n_a = other.negotiated.eno_transcript, init1[15:47]
    guesses = [bytes(32), se.view(), es.view(), A_KEY.agree(B_KEY.public).view()]
    for guess in guesses:
        ephemeral = bytes(length - 32) + bytes(guess)
        prk = extract(n_a, eno, init1, init2[:-32], ephemeral, se, es, bytes(32))
        assert bytes(cprf(prk, b"\x21", 32).view()) != init2[-32:]
    agreement = one._beginning.exchange._agreement  # type: ignore[union-attr]
    assert agreement.public_key[-32:] == part_a


@pytest.mark.parametrize("field", ["key", "ciphertext"])
def test_malformed_ml_kem_bytes_abort(field: str) -> None:
    one, other = connect(client(versions=(2,)), server(versions=(2,)))
    init1 = drain(one)
    if field == "key":
        # The first coefficient becomes 4095, which is no number modulo 3329.
        other.receive_data(put(init1, PUB_A, b"\xff\xff"))
        assert refused(other).reason is PeerReason.BAD_PUBLIC_KEY
        return
    other.receive_data(init1)
    init2 = drain(other)
    one.receive_data(put(init2, 42, bytes(1088)))
    assert isinstance(refused(one), AuthenticationError)
