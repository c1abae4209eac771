"""The event loop, on real descriptors."""

import heapq
import os
import socket
import subprocess
import sys
import time

import pytest

from tcpcrypt.runtime.loop import ERRORS, READ, WRITE, Loop


@pytest.fixture
def loop():
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def ends():
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def test_reading_and_writing(loop, ends) -> None:
    one, other = ends
    seen: list[int] = []
    loop.watch(one.fileno(), READ, seen.append)
    loop.step(0)
    assert seen == []
    other.send(b"x")
    loop.step(0)
    assert seen == [READ]
    loop.watch(one.fileno(), READ | WRITE, seen.append)
    loop.step(0)
    assert seen[-1] == READ | WRITE
    loop.watch(one.fileno(), 0, seen.append)
    loop.step(0)
    assert len(seen) == 2
    loop.watch(one.fileno(), WRITE, seen.append)
    loop.step(0)
    assert seen[-1] == WRITE
    loop.forget(one.fileno())
    loop.forget(one.fileno())
    loop.step(0)
    assert len(seen) == 3


def test_an_error_counts_as_both(loop, ends) -> None:
    one, other = ends
    seen: list[int] = []
    loop.watch(one.fileno(), ERRORS, seen.append)
    loop.step(0)
    assert seen == []
    other.close()
    loop.step(0)
    assert seen
    assert seen[0] & READ
    assert seen[0] & WRITE


def test_a_descriptor_forgotten_in_its_turn_is_not_called(loop) -> None:
    readers, writers = zip(*(os.pipe() for _ in range(2)), strict=True)
    called: list[int] = []

    def first(_events: int) -> None:
        called.append(0)
        for reader in readers:
            loop.forget(reader)

    for reader in readers:
        loop.watch(reader, READ, first)
    for writer in writers:
        os.write(writer, b"x")
    loop.step(0)
    assert called == [0]
    for fd in (*readers, *writers):
        os.close(fd)


def test_timers_in_order_and_cancelled(loop) -> None:
    called: list[str] = []
    loop.call_later(0.02, lambda: called.append("late"))
    loop.call_later(0.01, lambda: called.append("early"))
    loop.call_later(0.0, lambda: called.append("never")).cancel()
    end = time.monotonic() + 2
    while len(called) < 2 and time.monotonic() < end:
        loop.step()
    assert called == ["early", "late"]
    loop.step(0)


def test_stop(loop) -> None:
    loop.call_later(0.01, loop.stop)
    loop.run()


def test_a_failing_callback_is_handed_over(loop, ends) -> None:
    one, other = ends

    def fail(_events: int) -> None:
        raise ValueError("no")

    loop.watch(one.fileno(), READ, fail)
    other.send(b"x")
    with pytest.raises(ValueError, match="no"):
        loop.step(0)
    seen: list[object] = []
    loop.failed = lambda fd, error: seen.append((fd, str(error)))
    loop.step(0)
    assert seen == [(one.fileno(), "no")]


def test_a_new_descriptor_does_not_get_the_events_of_a_closed_one_with_its_number() -> None:
    loop = Loop()
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[str] = []
    replaced: list[socket.socket] = []

    def replace(which: int) -> None:
        """Whichever comes first closes the other; a new one takes its number."""
        called.append("old")
        other = pairs[1 - which][0]
        number = other.fileno()
        loop.forget(number)
        other.close()
        replaced.extend(socket.socketpair())
        assert number in [sock.fileno() for sock in replaced]
        loop.watch(number, READ, lambda _events: called.append("new"))

    for which, (near, far) in enumerate(pairs):
        far.send(b"x")
        loop.watch(near.fileno(), READ, lambda _events, which=which: replace(which))
    loop.step(1)
    assert called == ["old"]
    for sock in (*replaced, *(sock for pair in pairs for sock in pair)):
        sock.close()
    loop.close()


def test_work_for_idle_time_gives_way_to_everything_else(loop, ends) -> None:
    one, other = ends
    done: list[str] = []
    left = [True, True, False]

    def work() -> bool:
        done.append("idle")
        return left.pop(0)

    def read(_events: int) -> None:
        done.append(one.recv(1).decode())

    loop.watch(one.fileno(), READ, read)
    loop.when_idle(work)
    other.send(b"ab")
    for _ in range(5):
        loop.step(0)
    assert done == ["a", "b", "idle", "idle", "idle"]
    loop.step(0)
    assert len(done) == 5  # it has said that nothing is left


def test_work_for_idle_time_that_fails_is_not_called_again(loop) -> None:
    failures: list[tuple[int, Exception]] = []
    loop.when_idle(lambda: 1 // 0 > 0)
    with pytest.raises(ZeroDivisionError):
        loop.step(0)
    loop.step(0)
    loop.failed = lambda fd, error: failures.append((fd, error))
    loop.when_idle(lambda: 1 // 0 > 0)
    loop.step(0)
    loop.step(0)
    assert [fd for fd, _error in failures] == [-1]


def test_what_is_called_again_and_again_goes_on_after_it_failed(loop) -> None:
    called: list[int] = []
    failed: list[str] = []

    def fail_first() -> None:
        called.append(1)
        if len(called) == 1:
            raise MemoryError("none left")

    loop.failed = lambda _fd, error: failed.append(str(error))
    loop.call_every(0.001, fail_first)
    end = time.monotonic() + 5
    while len(called) < 3 and time.monotonic() < end:
        loop.step(0.01)
    assert len(called) >= 3
    assert failed == ["none left"]


def test_what_is_called_again_and_again_goes_on_though_there_was_no_memory_for_it(
    loop, monkeypatch
) -> None:
    called: list[int] = []
    loop.failed = lambda _fd, _error: None
    loop.call_every(0.001, lambda: called.append(1))
    replace, failures = heapq.heapreplace, [MemoryError(), MemoryError()]

    def fail(*entry: object) -> object:
        if failures:
            raise failures.pop()
        return replace(*entry)

    monkeypatch.setattr(heapq, "heapreplace", fail)
    loop.call_later(0.2, loop.stop)
    loop.run()
    assert not failures
    assert len(called) >= 3


def test_a_callback_without_memory_is_not_called_at_full_speed(loop, ends) -> None:
    one, other = ends
    failed: list[int] = []
    loop.failed = lambda fd, _error: failed.append(fd)

    def fail(_events: int) -> None:
        raise MemoryError

    loop.watch(one.fileno(), READ, fail)
    other.send(b"x")
    loop.call_later(0.2, loop.stop)
    loop.run()
    assert 1 <= len(failed) <= 21


def test_what_a_turn_collects_is_sent_before_the_next_wait(loop, ends) -> None:
    one, other = ends
    order: list[str] = []
    loop.before_waiting(lambda: order.append("send"))
    loop.watch(one.fileno(), READ, lambda _events: order.append(str(one.recv(1))))
    other.send(b"x")
    loop.call_later(0, lambda: order.append("timer"))
    loop.step(1)
    loop.step(0)
    assert order == ["send", "b'x'", "timer", "send"]


def test_a_turn_without_memory_is_tried_again(loop, ends) -> None:
    """Where failures are taken, also one of whoever takes them, as there was no memory to tell."""
    one, other = ends
    turns: list[int] = []

    def fail_first(_events: int) -> None:
        turns.append(1)
        if len(turns) == 1:
            raise MemoryError
        loop.stop()

    def tell(_fd: int, _error: Exception) -> None:
        raise MemoryError

    loop.watch(one.fileno(), READ, fail_first)
    other.send(b"x")
    with pytest.raises(MemoryError):
        loop.run()
    turns.clear()
    loop.failed = tell
    loop.run()
    assert turns == [1, 1]


def test_what_failed_is_told_with_what_was_kept_for_it(loop, monkeypatch) -> None:
    """And nothing new is taken on until as much can be kept again."""
    kept: list[int] = []
    none_left = [MemoryError(), MemoryError()]

    def make() -> tuple[bytearray, ...]:
        if none_left:
            raise none_left.pop()
        return (bytearray(1),)

    def fail() -> None:
        raise RuntimeError("a library had no memory")

    monkeypatch.setattr("tcpcrypt.runtime.loop._reserve", make)
    loop.failed = lambda _fd, _error: kept.append(len(loop._reserve))
    assert loop.has_memory()
    loop.call_later(0, fail)
    loop.step(1)
    assert kept == [0]
    assert not loop.has_memory()
    assert not loop.has_memory()
    assert loop.has_memory()


HOARDER = """
import os, resource
from tcpcrypt.runtime.loop import READ, Loop

def serve(_events):
    hoard.clear()
    loop.stop()
    print("served")

loop = Loop()
loop.failed = lambda _fd, _error: None
loop._reserve = ()
reading, writing = os.pipe()
loop.watch(reading, READ, serve)
os.write(writing, b"x")
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (4 << 20),) * 2)
hoard, taken, size = [None] * 10000, 0, 1 << 20
while size >= 2048:
    try:
        hoard[taken] = bytearray(size)
        taken += 1
    except MemoryError:
        size //= 2
loop.run()
"""


def test_a_turn_needs_hardly_any_memory() -> None:
    """Or nobody is told to give any back: for 1,023 events at once there was not enough."""
    done = subprocess.run(
        (sys.executable, "-c", HOARDER), capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout == "served\n"
