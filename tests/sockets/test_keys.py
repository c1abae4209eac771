"""The directory of keys: where it is, what it is made with, and when it is read anew."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support.conversations import SCOPE, End, carry, connected, finished, told

from tcpcrypt.auth.fingerprint import fingerprint
from tcpcrypt.auth.identity import Identity, create_identity
from tcpcrypt.auth.known_peers import KnownPeer, KnownPeers, TrustLevel
from tcpcrypt.auth.known_peers_file import KnownPeersFile
from tcpcrypt.auth.learned import LEARNT_OUTGOING_MAX
from tcpcrypt.auth.psk import PskStore, create_psk
from tcpcrypt.auth.terms import PeerProof
from tcpcrypt.auth.trust import TrustTerms
from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Role
from tcpcrypt.errors import IdentityChangedError, LocalError
from tcpcrypt.sockets import KeyDirectory, arrangement, default_directory, keys
from tcpcrypt.sockets.arrangement import arrange, service_scope
from tcpcrypt.sockets.peer import Demand, PeerSpec
from tcpcrypt.sockets.state import State


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TCPCRYPT_KEYS", str(tmp_path / "mine"))
    assert default_directory() == tmp_path / "mine"
    monkeypatch.delenv("TCPCRYPT_KEYS")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_directory() == Path("/var/lib/tcpcrypt")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "tcpcrypt"
    for unset in ("", "relative/path"):
        monkeypatch.setenv("XDG_STATE_HOME", unset)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert default_directory() == tmp_path / ".local/state/tcpcrypt"


def test_it_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    directory = KeyDirectory(tmp_path / "state" / "tcpcrypt")
    own = directory.identity
    assert (tmp_path / "state/tcpcrypt").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state/tcpcrypt/identity").stat().st_mode & 0o777 == 0o600
    assert KeyDirectory(tmp_path / "state/tcpcrypt").identity.fingerprint == own.fingerprint
    assert "state/tcpcrypt" in repr(directory)


def test_a_process_has_one_for_each_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = KeyDirectory.at(tmp_path / "a")
    assert KeyDirectory.at(str(tmp_path / "b" / ".." / "a")) is one
    assert KeyDirectory.at(one) is one
    monkeypatch.setenv("TCPCRYPT_KEYS", str(tmp_path / "a"))
    assert KeyDirectory.at() is one


def test_the_daemons_own_has_the_keys_of_the_system_too() -> None:
    assert KeyDirectory(Path("/var/lib/tcpcrypt"))._psk_paths == (
        Path("/var/lib/tcpcrypt/psk"),
        Path("/etc/tcpcrypt/psk"),
    )


@pytest.mark.parametrize("name", ["identity", "known_peers"])
def test_what_others_could_have_written_is_not_believed(tmp_path: Path, name: str) -> None:
    directory = KeyDirectory(tmp_path / "a")
    assert directory.identity
    path = tmp_path / "a" / name
    path.touch()
    path.chmod(0o666)
    with pytest.raises(LocalError, match="chmod 600"):
        KeyDirectory(tmp_path / "a").trust()


def test_another_identity_begins_anew(tmp_path: Path) -> None:
    client, server = End.at(tmp_path / "a"), End.at(tmp_path / "b")
    finished(*connected(client, server))
    assert len(client.keys.outgoing) == len(server.keys.incoming) == 1
    (tmp_path / "a" / "identity").unlink()
    new = create_identity(tmp_path / "a" / "identity").fingerprint
    a, b = connected(client, server)
    assert a.resumed is False
    assert b.peer_identity == new


def test_psks_are_read_when_there_are_others(tmp_path: Path) -> None:
    directory = KeyDirectory(tmp_path / "a")
    assert directory.trust().psks.by_name("pump") is None
    (tmp_path / "a" / "psk").mkdir(mode=0o700)
    create_psk(tmp_path / "a" / "psk", "pump")
    assert directory.trust().psks.by_name("pump") is not None
    assert str(PeerSpec.parse("psk:pump")) == "psk:pump"
    assert arrange(PeerSpec.parse("psk:pump"), Role.A, SCOPE, directory)


def test_peers_are_read_when_others_have_learnt(tmp_path: Path) -> None:
    """Two processes with one directory: what one has met the other knows."""
    client, server = End.at(tmp_path / "a"), End.at(tmp_path / "b")
    twin = End.at(tmp_path / "a")
    assert not twin.keys.trust().known.of_scope(SCOPE)
    finished(*connected(client, server))
    assert list(twin.keys.trust().known.of_scope(SCOPE)) == [server.keys.identity.fingerprint]


def test_two_first_contacts_at_once_are_not_two_keys(tmp_path: Path) -> None:
    """What another process wrote down meanwhile counts."""
    client, server = End.at(tmp_path / "a"), End.at(tmp_path / "b")
    a, b = client.converse(Role.A), server.converse(Role.B)
    other = fingerprint(Identity.generate().public)
    KnownPeersFile(tmp_path / "a" / "known_peers").update(
        lambda known: known.put(KnownPeer(other, SCOPE, 1, 1, TrustLevel.TOFU))
    )
    carry(a, b)
    assert isinstance(a.error, IdentityChangedError)
    assert told(a).states[-1] is State.FAIL


def test_no_room_for_a_first_contact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client, server = End.at(tmp_path / "a"), End.at(tmp_path / "b")
    monkeypatch.setattr("tcpcrypt.auth.learned.LEARNT_OUTGOING_MAX", 0)
    assert LEARNT_OUTGOING_MAX
    a, b = client.converse(Role.A), server.converse(Role.B)
    carry(a, b)
    assert isinstance(a.error, LocalError)
    assert "no room" in str(a.error)


def test_strangers_are_not_refused_for_want_of_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tcpcrypt.auth.learned.LEARNT_INCOMING_MAX", 0)
    connected(End.at(tmp_path / "a"), End.at(tmp_path / "b"))


def test_strangers_do_not_keep_a_server_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each new key that one of them shows would be a file to be written and synced."""
    monkeypatch.setattr(keys, "_REST", 1e9)
    path = tmp_path / "b"
    server = keys.KeyDirectory.at(path)
    publics = [Identity.generate() for _ in range(20)]
    shown = [fingerprint(identity.public) for identity in publics]
    learn = arrange(PeerSpec.parse("tofu"), Role.B, "", server).learn

    def known(peers: KnownPeers) -> set[str]:
        return set(peers.of_scope("*"))

    def on_disk() -> set[str]:
        file = KnownPeersFile(path / "known_peers")
        file.refresh()
        return known(file.current)

    for identity in publics:
        learn(PeerProof(identity.public, "", 1).pack())
    assert on_disk() == {shown[0]}
    assert known(server.trust().known) == set(shown)
    # Another process writes, too, and it is this one's turn at last.
    other = fingerprint(Identity.generate().public)
    KnownPeersFile(path / "known_peers").update(
        lambda peers: peers.put(KnownPeer(other, "*", 1, 1, TrustLevel.TOFU))
    )
    assert known(server.trust().known) == {*shown, other}
    server._rest_until = 0.0
    server.trust()
    assert on_disk() == {*shown, other}
    # What is left at the end of the program.
    late = Identity.generate()
    learn(PeerProof(late.public, "", 1).pack())
    assert fingerprint(late.public) not in on_disk()
    keys._write_all()
    assert fingerprint(late.public) in on_disk()


def test_a_key_that_was_seen_again_need_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, server = End.at(tmp_path / "a"), End.at(tmp_path / "b")
    finished(*connected(client, server))
    (tmp_path / "a" / "known_peers.lock").unlink()
    (tmp_path / "a" / "known_peers.lock").mkdir()
    monkeypatch.setattr("tcpcrypt.auth.trust.REFRESH", -1)
    finished(*connected(client, server))


@pytest.mark.parametrize(
    ("host", "port", "scope"),
    [
        ("192.0.2.7", 5000, "192.0.2.7:5000"),
        ("::ffff:192.0.2.7", 5000, "192.0.2.7:5000"),
        ("2001:DB8::7", 5000, "[2001:db8::7]:5000"),
        ("fe80::7%eth0", 5000, "[fe80::7%eth0]:5000"),
        ("Meter.Example.ORG.", 5000, "meter.example.org:5000"),
        ("localhost", 5000, "localhost:5000"),
    ],
)
def test_under_which_name_a_service_is_known(host: str, port: int, scope: str) -> None:
    assert service_scope(host, port) == scope


@pytest.mark.parametrize(("host", "port"), [("", 1), ("a b", 1), ("localhost", 0), ("::1", 70_000)])
def test_what_is_no_service(host: str, port: int) -> None:
    with pytest.raises(LocalError):
        service_scope(host, port)


def test_how_a_peer_is_written() -> None:
    own = fingerprint(Identity.generate().public)
    for text in ("tofu", f"pin:{own}", f"pin:{own},{own}", "psk:a", "insecure-unauthenticated"):
        assert str(PeerSpec.parse(text)) == text
    assert PeerSpec.parse(f"pin:{own}").demand is Demand.PIN
    assert keys.default_directory is default_directory


@pytest.mark.parametrize("what", ["identity", "psks"])
def test_own_keys_that_change_are_shown_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Also those that another thread meets while the settings of a connection are made."""
    directory = KeyDirectory(tmp_path / "state")
    trust = directory.trust()
    name, spec = service_scope("10.0.0.1", 80), PeerSpec(Demand.TOFU)

    def config() -> Config:
        return arrange(spec, Role.A, name, directory).config

    first = config()
    assert config() is first
    new = Identity.generate() if what == "identity" else PskStore()
    make = arrangement._terms

    def meanwhile(*args: Any) -> TrustTerms:
        terms = make(*args)
        setattr(trust, what, new)
        return terms

    directory.settled.clear()
    with monkeypatch.context() as patched:
        patched.setattr(arrangement, "_terms", meanwhile)
        stale = config()
    assert config() is not stale
    assert config() is config()
