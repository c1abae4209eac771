"""RFC 8548 section 3.5: secrets go when their record goes, and cross no fork.

What the Python twin holds is looked at directly.  The memory of the C twin is
found in this process by its mapping and read as a debugger would read it.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

IDENTIFIERS = (b"\xa3" + b"identifie",)


class Secret:
    """A secret that this process holds nowhere else in one piece."""

    def __init__(self) -> None:
        self._halves = os.urandom(32), os.urandom(32)

    def put(self, cache: Any, peer: bytes = b"peer") -> int:
        whole = bytearray(a ^ b for a, b in zip(*self._halves, strict=True))
        handle: int = cache.insert(peer, IDENTIFIERS, whole, b"")
        whole[:] = bytes(32)
        return handle

    def is_in(self, memory: bytes) -> bool:
        first = bytes(a ^ b for a, b in zip(*(half[:8] for half in self._halves), strict=True))
        return first in memory


def arenas() -> Iterator[tuple[int, int]]:
    """Mappings that are kept out of core dumps (dd) and wiped on fork (wf)."""
    start = end = 0
    with open("/proc/self/smaps") as smaps:
        for line in smaps:
            if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
                start, end = int(match[1], 16), int(match[2], 16)
            elif line.startswith("VmFlags:") and {"dd", "wf"} <= set(line.split()):
                yield start, end


def minus(ranges: list[tuple[int, int]], taken: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What of `ranges` lies in none of `taken`: neighbours are one mapping to the kernel."""
    for start, end in taken:
        below = [(low, min(high, start)) for low, high in ranges]
        above = [(max(low, end), high) for low, high in ranges]
        ranges = [(low, high) for low, high in below + above if low < high]
    return ranges


def kept(twin: ModuleType, *arguments: int) -> tuple[Any, Callable[[], bytes]]:
    """A cache, and a look at where it keeps secrets, also once a record is gone."""
    before = list(arenas())
    cache = twin.SessionCache(*arguments)
    if hasattr(cache, "_records"):
        table, seen = cache._records, []

        def look_at_records() -> bytes:
            seen.extend(record.secret for record in table.values())
            return b"|".join(seen)

        return cache, look_at_records
    # Other caches of this process are none of its business, and may be many.
    own = minus(list(arenas()), before)

    def look() -> bytes:
        with open("/proc/self/mem", "rb", 0) as memory:
            found = []
            for start, end in minus(own, minus(own, list(arenas()))):  # what is left of it
                memory.seek(start)
                found.append(memory.read(end - start) or b"")
        return b"|".join(found)

    return cache, look


ENDS: dict[str, Callable[[Any, int], object]] = {
    "remove": lambda cache, handle: cache.remove(handle),
    "remove_peer": lambda cache, _: cache.remove_peer(b"peer"),
    "clear": lambda cache, _: cache.clear(),
    "per peer": lambda cache, _: cache.insert(b"peer", (), b"", b""),
    "capacity": lambda cache, _: [cache.insert(b"%d" % i, (), b"", b"") for i in range(2)],
}


@pytest.mark.parametrize("end", ENDS)
def test_a_secret_is_wiped_with_its_record(twin: ModuleType, end: str) -> None:
    secret, (cache, look) = Secret(), kept(twin, 2, 1)
    handle = secret.put(cache)
    assert secret.is_in(look())
    ENDS[end](cache, handle)
    assert not secret.is_in(look())


def test_a_secret_is_wiped_with_its_table(twin: ModuleType) -> None:
    secret, (cache, look) = Secret(), kept(twin, 2, 1)
    secret.put(cache)
    assert secret.is_in(look())
    del cache
    gc.collect()
    assert not secret.is_in(look())


def test_c_memory_stays_out_of_dumps_and_children(twins: list[ModuleType]) -> None:
    """The kernel itself zeroes it in a child, also in one that runs no Python."""
    for twin in twins:
        if twin.IMPLEMENTATION == "c":
            before = sum(end - start for start, end in arenas())
            cache = twin.SessionCache(1000)
            # Secrets alone take 64 bytes for each record.
            assert sum(end - start for start, end in arenas()) >= before + 64 * 1000
            del cache
            assert sum(end - start for start, end in arenas()) == before


def in_child(action: Callable[[], bool]) -> bool:
    """Fork; what `action` says in the child."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if action() else 1
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def test_a_forked_child_starts_empty(twin: ModuleType) -> None:
    """RFC 8548 section 3.5: ss[i] MUST NOT secure more than one connection."""
    secret, (cache, look) = Secret(), kept(twin)
    handle = secret.put(cache)
    assert secret.is_in(look())

    def child() -> bool:
        wiped = not secret.is_in(look())  # before any call
        empty = len(cache) == 0 and cache.lookup(IDENTIFIERS[0]) is None
        gone = cache.read(handle, bytearray(32)) is None and cache.newest(b"peer") is None
        again = secret.put(cache)
        return wiped and empty and gone and again != handle and len(cache) == 1

    assert in_child(child)
    # And the parent's is as it was.
    assert (len(cache), cache.lookup(IDENTIFIERS[0])) == (1, (handle, 0))
    assert secret.is_in(look())


def test_a_grandchild_starts_empty_too(twin: ModuleType) -> None:
    cache, secret = twin.SessionCache(), Secret()

    def child() -> bool:
        secret.put(cache)
        return len(cache) == 1 and in_child(lambda: len(cache) == 0) and len(cache) == 1

    assert in_child(child)


def test_a_child_that_python_did_not_fork_starts_empty(twin: ModuleType) -> None:
    """A fork in C runs no at-fork functions; the process number tells."""
    cache, secret = twin.SessionCache(), Secret()
    secret.put(cache)
    child = ctypes.PyDLL(None).fork()
    if child == 0:
        os._exit(0 if len(cache) == 0 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(cache) == 1


def test_the_python_twin_notices_a_child_without_forking(
    twins: list[ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same two ways as above, where coverage can watch them."""
    module = sys.modules[twins[0].SessionCache.__module__]
    cache = twins[0].SessionCache()
    Secret().put(cache)
    module._forked()
    assert len(cache) == 0
    Secret().put(cache)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert len(cache) == 0


def test_all_tables_are_wiped_by_what_runs_at_exit(twin: ModuleType) -> None:
    caches = [twin.SessionCache() for _ in range(3)]
    for cache in caches:
        Secret().put(cache)
    sys.modules[twin.SessionCache.__module__]._at_exit()
    assert [len(cache) for cache in caches] == [0, 0, 0]


def test_secrets_are_wiped_at_exit(twin: ModuleType) -> None:
    """Functions registered with atexit run last in, first out."""
    program = f"""
        import atexit
        tables = []
        atexit.register(lambda: print(len(tables[0])))
        from tcpcrypt._fast.{twin.__name__.rpartition(".")[2]} import SessionCache
        tables.append(SessionCache())
        tables[0].insert(b"peer", (), b"secret", b"")
        print(len(tables[0]))
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == ["1", "0"]
