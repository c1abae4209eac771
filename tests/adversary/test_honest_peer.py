"""The second implementation, honest: both agree on everything (RFC 8547, RFC 8548)."""

import ast
import itertools
from pathlib import Path

import peer
import pytest
from adversary.subject import TestedHost
from peer.authenticating import HINT, HOST_STATIC, PSK, SUBJECT_STATIC, AuthenticatingHost, public
from peer.host import Host
from peer.scripts import answer, connect, converse
from support.terms import Conditions

from tcpcrypt.auth.identity import Identity
from tcpcrypt.auth.psk import Psk
from tcpcrypt.auth.tep import AuthenticatedTep
from tcpcrypt.auth.terms import PeerProof
from tcpcrypt.core.config import Config
from tcpcrypt.core.events import DataReceived
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.crypto.secret import Secret

TEPS = (0x21, 0x22, 0x23, 0x24)
AEADS = (0x0001, 0x0002, 0x0010)
PACKAGE = Path(peer.__file__).parent


def meet(config: Config, cache: ResumptionCache, host: Host) -> TestedHost:
    """One connection from SYN to FIN; returns what the tested host saw of it."""
    subject = TestedHost(config, opens=host.role == "B", cache=cache)
    assert connect(host, subject), subject.negotiation.outcome
    converse(host, subject)
    return subject


@pytest.mark.parametrize("role", "AB")
@pytest.mark.parametrize("aead", AEADS, ids=hex)
@pytest.mark.parametrize("tep", TEPS, ids=hex)
def test_every_tep_and_aead_fresh_then_resumed_in_both_roles(tep, aead, role) -> None:
    config = Config(teps=(tep,), aeads=(aead,))
    cache, remembered = ResumptionCache(config), None
    ids = set()
    for number, plays in enumerate((role, role, "A", "B", "B", "A")):
        host = Host(plays, teps=(tep,), aeads=(aead,), remembered=remembered, seed=str(number))
        subject = meet(config, cache, host)
        established = subject.established
        assert established is not None
        assert established.session_id == host.session_id
        assert established.resumed is host.resuming is (number > 0)
        assert established.session_id[0] == tep | (0x80 if number else 0)
        assert (established.tep, established.aead) == (tep, aead) == (host.tep, host.aead)
        ids.add(established.session_id)
        remembered = host.remembered
    assert len(ids) == 6


@pytest.mark.parametrize("role", "AB")
@pytest.mark.parametrize("aead", AEADS, ids=hex)
@pytest.mark.parametrize("tep", TEPS, ids=hex)
def test_both_follow_each_other_through_rekeys_of_a_resumed_session(tep, aead, role) -> None:
    config = Config(teps=(tep,), aeads=(aead,))
    cache, remembered = ResumptionCache(config), None
    for _ in range(2):
        host = Host(role, teps=(tep,), aeads=(aead,), remembered=remembered)
        subject = TestedHost(config, opens=role == "B", cache=cache)
        assert connect(host, subject)
        for generation, theirs in enumerate((True, False, False, True), start=1):
            if theirs:
                subject.receive(host.writer.frame(b"under a new key", rekey=True))
            else:
                subject.rekey()
            answer(host, subject, subject.sent())
            assert host.writer.generation == host.reader.generation == generation
        assert len(subject.rekeyed) == 8
        converse(host, subject)
        remembered = host.remembered


@pytest.mark.parametrize("role", "AB")
@pytest.mark.parametrize("aead", AEADS, ids=hex)
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("shown", ["host", "subject", "both", "neither", "psk"])
def test_tep_0x20_fresh_then_resumed_in_both_roles(version, aead, role, shown) -> None:
    """docs/authenticated-tep.md: both versions, every pattern of keys shown."""
    psk = Psk("office", HINT, Secret(PSK)) if shown == "psk" else None
    own = Identity.from_private(SUBJECT_STATIC) if shown in {"subject", "both", "psk"} else None
    terms = Conditions(own, (version,), psk, [psk] if psk else [])
    config = Config(teps=(0x20,), aeads=(aead,), extensions={0x20: AuthenticatedTep(terms)})
    cache, remembered = ResumptionCache(config), None
    static = HOST_STATIC if shown in {"host", "both", "psk"} else None
    for number, plays in enumerate((role, role, "A", "B")):
        host = AuthenticatingHost(
            plays,
            version=version,
            static=static,
            psk=(HINT, PSK) if psk else None,
            aeads=(aead,),
            remembered=remembered,
            seed=str(number),
        )
        subject = meet(config, cache, host)
        established = subject.established
        assert established is not None
        assert established.session_id == host.session_id
        proof = PeerProof.unpack(established.peer_identity or b"")
        assert proof.key == (public(static) if static else None)
        assert (proof.version, proof.psk) == (version, "office" if psk else "")
        # An opener that shows its key does not resume a session of a peer that showed none.
        expected = number > 0 and not (plays == "B" and own is not None and static is None)
        assert established.resumed is host.resuming is expected
        remembered = host.remembered


@pytest.mark.parametrize("own_len", [0, 1, 8])
@pytest.mark.parametrize("their_len", [0, 5, 8])
@pytest.mark.parametrize("role", "AB")
def test_48_3_5_nonces_of_any_length(role, own_len, their_len) -> None:
    config = Config(teps=(0x23,), resume_nonce_len=own_len)
    cache, remembered = ResumptionCache(config), None
    for resumed, plays in ((False, role), (True, role), (True, "A"), (True, "B")):
        host = Host(plays, aeads=AEADS, remembered=remembered, nonce_len=their_len)
        subject = meet(config, cache, host)
        assert subject.established is not None
        assert subject.established.session_id == host.session_id
        assert host.resuming is resumed
        remembered = host.remembered


@pytest.mark.parametrize("role", "AB")
def test_every_preference_of_teps_and_aeads_meets(role) -> None:
    for mine, theirs in itertools.product(itertools.permutations((0x23, 0x24, 0x21)), repeat=2):
        config = Config(teps=mine)
        subject = meet(config, ResumptionCache(config), Host(role, teps=theirs))
        assert subject.established is not None
        expected = mine[0] if role == "A" else theirs[0]
        assert subject.established.tep == expected
    for mine, theirs in itertools.product(itertools.permutations(AEADS), repeat=2):
        config = Config(teps=(0x23,), aeads=mine)
        subject = meet(config, ResumptionCache(config), Host(role, aeads=theirs))
        assert subject.established is not None
        assert subject.established.aead == (mine[0] if role == "A" else theirs[0])


def test_large_data_both_ways_under_every_split() -> None:
    payload = bytes(range(256)) * 1000
    config = Config(teps=(0x23,))
    for role, step in itertools.product("AB", (1, 19, 65_000, 1 << 20)):
        host = Host(role)
        subject = TestedHost(config, opens=role == "B", cache=ResumptionCache(config))
        assert connect(host, subject)
        part = payload[: 3000 if step == 1 else len(payload)]
        stream = b"".join(
            host.writer.frame(part[at : at + 65_518]) for at in range(0, len(part), 65_518)
        )
        for at in range(0, len(stream), step):
            subject.receive(stream[at : at + step])
        assert subject.received == part
        subject.send(part)
        answer(host, subject, subject.sent())
        assert host.data == part
        converse(host, subject)


@pytest.mark.parametrize("role", "AB")
def test_48_3_7_urgent_data_both_ways(role) -> None:
    """Open point E6; the field of the first frame counts from its first data byte."""
    config = Config(teps=(0x23,), first_frame_data=10, frame_data=10, small_frames_until=0)
    host = Host(role)
    subject = TestedHost(config, opens=role == "B", cache=ResumptionCache(config))
    assert connect(host, subject)
    session = subject.session
    assert session is not None
    for size in (1, 9, 10, 11, 35):
        host.frames.clear()
        session.send_data(b"calm " * 5)
        session.send_data(b"!" * size, urgent=size - 1)
        answer(host, subject, subject.sent())
        urgent = [frame.urgent for frame in host.frames if frame.urgent is not None]
        assert urgent == [size - 1]
        assert host.data == b"calm " * 5 + b"!" * size
        stream = host.writer.frame(b"calm") + host.writer.frame(b"!" * size, urgent=size - 1)
        subject.events.clear()
        subject.receive(stream)
        assert subject.urgent == host.writer.urgent[-1:]
        pieces = [bytes(e.data) for e in subject.events if isinstance(e, DataReceived)]
        assert pieces == [b"calm", b"!" * size]
    subject.events.clear()
    converse(host, subject)


def test_the_second_implementation_shares_nothing_with_the_first() -> None:
    library = {"__future__", "collections", "dataclasses", "hashlib", "hmac", "typing"}
    allowed = library | {"cryptography", "peer"}
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [node.module or ""]
            assert {name.split(".")[0] for name in names} <= allowed, path
