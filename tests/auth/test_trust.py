"""Whom to believe, and what is remembered: every policy, both directions."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tcpcrypt.auth import learned as learning
from tcpcrypt.auth.fingerprint import fingerprint
from tcpcrypt.auth.identity import Identity
from tcpcrypt.auth.known_peers import KnownPeer, KnownPeers, TrustLevel
from tcpcrypt.auth.learned import KNOWN_MAX, Learned, News, remember
from tcpcrypt.auth.psk import Psk, PskStore
from tcpcrypt.auth.scope import INCOMING
from tcpcrypt.auth.tep import MAGIC, AuthenticatedTep
from tcpcrypt.auth.terms import PeerProof, Terms
from tcpcrypt.auth.trust import REFRESH, Auth, Trust, TrustTerms
from tcpcrypt.core.policy import FlowDirection
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import AuthenticationError, IdentityChangedError, LocalError

OUT, IN = FlowDirection.OUTGOING, FlowDirection.INCOMING
SCOPE, OTHER_PORT = "10.0.0.2:5432", "10.0.0.2:22"
KEY, OTHER = b"k" * 32, b"o" * 32
F_KEY, F_OTHER = fingerprint(KEY), fingerprint(OTHER)
NOW = 1_800_000_000
SITE = Psk.generate("site")
GROUP = Psk.generate("group")


def proof(key: bytes | None = KEY, psk: str = "", version: int = 1) -> PeerProof:
    return PeerProof(key, psk, version)


def known(*lines: tuple[str, str, str]) -> KnownPeers:
    peers = KnownPeers()
    for key, scope, trust in lines:
        peers.put(KnownPeer(key, scope, NOW - 9, NOW - 9, TrustLevel(trust)))
    return peers


def trust(*lines: tuple[str, str, str], **changes: Any) -> Trust:
    made: dict[str, Any] = {
        "known": known(*lines),
        "psks": PskStore([SITE, GROUP]),
        "identity": Identity.generate(),
        "hybrid": True,
        "clock": lambda: float(NOW),
    }
    return Trust(**made | changes)


def terms(
    of: Trust,
    auth: str,
    direction: FlowDirection = OUT,
    scope: str = SCOPE,
    pq: str = "off",
    **more: Any,
) -> TrustTerms:
    made = of.terms(auth, pq, direction, scope, **more)
    assert made is not None
    return made


def refused(of: Terms, what: PeerProof) -> str:
    with pytest.raises(AuthenticationError) as caught:
        of.judge(what)
    assert type(caught.value) is AuthenticationError
    return str(caught.value)


def changed(of: Terms, what: PeerProof) -> str:
    with pytest.raises(IdentityChangedError) as caught:
        of.judge(what)
    return str(caught.value)


# --- what is offered ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("auth", "pq", "hybrid", "versions"),
    [
        *(("none", "off", True, None), ("none", "prefer", True, (2,))),
        *(("none", "prefer", False, None), ("none", "require", True, (2,))),
        *(("tofu", "off", True, (1,)), ("tofu", "prefer", True, (2, 1))),
        *(("tofu", "prefer", False, (1,)), ("tofu", "require", True, (2,))),
        ("pinned", "prefer", True, (2, 1)),
    ],
)
@pytest.mark.parametrize("direction", [OUT, IN])
def test_versions(
    auth: str, pq: str, hybrid: bool, versions: tuple[int, ...] | None, direction: FlowDirection
) -> None:
    of = trust(hybrid=hybrid)
    made = of.terms(auth, pq, direction, SCOPE)
    assert (made and made.versions) == versions
    if made is not None:
        assert made.identity is (None if auth == "none" else of.identity)


@pytest.mark.parametrize("auth", ["none", "tofu"])
def test_the_hybrid_cannot_be_required_where_it_is_not_there(auth: str) -> None:
    with pytest.raises(LocalError, match="ML-KEM is not available"):
        trust(hybrid=False).terms(auth, "require", OUT, SCOPE)


def test_without_an_identity_nothing_that_authenticates_can_be_served() -> None:
    of = trust(identity=None)
    for auth in ("tofu", "pinned", "psk"):
        with pytest.raises(LocalError, match="tcpcrypt id new"):
            of.terms(auth, "off", OUT, SCOPE, psk="site")
    assert terms(of, "none", pq="prefer").identity is None


def test_a_psk_that_is_not_there() -> None:
    with pytest.raises(LocalError, match="no pre-shared key 'gone'; `tcpcrypt psk new`"):
        trust().terms("psk", "off", OUT, SCOPE, psk="gone")


@pytest.mark.parametrize("call", ["terms", "strict"])
@pytest.mark.parametrize(("auth", "pq"), [("maybe", "off"), ("tofu", "maybe")])
def test_unknown_words(call: str, auth: str, pq: str) -> None:
    with pytest.raises(LocalError, match="'maybe' is none of"):
        getattr(trust(), call)(auth, pq, OUT, SCOPE)


@pytest.mark.parametrize("level", list(TrustLevel))
def test_strict_under_tofu_is_what_is_known(level: str) -> None:
    of = trust((F_KEY, SCOPE, level))
    assert of.strict("tofu", "prefer", OUT, SCOPE), "a revoked key, too, makes a scope known"
    assert not of.strict("tofu", "prefer", OUT, OTHER_PORT), "another port is another host"
    assert of.strict("tofu", "prefer", OUT, OTHER_PORT, require=True)
    assert not of.strict("none", "prefer", OUT, SCOPE)


def test_strict_incoming() -> None:
    of = trust((F_KEY, INCOMING, "tofu"))
    assert not of.strict("tofu", "off", IN, INCOMING)
    assert of.strict("tofu", "off", IN, INCOMING, require=True)


@pytest.mark.parametrize("direction", [OUT, IN])
def test_strict_by_itself(direction: FlowDirection) -> None:
    of = trust()
    for auth in ("pinned", "psk"):
        assert of.strict(auth, "off", direction, SCOPE)
    for auth in Auth:
        assert of.strict(auth, "require", direction, SCOPE)


def test_strict_does_not_depend_on_enforcing() -> None:
    """Only logging a changed key is no reason to be talked into plain TCP."""
    assert trust((F_KEY, SCOPE, "tofu"), enforce=False).strict("tofu", "off", OUT, SCOPE)


# --- PSKs -------------------------------------------------------------------------------


def test_find_psk() -> None:
    of = trust()
    named = terms(of, "psk", IN, INCOMING, psk="site")
    assert named.find_psk(SITE.hint) is SITE
    assert named.find_psk(GROUP.hint) is None, "policy names another"
    assert named.find_psk(bytes(8)) is None
    assert terms(of, "tofu", IN, INCOMING).find_psk(GROUP.hint) is GROUP
    assert terms(of, "none", IN, INCOMING, "prefer").find_psk(GROUP.hint) is None
    assert terms(of, "psk", psk="site").psk is SITE
    assert terms(of, "tofu").psk is None


@pytest.mark.parametrize("direction", [OUT, IN])
def test_psk_has_to_be_used(direction: FlowDirection) -> None:
    made = terms(trust(), "psk", direction, psk="site")
    made.judge(proof(psk="site"))
    for what in (proof(psk="group"), proof()):
        assert F_KEY in refused(made, what)
    assert "showed no key" in refused(made, proof(None))


def test_psk_with_a_pinned_key_beside_it() -> None:
    """Whoever else is of the group has the PSK and not the key."""
    made = terms(trust((F_KEY, SCOPE, "pinned")), "psk", psk="site")
    made.judge(proof(psk="site"))
    text = changed(made, proof(OTHER, psk="site"))
    assert F_KEY in text
    assert F_OTHER in text


def test_psk_with_another_key_than_the_last_is_told_and_goes_on() -> None:
    made = terms(trust((F_OTHER, SCOPE, "psk")), "psk", psk="site")
    made.judge(proof(psk="site"))
    assert made.learn(proof(psk="site")) == Learned(
        *(News.CHANGED, F_KEY, SCOPE, TrustLevel.PSK, (F_OTHER,))
    )


# --- TOFU, outgoing ------------------------------------------------------------------------


def test_first_contact_then_that_key_alone() -> None:
    of = trust()
    first = terms(of, "tofu")
    first.judge(proof())
    assert not of.known.of_scope(SCOPE), "nothing is remembered before the proof"
    assert first.learn(proof()) == Learned(News.FIRST, F_KEY, SCOPE, TrustLevel.TOFU)
    assert of.known.get(F_KEY, SCOPE) == KnownPeer(F_KEY, SCOPE, NOW, NOW, TrustLevel.TOFU)
    second = terms(of, "tofu")
    second.judge(proof())
    text = changed(second, proof(OTHER))
    assert F_KEY in text
    assert f"tcpcrypt peers trust {SCOPE} {F_OTHER}" in text
    text = refused(second, proof(None))
    assert "showed no key" in text
    assert F_KEY in text
    terms(of, "tofu", scope=OTHER_PORT).judge(proof(OTHER))


@pytest.mark.parametrize("level", ["tofu", "psk", "pinned"])
def test_tofu_goes_by_whatever_is_known(level: str) -> None:
    made = terms(trust((F_KEY, SCOPE, level)), "tofu")
    made.judge(proof())
    changed(made, proof(OTHER))


def test_several_keys_of_one_scope() -> None:
    made = terms(trust((F_KEY, SCOPE, "pinned"), (F_OTHER, SCOPE, "tofu")), "tofu")
    made.judge(proof())
    made.judge(proof(OTHER))
    changed(made, proof(b"3" * 32))


def test_an_unknown_host_without_a_key() -> None:
    """No worse than plain TCP, which opportunistic lets through."""
    made = terms(trust(), "tofu")
    made.judge(proof(None))
    assert made.learn(proof(None)) is None
    assert "showed no key" in refused(terms(trust(), "tofu", require=True), proof(None))


def test_a_key_learnt_by_psk_says_so() -> None:
    of = trust()
    assert terms(of, "psk", psk="site").learn(proof(psk="site")) == Learned(
        *(News.FIRST, F_KEY, SCOPE, TrustLevel.PSK)
    )


def test_tofu_that_only_logs() -> None:
    of = trust((F_KEY, SCOPE, "tofu"), enforce=False)
    made = terms(of, "tofu", require=True)
    for key, shown in ((OTHER, F_OTHER), (None, "")):
        made.judge(proof(key))
        learned = made.learn(proof(key))
        assert learned == Learned(News.CHANGED, shown, SCOPE, TrustLevel.TOFU, (F_KEY,))
    assert list(of.known.of_scope(SCOPE)) == [F_KEY], "the old key stays"


@pytest.mark.parametrize("level", ["pinned", "revoked"])
def test_only_logging_forgives_nothing_that_the_administrator_said(level: str) -> None:
    made = terms(trust((F_KEY, SCOPE, level), enforce=False), "tofu")
    changed(made, proof(OTHER))
    refused(made, proof(None))


def test_policy_none_learns_nothing() -> None:
    of = trust()
    made = terms(of, "none", pq="prefer")
    made.judge(proof(version=2))
    assert made.learn(proof(version=2)) is None
    assert len(of.known) == 0


# --- incoming ----------------------------------------------------------------------------------


def test_incoming_tofu_takes_any_key_and_remembers_it() -> None:
    of = trust((F_KEY, INCOMING, "tofu"))
    made = terms(of, "tofu", IN, "10.9.9.9:1")
    made.judge(proof(OTHER))
    assert made.learn(proof(OTHER)) == Learned(News.FIRST, F_OTHER, INCOMING, TrustLevel.TOFU)
    made.judge(proof(None))
    assert made.learn(proof(None)) is None
    assert "a host showed no key" in refused(terms(of, "tofu", IN, require=True), proof(None))


def test_incoming_pinned() -> None:
    of = trust((F_KEY, INCOMING, "pinned"), (F_OTHER, INCOMING, "tofu"))
    made = terms(of, "pinned", IN)
    made.judge(proof())
    text = refused(made, proof(OTHER))
    assert "none of the 1 pinned keys" in text
    assert F_OTHER in text
    refused(made, proof(None))
    refused(terms(of, "pinned", IN), proof(b"3" * 32))


def test_incoming_psk_asks_for_no_pinned_key() -> None:
    made = terms(trust((F_KEY, INCOMING, "pinned")), "psk", IN, psk="site")
    made.judge(proof(OTHER, psk="site"))


# --- pinned ----------------------------------------------------------------------------------


def test_outgoing_pinned() -> None:
    of = trust((F_KEY, SCOPE, "pinned"))
    made = terms(of, "pinned")
    made.judge(proof())
    text = changed(made, proof(OTHER))
    assert F_KEY in text
    assert f"tcpcrypt peers pin {SCOPE} {F_OTHER}" in text
    assert F_KEY in refused(made, proof(None))
    elsewhere = terms(of, "pinned", scope=OTHER_PORT)
    assert "no key is pinned for it" in refused(elsewhere, proof())
    refused(terms(trust((F_KEY, SCOPE, "tofu")), "pinned"), proof())


def test_what_was_unpinned_meanwhile_is_not_learnt() -> None:
    of = trust((F_KEY, SCOPE, "pinned"))
    made = terms(of, "pinned")
    made.judge(proof())
    of.known = known()
    assert made.learn(proof()) is None


# --- revoked, versions ------------------------------------------------------------------------


@pytest.mark.parametrize("where", [SCOPE, OTHER_PORT, INCOMING])
@pytest.mark.parametrize("direction", [OUT, IN])
@pytest.mark.parametrize("auth", list(Auth))
def test_a_revoked_key_is_refused_everywhere(
    where: str, direction: FlowDirection, auth: str
) -> None:
    of = trust((F_KEY, where, "revoked"), enforce=False)
    made = terms(of, auth, direction, pq="require", psk="site")
    assert "revoked" in refused(made, proof(psk="site", version=2))


def test_revoking_takes_effect_on_terms_that_exist() -> None:
    of = trust((F_KEY, SCOPE, "tofu"))
    made = terms(of, "tofu")
    made.judge(proof())
    of.known = known((F_KEY, INCOMING, "revoked"))
    refused(made, proof())


def test_whoever_comes_after_a_revoked_key_is_no_first_contact() -> None:
    changed(terms(trust((F_KEY, SCOPE, "revoked")), "tofu"), proof(OTHER))


@pytest.mark.parametrize(
    ("pq", "version", "good"),
    [
        *(("off", 1, True), ("off", 2, False), ("prefer", 1, True), ("prefer", 2, True)),
        *(("require", 1, False), ("require", 2, True)),
    ],
)
def test_a_session_of_another_version_is_not_resumed(pq: str, version: int, good: bool) -> None:
    made = terms(trust(), "tofu", pq=pq)
    if good:
        made.judge(proof(version=version))
    else:
        assert f"version {version}" in refused(made, proof(version=version))


# --- learning ----------------------------------------------------------------------------------


def test_seen_again_is_written_once_an_hour() -> None:
    now = [float(NOW)]
    of = trust((F_KEY, SCOPE, "pinned"), clock=lambda: now[0])
    made = terms(of, "tofu")
    assert made.learn(proof()) is None
    now[0] = NOW - 9 + REFRESH
    assert made.learn(proof()) == Learned(News.AGAIN, F_KEY, SCOPE, TrustLevel.PINNED)
    peer = of.known.get(F_KEY, SCOPE)
    assert peer is not None
    assert (peer.first, peer.last, peer.trust) == (NOW - 9, int(now[0]), TrustLevel.PINNED)
    assert made.learn(proof()) is None
    of.known.put(KnownPeer(F_KEY, SCOPE, NOW, None, TrustLevel.PINNED))
    again = made.learn(proof())
    assert again is not None
    assert again.news is News.AGAIN


@pytest.mark.parametrize(("direction", "scope"), [(OUT, SCOPE), (IN, INCOMING)])
def test_strangers_cannot_make_it_remember_without_end(
    monkeypatch: pytest.MonkeyPatch, direction: FlowDirection, scope: str
) -> None:
    monkeypatch.setattr(learning, "LEARNT_INCOMING_MAX", 2)
    monkeypatch.setattr(learning, "LEARNT_OUTGOING_MAX", 2)
    of = trust((F_OTHER, "*" if direction is IN else "h:1", "pinned"))
    for number in range(2):
        key = bytes([number]) * 32
        made = terms(of, "tofu", direction, scope if direction is IN else f"h{number}:1")
        first = made.learn(proof(key))
        assert first is not None
        assert first.news is News.FIRST
    before = of.known.copy()
    made = terms(of, "tofu", direction, scope)
    made.judge(proof())
    full = Learned(News.FULL, F_KEY, scope, TrustLevel.TOFU)
    assert made.learn(proof()) == full
    assert of.known == before, "no old one is replaced"
    monkeypatch.setattr(learning, "LEARNT_INCOMING_MAX", 3)
    monkeypatch.setattr(learning, "LEARNT_OUTGOING_MAX", 3)
    monkeypatch.setattr(learning, "PEERS_MAX", len(of.known))
    assert made.learn(proof()) == full


def test_few_of_many_keys_are_told() -> None:
    lines = [(fingerprint(bytes([n]) * 32), SCOPE, "tofu") for n in range(20)]
    learned = terms(trust(*lines, enforce=False), "tofu").learn(proof())
    assert learned is not None
    assert len(learned.known) == KNOWN_MAX


LEARNED = Learned(News.FIRST, F_KEY, SCOPE, TrustLevel.TOFU)


def test_learned_as_json() -> None:
    changed_ = Learned(News.CHANGED, "", SCOPE, TrustLevel.TOFU, (F_KEY, F_OTHER))
    for learned in (LEARNED, changed_):
        assert Learned.from_json(json.loads(json.dumps(learned.as_json()))) == learned


@pytest.mark.parametrize(
    "change",
    [
        *({"news": "old"}, {"trust": "blind"}, {"key": "tcpcrypt1:" + "a" * 51}, {"key": 5}),
        *({"key": ""}, {"scope": "x"}, {"scope": 5}, {"known": "abc"}, {"known": 5}, {"more": 1}),
        *({"scope": "10.0.0.1:1\n"}, {"known": [F_KEY] * 9}, {"news": None}, {"known": [None]}),
    ],
)
def test_what_was_learned_is_checked(change: dict[str, Any]) -> None:
    with pytest.raises(LocalError, match="not what was learnt of a peer"):
        Learned.from_json(LEARNED.as_json() | change)
    with pytest.raises(LocalError):
        Learned.from_json({})


# --- writing down --------------------------------------------------------------------------------


def one(**changes: Any) -> Learned:
    return Learned.from_json(LEARNED.as_json() | changes)


def test_what_is_learnt_is_added() -> None:
    peers = known()
    incoming = one(scope=INCOMING, trust="psk")
    assert remember(peers, [one(), incoming], NOW) == [one(), incoming]
    assert peers.get(F_KEY, SCOPE) == KnownPeer(F_KEY, SCOPE, NOW, NOW, TrustLevel.TOFU)
    assert remember(peers, [one(scope=INCOMING, key=F_OTHER)], NOW)
    again = one(news="again", trust="revoked")
    assert remember(peers, [again], NOW + 5) == [again]
    assert peers.get(F_KEY, SCOPE) == KnownPeer(F_KEY, SCOPE, NOW, NOW + 5, TrustLevel.TOFU)
    remember(peers, [again], NOW)
    assert peers.get(F_KEY, SCOPE) == KnownPeer(F_KEY, SCOPE, NOW, NOW + 5, TrustLevel.TOFU)
    peers.put(KnownPeer(F_KEY, SCOPE, NOW, None, TrustLevel.PINNED))
    assert remember(peers, [one()], NOW) == [one()]
    assert peers.get(F_KEY, SCOPE) == KnownPeer(F_KEY, SCOPE, NOW, NOW, TrustLevel.PINNED)


@pytest.mark.parametrize("level", list(TrustLevel))
@pytest.mark.parametrize(
    "learned",
    [
        *(one(key=F_OTHER), one(key=F_OTHER, trust="psk"), one(key=F_OTHER, news="again")),
        *(one(key=F_OTHER, news="changed"), one(news="full"), one(scope="h:1", trust="pinned")),
        *(one(scope="h:1", trust="revoked"), one(scope="h:1", news="again")),
    ],
)
def test_nothing_is_ever_replaced_or_trusted_more(level: str, learned: Learned) -> None:
    """Whatever the process says that talks to peers."""
    peers = known((F_KEY, SCOPE, level))
    before = peers.copy()
    assert remember(peers, [learned], NOW) == []
    assert peers == before


def test_a_revoked_key_is_learnt_nowhere() -> None:
    assert remember(known((F_KEY, "h:1", "revoked")), [one()], NOW) == []


def test_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "LEARNT_OUTGOING_MAX", 1)
    peers = known()
    assert remember(peers, [one(), one(scope="h:1")], NOW) == [one()]


def test_terms_are_terms() -> None:
    made: Terms = terms(trust(), "tofu")
    judge: Callable[[PeerProof], None] = made.judge
    judge(proof())


# --- what changes while a handshake is under way ---------------------------------------------


@pytest.mark.parametrize("direction", [OUT, IN])
@pytest.mark.parametrize("after", [[], [Psk.generate("site")]])
def test_a_psk_that_was_taken_away_meanwhile_proves_nothing(
    direction: FlowDirection, after: list[Psk]
) -> None:
    of = trust()
    made = terms(of, "psk", direction, psk="site")
    made.judge(proof(psk="site"))
    of.psks = PskStore(after)
    assert "pre-shared key site" in refused(made, proof(psk="site"))
    assert made.find_psk(SITE.hint) is None


def test_a_psk_that_was_read_again_is_the_same() -> None:
    """All of trust is replaced whenever some of it changes."""
    of = trust()
    made = terms(of, "psk", IN, psk="site")
    again = Psk("site", SITE.hint, Secret(bytes(SITE.key.view())))
    of.psks = PskStore([again])
    assert made.find_psk(SITE.hint) is again
    made.judge(proof(psk="site"))


def test_a_session_that_proved_no_key_is_no_first_contact() -> None:
    """Resumed again and again, it would keep the key from ever being learnt."""
    made = terms(trust(), "tofu")
    made.judge(proof(None))
    tep = AuthenticatedTep(made)
    assert not tep.may_resume(proof(None).pack())
    assert tep.may_resume(proof().pack())
    offered = tep.read_offer(MAGIC + b"\x01")
    assert tep.may_resume(proof(None).pack(), offered), "a peer may show none again"
    none = AuthenticatedTep(terms(trust(), "none", pq="prefer"))
    assert none.may_resume(proof(None, version=2).pack())
