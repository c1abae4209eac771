"""The kernel may answer for what the cache would recognise, and for nothing else."""

from __future__ import annotations

import random

import pytest

from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Role
from tcpcrypt.crypto.schedule import SessionSecret
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.registry import Tep
from tcpcrypt.runtime import bpf
from tcpcrypt.runtime.published import PublishedCache

TEP = Tep.ECDHE_CURVE25519
PEERS = [bytes((10, 0, 0, last)) for last in range(4)] + [bytes(16)]
OPENED = bytes((10, 0, 0, 1)) + b"\x00\x50"
"""The name of a service that this host opens connections to."""

Table = dict[bytes, bytes]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    entries: Table = {}

    def delete(_table: int, key: bytes) -> None:
        entries.pop(key, None)

    monkeypatch.setattr(bpf, "update", lambda _table, key, value: entries.update({key: value}))
    monkeypatch.setattr(bpf, "delete", delete)
    return entries


def secret(seed: int, index: int = 1) -> SessionSecret:
    return SessionSecret(Secret(seed.to_bytes(32, "big")), index)


def store(cache: PublishedCache, peer: bytes, seed: int) -> int:
    return cache.store(peer, tep=TEP, aead=1, original_role=Role.B, secret=secret(seed))


def test_each_identifier_of_the_window_has_its_answer(table: Table) -> None:
    cache = PublishedCache(Config(resumption_window=3), 7)
    store(cache, PEERS[0], 1)
    of = secret(1)
    wanted = {}
    for _ in range(3):
        theirs, ours = of.resume_ids()
        wanted[bytes((TEP | 0x80,)) + theirs] = ours
        of = of.peek_next()
    assert {key: value[:9] for key, value in table.items()} == wanted
    assert {value[9] for value in table.values()} == {8}
    assert len({value[10:] for value in table.values()}) == 3


def test_a_shorter_nonce_is_a_shorter_answer(table: Table) -> None:
    store(PublishedCache(Config(resume_nonce_len=7), 7), PEERS[0], 1)
    assert {(value[9], value[17]) for value in table.values()} == {(7, 0)}


def test_what_this_host_would_ask_for_is_not_there(table: Table) -> None:
    store(PublishedCache(Config(), 7), OPENED, 1)
    assert not table


def test_a_full_map_is_no_misfortune(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_table: int, _key: bytes, _value: bytes) -> None:
        raise OSError(7, "Argument list too long")

    monkeypatch.setattr(bpf, "update", full)
    cache = PublishedCache(Config(), 7)
    store(cache, PEERS[0], 1)
    assert len(cache) == 1


def test_a_spent_secret_is_withdrawn_and_its_successor_there(table: Table) -> None:
    cache = PublishedCache(Config(resumption_window=2), 7)
    store(cache, PEERS[0], 1)
    first, second = sorted(table, key=list(table).index)
    recognised = cache.recognise(TEP, first[1:])
    assert recognised is not None
    assert recognised.own_identifier == table[first][:9]
    assert cache.commit(recognised) is not None
    assert first not in table
    assert second in table
    assert len(table) == 2


def test_what_connections_of_this_host_push_out_is_withdrawn(table: Table) -> None:
    """The kernel would promise a secret that is gone, and the connection be reset."""
    cache = PublishedCache(Config(resumption_window=2, cache_capacity=12, cache_per_peer=8), 7)
    for seed, peer in enumerate(PEERS, 1):
        store(cache, peer, seed)
    for port in range(12):
        store(cache, OPENED[:4] + port.to_bytes(2, "big"), 100 + port)
    assert not table


def test_whatever_happens_the_map_has_what_the_cache_recognises(table: Table) -> None:
    chance = random.Random(8547)
    cache = PublishedCache(Config(resumption_window=2, cache_capacity=12, cache_per_peer=4), 7)
    ever: set[bytes] = set()
    chains: list[int] = []
    for seed in range(1, 1500):
        what = chance.random()
        if what < 0.5 or not table:
            chains.append(store(cache, chance.choice([*PEERS, OPENED]), seed))
        elif what < 0.8:
            found = cache.recognise(TEP, chance.choice(sorted(table))[1:])
            assert found is not None
            cache.commit(found, keep=chance.random() < 0.8)
        elif what < 0.9:
            cache.drop(chance.choice(chains))
        elif what < 0.98:
            cache.flush(chance.choice(PEERS))
        else:
            cache.flush()
        ever |= table.keys()
        for key in ever:
            recognised = cache.recognise(TEP, key[1:])
            assert (recognised is not None) == (key in table)
            if recognised is not None:
                assert recognised.own_identifier == table[key][:9]
                cache.release(recognised)
        if len(ever) > 200:
            ever = set(table)
