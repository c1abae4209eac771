"""RFC 8548 section 3.5: the table of session secrets, each good for one use."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

SECRET = bytes(range(32))


def name(number: int) -> bytes:
    """An identifier: TEP byte and half of resume[i]."""
    return b"\xa3" + number.to_bytes(9, "big")


def put(cache: Any, peer: bytes, *numbers: int, secret: bytes = SECRET) -> int:
    handle: int = cache.insert(peer, tuple(map(name, numbers)), secret, b"meta")
    return handle


def read(cache: Any, handle: int, length: int = 32) -> tuple[Any, bytes]:
    secret = bytearray(length)
    return cache.read(handle, secret), bytes(secret)


def test_a_record_is_found_by_every_identifier_and_by_peer(twin: ModuleType) -> None:
    cache = twin.SessionCache()
    handle = put(cache, b"peer", 1, 2, 3)
    assert len(cache) == 1
    assert [cache.lookup(name(number)) for number in (1, 2, 3, 4)] == [
        (handle, 0),
        (handle, 1),
        (handle, 2),
        None,
    ]
    assert cache.newest(b"peer") == handle
    assert cache.newest(b"pee") is None
    identifiers = (name(1), name(2), name(3))
    assert read(cache, handle) == ((b"peer", identifiers, b"meta"), SECRET)


def test_identifiers_are_looked_up_in_any_buffer(twin: ModuleType) -> None:
    cache = twin.SessionCache()
    handle = put(cache, b"peer", 1)
    for buffer in (bytearray(name(1)), memoryview(b"." + name(1))[1:]):
        assert cache.lookup(buffer) == (handle, 0)
    for other in (b"", name(1)[:-1], name(1) + b"\0", bytearray(9), bytearray(11)):
        assert cache.lookup(other) is None
    with pytest.raises(TypeError):
        cache.lookup("text")
    with pytest.raises(BufferError):
        cache.lookup(memoryview(bytes(20))[::2])


def test_the_newest_record_of_a_peer_comes_first(twin: ModuleType) -> None:
    cache = twin.SessionCache()
    first, second = put(cache, b"peer", 1), put(cache, b"peer", 2)
    put(cache, b"other", 3)
    assert cache.newest(b"peer") == second
    assert cache.remove(second) is True
    assert cache.newest(b"peer") == first
    assert cache.remove(second) is False
    assert cache.remove(first) is True
    assert cache.newest(b"peer") is None
    assert len(cache) == 1


def test_removal_leaves_nothing_to_find(twin: ModuleType) -> None:
    cache = twin.SessionCache()
    handle = put(cache, b"peer", 1, 2)
    cache.remove(handle)
    assert cache.lookup(name(1)) is None
    assert cache.lookup(name(2)) is None
    assert read(cache, handle) == (None, bytes(32))
    assert len(cache) == 0


def test_all_records_are_listed_in_order_of_insertion(twin: ModuleType) -> None:
    cache = twin.SessionCache()
    assert cache.handles() == []
    handles = [put(cache, b"peer%d" % (number % 2), number) for number in range(5)]
    assert cache.handles() == handles
    cache.remove(handles[1])
    later = put(cache, b"peer0", 9)  # may lie where the removed one lay
    assert cache.handles() == [handles[0], *handles[2:], later]
    cache.clear()
    assert cache.handles() == []


def test_meta_may_have_128_bytes(twin: ModuleType) -> None:
    cache = twin.SessionCache()
    handle = cache.insert(b"p", (), b"", bytes(range(128)))
    assert cache.read(handle, bytearray()) == (b"p", (), bytes(range(128)))


def test_handles_are_never_reused(twin: ModuleType) -> None:
    cache = twin.SessionCache(capacity=2)
    handles = []
    for number in range(20):
        handles.append(put(cache, b"peer", number))
        if number % 7 == 6:
            cache.clear()
        if number % 3 == 2:
            cache.remove(handles[-1])
    assert len(set(handles)) == 20


@pytest.mark.parametrize("handle", [0, -1, 1 << 19, 1 << 63, 1 << 64, 1 << 90])
def test_handles_that_never_were_are_gone(twin: ModuleType, handle: int) -> None:
    cache = twin.SessionCache()
    put(cache, b"peer", 1)
    assert read(cache, handle) == (None, bytes(32))
    assert cache.remove(handle) is False


def test_a_handle_is_an_int(twin: ModuleType) -> None:
    cache = twin.SessionCache()
    for bad in (None, "1", 1.0):
        with pytest.raises(TypeError):
            cache.remove(bad)
        with pytest.raises(TypeError):
            cache.read(bad, bytearray(32))


def test_a_full_table_drops_its_oldest_record(twin: ModuleType) -> None:
    cache = twin.SessionCache(capacity=3)
    handles = [put(cache, b"peer%d" % number, number) for number in range(5)]
    assert len(cache) == 3
    assert [cache.lookup(name(number)) is not None for number in range(5)] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert cache.newest(b"peer0") is None
    assert cache.newest(b"peer4") == handles[4]


def test_a_full_share_drops_the_oldest_of_that_peer_only(twin: ModuleType) -> None:
    cache = twin.SessionCache(capacity=10, per_peer=2)
    other = put(cache, b"other", 100)
    handles = [put(cache, b"peer", number) for number in range(3)]
    assert len(cache) == 3
    assert cache.lookup(name(0)) is None
    assert cache.lookup(name(1)) == (handles[1], 0)
    assert cache.lookup(name(100)) == (other, 0)


def test_a_peer_at_its_share_costs_a_full_table_nothing_else(twin: ModuleType) -> None:
    cache = twin.SessionCache(capacity=3, per_peer=2)
    other = put(cache, b"other", 100)
    for number in range(10):
        put(cache, b"peer", number)
    assert cache.newest(b"other") == other
    assert len(cache) == 3


def test_a_peer_whose_only_record_is_the_oldest_can_come_again(twin: ModuleType) -> None:
    cache = twin.SessionCache(capacity=1, per_peer=2)
    put(cache, b"peer", 1)
    handle = put(cache, b"peer", 2)
    assert (len(cache), cache.newest(b"peer"), cache.lookup(name(1))) == (1, handle, None)


def test_an_identifier_that_is_there_moves_to_the_new_record(twin: ModuleType) -> None:
    cache = twin.SessionCache()
    old = put(cache, b"peer", 1, 2)
    new = put(cache, b"peer", 3, 1)
    assert cache.lookup(name(1)) == (new, 1)
    assert cache.lookup(name(2)) == (old, 1)
    # Removing the old one must not take with it what moved.
    cache.remove(old)
    assert cache.lookup(name(1)) == (new, 1)
    assert cache.lookup(name(2)) is None


def test_all_of_a_peer_can_be_removed(twin: ModuleType) -> None:
    cache = twin.SessionCache()
    for number in range(3):
        put(cache, b"peer", number)
    put(cache, b"other", 9)
    assert cache.remove_peer(b"peer") == 3
    assert cache.remove_peer(b"peer") == 0
    assert (len(cache), cache.newest(b"peer")) == (1, None)
    assert cache.lookup(name(9)) is not None


def test_clear_removes_all(twin: ModuleType) -> None:
    cache = twin.SessionCache()
    assert cache.clear() == 0
    for number in range(5):
        put(cache, b"peer%d" % number, number)
    assert cache.clear() == 5
    assert len(cache) == 0
    assert cache.lookup(name(1)) is None
    assert cache.newest(b"peer1") is None
    put(cache, b"peer1", 1)
    assert len(cache) == 1


def test_records_may_be_small_or_as_large_as_allowed(twin: ModuleType) -> None:
    cache = twin.SessionCache()
    empty = cache.insert(b"", (), b"", b"")
    numbers = tuple(map(name, range(16)))
    full = cache.insert(b"p" * 255, numbers, b"s" * 64, b"m" * 64)
    assert read(cache, empty, 0) == ((b"", (), b""), b"")
    assert read(cache, full, 64) == ((b"p" * 255, numbers, b"m" * 64), b"s" * 64)
    assert cache.newest(b"") == empty


@pytest.mark.parametrize(
    ("peer", "identifiers", "secret", "meta"),
    [
        (b"p" * 256, (), b"", b""),
        (b"", tuple(map(name, range(17))), b"", b""),
        (b"", (b"\xa3" + bytes(8),), b"", b""),
        (b"", (b"\xa3" + bytes(10),), b"", b""),
        (b"", (name(1), name(1)), b"", b""),
        (b"", (), bytes(65), b""),
        (b"", (), b"", bytes(129)),
    ],
)
def test_sizes_past_the_bounds_are_refused_and_evict_nothing(
    twin: ModuleType,
    peer: bytes,
    identifiers: tuple[bytes, ...],
    secret: bytes,
    meta: bytes,
) -> None:
    cache = twin.SessionCache(capacity=1)
    handle = put(cache, b"peer", 1)
    with pytest.raises(ValueError, match=r"too long|too many|wrong length|twice"):
        cache.insert(peer, identifiers, secret, meta)
    assert cache.newest(b"peer") == handle


@pytest.mark.parametrize(
    ("peer", "identifiers", "secret", "meta"),
    [
        ("peer", (), b"", b""),
        (None, (), b"", b""),
        (b"", [name(1)], b"", b""),
        (b"", ("identifier",), b"", b""),
        (b"", (), "secret", b""),
        (b"", (), b"", bytearray()),
    ],
)
def test_types_are_checked(
    twin: ModuleType, peer: Any, identifiers: Any, secret: Any, meta: Any
) -> None:
    cache = twin.SessionCache()
    with pytest.raises(TypeError):
        cache.insert(peer, identifiers, secret, meta)
    for method in (cache.newest, cache.remove_peer):
        with pytest.raises(TypeError):
            method("peer")
    assert len(cache) == 0


def test_a_secret_is_read_into_its_own_length(twin: ModuleType) -> None:
    cache = twin.SessionCache()
    handle = put(cache, b"peer", 1)
    for length in (0, 31, 33):
        with pytest.raises(ValueError, match="another length"):
            cache.read(handle, bytearray(length))
    with pytest.raises(BufferError):
        cache.read(handle, bytes(32))


@pytest.mark.parametrize("bounds", [(0, 4), (-1, 4), (2**20 + 1, 4), (4, 0), (4, 2**20 + 1)])
def test_bounds_come_before_memory(twin: ModuleType, bounds: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="out of range"):
        twin.SessionCache(*bounds)


def test_a_large_table_costs_what_is_used(twin: ModuleType) -> None:
    cache = twin.SessionCache(2**20, 2**20)
    handle = put(cache, b"peer", 1)
    assert cache.lookup(name(1)) == (handle, 0)


def test_a_table_of_one_goes_round(twin: ModuleType) -> None:
    cache = twin.SessionCache(1, 1)
    for number in range(100):
        handle = put(cache, b"peer%d" % (number % 3), number, number + 1)
        assert len(cache) == 1
        assert cache.lookup(name(number)) == (handle, 0)


def test_thousands_of_records_keep_their_order(twin: ModuleType) -> None:
    cache = twin.SessionCache(1000, 3)
    handles = {}
    for number in range(5000):
        handles[number] = put(cache, b"peer%d" % (number % 700), number, number + 10_000)
    assert len(cache) == 1000
    for number in range(4000):
        assert cache.lookup(name(number)) is None
    for number in range(4000, 5000):
        assert cache.lookup(name(number)) == (handles[number], 0)
        assert cache.lookup(name(number + 10_000)) == (handles[number], 1)
