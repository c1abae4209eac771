"""Known peers: the text, for any bytes; asking; how fast."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpcrypt.auth import known_peers as module
from tcpcrypt.auth.fingerprint import fingerprint
from tcpcrypt.auth.known_peers import (
    KnownPeer,
    KnownPeers,
    KnownPeersError,
    TrustLevel,
    read_time,
    written_time,
)
from tcpcrypt.auth.scope import INCOMING, outgoing_scope
from tcpcrypt.errors import LocalError

NOW = 1_800_000_000
A, B, C = (fingerprint(name.encode() * 32) for name in "abc")
S = "10.0.0.2:5432"


def peer(key: str = A, scope: str = S, trust: str = "tofu", last: int | None = NOW) -> KnownPeer:
    return KnownPeer(key, scope, NOW, last, TrustLevel(trust))


def peers(*all_: KnownPeer) -> KnownPeers:
    known = KnownPeers()
    for one in all_:
        known.put(one)
    return known


TEXT = f"""\
tcpcrypt-known-peers-1
{C} * 2027-01-15T08:00:00Z - pinned
{A} 10.0.0.2:5432 2027-01-15T08:00:00Z 2027-01-15T08:00:00Z tofu
{B} [fe80::1%eth0]:22 2027-01-15T08:00:00Z 2027-01-15T08:00:00Z revoked
end
"""


def test_lines_are_counted_by_their_trust() -> None:
    known = peers(peer(A), peer(B), peer(C, trust="pinned"), peer(A, INCOMING, "psk"))
    known.put(peer(B, trust="revoked"))
    known.remove(C, S)
    for one in (known, known.copy(), KnownPeers.parse(known.format(), "file")):
        assert {level.value: one.count(level) for level in TrustLevel} == {
            **{"tofu": 1, "psk": 1, "pinned": 0, "revoked": 1},
        }


# --- the text -------------------------------------------------------------------------


def test_the_text() -> None:
    known = peers(
        peer(), peer(B, "[fe80::1%eth0]:22", "revoked"), peer(C, INCOMING, "pinned", None)
    )
    assert known.format().decode() == TEXT
    assert KnownPeers.parse(TEXT.encode(), "x") == known
    assert KnownPeers.parse(b"tcpcrypt-known-peers-1\nend\n", "x") == KnownPeers()


def test_a_part_of_a_file_is_never_taken_for_the_whole() -> None:
    """Fewer known peers would be less security."""
    whole = TEXT.encode()
    for length in range(len(whole)):
        with pytest.raises(KnownPeersError) as caught:
            KnownPeers.parse(whole[:length], "file")
        assert str(caught.value).startswith(f"file:{caught.value.line}: ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "1 columns, not 5"),
        ("# a remark", "3 columns, not 5"),
        (f"{A} {S} 2027-01-15T08:00:00Z - tofu more", "6 columns"),
        (f"{A}  {S} 2027-01-15T08:00:00Z - tofu", "6 columns"),
        (f"{A[:-1]} {S} 2027-01-15T08:00:00Z - tofu", "is not a whole fingerprint"),
        (f"{A} 10.0.0.2 2027-01-15T08:00:00Z - tofu", "is not ADDRESS:PORT"),
        (f"{A} [::FFFF:10.0.0.2]:1 2027-01-15T08:00:00Z - tofu", "not how this is written"),
        (f"{A} {S} 2027-01-15 - tofu", "'2027-01-15' is not a time"),
        (f"{A} {S} 2027-02-30T08:00:00Z - tofu", "is not a time"),
        (f"{A} {S} - - tofu", "'-' is not a time"),
        (f"{A} {S} 2027-01-15T08:00:00Z now tofu", "'now' is not a time"),
        (f"{A} {S} 1969-01-15T08:00:00Z - tofu", "is not a time"),
        (f"{A} {S} 2027-01-15T08:00:00Z - friend", "none of tofu, psk, pinned, revoked"),
        (f"{A} {S} 2027-01-15T08:00:00Z - TOFU", "none of tofu"),
        (f"{A} {S} 2027-01-15T08:00:00Z - tofu\r", "none of tofu"),
        (f"{A} 10.0.0.2:5432 2027-01-15T08:00:00Z - pinned", "stands there twice"),
        ("end", "1 columns, not 5"),
        ("\xe4", "not ASCII"),
    ],
)
def test_malformed_lines_are_errors_with_their_place(line: str, message: str) -> None:
    lines = TEXT.splitlines()
    lines.insert(3, line)
    with pytest.raises(KnownPeersError, match=message) as caught:
        KnownPeers.parse(("\n".join(lines) + "\n").encode("latin-1"), "/var/known_peers")
    assert (caught.value.source, caught.value.line) == ("/var/known_peers", 4)
    assert str(caught.value).startswith("/var/known_peers:4: ")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "the first line is not"),
        ("tcpcrypt-known-peers-2\nend\n", 1, "another format"),
        (TEXT + "\n", 6, "a part of the file is missing"),
        (TEXT[:-1], 5, "a part of the file is missing"),
        (TEXT.replace("end\n", ""), 4, "a part of the file is missing"),
        (TEXT.replace("\n", "\r\n"), 1, "the first line is not"),
    ],
)
def test_first_and_last_line(text: str, line: int, message: str) -> None:
    with pytest.raises(KnownPeersError, match=message) as caught:
        KnownPeers.parse(text.encode(), "x")
    assert caught.value.line == line


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PEERS_MAX", 2)
    with pytest.raises(KnownPeersError, match="2 known peers already; forget some") as caught:
        KnownPeers.parse(TEXT.encode(), "x")
    assert caught.value.line == 4
    known = peers(peer(A), peer(B))
    known.put(peer(A, trust="pinned"))
    with pytest.raises(LocalError, match="forget some"):
        known.put(peer(C))
    assert len(known) == 2
    monkeypatch.setattr(module, "SIZE_MAX", 100)
    with pytest.raises(KnownPeersError, match="longer than 100 bytes"):
        KnownPeers.parse(TEXT.encode(), "x")


keys = st.binary(min_size=32, max_size=32).map(fingerprint)
names = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z])?(\.[a-z]{2,5})?", fullmatch=True)
ports = st.integers(1, 0xFFFF)
scopes = (
    st.just(INCOMING)
    | st.builds(outgoing_scope, st.ip_addresses(), ports)
    | st.builds("{}:{}".format, names, ports)
)
times = st.integers(0, 253402300799)
entries = st.builds(
    KnownPeer, keys, scopes, times, st.none() | times, st.sampled_from(list(TrustLevel))
)


@given(st.lists(entries))
def test_any_peers_come_back(all_: list[KnownPeer]) -> None:
    known = peers(*all_)
    text = known.format()
    read = KnownPeers.parse(text, "x")
    assert read == known
    assert list(read) == list(known)
    assert len(known) == len({(one.key, one.scope) for one in all_})
    assert read.format() == text


@given(st.binary())
def test_any_bytes(data: bytes) -> None:
    for text in (data, b"tcpcrypt-known-peers-1\n" + data + b"\nend\n"):
        try:
            known = KnownPeers.parse(text, "x")
        except KnownPeersError as error:
            assert error.line >= 1  # noqa: PT017
        else:
            assert KnownPeers.parse(known.format(), "x") == known


@given(st.lists(entries, min_size=1, max_size=4), st.data())
def test_any_changed_byte(all_: list[KnownPeer], data: st.DataObject) -> None:
    """Read as something else or not at all, never with an error of another kind."""
    text = bytearray(peers(*all_).format())
    text[data.draw(st.integers(0, len(text) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        known = KnownPeers.parse(bytes(text), "x")
    except KnownPeersError:
        return
    assert len(known) == len(peers(*all_)), "no line is lost"


@given(times)
def test_times_come_back(moment: int) -> None:
    assert read_time(written_time(moment)) == moment


def test_times_that_are_none() -> None:
    for moment in (-1, 253402300800):
        with pytest.raises(LocalError, match="is not a time"):
            replace(peer(), first=moment)


# --- asking and changing --------------------------------------------------------------


def test_asking() -> None:
    known = peers(peer(A), peer(B), peer(A, INCOMING, "pinned"))
    assert set(known.of_scope(S)) == {A, B}
    assert known.of_scope("10.0.0.2:22") == {}
    assert known.get(A, S) == peer(A)
    assert known.get(C, S) is None
    assert known.of_key(A) == [peer(A), peer(A, INCOMING, "pinned")]
    assert known.of_key(C) == []
    assert (len(known), known.learnt(S), known.learnt(INCOMING)) == (3, 2, 0)
    assert known != peers(peer(A))
    assert known != 5


def test_removing() -> None:
    known = peers(peer(A), peer(B))
    assert known.remove(A, S)
    assert not known.remove(A, S)
    assert not known.remove(A, INCOMING)
    assert known.remove(B, S)
    assert known == KnownPeers()
    assert known.learnt(S) == 0


def test_revoked_in_one_scope_is_revoked() -> None:
    known = peers(peer(A, trust="revoked"), peer(A, INCOMING, "revoked"), peer(B))
    assert known.is_revoked(A)
    known.remove(A, S)
    assert known.is_revoked(A)
    known.put(peer(A, INCOMING, "tofu"))
    assert not known.is_revoked(A)
    assert known.learnt(INCOMING) == 1
    assert not known.is_revoked(B)


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.sampled_from([S, INCOMING]),
                          st.sampled_from([*TrustLevel, None]))))  # fmt: skip
def test_what_is_counted_is_what_is_there(steps: list[tuple[str, str, TrustLevel | None]]) -> None:
    known = KnownPeers()
    for key, scope, trust in steps:
        if trust is None:
            known.remove(key, scope)
        else:
            known.put(KnownPeer(key, scope, NOW, None, trust))
        lines = list(known)
        assert len(known) == len(lines)
        for one in (A, B):
            revoked = [line for line in lines if line.key == one and line.trust == "revoked"]
            assert known.is_revoked(one) == bool(revoked)
        learnt = [line.scope for line in lines if line.trust in ("tofu", "psk")]
        assert known.learnt(S) == learnt.count(S)
        assert known.learnt(INCOMING) == learnt.count(INCOMING)


def test_a_copy_is_another() -> None:
    known = peers(peer(A), peer(B, trust="revoked"))
    other = known.copy()
    assert other == known
    other.remove(A, S)
    other.remove(B, S)
    other.put(peer(C))
    assert known == peers(peer(A), peer(B, trust="revoked"))
    assert known.is_revoked(B)
    assert (known.learnt(S), len(known), other.learnt(S), len(other)) == (1, 2, 1, 1)
    assert not other.is_revoked(B)


@pytest.mark.parametrize("count", [1_000, 100_000])
def test_a_look_takes_microseconds(count: int) -> None:
    known = KnownPeers()
    made = [fingerprint(number.to_bytes(32, "big")) for number in range(count)]
    for number, key in enumerate(made):
        scope = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}:443"
        known.put(KnownPeer(key, scope, NOW, NOW, TrustLevel.TOFU))
    text = known.format()
    assert KnownPeers.parse(text, "x") == known
    scope, key = "10.0.1.7:443", made[0x107]
    best = 1.0
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(100):
            assert key in known.of_scope(scope)
            assert not known.is_revoked(key)
        best = min(best, (time.perf_counter() - start) / 100)
    assert best < 20e-6
