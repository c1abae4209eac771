"""The receiver's machine and store, told things one message at a time."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from transfer.link import feed
from transfer.memory_disk import MemoryDisk

from tcpcrypt.errors import LocalError
from tcpcrypt.transfer.account import Account
from tcpcrypt.transfer.codes import Code, MessageError, TransferError
from tcpcrypt.transfer.digest import Algorithm, Digest
from tcpcrypt.transfer.intake import TABLE, Heard, Stage
from tcpcrypt.transfer.messages import (
    PREFIXES_MAX,
    UNKNOWN_SIZE,
    WINDOW_MAX,
    Ack,
    Alive,
    Bye,
    End,
    Have,
    Hello,
    Kind,
    Message,
    Put,
    Receipt,
    Refuse,
    data_header,
)
from tcpcrypt.transfer.parser import Parser
from tcpcrypt.transfer.receiver import Completed, Failed, Receiving, Started
from tcpcrypt.transfer.rules import OnExist, Rules
from tcpcrypt.transfer.store import Store

HELLO = Hello(1 << 20, 1 << 20, 1, frozenset((Algorithm.SHA256,))).build()
MIB = 1 << 20


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Talk:
    """One connection at the receiver, and A's words."""

    def __init__(self, store: Store, client: str = "client", folder: bytes | None = None) -> None:
        self.store = store
        self.time = Time()
        self.account: Account = store.account(client, folder=folder)
        self.machine = Receiving(self.account, clock=self.time)
        feed(self.machine, HELLO)
        self.heard: list[Message] = []
        self.listen()
        assert isinstance(self.heard.pop(), Hello)
        self._next = itertools.count()

    def tell(self, *messages: Message | bytes) -> None:
        for message in messages:
            feed(self.machine, message if isinstance(message, bytes) else message.build())  # type: ignore[union-attr]

    def listen(self) -> list[Message]:
        found: list[Message] = []
        while out := self.machine.work():
            for message in out:
                found += Parser().feed(message)
        self.heard += found
        return found

    def put(self, *path: bytes, size: int = 5, number: int = 1, **kwargs: object) -> int:
        file = next(self._next)
        values: dict[str, object] = {
            "file": file,
            "transfer_id": number.to_bytes(16, "big"),
            "kind": Kind.FILE,
            "algorithm": Algorithm.SHA256,
            "mode": 0o644,
            "size": size,
            "mtime": 10**18,
            "block": MIB,
            "path": path,
        }
        self.tell(Put(**{**values, **kwargs}))  # type: ignore[arg-type]
        return file

    def data(self, file: int, offset: int, data: bytes) -> None:
        self.tell(data_header(file, offset, len(data)) + data)

    def end(self, file: int, data: bytes, code: Code = Code.OK) -> None:
        digest = Digest(Algorithm.SHA256, hashlib.sha256(data).digest())
        self.tell(End(file, code, len(data), digest))

    def send(self, *path: bytes, data: bytes = b"hello", number: int = 1) -> Message:
        file = self.put(*path, size=len(data), number=number)
        said = self.listen()
        if not isinstance(said[-1], Have):
            return said[-1]
        if data:
            self.data(file, 0, data)
        self.end(file, data)
        return self.listen()[-1]

    def events(self) -> list[object]:
        return list(iter(self.machine.next_event, None))

    def over(self) -> None:
        self.machine.close()
        self.store.leave(self.account)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


@pytest.fixture
def store(out: Path) -> Iterator[Store]:
    found = Store(out, Rules())
    yield found
    found.close()


def code_of(message: Message) -> Code:
    assert isinstance(message, (Receipt, Refuse))
    return message.code


def test_a_file(store: Store, out: Path) -> None:
    b = Talk(store)
    file = b.put(b"a.txt")
    assert b.listen() == [Have(file, ())]
    assert not (out / "a.txt").exists()
    b.data(file, 0, b"hel")
    b.data(file, 3, b"lo")
    assert b.listen() == []
    assert not (out / "a.txt").exists()
    b.end(file, b"hello")
    (receipt,) = b.listen()
    digest = Digest(Algorithm.SHA256, hashlib.sha256(b"hello").digest())
    assert receipt == Receipt(file, Code.OK, digest, (b"a.txt",))
    found = (out / "a.txt").stat()
    assert (out / "a.txt").read_bytes() == b"hello"
    assert found.st_mtime_ns == 10**18
    started, completed = b.events()
    assert started == Started((b"a.txt",), 0, 5)
    assert completed == Completed((b"a.txt",), 5, digest)
    b.tell(Bye())
    b.machine.receive_eof()
    assert b.machine.finished
    assert b.machine.deadline is None
    b.over()
    assert [path.name for path in out.glob(".stx/*/*")] == ["delivered"]
    assert next(out.glob(".stx/*/delivered")).stat().st_size == 0


def test_what_is_the_receiver_s_is_its_owner_s_alone(store: Store, out: Path) -> None:
    b = Talk(store)
    b.data(b.put(b"a", size=9), 0, b"he")
    assert (out / ".stx").stat().st_mode & 0o777 == 0o700
    b.over()
    (out / ".stx").chmod(0o755)
    with pytest.raises(LocalError, match="not this user's alone"):
        Store(out, Rules())


def test_one_receiver_at_a_time(store: Store, out: Path) -> None:
    with pytest.raises(LocalError, match="another receiver"):
        Store(out, Rules())


def test_permissions_are_the_source_s_without_the_dangerous_ones(store: Store, out: Path) -> None:
    b = Talk(store)
    for number, (mode, wanted) in enumerate([(0o4755, 0o755), (0o444, 0o444), (0o600, 0o600)]):
        name = b"f%d" % number
        file = b.put(name, size=0, number=number, mode=mode)
        b.end(file, b"")
        b.listen()
        assert (out / name.decode()).stat().st_mode & 0o7777 == wanted & ~0o022
    b.over()


def test_folders(store: Store, out: Path) -> None:
    b = Talk(store)
    file = b.put(b"x", b"y", kind=Kind.DIRECTORY, size=0, number=9)
    (receipt,) = b.listen()
    assert receipt == Receipt(file, Code.OK, Digest(Algorithm.SHA256, bytes(32)), (b"x", b"y"))
    assert (out / "x" / "y").is_dir()
    assert code_of(b.send(b"x", b"y", b"z", number=2)) is Code.OK
    assert code_of(b.send(b"x", b"y", b"z", b"w", number=3)) is Code.EXISTS
    assert code_of(b.send(b"x", b"y", number=4)) is Code.EXISTS
    b.put(b"x", b"y", b"z", kind=Kind.DIRECTORY, number=5)
    assert code_of(b.listen()[-1]) is Code.EXISTS
    b.over()


@pytest.mark.parametrize("on_exist", list(OnExist))
def test_what_is_there_already(out: Path, on_exist: OnExist) -> None:
    (out / "a.txt").write_bytes(b"old")
    (out / "folder").mkdir()
    store = Store(out, Rules(on_exist=on_exist))
    b = Talk(store)
    said = b.send(b"a.txt")
    match on_exist:
        case OnExist.FAIL:
            assert code_of(said) is Code.EXISTS
            assert (out / "a.txt").read_bytes() == b"old"
            assert b.events() == [Failed((b"a.txt",), Code.EXISTS, "a.txt")]
        case OnExist.RENAME:
            assert isinstance(said, Receipt)
            assert said.path == (b"a.1.txt",)
            assert b.send(b"a.txt", number=2).path == (b"a.2.txt",)  # type: ignore[union-attr]
            assert (out / "a.txt").read_bytes() == b"old"
            assert (out / "a.1.txt").read_bytes() == b"hello"
        case OnExist.REPLACE:
            assert code_of(said) is Code.OK
            assert (out / "a.txt").read_bytes() == b"hello"
            assert code_of(b.send(b"folder", number=2)) is Code.EXISTS
    b.over()
    store.close()


def test_a_name_that_is_taken_during_the_transfer_is_not_replaced(store: Store, out: Path) -> None:
    b = Talk(store)
    file = b.put(b"a")
    b.data(file, 0, b"hello")
    (out / "a").write_bytes(b"somebody else's")
    b.end(file, b"hello")
    assert code_of(b.listen()[-1]) is Code.EXISTS
    assert (out / "a").read_bytes() == b"somebody else's"
    b.over()


def test_two_senders_of_one_name(store: Store, out: Path) -> None:
    one, two = Talk(store, "one"), Talk(store, "two")
    file = one.put(b"a")
    assert code_of(two.send(b"a", data=b"other")) is Code.BUSY
    one.data(file, 0, b"hello")
    one.end(file, b"hello")
    assert code_of(one.listen()[-1]) is Code.OK
    assert code_of(two.send(b"a", data=b"other")) is Code.EXISTS
    assert (out / "a").read_bytes() == b"hello"
    one.over()
    two.over()


def test_two_clients_with_folders_of_their_own(store: Store, out: Path) -> None:
    one, two = Talk(store, "one", b"one"), Talk(store, "two", b"two")
    assert code_of(one.send(b"a", data=b"1")) is Code.OK
    assert code_of(two.send(b"a", data=b"2")) is Code.OK
    assert (out / "one" / "a").read_bytes() == b"1"
    assert (out / "two" / "a").read_bytes() == b"2"
    assert isinstance(two.events()[-1], Completed)
    with pytest.raises(TransferError):
        store.account("three", folder=b"..")
    with pytest.raises(LocalError, match="another folder"):
        store.account("one", folder=b"two")
    one.over()
    two.over()


def test_a_newer_connection_takes_a_transfer_over(store: Store, out: Path) -> None:
    """The older one has not noticed that its link is gone."""
    data = os.urandom(3 * MIB)
    old = Talk(store)
    file = old.put(b"a", size=len(data))
    for at in (0, MIB):
        old.data(file, at, data[at : at + MIB])
        old.time.now += 1
    assert old.listen() == [Have(file, ()), Ack(file, 2 * MIB)]
    new = Talk(store)
    again = new.put(b"a", size=len(data))
    (have,) = new.listen()
    assert isinstance(have, Have)
    assert have.prefixes[-1] == (2 * MIB, hashlib.sha256(data[: 2 * MIB]).digest())
    old.data(file, 2 * MIB, b"x" * MIB)
    assert code_of(old.listen()[-1]) is Code.SUPERSEDED
    old.data(file, 0, b"more of it is ignored")
    assert old.listen() == []
    new.data(again, 2 * MIB, data[2 * MIB :])
    new.end(again, data)
    assert code_of(new.listen()[-1]) is Code.OK
    assert (out / "a").read_bytes() == data
    old.over()
    new.over()


def test_acknowledgements_follow_the_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = MemoryDisk()
    store = Store("out", Rules(window=2 * MIB), disk)
    b = Talk(store)
    data = os.urandom(3 * MIB)
    file = b.put(b"a", size=len(data))
    b.listen()
    b.data(file, 0, data[: MIB - 1])
    assert b.listen() == []
    b.data(file, MIB - 1, data[MIB - 1 : MIB + 7])
    before = len(disk.calls)
    assert b.listen() == [Ack(file, MIB)]
    assert disk.calls[before:] == ["sync_data", "sync"]
    b.data(file, MIB + 7, data[MIB + 7 : 2 * MIB + 7])
    b.data(file, 2 * MIB + 7, data[2 * MIB + 7 :])
    before = len(disk.calls)
    b.end(file, data)
    assert [type(message) for message in b.listen()] == [Receipt]
    calls = disk.calls[before:]
    assert calls.index("write") < calls.index("sync") < calls.index("rename")
    assert calls[-1] == "sync"
    b.over()
    store.close()


def test_a_sync_pays_from_half_a_window_or_a_quarter_of_a_second() -> None:
    """A fast link is asked for few answers, and at a slow one progress shows."""
    for window, seconds, wanted in (
        *((4 * MIB, 0, 2 * MIB), (3 * MIB, 0, MIB + MIB // 2), (MIB, 0, MIB)),
        *((16 * MIB, 0.25, MIB), (16 * MIB, 0.2, 0)),
    ):
        disk = MemoryDisk()
        store = Store("out", Rules(window=window, block=MIB), disk)
        b = Talk(store)
        file = b.put(b"a", size=3 * MIB)
        b.listen()
        last = (wanted or 3 * MIB) - 1
        for at in range(0, last, MIB // 2):
            b.data(file, at, bytes(min(MIB // 2, last - at)))
            assert b.listen() == []
            if at == 0:
                b.time.now += seconds
        b.data(file, last, bytes(1))
        assert b.listen() == ([Ack(file, wanted // MIB * MIB)] if wanted else [])
        b.over()
        store.close()


def test_what_was_acknowledged_before_a_whole_window_is_offered() -> None:
    """Nothing of the window may be there after a power cut, though the file is as long."""
    store = Store("out", Rules(), MemoryDisk())
    window = store.rules.window
    assert window == WINDOW_MAX
    b = Talk(store)
    file = b.put(b"a", size=2 * window)
    b.listen()
    b.data(file, 0, bytes(MIB))
    b.time.now += 1
    assert b.listen() == [Ack(file, MIB)]
    for at in range(MIB, MIB + window, MIB):
        b.data(file, at, bytes(MIB))
    b.over()
    again = Talk(store)
    again.put(b"a", size=2 * window)
    (have,) = again.listen()
    assert isinstance(have, Have)
    assert [offset for offset, _ in have.prefixes] == [*range(MIB, MIB + window + 1, MIB)]
    assert len(have.prefixes) <= PREFIXES_MAX


@pytest.mark.parametrize("more", [True, False], ids=["more comes", "it was all"])
@pytest.mark.parametrize("call", ["sync_data", "sync"])
def test_what_is_offered_is_durable_before(call: str, more: bool) -> None:
    """Or the windows of two connections would be under way, and no offer reach so far back."""
    disk = MemoryDisk()
    store = Store("out", Rules(), disk)
    data = os.urandom(2 * MIB)
    b = Talk(store)
    b.data(b.put(b"a", size=len(data)), 0, data[:MIB])
    if not more:
        b.data(0, MIB, data[MIB:])
    b.over()
    again = Talk(store)
    disk.faults[call] = lambda: OSError(errno.EIO, os.strerror(errno.EIO))
    again.put(b"a", size=len(data))
    assert again.listen() == [Refuse(0, Code.STORAGE)]
    again.over()
    disk.faults.clear()
    # Whose sync has failed may be nowhere: it is sent anew.
    last = Talk(store)
    last.put(b"a", size=len(data))
    assert last.listen() == [Have(0, ())]
    last.over()


def test_what_is_offered_survives_a_power_cut() -> None:
    """A stream cannot go back behind what it has gone on with."""
    disk = MemoryDisk()
    store = Store("out", Rules(), disk)
    data = os.urandom(MIB + 5)
    b = Talk(store)
    b.data(b.put(b"a", size=UNKNOWN_SIZE), 0, data[:MIB])
    b.data(0, MIB, data[MIB:])
    b.over()
    again = Talk(store)
    again.put(b"a", size=UNKNOWN_SIZE)
    (have,) = again.listen()
    assert isinstance(have, Have)
    assert [offset for offset, _ in have.prefixes] == [MIB, len(data)]
    last = Talk(Store("out", Rules(), disk.after("lost")))
    last.put(b"a", size=UNKNOWN_SIZE)
    assert last.listen() == [have]
    last.over()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("call", ["write", "sync_data", "sync", "rename", "create", "set_mtime"])
def test_what_the_disk_refuses_is_never_acknowledged(call: str, number: int) -> None:
    disk = MemoryDisk()
    store = Store("out", Rules(), disk)
    b = Talk(store)
    data = os.urandom(2 * MIB)
    disk.faults[call] = lambda: OSError(number, os.strerror(number))
    file = b.put(b"a", size=len(data))
    said = b.listen()
    for at in (0, MIB):
        b.data(file, at, data[at : at + MIB])
        said += b.listen()
    if not any(isinstance(message, Receipt) for message in said):
        b.end(file, data)
        said += b.listen()
    wanted = Code.NO_SPACE if number == errno.ENOSPC else Code.STORAGE
    assert code_of(said[-1]) is wanted
    if call in {"write", "sync_data", "create"}:
        assert not any(isinstance(message, Ack) for message in said)
    b.over()
    # The disk is well again, and the next connection delivers.
    disk.faults.clear()
    again = Talk(store)
    file = again.put(b"a", size=len(data))
    (have,) = again.listen()
    assert isinstance(have, Have)
    good = [at for at, digest in have.prefixes if hashlib.sha256(data[:at]).digest() == digest]
    start = max(good, default=0)
    for at in range(start, len(data), MIB):
        again.data(file, at, data[at : at + MIB])
        again.listen()
    again.end(file, data)
    assert code_of(again.listen()[-1]) is Code.OK
    assert dict(disk.files()) == {(b"a",): data}
    again.over()
    store.close()


def test_a_sync_that_failed_is_not_asked_again_for_a_better_answer() -> None:
    """The system tells of a lost page once; the commit fails although its own sync does not."""
    disk = MemoryDisk()
    store = Store("out", Rules(), disk)
    b = Talk(store)
    data = os.urandom(MIB)
    file = b.put(b"a", size=len(data))
    b.listen()
    b.data(file, 0, data)
    b.end(file, data)
    part = next(iter(b.machine._files.values())).part
    disk.faults["sync_data"] = lambda: OSError(errno.EIO, "lost")
    with pytest.raises(OSError):
        part.sync()
    disk.faults.clear()
    assert code_of(b.listen()[-1]) is Code.STORAGE
    assert dict(disk.files()) == {}
    b.over()
    store.close()


def test_many_files_share_a_sync() -> None:
    disk = MemoryDisk()
    store = Store("out", Rules(), disk)
    b = Talk(store)
    for number in range(50):
        file = b.put(b"f%d" % number, number=number)
        b.data(file, 0, b"hello")
        b.end(file, b"hello")
    before = len(disk.calls)
    receipts = [message for message in b.listen() if isinstance(message, Receipt)]
    assert [code_of(message) for message in receipts] == [Code.OK] * 50
    calls = disk.calls[before:]
    assert calls.count("sync_all") == 1
    assert calls.count("sync") == 1
    assert max(i for i, call in enumerate(calls) if call == "rename") < len(calls) - 1
    assert calls.index("sync_all") < calls.index("rename")
    b.over()
    store.close()


def test_a_receipt_that_got_lost_is_given_again(store: Store, out: Path) -> None:
    b = Talk(store)
    assert code_of(b.send(b"a")) is Code.OK
    b.over()  # no BYE: A may not have read it
    again = Talk(store)
    file = again.put(b"a")
    assert again.listen() == [Have(file, ((5, hashlib.sha256(b"hello").digest()),))]
    again.end(file, b"hello")
    receipt = again.listen()[-1]
    assert isinstance(receipt, Receipt)
    assert (receipt.code, receipt.path) == (Code.OK, (b"a",))
    again.tell(Bye())
    again.over()
    # Now that A knows, the same file once more is another transfer.
    third = Talk(store)
    assert code_of(third.send(b"a")) is Code.EXISTS
    third.over()


def test_a_delivered_file_that_was_changed_since_is_not_touched(store: Store, out: Path) -> None:
    b = Talk(store)
    b.send(b"a")
    b.over()
    (out / "a").write_bytes(b"HELLO")
    again = Talk(store)
    file = again.put(b"a")
    (have,) = again.listen()
    assert isinstance(have, Have)
    assert have.prefixes[0][1] != hashlib.sha256(b"hello").digest()
    again.data(file, 0, b"hello")  # A sees another digest, and starts anew
    again.end(file, b"hello")
    assert code_of(again.listen()[-1]) is Code.EXISTS
    assert (out / "a").read_bytes() == b"HELLO"
    again.over()


def test_a_partial_file_is_never_spliced(store: Store, out: Path) -> None:
    b = Talk(store)
    b.data(b.put(b"a", size=10), 0, b"WRONG")
    b.over()
    again = Talk(store)
    file = again.put(b"a", size=10)
    (have,) = again.listen()
    assert have == Have(file, ((5, hashlib.sha256(b"WRONG").digest()),))
    again.data(file, 0, b"right")
    again.data(file, 5, b" data")
    again.end(file, b"right data")
    assert code_of(again.listen()[-1]) is Code.OK
    assert (out / "a").read_bytes() == b"right data"
    again.over()
    # Had A gone on behind bytes that are not its own, the digest would have told.
    last = Talk(store)
    file = last.put(b"b", size=10, number=2)
    last.data(file, 0, b"WRONG data")
    last.end(file, b"right data")
    assert code_of(last.listen()[-1]) is Code.DIGEST
    assert not (out / "b").exists()
    assert not list(out.glob(".stx/*/*.part"))
    last.over()


def test_offers_are_the_length_and_each_mebibyte_up_to_sixteen_before(
    store: Store, out: Path
) -> None:
    data = os.urandom(2 * MIB + 5)
    b = Talk(store)
    file = b.put(b"a", size=3 * MIB)
    for at in range(0, len(data), MIB):
        b.data(file, at, data[at : at + MIB])
    b.over()
    part = next(out.glob(".stx/*/*.part"))
    os.truncate(part, 20 * MIB)
    again = Talk(store)
    again.put(b"a", size=30 * MIB)
    (have,) = again.listen()
    assert isinstance(have, Have)
    assert [at for at, _ in have.prefixes] == [at * MIB for at in range(4, 21)]
    again.over()


def test_bounds_of_a_transfer(out: Path) -> None:
    store = Store(out, Rules(max_size=10))
    b = Talk(store)
    assert code_of(b.send(b"a", data=b"x" * 11)) is Code.TOO_LARGE
    for block in (0, MIB + 1, 0xFFFFFFFF):
        b.put(b"a", block=block)
        assert code_of(b.listen()[-1]) is Code.BLOCK_SIZE
    for path in ((b"..", b"a"), (b"",), (b".stx", b"lock"), (b"a/b",), ()):
        b.put(*path)
        assert code_of(b.listen()[-1]) is Code.NAME
    file = b.put(b"a", size=UNKNOWN_SIZE)
    b.data(file, 0, b"x" * 11)
    assert code_of(b.listen()[-1]) is Code.TOO_LARGE
    file = b.put(b"b", size=3, number=2)
    b.data(file, 0, b"xxxx")
    assert code_of(b.listen()[-1]) is Code.SIZE
    file = b.put(b"c", size=3, number=3)
    b.data(file, 1, b"x")
    assert code_of(b.listen()[-1]) is Code.SIZE
    file = b.put(b"d", size=3, number=4)
    b.data(file, 0, b"xx")
    b.data(file, 1, b"x")
    assert code_of(b.listen()[-1]) is Code.SIZE
    file = b.put(b"e", size=3, number=5)
    b.data(file, 0, b"xx")
    b.end(file, b"xx")
    assert code_of(b.listen()[-1]) is Code.SIZE
    b.over()
    store.close()
    assert [path.name for path in out.iterdir()] == [".stx"]


def test_a_quota_counts_what_is_there_and_what_is_partial(out: Path) -> None:
    (out / "one" / "deep").mkdir(parents=True)
    (out / "one" / "deep" / "old").write_bytes(b"x" * 50)
    (out / "one" / "link").symlink_to("/")
    store = Store(out, Rules(quota=100, on_exist=OnExist.REPLACE))
    with pytest.raises(LocalError, match="quota"):
        store.account("one")
    b = Talk(store, "one", b"one")
    assert code_of(b.send(b"a", data=b"x" * 51)) is Code.QUOTA
    assert code_of(b.send(b"a", data=b"x" * 40)) is Code.OK
    assert code_of(b.send(b"a", data=b"x" * 10, number=2)) is Code.OK
    file = b.put(b"b", size=UNKNOWN_SIZE, number=3)
    b.data(file, 0, b"x" * 40)
    b.data(file, 40, b"x")
    assert code_of(b.listen()[-1]) is Code.QUOTA
    assert code_of(b.send(b"c", data=b"x", number=4)) is Code.QUOTA
    b.end(file, b"")
    file = b.put(b"b", size=UNKNOWN_SIZE, number=3)
    b.tell(End(file, Code.CHANGED, 0, Digest(Algorithm.SHA256, bytes(32))))
    assert code_of(b.listen()[-1]) is Code.CHANGED
    assert code_of(b.send(b"c", data=b"x" * 40, number=4)) is Code.OK
    b.over()
    store.close()


def test_room_is_kept_for_what_was_announced() -> None:
    disk = MemoryDisk()
    disk.room = 1000
    store = Store("out", Rules(reserve=100), disk)
    b = Talk(store)
    assert code_of(b.send(b"a", data=b"x" * 901)) is Code.NO_SPACE
    file = b.put(b"b", size=600, number=2)
    b.listen()
    assert code_of(b.send(b"c", data=b"x" * 301, number=3)) is Code.NO_SPACE
    b.data(file, 0, b"x" * 500)
    disk.room = 500  # of which the rest of b needs 100, and 100 are nobody's
    other = Talk(store, "other")
    assert code_of(other.send(b"d", data=b"x" * 301, number=4)) is Code.NO_SPACE
    assert code_of(other.send(b"d", data=b"x" * 300, number=4)) is Code.OK
    assert code_of(other.send(b"e", data=b"", number=5)) is Code.OK
    b.over()
    other.over()
    store.close()


def test_to_announce_much_keeps_nobody_from_sending() -> None:
    disk = MemoryDisk()
    disk.room = 5 * MIB
    store = Store("out", Rules(window=MIB, reserve=0), disk)
    greedy = Talk(store, "greedy")
    files = [greedy.put(b"%d" % n, size=4 * MIB, number=n) for n in range(9)]
    assert [type(said) for said in greedy.listen()] == [Have] * 9
    honest = Talk(store, "honest")
    # All of them together keep one window from others,
    assert code_of(honest.send(b"a", data=bytes(4 * MIB + 1), number=20)) is Code.NO_SPACE
    assert code_of(honest.send(b"a", data=bytes(MIB), number=21)) is Code.OK
    # and what has come of one as much again.
    greedy.data(files[0], 0, bytes(MIB))
    disk.room = 3 * MIB
    assert code_of(honest.send(b"b", data=bytes(MIB + 1), number=22)) is Code.NO_SPACE
    assert code_of(honest.send(b"b", data=bytes(MIB), number=23)) is Code.OK
    greedy.over()
    honest.over()
    store.close()


def test_who_shuts_down_takes_what_has_ended_and_nothing_else(store: Store) -> None:
    b = Talk(store)
    assert not b.machine.shut_down()
    b.over()
    b = Talk(store)
    ended, taking, offered = (b.put(b"%d" % n, number=n) for n in range(3))
    b.listen()
    b.data(ended, 0, b"hello")
    b.end(ended, b"hello")
    b.data(taking, 0, b"he")
    assert b.machine.shut_down()
    assert [(said.file, code_of(said)) for said in b.listen() if isinstance(said, Receipt)] == [
        (taking, Code.SHUTDOWN),
        (ended, Code.OK),
    ]
    b.data(taking, 2, b"llo")  # it was on its way
    b.data(offered, 0, b"hello")
    assert [code_of(said) for said in b.listen()] == [Code.SHUTDOWN]
    b.put(b"new", number=7)
    assert [code_of(said) for said in b.listen()] == [Code.SHUTDOWN]
    b.over()
    again = Talk(store)
    again.put(b"1", number=1)
    (have,) = again.listen()
    assert isinstance(have, Have)
    assert [at for at, _ in have.prefixes] == [2]
    again.over()


def test_what_the_receiver_does_is_no_idleness_of_the_sender(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = Talk(store)
    offer = Account.offer
    while_it_read = []

    def slow(*args: object) -> object:
        b.time.now += 500  # the digest of what it has of a long file
        while_it_read.append(b.machine.idle)
        return offer(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(Account, "offer", slow)
    file = b.put(b"long")
    assert while_it_read == [0]
    assert b.machine.idle == 0
    b.time.now += 7
    b.tell(Alive())
    assert b.machine.idle == 7
    b.data(file, 0, b"hello")
    b.end(file, b"hello")
    b.time.now += 300  # a disk that is slow to sync
    assert b.machine.idle == 0
    b.listen()
    b.time.now += 2
    assert b.machine.idle == 2
    b.over()


def test_every_stage_and_every_word(store: Store) -> None:
    """What the table lacks breaks the protocol."""
    for stage, heard in itertools.product(
        (Stage.OFFERED, Stage.TAKING, Stage.ENDED, Stage.SPOILT), Heard
    ):
        b = Talk(store, f"{stage.name}-{heard.name}")
        name = f"{stage.name}-{heard.name}".encode()
        size = 5 if stage is not Stage.SPOILT else 1
        file = b.put(name, size=size)
        if stage is not Stage.OFFERED:
            b.data(file, 0, b"he")
        if stage is Stage.ENDED:
            b.data(file, 2, b"llo")
            b.end(file, b"hello")
        assert b.machine._files[file].stage is stage

        def say(b: Talk = b, file: int = file, stage: Stage = stage, heard: Heard = heard) -> None:
            if heard is Heard.DATA:
                b.data(file, 0 if stage is Stage.OFFERED else 2, b"x")
            else:
                b.end(file, b"", Code.OK if heard is Heard.END else Code.CHANGED)

        if (stage, heard) in TABLE:
            say()
            b.listen()
            following = TABLE[stage, heard][1]
            if file in b.machine._files:
                assert b.machine._files[file].stage is following
            else:
                assert following in {Stage.OVER, Stage.ENDED}
        else:
            with pytest.raises(MessageError):
                say()
        b.over()


@pytest.mark.parametrize(
    "message",
    [
        HELLO,
        Have(0, ()),
        Refuse(0, Code.NAME),
        Ack(0, 0),
        Receipt(0, Code.OK, Digest(Algorithm.SHA256, bytes(32)), ()),
        End(5, Code.OK, 0, Digest(Algorithm.SHA256, bytes(32))),
        data_header(5, 0, 1) + b"x",
        b"\xff" * 16,
    ],
)
def test_what_no_sender_says(store: Store, message: Message | bytes) -> None:
    b = Talk(store)
    with pytest.raises(MessageError):
        b.tell(message)
    b.over()


def test_rules_of_numbers(store: Store) -> None:
    b = Talk(store)
    b.put(b"a")
    with pytest.raises(MessageError):
        b.put(b"b", file=0)
    b.over()
    b = Talk(store)
    file = b.put(b"a")
    b.data(file, 0, b"x")
    other = b.put(b"b", number=2)
    with pytest.raises(MessageError, match="has not ended"):
        b.data(other, 0, b"x")
    b.over()
    b = Talk(store)
    b.put(b"c")
    with pytest.raises(MessageError, match="BYE"):
        b.tell(Bye())
    b.over()


def test_no_word_before_hello(store: Store) -> None:
    for message in (Alive().build(), data_header(0, 0, 1) + b"x", Bye().build()):
        account = store.account("client")
        machine = Receiving(account)
        with pytest.raises(MessageError):
            feed(machine, message)
        machine.close()
        store.leave(account)


def test_the_window_and_the_number_of_files_are_bounds(out: Path) -> None:
    store = Store(out, Rules(window=1000, block=1000, files=3))
    b = Talk(store)
    file = b.put(b"a", size=2000, block=1000)
    b.data(file, 0, b"x" * 1000)
    with pytest.raises(MessageError, match="window"):
        b.data(file, 1000, b"x")
    b.over()
    b = Talk(store)
    for number in range(3):
        b.put(b"%d" % number, number=number, block=1)
    with pytest.raises(MessageError) as caught:
        b.put(b"3", number=3, block=1)
    assert caught.value.code is Code.TOO_MANY
    b.over()
    store.close()


def test_answers_that_nobody_reads_are_bounded(out: Path) -> None:
    store = Store(out, Rules(files=3, block=1000))
    b = Talk(store)
    for number in range(3):
        b.put(b"..", number=number)
    with pytest.raises(MessageError) as caught:
        b.put(b"..", number=3)
    assert caught.value.code is Code.TOO_MANY
    b.over()
    b = Talk(store)
    for number in range(10):
        b.put(b"..", number=number)
        assert code_of(b.listen()[-1]) is Code.NAME
    b.over()
    # A file that failed is none of those that A may have announced, from then on.
    b = Talk(store)
    file = b.put(b"a", size=1, block=9)
    b.data(file, 0, b"too much")
    assert code_of(b.listen()[-1]) is Code.SIZE
    for number in range(1, 4):
        b.put(b"%d" % number, number=number, block=9)
    with pytest.raises(MessageError):
        b.put(b"4", number=4, block=9)
    b.over()
    store.close()


def test_silence_has_a_deadline(store: Store) -> None:
    time = Time()
    account = store.account("client")
    machine = Receiving(account, clock=time)
    assert machine.deadline == 1010
    time.now = 1009
    machine.handle_timeout()
    feed(machine, HELLO)
    assert machine.deadline == 1069
    machine.work()
    time.now = 1068
    machine.handle_timeout()
    assert machine.work() == [Alive().build()]
    feed(machine, Alive().build())
    time.now = 1128
    with pytest.raises(TransferError) as caught:
        machine.handle_timeout()
    assert caught.value.code is Code.TIMEOUT
    machine.close()
    store.leave(account)


def test_an_end_within_a_message(store: Store, out: Path) -> None:
    b = Talk(store)
    file = b.put(b"a", size=100)
    b.tell(data_header(file, 0, 100) + b"x" * 50)
    with pytest.raises(MessageError):
        b.machine.receive_eof()
    b.over()
    assert next(out.glob(".stx/*/*.part")).stat().st_size == 50


def test_rules_that_cannot_be() -> None:
    for wrong in ({"window": 0}, {"block": MIB + 1}, {"files": 0}, {"max_size": -1},
                  {"quota": -1}, {"window": 100, "block": 101}):  # fmt: skip
        with pytest.raises(LocalError):
            Rules(**wrong)  # type: ignore[arg-type]
