"""Policies and trust, and what becomes of a connection's configuration by them."""

from __future__ import annotations

import ipaddress

import pytest

from tcpcrypt.auth.fingerprint import fingerprint
from tcpcrypt.auth.identity import Identity
from tcpcrypt.auth.known_peers import KnownPeer, KnownPeers, TrustLevel
from tcpcrypt.auth.learned import Learned, News
from tcpcrypt.auth.psk import Psk, PskStore
from tcpcrypt.auth.scope import INCOMING
from tcpcrypt.auth.terms import VERSION_HYBRID, VERSION_X25519, PeerProof
from tcpcrypt.auth.trust import Trust
from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Established, Role
from tcpcrypt.core.policy import FlowDirection, Mode, Policy
from tcpcrypt.errors import LocalError
from tcpcrypt.registry import Tep
from tcpcrypt.runtime.authentication import Authentication, key_exchange, needs_trust

OUT, IN = FlowDirection.OUTGOING, FlowDirection.INCOMING
SCOPE = "192.0.2.7:443"
THERE = (ipaddress.ip_address("192.0.2.7").packed, 443)
PUBLIC = bytes([7]) * 32
KEY = fingerprint(PUBLIC)
BASE = Config()


def peer(trust: TrustLevel = TrustLevel.TOFU, scope: str = SCOPE, key: str = KEY) -> KnownPeer:
    return KnownPeer(key, scope, 1_790_000_000, 1_790_000_000, trust)


def trusting(
    *known: KnownPeer, psks: tuple[Psk, ...] = (), identity: Identity | None = None
) -> Trust:
    peers = KnownPeers()
    for one in known:
        peers.put(one)
    return Trust(peers, PskStore(psks), identity or Identity.generate(), hybrid=True)


def configured(
    trust: Trust | None, policy: Policy, direction: FlowDirection = OUT
) -> tuple[Config, bool]:
    authentication = Authentication(trust)
    scope = authentication.scope(policy, direction, *THERE)
    config, terms = authentication.configure(policy.configure(BASE), policy, direction, scope)
    return config, terms is not None


@pytest.mark.parametrize("policy", [Policy(Mode.REQUIRE), Policy(Mode.NEVER, auth="tofu")])
def test_who_asks_for_nothing_gets_what_there_was(policy: Policy) -> None:
    assert not needs_trust(policy)
    base = policy.configure(BASE)
    assert Authentication(None).configure(base, policy, OUT, SCOPE) == (base, None)
    assert not Authentication(None).insists(policy, OUT, SCOPE)


@pytest.mark.parametrize(
    ("policy", "known", "direction", "alone", "required"),
    [
        (Policy(Mode.OPPORTUNISTIC, auth="tofu"), (), OUT, False, False),
        (Policy(Mode.OPPORTUNISTIC, auth="tofu"), (peer(),), OUT, True, True),
        (Policy(Mode.OPPORTUNISTIC, auth="tofu"), (peer(scope="*"),), IN, False, False),
        (Policy(Mode.REQUIRE, auth="tofu"), (), OUT, True, True),
        (Policy(Mode.REQUIRE, auth="tofu"), (), IN, True, True),
        (Policy(Mode.OPPORTUNISTIC, auth="pinned"), (), OUT, True, True),
        (Policy(Mode.OPPORTUNISTIC, pq="prefer"), (), OUT, False, False),
        (Policy(Mode.REQUIRE, pq="prefer"), (), OUT, False, True),
        (Policy(Mode.REQUIRE, pq="require"), (), OUT, True, True),
    ],
)
def test_what_is_offered_alone_and_what_beside_others(
    policy: Policy,
    known: tuple[KnownPeer, ...],
    direction: FlowDirection,
    alone: bool,
    required: bool,
) -> None:
    config, has_terms = configured(trusting(*known), policy, direction)
    assert has_terms
    assert config.teps == (Tep.EXPERIMENTAL,) + (() if alone else BASE.teps)
    assert set(config.extensions) == {Tep.EXPERIMENTAL}
    assert config.require_encryption is required


def test_a_host_that_has_nothing_serves_no_policy_that_asks() -> None:
    policy = Policy(Mode.REQUIRE, auth="tofu")
    with pytest.raises(LocalError, match="no identity"):
        configured(None, policy)
    with pytest.raises(LocalError, match="no pre-shared key"):
        configured(trusting(), Policy(Mode.REQUIRE, auth="psk", psk="site"))


def test_scopes() -> None:
    policy = Policy(Mode.REQUIRE, auth="tofu")
    authentication = Authentication(trusting())
    assert authentication.scope(policy, OUT, *THERE) == SCOPE
    assert authentication.scope(policy, IN, *THERE) == INCOMING
    six = ipaddress.ip_address("2001:db8::7").packed
    assert authentication.scope(policy, OUT, six, 22) == "[2001:db8::7]:22"


def test_only_what_is_new_is_written_down() -> None:
    written: list[Learned] = []
    authentication = Authentication(trusting(), written.append)
    policy = Policy(Mode.REQUIRE, auth="tofu")
    _config, terms = authentication.configure(BASE, policy, OUT, SCOPE)
    assert terms is not None
    proof = PeerProof(PUBLIC, "", VERSION_X25519)
    learned = authentication.learn(terms, proof)
    assert learned is not None
    assert written == [learned]
    assert learned.news is News.FIRST
    assert authentication.learn(terms, proof) is None
    other = authentication.learn(terms, PeerProof(bytes([8]) * 32, "", VERSION_X25519))
    assert other is not None
    assert (other.news, other.known) == (News.CHANGED, (KEY,))
    assert len(written) == 1
    assert authentication.known(SCOPE) == KEY
    assert authentication.level(PUBLIC, SCOPE) == "tofu"
    assert authentication.level(PUBLIC, INCOMING) is None


# --- when trust changes ----------------------------------------------------------------


def packed(key: bytes | None = PUBLIC, psk: str = "") -> bytes:
    return PeerProof(key, psk, VERSION_X25519).pack()


def test_a_key_that_is_known_otherwise_concerns_its_sessions_alone() -> None:
    trust = trusting(peer())
    authentication = Authentication(trust)
    for after in ((peer(TrustLevel.REVOKED),), (), (peer(TrustLevel.PINNED),)):
        authentication = Authentication(trusting(peer(), identity=trust.identity))
        change = authentication.replace(trusting(*after, identity=trust.identity))
        assert change.concerns(packed())
        assert not change.concerns(packed(bytes([8]) * 32))
        assert not change.concerns(packed(None))


def test_when_a_key_was_seen_does_not_matter() -> None:
    trust = trusting(peer())
    later = KnownPeer(KEY, SCOPE, 1_790_000_000, 1_790_009_999, TrustLevel.TOFU)
    change = Authentication(trust).replace(trusting(later, identity=trust.identity))
    assert not change.concerns(packed())


def test_a_psk_that_is_another_concerns_what_it_secured() -> None:
    one, same = Psk.generate("site"), Psk.generate("same")
    trust = trusting(psks=(one, same))
    for after in ((same,), (same, Psk.generate("site"))):
        authentication = Authentication(trusting(psks=(one, same), identity=trust.identity))
        change = authentication.replace(trusting(psks=after, identity=trust.identity))
        assert change.concerns(packed(psk="site"))
        assert not change.concerns(packed(psk="same"))
        assert change.psks == {"site"}


def test_a_host_that_is_another_forgets_everything() -> None:
    change = Authentication(trusting()).replace(trusting())
    assert change.concerns(packed())
    assert Authentication(None).replace(trusting()).concerns(packed())
    assert Authentication(trusting()).replace(None).concerns(packed())


def test_terms_of_live_connections_go_by_what_is_known_now() -> None:
    trust = trusting(peer())
    authentication = Authentication(trust)
    policy = Policy(Mode.REQUIRE, auth="tofu")
    _config, terms = authentication.configure(BASE, policy, OUT, SCOPE)
    assert terms is not None
    proof = PeerProof(PUBLIC, "", VERSION_X25519)
    terms.judge(proof)
    authentication.replace(trusting(peer(TrustLevel.REVOKED), identity=trust.identity))
    with pytest.raises(Exception, match="revoked"):
        terms.judge(proof)


@pytest.mark.parametrize(
    ("tep", "version", "name"),
    [
        (Tep.ECDHE_CURVE25519, None, "X25519"),
        (Tep.ECDHE_CURVE448, None, "X448"),
        (Tep.ECDHE_P256, None, "P-256"),
        (Tep.ECDHE_P521, None, "P-521"),
        (Tep.EXPERIMENTAL, VERSION_X25519, "X25519"),
        (Tep.EXPERIMENTAL, VERSION_HYBRID, "X25519MLKEM768"),
    ],
)
def test_key_exchanges_by_name(tep: Tep, version: int | None, name: str) -> None:
    identity = None if version is None else PeerProof(None, "", version).pack()
    established = Established(bytes(33), int(tep), 1, Role.A, False, False, identity)
    assert key_exchange(established) == name


def test_secrets_that_could_not_be_read_stay_as_they_were() -> None:
    psk = Psk.generate("site")
    trust = trusting(peer(), psks=(psk,))
    authentication = Authentication(trust)
    identity = trust.identity
    known = KnownPeers()
    known.put(peer(TrustLevel.REVOKED))
    change = authentication.replace(Trust(known, PskStore(), None, True, secrets_stay=True))
    assert change.concerns(packed())
    assert not change.concerns(packed(bytes([8]) * 32, "site"))
    now = authentication.trust
    assert now is not None
    assert now.identity is identity
    assert now.psks.by_name("site") is psk
    assert now.known.is_revoked(KEY)
    assert not now.secrets_stay
