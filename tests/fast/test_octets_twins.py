"""Both twins of the memory that holds key material (RFC 8548 section 8)."""

from __future__ import annotations

import binascii
import pickle
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

KEY = bytes(range(1, 65))


def write(key: bytes, buffer: Any) -> None:
    memoryview(buffer)[:] = key


@pytest.mark.parametrize("size", [0, 1, 16, 64, 1000])
def test_holds_a_copy(twin: ModuleType, size: int) -> None:
    source = bytearray(b"k" * size)
    octets = twin.Octets(source)
    source[:] = bytes(size)
    assert octets.view() == b"k" * size
    assert len(octets) == size
    assert not octets.wiped


def test_takes_contiguous_buffers_and_no_text(twin: ModuleType) -> None:
    assert twin.Octets(memoryview(KEY).cast("I")).view() == KEY
    for wrong in ("text", 5, None):
        with pytest.raises(TypeError):
            twin.Octets(wrong)
    with pytest.raises((BufferError, TypeError)):
        twin.Octets(memoryview(KEY)[::2])


def test_is_filled_in_place_from_zeros(twin: ModuleType) -> None:
    seen = []

    def fill(key: bytes, buffer: Any) -> None:
        seen.append(bytes(memoryview(buffer)))
        write(key, buffer)

    octets = twin.Octets.__new__(twin.Octets)
    octets.fill(len(KEY), fill, (KEY,))
    assert seen == [bytes(len(KEY))]
    assert octets.view() == KEY


def test_is_made_once(twin: ModuleType) -> None:
    """Or what was there before would go without being overwritten."""
    octets = twin.Octets(KEY)
    with pytest.raises(RuntimeError, match="already"):
        octets.fill(4, write, (b"more",))
    with pytest.raises(RuntimeError, match="already"):
        octets.__init__(b"more")
    assert octets.view() == KEY


def test_has_no_negative_length(twin: ModuleType) -> None:
    with pytest.raises(ValueError, match="negative"):
        twin.Octets.__new__(twin.Octets).fill(-1, write, (b"",))


def test_is_read_only_once_filled_also_where_that_failed(twin: ModuleType) -> None:
    def fail(_buffer: Any) -> None:
        raise KeyError

    octets = twin.Octets.__new__(twin.Octets)
    with pytest.raises(KeyError):
        octets.fill(4, fail, ())
    for one in (octets, twin.Octets(KEY)):
        assert one.view().readonly
        with pytest.raises(TypeError):
            one.view()[0] = 1


def test_wiping_shows_in_views_and_ends_all_use(twin: ModuleType) -> None:
    octets = twin.Octets(KEY)
    view = octets.view()
    with octets as same:
        assert same is octets
    octets.wipe()
    assert octets.wiped
    assert view == bytes(len(KEY))
    with pytest.raises(RuntimeError, match="wiped"):
        octets.view()
    with pytest.raises(RuntimeError, match="wiped"):
        twin.expand(octets, b"", bytearray(32))
    with pytest.raises(RuntimeError, match="wiped"):
        twin.extract(b"", (octets,), bytearray(32))


def test_stands_for_a_buffer_where_keys_are_derived(twin: ModuleType) -> None:
    held = twin.Octets(KEY)
    one, other = bytearray(32), bytearray(32)
    twin.expand(held, b"info", one)
    twin.expand(KEY, b"info", other)
    assert one == other
    twin.extract(b"salt", (held, b"more", held), one)
    twin.extract(b"salt", (KEY, b"more", KEY), other)
    assert one == other
    secret = twin.Octets(KEY[:32])
    assert twin.resume_identifiers(secret, 2, 0, b"") == twin.resume_identifiers(
        KEY[:32], 2, 0, b""
    )


def test_is_no_buffer_for_whoever_asks(twin: ModuleType) -> None:
    """Else `bytes` would copy it, and `==` with a bytearray take a time that tells of it."""
    octets = twin.Octets(KEY)
    takers: tuple[Callable[[Any], object], ...]
    takers = (bytes, bytearray, memoryview, twin.Octets, binascii.hexlify)
    for take in takers:
        with pytest.raises(TypeError):
            take(octets)
    with pytest.raises(TypeError):
        b"".join([octets])
    for other in (KEY, bytearray(KEY), memoryview(KEY)):
        assert (octets == other) is False
        assert (other == octets) is False


def test_has_no_state_that_anybody_could_take_or_give(twin: ModuleType) -> None:
    """As what an extension's compiler makes for pickling unless it is told not to."""
    octets = twin.Octets(KEY)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError):
            pickle.dumps(octets, protocol)
    with pytest.raises(TypeError):
        octets.__reduce__()
    for name in ("__setstate__", "__reduce_cython__", "__setstate_cython__"):
        assert not hasattr(octets, name)
