"""What is left of key material in memory that was freed, which these tests read on purpose.

A sanitizer ends the process for that (tests/fuzz/sanitized.py leaves them out).
"""

from __future__ import annotations

import ctypes
import gc
from types import ModuleType
from typing import Any

import pytest

from tcpcrypt._fast._py_buffers import _address

KEY = bytes(range(1, 65))


def write(key: bytes, buffer: Any) -> None:
    memoryview(buffer)[:] = key


def test_a_view_keeps_the_bytes_and_the_last_one_overwrites_them(twin: ModuleType) -> None:
    octets = twin.Octets(KEY)
    view = octets.view()
    address = _address(view)
    del octets
    gc.collect()
    assert view == KEY
    assert ctypes.string_at(address, len(KEY)) == KEY
    del view
    gc.collect()
    # Freed, and still this process's: an allocator keeps such small pieces.
    left = ctypes.string_at(address, len(KEY))
    assert KEY[16:32] not in left
    assert KEY[-16:] not in left


def test_what_is_written_after_wiping_is_overwritten_all_the_same(twin: ModuleType) -> None:
    made = [twin.Octets.__new__(twin.Octets)]
    addresses = []

    def wiped_first(buffer: Any) -> None:
        made[0].wipe()
        write(KEY, buffer)
        addresses.append(_address(memoryview(buffer)))

    made[0].fill(len(KEY), wiped_first, ())
    assert made[0].wiped
    assert ctypes.string_at(addresses[0], len(KEY)) == KEY
    made.clear()
    gc.collect()
    left = ctypes.string_at(addresses[0], len(KEY))
    assert KEY[16:32] not in left
    assert KEY[-16:] not in left


def test_what_was_filled_by_what_fails_is_overwritten(twin: ModuleType) -> None:
    addresses = []

    def fail(buffer: Any) -> None:
        write(KEY, buffer)
        addresses.append(_address(memoryview(buffer)))
        raise KeyError

    octets = twin.Octets.__new__(twin.Octets)
    with pytest.raises(KeyError):
        octets.fill(len(KEY), fail, ())
    del octets
    gc.collect()
    assert KEY[16:32] not in ctypes.string_at(addresses[0], len(KEY))
