"""The files of identities: what the worker is given, what is written down, what is refused."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcpcrypt.auth.fingerprint import fingerprint
from tcpcrypt.auth.identity import Identity, load_identity, rotate_identity
from tcpcrypt.auth.known_peers import KnownPeer, KnownPeers, TrustLevel
from tcpcrypt.auth.known_peers_file import KnownPeersFile
from tcpcrypt.auth.learned import Learned, News
from tcpcrypt.auth.psk import Psk, PskStore, create_psk
from tcpcrypt.auth.trust import Trust
from tcpcrypt.core.policy import Mode, Policy
from tcpcrypt.crypto import hybrid
from tcpcrypt.daemon.configuration import DaemonSettings
from tcpcrypt.daemon.hoard import packed, unpack
from tcpcrypt.daemon.keeper import Keeper
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.loop import Loop

TOFU = Policy(Mode.REQUIRE, auth="tofu", pq="prefer")
PLAIN = Policy(Mode.REQUIRE)
SCOPE = "192.0.2.7:5432"
KEY, OTHER = (fingerprint(bytes([n]) * 32) for n in (1, 2))
NOW = 1_790_000_000


def first(key: str = KEY, scope: str = SCOPE) -> Learned:
    return Learned(News.FIRST, key, scope, TrustLevel.TOFU)


@dataclasses.dataclass
class Site:
    """A keeper, and what it gives, acknowledges and reports."""

    state: Path
    keeper: Keeper
    loop: Loop
    reports: list[tuple[str, dict[str, object]]]
    given: list[tuple[Trust, int]]
    acknowledged: list[int]

    @property
    def file(self) -> KnownPeersFile:
        return KnownPeersFile(self.state / "known_peers")

    def load(self, *policies: Policy) -> Trust:
        trust = self.keeper.load(policies, DaemonSettings(state=self.state))
        assert trust is not None
        return trust

    def on_disk(self) -> KnownPeers:
        file = self.file
        file.refresh()
        return file.current


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr("tcpcrypt.daemon.keeper.PSKS", tmp_path / "none")
    state, loop = tmp_path / "state", Loop()
    reports: list[tuple[str, dict[str, object]]] = []
    keeper = Keeper(DaemonSettings(state=state), lambda *words: reports.append(words))
    site = Site(state, keeper, loop, reports, [], [])
    keeper.attach(loop, lambda *given: site.given.append(given), site.acknowledged.append)
    yield site
    loop.close()


# --- what is read ----------------------------------------------------------------------


def test_who_needs_nothing_is_given_nothing(site: Site) -> None:
    never = Policy(Mode.NEVER, auth="tofu")
    assert site.keeper.load((PLAIN, never), DaemonSettings(state=site.state)) is None
    site.keeper.look()
    assert not site.state.exists()
    assert not site.reports
    assert site.keeper.identity() == {}


def test_the_first_need_makes_an_identity(site: Site) -> None:
    trust = site.load(TOFU)
    assert trust.identity is not None
    kept = load_identity(site.state / "identity").fingerprint
    assert trust.identity.fingerprint == kept
    assert site.reports == [("identity", {"fingerprint": kept, "made": "now"})]
    again = site.load(TOFU).identity
    assert again is not None
    assert again.fingerprint == kept
    assert len(site.reports) == 1
    assert site.keeper.identity() == {"identity": kept}


def test_the_hybrid_alone_needs_no_identity(site: Site) -> None:
    trust = site.load(Policy(Mode.REQUIRE, pq="prefer"))
    assert trust.identity is None
    assert not (site.state / "identity").exists()


def test_what_is_missing_is_said_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    psk = Policy(Mode.REQUIRE, auth="psk", psk="site")
    with pytest.raises(LocalError, match=r"there is no pre-shared key 'site' in .*psk or "):
        site.load(psk)
    create_psk(site.state / "psk", "site")
    assert site.load(psk).psks.by_name("site") is not None
    monkeypatch.setattr(hybrid, "available", lambda: False)
    with pytest.raises(LocalError, match="does not have"):
        site.load(Policy(Mode.REQUIRE, pq="require"))
    assert not site.load(Policy(Mode.REQUIRE, pq="prefer")).hybrid


def test_files_that_others_can_read_are_refused(site: Site) -> None:
    site.load(TOFU)
    (site.state / "identity").chmod(0o644)
    with pytest.raises(LocalError, match="others could have read"):
        site.load(TOFU)


# --- what is written ---------------------------------------------------------------------


def test_what_is_learnt_is_written_and_acknowledged(site: Site) -> None:
    site.load(TOFU)
    for number in range(3):
        site.keeper.take(first(scope=f"192.0.2.7:{number + 1}"))
    site.keeper.look()
    assert len(site.on_disk()) == 3
    assert site.acknowledged == [3]
    assert not site.given


def test_what_another_has_written_meanwhile_is_kept_and_given_on(site: Site) -> None:
    site.load(TOFU)
    pinned = KnownPeer(OTHER, SCOPE, NOW, None, TrustLevel.PINNED)
    site.file.update(lambda known: known.put(pinned))
    site.keeper.take(first())  # no first contact any more
    site.keeper.look()
    assert list(site.on_disk()) == [pinned]
    ((trust, applied),) = site.given
    assert applied == 1
    assert list(trust.known) == [pinned]
    assert not site.acknowledged


def test_a_change_is_given_once(site: Site) -> None:
    site.load(TOFU)
    for _ in range(2):
        site.keeper.look()
    assert not site.given
    site.file.update(lambda known: known.put(KnownPeer(KEY, "*", NOW, None, TrustLevel.REVOKED)))
    for _ in range(2):
        site.keeper.look()
    assert len(site.given) == 1
    assert site.given[0][0].known.is_revoked(KEY)


def test_another_identity_and_another_psk_are_given_on(site: Site) -> None:
    site.load(TOFU)
    create_psk(site.state / "psk", "site")
    site.keeper.look()
    assert len(site.given) == 1
    rotate_identity(site.state / "identity")
    site.keeper.look()
    assert len(site.given) == 2


def test_a_fault_keeps_what_was_in_force_and_is_told_once(site: Site) -> None:
    site.load(TOFU)
    path = site.state / "known_peers"
    path.write_text("nonsense\n")
    site.keeper.take(first())
    for _ in range(3):
        site.keeper.look()
    assert [event for event, _ in site.reports] == ["identity", "trust_failed"]
    assert str(path) in str(site.reports[-1][1]["reason"])
    assert not site.given
    path.unlink()
    site.keeper.look()
    assert [peer.key for peer in site.on_disk()] == [KEY]
    assert site.acknowledged == [1]
    assert [peer.key for peer in site.given[-1][0].known] == [KEY]


def test_a_flood_of_proofs_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tcpcrypt.daemon.keeper._WAITING_MAX", 10)
    site.load(TOFU)
    for number in range(25):
        site.keeper.take(first(scope=f"192.0.2.7:{number + 1}"))
    site.keeper.look()
    assert len(site.on_disk()) == 10
    assert site.reports[-1] == ("exhausted", {"reason": "15 proofs are not written down"})


def test_what_is_left_is_written_at_the_end(site: Site) -> None:
    site.load(TOFU)
    site.keeper.take(first())
    site.keeper.flush()
    assert len(site.on_disk()) == 1
    site.keeper.flush()
    assert site.acknowledged == [1]


# --- on the way to the worker ---------------------------------------------------------------


def test_what_is_known_goes_over_whole() -> None:
    known = KnownPeers()
    known.put(KnownPeer(KEY, SCOPE, NOW, NOW, TrustLevel.TOFU))
    psks = PskStore([Psk.generate("site-a"), Psk.generate("b")])
    identity = Identity.generate()
    before = [(psk.name, psk.hint, bytes(psk.key.view())) for psk in psks]
    descriptor = packed(Trust(known, psks, identity, True, enforce=False), 7)
    try:
        for _ in range(2):  # it may be read more than once
            trust, applied = unpack(descriptor)
            assert (applied, trust.hybrid, trust.enforce) == (7, True, False)
            assert trust.identity is not None
            assert trust.identity.public == identity.public
            after = [(psk.name, psk.hint, bytes(psk.key.view())) for psk in trust.psks]
            assert after == before
            assert trust.known == known
    finally:
        os.close(descriptor)


def test_the_giver_keeps_no_secret() -> None:
    psk, identity = Psk.generate("site"), Identity.generate()
    os.close(packed(Trust(KnownPeers(), PskStore([psk]), identity, True), 0))
    with pytest.raises(RuntimeError):
        identity.private_bytes()
    with pytest.raises(RuntimeError):
        psk.key.view()


def test_without_an_identity() -> None:
    descriptor = packed(Trust(KnownPeers(), PskStore(), None, False), 0)
    trust, _applied = unpack(descriptor)
    os.close(descriptor)
    assert (trust.identity, trust.hybrid, len(trust.psks)) == (None, False, 0)


@pytest.mark.parametrize("length", [0, 5, 23, 24, 40])
def test_a_part_of_it_is_no_state(length: int) -> None:
    known = KnownPeers()
    known.put(KnownPeer(KEY, SCOPE, NOW, NOW, TrustLevel.TOFU))
    descriptor = packed(Trust(known, PskStore(), Identity.generate(), True), 0)
    try:
        os.ftruncate(descriptor, length)
        with pytest.raises(LocalError):
            unpack(descriptor)
    finally:
        os.close(descriptor)


# --- what goes wrong while it serves ---------------------------------------------------------


def test_a_revocation_counts_whatever_is_wrong_with_the_secrets(site: Site) -> None:
    site.load(TOFU)
    (site.state / "psk").mkdir(mode=0o700)
    (site.state / "psk" / "notes~").write_text("not a key\n")
    revoked = KnownPeer(KEY, "*", NOW, None, TrustLevel.REVOKED)
    site.file.update(lambda known: known.put(revoked))
    for _ in range(3):
        site.keeper.look()
    assert [event for event, _ in site.reports] == ["identity", "trust_failed"]
    ((trust, _applied),) = site.given
    assert trust.known.is_revoked(KEY)
    assert trust.secrets_stay
    (site.state / "psk" / "notes~").unlink()
    site.keeper.look()
    assert len(site.given) == 2
    assert not site.given[-1][0].secrets_stay
    assert site.given[-1][0].identity is not None


def test_an_identity_that_is_gone_is_not_replaced_by_another(site: Site) -> None:
    """Peers would take it for an attack; what was read stays in force."""
    site.load(TOFU)
    path = site.state / "identity"
    text = path.read_bytes()
    path.unlink()
    for _ in range(2):
        site.keeper.look()
    assert not path.exists()
    assert [event for event, _ in site.reports] == ["identity", "trust_failed"]
    assert not [trust for trust, _ in site.given if not trust.secrets_stay]
    path.write_bytes(text)
    path.chmod(0o600)
    site.keeper.look()
    assert site.given[-1][0].identity is not None


@pytest.mark.parametrize("call", ["fcntl.flock", "os.fsync", "os.replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.ENOLCK, errno.EROFS])
def test_what_cannot_be_written_waits(
    site: Site, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def fails(*_arguments: object, **_more: object) -> None:
        raise OSError(number, os.strerror(number))

    site.load(TOFU)
    site.keeper.take(first())
    with monkeypatch.context() as broken:
        broken.setattr(call, fails)
        for _ in range(3):
            site.keeper.look()
    assert [event for event, _ in site.reports] == ["identity", "trust_failed"]
    assert os.strerror(number) in str(site.reports[-1][1]["reason"])
    assert site.keeper.applied == 0
    assert sorted(path.name for path in site.state.iterdir()) in (
        ["identity"],
        ["identity", "known_peers.lock"],
    )
    site.keeper.look()
    assert [peer.key for peer in site.on_disk()] == [KEY]
    assert site.acknowledged == [1]


def test_a_state_that_is_gone_as_a_whole_makes_nobody_unknown(site: Site) -> None:
    site.load(TOFU)
    site.keeper.take(first())
    site.keeper.look()
    gone = site.state.with_name("gone")
    site.state.rename(gone)
    site.keeper.take(first(OTHER, "192.0.2.8:5432"))
    for _ in range(2):
        site.keeper.look()
    assert not site.given
    assert site.reports[-1][0] == "trust_failed"
    shutil.rmtree(site.state)
    gone.rename(site.state)
    site.keeper.look()
    assert [peer.key for peer in site.given[-1][0].known] == [KEY]


def test_what_nobody_asked_for_is_not_written_down(site: Site) -> None:
    """Whoever has taken over the worker plants no keys for policies that are still to come."""
    site.keeper.take(first())
    site.keeper.flush()
    assert not site.state.exists()
    assert len(site.load(TOFU).known) == 0
    site.keeper.look()
    assert len(site.on_disk()) == 0


def test_policies_that_ask_no_more_leave_connections_their_keys(site: Site) -> None:
    create_psk(site.state / "psk", "site")
    before = site.load(Policy(Mode.REQUIRE, auth="psk", psk="site")).identity
    trust = site.load(PLAIN)
    assert before is not None
    assert trust.identity is not None
    assert trust.identity.public == before.public
    assert trust.psks.by_name("site") is not None
    (site.state / "psk" / "site").unlink()
    assert site.load(PLAIN).psks.by_name("site") is None


def test_what_was_dropped_is_not_counted_in_the_place_of_what_waits(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or whoever serves would unlearn what is not written yet."""
    monkeypatch.setattr("tcpcrypt.daemon.keeper._WAITING_MAX", 3)
    site.load(TOFU)
    site.keeper.take(first(scope="192.0.2.7:1"))
    site.keeper.look()
    (site.state / "known_peers").write_text("nonsense\n")
    for number in range(2, 9):
        site.keeper.take(first(scope=f"192.0.2.7:{number}"))
    site.keeper.look()
    assert site.keeper.applied == 1
    (site.state / "known_peers").unlink()
    site.keeper.look()
    assert site.keeper.applied == 8


def test_secrets_that_stay_are_not_on_the_way() -> None:
    known = KnownPeers()
    known.put(KnownPeer(KEY, SCOPE, NOW, NOW, TrustLevel.REVOKED))
    descriptor = packed(Trust(known, PskStore(), None, True, secrets_stay=True), 3)
    trust, applied = unpack(descriptor)
    os.close(descriptor)
    assert (trust.secrets_stay, trust.known, applied) == (True, known, 3)
    assert (trust.identity, len(trust.psks)) == (None, 0)
