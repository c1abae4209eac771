"""Disks that are full or read-only, clocks that jump, many senders at once."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from transfer.link import Cut, carry, transfer
from transfer.processes import forked

from tcpcrypt.transfer.codes import Code
from tcpcrypt.transfer.receiver import Receiving
from tcpcrypt.transfer.rules import OnExist, Rules
from tcpcrypt.transfer.sender import Accepted, Delivered, Failed, Sending
from tcpcrypt.transfer.source import Entry, file_entry
from tcpcrypt.transfer.store import Store
from tcpcrypt.transfer.stream import stream_entry

MIB = 1 << 20
CLONE_NEWNS = 0x00020000
MS_PRIVATE_REC = 1 << 18 | 1 << 14
MS_RDONLY, MS_REMOUNT = 1, 32
ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="only root mounts file systems")


def in_a_process(run: Callable[[], None]) -> None:
    """`run` in a process of its own, whose limits and mounts go with it."""
    pid = forked(run)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def mounted(at: Path, size: int, *, flags: int = 0) -> None:
    """A small file system that only this process sees."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not flags & MS_REMOUNT:
        assert libc.unshare(CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
        assert libc.mount(b"none", b"/", None, MS_PRIVATE_REC, None) == 0
    options = f"size={size}".encode()
    done = libc.mount(b"tmpfs", os.fsencode(at), b"tmpfs", flags, options)
    assert done == 0, os.strerror(ctypes.get_errno())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source" / "data"
    path.parent.mkdir()
    path.write_bytes(random.Random(3).randbytes(5 * MIB))
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


def codes(events: list[object]) -> list[Code]:
    return [event.code for event in events if isinstance(event, Failed)]


def test_a_disk_that_runs_full(source: Path, out: Path) -> None:
    """RLIMIT_FSIZE: the third mebibyte cannot be written.  What is there is gone on with."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 * MIB, resource.RLIM_INFINITY))
        assert codes(transfer([source], out)) == [Code.NO_SPACE]
        assert os.listdir(out) == [".stx"]

    in_a_process(limited)
    events = transfer([source], out)
    (accepted,) = [event for event in events if isinstance(event, Accepted)]
    assert accepted.offset >= 2 * MIB
    assert isinstance(events[-1], Delivered)
    assert (out / "data").read_bytes() == source.read_bytes()


@needs_root
def test_a_file_system_that_is_too_small(source: Path, out: Path) -> None:
    def small() -> None:
        mounted(out, 3 * MIB)
        rules = Rules(reserve=0)
        assert codes(transfer([source], out, rules=rules)) == [Code.NO_SPACE]
        assert not list(out.glob(".stx/*/*.part"))  # it was refused before it began
        with source.open("rb", buffering=0) as stream:
            unknown = stream_entry(stream, (b"data",))
            assert codes(transfer([unknown], out, rules=rules)) == [Code.NO_SPACE]
        assert os.listdir(out) == [".stx"]
        mounted(out, 20 * MIB, flags=MS_REMOUNT)
        assert isinstance(transfer([source], out, rules=rules)[-1], Delivered)
        assert (out / "data").read_bytes() == source.read_bytes()

    in_a_process(small)


@needs_root
@pytest.mark.parametrize("used", [False, True], ids=["new", "used before"])
def test_a_file_system_that_cannot_be_written(source: Path, out: Path, used: bool) -> None:
    def read_only() -> None:
        mounted(out, 20 * MIB)
        if used:
            transfer([source], out)
        mounted(out, 20 * MIB, flags=MS_REMOUNT | MS_RDONLY)
        with pytest.raises(OSError, match="Read-only"):
            Store(out, Rules())

    in_a_process(read_only)


def test_a_folder_that_cannot_be_written(tmp_path: Path, source: Path, out: Path) -> None:
    """Not by its owner either.  Paths are relative: any pytest that starts meanwhile closes
    the directory of all of this user's to others."""
    (out / "folder").mkdir()
    (out / "folder").chmod(0o500)
    source, out = source.relative_to(tmp_path), out.relative_to(tmp_path)

    def nobody() -> None:
        os.chdir(tmp_path)
        if ROOT:
            for path in (Path(), source.parent, source):
                path.chmod(0o755)
            os.chown(out, 65534, 65534)
            os.chown(out / "folder", 65534, 65534)
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
        entry = file_entry(str(source), (b"folder", b"data"))
        assert codes(transfer([entry], out)) == [Code.DENIED]
        assert os.listdir(out / "folder") == []
        os.chmod(out / "folder", 0o700)
        events = transfer([entry], out)
        (accepted,) = [event for event in events if isinstance(event, Accepted)]
        assert accepted.offset == 5 * MIB  # all of it was there
        assert isinstance(events[-1], Delivered)
        os.chmod(out / "folder", 0o500)
        os.chmod(out, 0o500)

    in_a_process(nobody)


def test_the_time_of_day_changes_nothing(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It jumps at each look, by years; partial files stay, and nothing times out."""
    chance = random.Random(5)
    with pytest.raises(Cut):
        transfer([source], out, budget=3 * MIB)
    monkeypatch.setattr(time, "time", lambda: chance.uniform(0, 4e9))
    monkeypatch.setattr(time, "time_ns", lambda: chance.randrange(4 * 10**18))
    for part in out.glob(".stx/*/*.part"):
        os.utime(part, ns=(0, 0))
    events = transfer([source], out)
    (accepted,) = [event for event in events if isinstance(event, Accepted)]
    assert accepted.offset >= 2 * MIB
    assert isinstance(events[-1], Delivered)


@pytest.mark.parametrize("mtime", [0, -(10**18), 2 * 10**18, 4_102_444_800 * 10**9])
def test_times_of_files_are_kept(source: Path, out: Path, mtime: int) -> None:
    os.utime(source, ns=(0, mtime))
    assert isinstance(transfer([source], out)[-1], Delivered)
    assert (out / "data").stat().st_mtime_ns == mtime


def test_a_source_that_changes_between_two_connections_is_sent_anew(
    source: Path, out: Path
) -> None:
    with pytest.raises(Cut):
        transfer([source], out, budget=3 * MIB)
    data = random.Random(4).randbytes(5 * MIB)
    source.write_bytes(data)
    events = transfer([source], out)
    (accepted,) = [event for event in events if isinstance(event, Accepted)]
    assert accepted.offset == 0
    assert (out / "data").read_bytes() == data


def test_a_source_that_changes_unseen_is_never_spliced(source: Path, out: Path) -> None:
    """Its size and time stay the same, so that its id does: the digest tells."""
    with pytest.raises(Cut):
        transfer([source], out, budget=4 * MIB)
    before = source.stat()
    data = bytearray(source.read_bytes())
    data[100] ^= 1
    source.write_bytes(data)
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    events = transfer([source], out)
    (accepted,) = [event for event in events if isinstance(event, Accepted)]
    assert accepted.offset == 0
    assert (out / "data").read_bytes() == data


def test_the_link_is_cut_again_and_again(source: Path, out: Path) -> None:
    """Each connection gets as far as one mebibyte and a half; nothing is sent twice for long."""
    budget, connections = 3 * MIB // 2, 0
    while connections < 20:
        connections += 1
        try:
            events = transfer([source], out, budget=budget)
        except Cut:
            continue
        assert isinstance(events[-1], Delivered)
        break
    assert connections == 4
    assert (out / "data").read_bytes() == source.read_bytes()


def test_many_senders_at_once(out: Path, tmp_path: Path) -> None:
    """Eight clients, each with its files, some of the same names: one of them gets each."""
    store = Store(out, Rules(on_exist=OnExist.FAIL))
    delivered: dict[int, list[object]] = {}
    contents: dict[int, bytes] = {}

    def one(number: int) -> None:
        wanted: list[Entry] = []
        for name in (f"own{number}", "shared", "sub/shared"):
            path = tmp_path / str(number) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents[number])
            wanted.append(file_entry(str(path), tuple(name.encode().split(b"/"))))
        account = store.account(f"client{number % 4}")
        sending, receiving = Sending(wanted, peer=f"b{number}"), Receiving(account)
        carry(sending, receiving)
        sending.close()
        receiving.close()
        store.leave(account)
        delivered[number] = list(iter(sending.next_event, None))

    for number in range(8):
        contents[number] = random.Random(number).randbytes(300_000 + number)
    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    store.close()
    winners: dict[bytes, list[int]] = {}
    for number, events in delivered.items():
        for event in events:
            if isinstance(event, Delivered):
                winners.setdefault(b"/".join(event.path), []).append(number)
            elif isinstance(event, Failed):
                assert event.code in {Code.BUSY, Code.EXISTS}
    assert len(delivered) == 8
    assert len(winners) == 10
    for name, numbers in winners.items():
        assert len(numbers) == 1
        assert (out / os.fsdecode(name)).read_bytes() == contents[numbers[0]]
