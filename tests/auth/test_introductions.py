"""Known peers by mail: the text survives it, and importing lowers no trust by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpcrypt.auth import introductions as module
from tcpcrypt.auth.fingerprint import fingerprint
from tcpcrypt.auth.introductions import (
    Introduction,
    plan,
    read_text,
    revoke,
    written_text,
)
from tcpcrypt.auth.known_peers import KnownPeer, KnownPeers, KnownPeersError, TrustLevel
from tcpcrypt.auth.scope import INCOMING

NOW = 1_800_000_000
A, B, C = (fingerprint(name.encode() * 32) for name in "abc")
S, T = "10.0.0.2:5432", "[2001:db8::7]:22"


def peers(*lines: tuple[str, str, str]) -> KnownPeers:
    known = KnownPeers()
    for scope, trust, key in lines:
        known.put(KnownPeer(key, scope, NOW - 9, NOW - 5, TrustLevel(trust)))
    return known


def told(*lines: tuple[str, str, str]) -> list[Introduction]:
    return [Introduction(scope, TrustLevel(trust), key) for scope, trust, key in lines]


def lines(known: KnownPeers) -> list[tuple[str, str, str]]:
    return [(peer.scope, str(peer.trust), peer.key) for peer in known]


TEXT = f"""\
-----BEGIN TCPCRYPT PEERS-----
{INCOMING} tofu
  {A}
{S} pinned
  {B}
-----END TCPCRYPT PEERS-----
"""


# --- the text -------------------------------------------------------------------------


def test_the_text() -> None:
    known = peers((S, "pinned", B), (INCOMING, "tofu", A))
    assert written_text(known) == TEXT
    assert read_text(TEXT, "x") == told((INCOMING, "tofu", A), (S, "pinned", B))
    assert read_text(written_text([]), "x") == []
    assert max(map(len, TEXT.splitlines())) <= 72, "no mailer breaks its lines"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: f"Hello,\n\nhere they are:\n\n{text}\n-- \nme\n",
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "".join(f"> {line}\n" for line in text.splitlines()),
        lambda text: "".join(f"> > {line}\n" for line in text.splitlines()),
        lambda text: "".join(f"\t{line.strip()}  \n" for line in text.splitlines()),
        lambda text: text.replace(" tofu\n", "\ntofu ").replace(" pinned\n", " pinned "),
    ],
)
def test_what_mail_does_to_it(change) -> None:  # type: ignore[no-untyped-def]
    assert read_text(change(TEXT), "x") == read_text(TEXT, "x")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "there is no line '-----BEGIN"),
        ("hello\nyou\n", 2, "there is no line '-----BEGIN"),
        (TEXT.replace("-----END", "----END"), 6, "there is no line '-----END"),
        ("-----END TCPCRYPT PEERS-----\n", 1, "there is no line '-----BEGIN"),
        (TEXT + TEXT, 7, "begins twice"),
        (TEXT.replace("pinned", "friend"), 4, "'friend' is none of tofu, psk, pinned, revoked"),
        (TEXT.replace(B, B[:-1]), 4, "is not a whole fingerprint"),
        (TEXT.replace(B, B[:40] + " " + B[40:]), 4, "is not a whole fingerprint"),
        (TEXT.replace(S, "10.0.0.2"), 4, "is not ADDRESS:PORT"),
        (TEXT.replace(f"  {B}\n", ""), 4, "not a scope, its trust and a fingerprint"),
    ],
)
def test_what_is_no_such_text(text: str, line: int, message: str) -> None:
    with pytest.raises(KnownPeersError, match=message) as caught:
        read_text(text, "mail")
    assert (caught.value.source, caught.value.line) == ("mail", line)


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PEERS_MAX", 1)
    with pytest.raises(KnownPeersError, match="more than 1 peers"):
        read_text(TEXT, "x")


@given(st.text() | st.text().map(lambda text: TEXT.replace("tofu", text)))
def test_any_text(text: str) -> None:
    try:
        found = read_text(text, "x")
    except KnownPeersError as error:
        assert error.line >= 1  # noqa: PT017
    else:
        assert read_text(written_text(found), "x") == found


# --- importing --------------------------------------------------------------------------


def test_what_is_new_is_added() -> None:
    known = peers((S, "tofu", A))
    new = told((T, "pinned", B), (INCOMING, "tofu", B), (T, "tofu", C), ("h:1", "revoked", C[:-1]
               + ("a" if C[-1] == "q" else "q")))  # fmt: skip
    made = plan(known, new)
    assert (made.added, made.raised, made.unchanged, made.conflicts) == (new, [], [], [])
    made.carry_out(known, NOW)
    assert set(lines(known)) == {
        (S, "tofu", A), *((one.scope, str(one.trust), one.key) for one in new),
    }  # fmt: skip
    added = known.get(B, T)
    assert added is not None
    assert (added.first, added.last) == (NOW, None)


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        *(("tofu", "tofu", "unchanged"), ("tofu", "psk", "raised"), ("tofu", "pinned", "raised")),
        *(("psk", "tofu", "unchanged"), ("psk", "pinned", "raised")),
        *(("pinned", "tofu", "unchanged"), ("pinned", "psk", "unchanged")),
        *(("tofu", "revoked", "raised"), ("revoked", "revoked", "unchanged")),
    ],
)
def test_trust_is_raised_and_never_lowered(before: str, after: str, kind: str) -> None:
    known = peers((S, before, A))
    made = plan(known, told((S, after, A)))
    assert getattr(made, kind) == told((S, after, A))
    assert made.conflicts == []
    made.carry_out(known, NOW)
    assert lines(known) == [(S, after if kind == "raised" else before, A)]
    peer = known.get(A, S)
    assert peer is not None
    assert (peer.first, peer.last) == (NOW - 9, NOW - 5), "when it was seen stays"


@pytest.mark.parametrize(
    ("before", "new", "against", "forced"),
    [
        ([(S, "tofu", A)], (S, "pinned", B), [(S, "tofu", A)], [(S, "pinned", B)]),
        ([(S, "pinned", A)], (S, "tofu", B), [(S, "pinned", A)], [(S, "tofu", B)]),
        ([(S, "revoked", A)], (S, "pinned", A), [(S, "revoked", A)], [(S, "pinned", A)]),
        ([(T, "revoked", A)], (S, "tofu", A), [(T, "revoked", A)], [(S, "tofu", A)]),
        ([(S, "pinned", A)], (S, "revoked", A), [(S, "pinned", A)], [(S, "revoked", A)]),
        (
            [(S, "pinned", A), (T, "tofu", A)],
            (T, "revoked", A),
            [(S, "pinned", A)],
            [(S, "revoked", A), (T, "revoked", A)],
        ),
        (
            [(S, "revoked", C), (S, "tofu", A)],
            (S, "pinned", B),
            [(S, "tofu", A)],
            [(S, "pinned", B), (S, "revoked", C)],
        ),
    ],
)
def test_what_contradicts_is_a_conflict(
    before: list[tuple[str, str, str]],
    new: tuple[str, str, str],
    against: list[tuple[str, str, str]],
    forced: list[tuple[str, str, str]],
) -> None:
    known = peers(*before)
    made = plan(known, told(new))
    (conflict,) = made.conflicts
    assert (made.added, made.raised, made.unchanged) == ([], [], [])
    assert [(peer.scope, str(peer.trust), peer.key) for peer in conflict.known] == against
    for scope, trust, key in (new, *against):
        for word in (scope, trust, key):
            assert word in str(conflict), "both fingerprints are shown"
    made.carry_out(known, NOW)
    assert sorted(lines(known)) == sorted(forced)


def test_a_new_key_after_a_revoked_one_is_no_conflict() -> None:
    known = peers((S, "revoked", A))
    made = plan(known, told((S, "pinned", B)))
    assert made.added == told((S, "pinned", B))


def test_two_keys_of_one_scope_can_come_together() -> None:
    both = told((S, "pinned", A), (S, "pinned", B), (S, "pinned", A))
    assert plan(peers(), both).added == both[:2]


def test_revoking() -> None:
    known = peers((S, "pinned", A), (INCOMING, "tofu", A), (T, "tofu", B))
    assert len(revoke(known, A, NOW)) == 2
    assert known.is_revoked(A)
    assert revoke(known, C, NOW) == [KnownPeer(C, INCOMING, NOW, None, TrustLevel.REVOKED)]
    assert known.is_revoked(C)
    assert not known.is_revoked(B)
