"""The power is cut between any two system calls of the receiver.

Whatever the disk made of it: what was acknowledged is there, what was delivered
is whole, and the sender's next try delivers the rest.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from transfer.link import carry
from transfer.memory_disk import MemoryDisk, PowerCut

from tcpcrypt.transfer import part as part_module
from tcpcrypt.transfer.codes import Code
from tcpcrypt.transfer.digest import Algorithm
from tcpcrypt.transfer.messages import Ack, Put, Receipt
from tcpcrypt.transfer.parser import Parser
from tcpcrypt.transfer.receiver import Receiving
from tcpcrypt.transfer.rules import OnExist, Rules
from tcpcrypt.transfer.sender import Accepted, Delivered, Sending
from tcpcrypt.transfer.source import Entry, entries
from tcpcrypt.transfer.store import Store

EVERY_CUT = os.environ.get("TCPCRYPT_TEST_PROFILE") == "long"
GRID = 1024
WINDOW = 4 * GRID
LONG = bytes(range(251)) * 55
"""13,805 bytes: three windows."""


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_module, "GRID", GRID)
    monkeypatch.setattr(part_module, "WINDOW_MAX", 4 * WINDOW)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    (folder / "long").write_bytes(LONG)
    (folder / "empty").write_bytes(b"")
    for number in range(3):
        (folder / "sub" / f"small{number}").write_bytes(b"%d" % number * 99)
    return folder


def contents(sources: Path) -> dict[tuple[bytes, ...], bytes]:
    return {
        (b"photos", *(part.encode() for part in path.relative_to(sources).parts)): path.read_bytes()
        for path in sources.rglob("*")
        if path.is_file()
    }


class Run:
    """One connection; what B has said in it, by path."""

    def __init__(self, sources: Path, disk: MemoryDisk, on_exist: OnExist) -> None:
        self.acked: dict[tuple[bytes, ...], int] = {}
        self.delivered: set[tuple[bytes, ...]] = set()
        self.accepted: dict[tuple[bytes, ...], int] = {}
        self.events: list[object] = []
        self._paths: dict[int, tuple[bytes, ...]] = {}
        wanted = [entry for entry in entries(str(sources)) if isinstance(entry, Entry)]
        rules = Rules(on_exist=on_exist, window=WINDOW, block=WINDOW)
        store = Store("out", rules, disk)
        account = store.account("client")
        self.sending = Sending(wanted, peer="b", block=700, algorithm=Algorithm.SHA256)
        receiving = _Overheard(self, account)
        try:
            carry(self.sending, receiving, spy=self._spy)
        finally:
            self.sending.close()
            self.events = list(iter(self.sending.next_event, None))
            for event in self.events:
                if isinstance(event, Accepted):
                    self.accepted[event.entry.path] = event.offset
            with contextlib.suppress(PowerCut):
                receiving.close()
                store.leave(account)
                store.close()

    def _spy(self, sent: bytes) -> None:
        for message in Parser().feed(sent):
            if isinstance(message, Put):
                self._paths[message.file] = message.path

    def heard(self, message: object) -> None:
        if isinstance(message, Ack):
            self.acked[self._paths[message.file]] = message.offset
        if isinstance(message, Receipt) and message.code is Code.OK:
            self.delivered.add(message.path)


class _Overheard(Receiving):
    def __init__(self, run: Run, account: object) -> None:
        super().__init__(account, clock=lambda: 0.0)  # type: ignore[arg-type]
        self._run = run

    def work(self) -> list[bytes]:
        out = super().work()
        for message in out:
            for heard in Parser().feed(message):
                self._run.heard(heard)
        return out


def cut_run(sources: Path, disk: MemoryDisk, on_exist: OnExist) -> Run:
    run = Run.__new__(Run)
    with contextlib.suppress(PowerCut):
        run.__init__(sources, disk, on_exist)  # type: ignore[misc]
    return run


@pytest.mark.parametrize("whole", [True, False], ids=["syncfs", "fsync"])
@pytest.mark.parametrize("on_exist", list(OnExist), ids=lambda value: value.value)
def test_nothing_is_lost_or_spliced(sources: Path, on_exist: OnExist, whole: bool) -> None:
    wanted = contents(sources)
    clean = MemoryDisk(whole=whole)
    run = Run(sources, clean, on_exist)
    assert dict(clean.files()) == wanted
    assert run.acked[b"photos", b"long"] >= 2 * WINDOW
    assert clean.open_count == 0
    steps, resumed = clean.steps, 0
    assert {"sync_all" if whole else "sync", "rename", "write", "create"} <= set(clean.calls)

    most = on_exist is OnExist.FAIL and whole
    for cut_at in range(0, steps, 1 if EVERY_CUT or most else 4):
        disk = MemoryDisk(cut_at, whole=whole)
        before = cut_run(sources, disk, on_exist)
        for how in ("kept", "lost", "torn", "mixed"):
            later = disk.after(how, cut_at)
            there = dict(later.files())
            assert {path: wanted[path] for path in there} == there, (cut_at, how)
            for path in before.delivered:
                assert path in there or path not in wanted, (cut_at, how, path)
            after = Run(sources, later, on_exist)
            assert dict(later.files()) == wanted, (cut_at, how)
            assert all(
                isinstance(event, Delivered)
                for event in after.events
                if getattr(event, "code", Code.OK) is not Code.OK
            ), (cut_at, how)
            for path, offset in before.acked.items():
                if path in after.accepted:
                    assert after.accepted[path] >= offset, (cut_at, how, path)
                    resumed += 1
    assert resumed > 10


def test_a_second_cut_while_the_first_is_mended(sources: Path) -> None:
    wanted = contents(sources)
    clean = MemoryDisk()
    Run(sources, clean, OnExist.FAIL)
    for first in range(0, clean.steps, 7):
        disk = MemoryDisk(first)
        cut_run(sources, disk, OnExist.FAIL)
        for second in range(5, clean.steps, 17):
            later = disk.after("mixed", first)
            later.cut_at = second
            cut_run(sources, later, OnExist.FAIL)
            last = later.after("mixed", second)
            Run(sources, last, OnExist.FAIL)
            assert dict(last.files()) == wanted, (first, second)
