"""Both twins of the session cache, step by step beside a model without bounds on time."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

IDENTIFIERS = [b"\xa3" + bytes([number]) * 9 for number in range(12)]
PEERS = [b"", b"a", b"peer", b"p" * 255]


@dataclass
class Record:
    """One record of the model; its number counts insertions."""

    number: int
    peer: bytes
    identifiers: tuple[bytes, ...]
    secret: bytes
    meta: bytes


class Model:
    """What the contract says, as lists that are searched from end to end."""

    def __init__(self, capacity: int, per_peer: int) -> None:
        self.capacity, self.per_peer, self.count = capacity, per_peer, 0
        self.records: list[Record] = []
        # The last record that got an identifier owns it, and takes it along.
        self.places: dict[bytes, tuple[int, int]] = {}

    def insert(
        self, peer: bytes, identifiers: tuple[bytes, ...], secret: bytes, meta: bytes
    ) -> None:
        share = [record for record in self.records if record.peer == peer]
        if len(share) >= self.per_peer:
            self.records.remove(share[0])
        elif len(self.records) >= self.capacity:
            del self.records[0]
        self.count += 1
        self.records.append(Record(self.count, peer, identifiers, secret, meta))
        for position, identifier in enumerate(identifiers):
            self.places[identifier] = (self.count, position)

    def lookup(self, identifier: bytes) -> tuple[int, int] | None:
        place = self.places.get(identifier)
        alive = place and any(record.number == place[0] for record in self.records)
        return place if alive else None


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("insert"),
            st.sampled_from(PEERS),
            st.lists(st.sampled_from(IDENTIFIERS), max_size=4, unique=True).map(tuple),
            st.binary(max_size=64),
            st.binary(max_size=3),
        ),
        st.tuples(st.just("remove"), st.integers(0, 60)),
        st.tuples(st.just("remove_peer"), st.sampled_from(PEERS)),
        st.tuples(st.sampled_from(["clear", "look"])),
    ),
    max_size=60,
)


def everything(cache: Any, handles: list[int]) -> list[Any]:
    """All that can be seen of a table, with handles as numbers of insertion."""
    number: dict[int | None, int | None] = {None: None}
    number.update({handle: index + 1 for index, handle in enumerate(handles)})
    seen: list[Any] = [len(cache)]
    for identifier in IDENTIFIERS:
        place = cache.lookup(identifier)
        seen.append(place and (number[place[0]], place[1]))
    seen.extend(number[cache.newest(peer)] for peer in PEERS)
    for handle in handles:
        seen.append(number[cache.older(handle)])
        for length in range(65):
            secret = bytearray(length)
            try:
                seen.append((cache.read(handle, secret), bytes(secret)))
            except ValueError:
                continue
            break
    return seen


def expected(model: Model) -> list[Any]:
    seen: list[Any] = [len(model.records)]
    seen.extend(model.lookup(identifier) for identifier in IDENTIFIERS)
    for peer in PEERS:
        numbers = [record.number for record in model.records if record.peer == peer]
        seen.append(max(numbers, default=None))
    by_number = {record.number: record for record in model.records}
    for number in range(1, model.count + 1):
        record = by_number.get(number)
        if record is None:
            seen.extend((None, (None, b"")))
        else:
            before = [r.number for r in model.records[: model.records.index(record)]
                      if r.peer == record.peer]  # fmt: skip
            seen.append(max(before, default=None))
            seen.append(((record.peer, record.identifiers, record.meta), record.secret))
    return seen


@given(capacity=st.integers(1, 6), per_peer=st.integers(1, 4), steps=STEPS)
def test_both_do_what_the_contract_says(
    twins: list[ModuleType], capacity: int, per_peer: int, steps: list[tuple[Any, ...]]
) -> None:
    model = Model(capacity, per_peer)
    caches = [twin.SessionCache(capacity, per_peer) for twin in twins]
    handles: list[list[int]] = [[] for _ in caches]
    for step, *arguments in steps:
        if step == "insert":
            model.insert(*arguments)
            for cache, known in zip(caches, handles, strict=True):
                known.append(cache.insert(*arguments))
        elif step == "remove":
            if not model.count:
                continue
            number = arguments[0] % model.count + 1
            before = len(model.records)
            model.records = [record for record in model.records if record.number != number]
            for cache, known in zip(caches, handles, strict=True):
                assert cache.remove(known[number - 1]) is (len(model.records) < before)
        elif step == "remove_peer":
            before = len(model.records)
            model.records = [record for record in model.records if record.peer != arguments[0]]
            for cache in caches:
                assert cache.remove_peer(arguments[0]) == before - len(model.records)
        elif step == "clear":
            for cache in caches:
                assert cache.clear() == len(model.records)
            model.records = []
        else:
            for cache, known in zip(caches, handles, strict=True):
                assert everything(cache, known) == expected(model)
    for cache, known in zip(caches, handles, strict=True):
        assert everything(cache, known) == expected(model)
