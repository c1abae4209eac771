"""The disk beneath the store where a system lacks something; the journal; folders."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transfer.link import feed, transfer
from transfer.memory_disk import MemoryDisk
from transfer.test_receiving import HELLO, MIB, Talk, Time, code_of

from tcpcrypt.transfer import account as account_module
from tcpcrypt.transfer import disk as disk_module
from tcpcrypt.transfer import folders as folders_module
from tcpcrypt.transfer.codes import Code, MessageError, TransferError
from tcpcrypt.transfer.disk import Disk
from tcpcrypt.transfer.folders import Folders
from tcpcrypt.transfer.journal import Delivery, Journal
from tcpcrypt.transfer.messages import UNKNOWN_SIZE, Ack, Alive, Have, Receipt
from tcpcrypt.transfer.receiver import Receiving
from tcpcrypt.transfer.rules import OnExist, Rules
from tcpcrypt.transfer.sender import Delivered
from tcpcrypt.transfer.store import Store


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def stop(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Lacking:
    """A C library of another system."""


class Refusing:
    """One whose kernel, or file system, says no."""

    def __init__(self, number: int) -> None:
        self._number = number

    def _refuse(self, *_: object) -> int:
        disk_module.ctypes.set_errno(self._number)
        return -1

    renameat2 = syncfs = _refuse


@pytest.mark.parametrize("libc", [Lacking(), Refusing(errno.EINVAL), Refusing(errno.ENOSYS)])
def test_a_system_without_the_newer_calls(
    libc: object, folder: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_module, "_libc", libc)
    disk = Disk()
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    assert disk.sync_all(folder) is False
    with pytest.raises(FileExistsError):
        disk.rename_new(folder, b"a", folder, b"b")
    disk.rename_new(folder, b"a", folder, b"c")
    assert sorted(os.listdir(tmp_path)) == ["b", "c"]
    assert (tmp_path / "c").read_bytes() == b"a"


@pytest.mark.parametrize(
    ("release", "enough"),
    [("5.7.19-generic", False), ("5.8.0", True), ("6.1.0-13-amd64", True), ("odd", False)],
)
def test_syncfs_counts_where_it_tells_of_failures(
    release: str, enough: bool, folder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """syncfs(2): errors of writing back are reported since Linux 5.8."""

    class Uname:
        def __init__(self) -> None:
            self.release = release

    monkeypatch.setattr(os, "uname", Uname)
    assert Disk().sync_all(folder) is enough


def test_other_answers_of_the_newer_calls_are_errors(
    folder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_module, "_libc", Refusing(errno.EIO))
    for call in (lambda: Disk().sync_all(folder),
                 lambda: Disk().rename_new(folder, b"a", folder, b"b")):  # fmt: skip
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EIO


def test_whole_transfers_without_the_newer_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    for number in range(6):
        (source / str(number)).write_bytes(b"%d" % number)
    monkeypatch.setattr(disk_module, "_libc", Lacking())
    events = transfer([source], out)
    assert sum(isinstance(event, Delivered) for event in events) == 7
    assert sorted(os.listdir(out / "source")) == list("012345")


def test_many_folders_are_synced_at_once() -> None:
    for whole in (True, False):
        disk = MemoryDisk(whole=whole)
        folders = Folders(disk, disk.open_root(b""))
        for number in range(5):
            folders.make((b"x", b"%d" % number))
            folders.changed.add((b"x", b"%d" % number))
        before = len(disk.calls)
        folders.sync(everything=1001)
        calls = disk.calls[before:]
        assert (calls == ["sync_all"]) is whole
        assert calls.count("sync") == (0 if whole else 7)
        folders.forget()


def test_a_folder_that_cannot_be_looked_into() -> None:
    disk = MemoryDisk()
    folders = Folders(disk, disk.open_root(b""))
    disk.faults["open_folder"] = lambda: stop(errno.EACCES)
    with pytest.raises(PermissionError):
        folders.find((b"x",))


PATHS = st.lists(
    st.binary(min_size=1, max_size=9).filter(lambda name: b"/" not in name), min_size=1, max_size=5
).map(tuple)


@given(st.binary(min_size=16, max_size=16), PATHS, st.integers(0, 1 << 64), st.data())
def test_lines_of_the_journal(
    transfer_id: bytes, path: tuple[bytes, ...], number: int, data: st.DataObject
) -> None:
    """A line that a crash has torn, or a bit that fell, says nothing."""
    delivery = Delivery(transfer_id, 7, number, 5, path)
    line = delivery.line().rstrip(b"\n")
    assert Delivery.read(line) == delivery
    assert Delivery.read(line[: data.draw(st.integers(0, len(line) - 1))]) is None
    at = data.draw(st.integers(0, len(line) - 1))
    torn = line[:at] + bytes((line[at] ^ 1 << data.draw(st.integers(0, 7)),)) + line[at + 1 :]
    assert Delivery.read(torn) in {None, delivery}


def test_a_journal_with_a_torn_end_goes_on(tmp_path: Path, folder: int) -> None:
    disk, one = Disk(), Delivery(bytes(16), 7, 8, 5, (b"a",))
    two, three = Delivery(b"2" * 16, 7, 9, 5, (b"b",)), Delivery(b"3" * 16, 7, 9, 5, (b"c",))
    journal = Journal(disk, folder)
    journal.add([one, two])
    journal.close()
    path = tmp_path / "delivered"
    os.truncate(path, path.stat().st_size - 3)
    journal = Journal(disk, folder)
    assert journal.find(bytes(16)) == one
    assert journal.find(b"2" * 16) is None
    journal.add([three])
    journal.close()
    journal = Journal(disk, folder)
    assert [journal.find(item.transfer_id) for item in (one, two, three)] == [one, None, three]
    journal.confirm({bytes(16)})
    assert path.stat().st_size > 0
    journal.confirm({b"3" * 16, b"4" * 16})
    assert path.stat().st_size == 0
    journal.close()


def test_a_line_whose_check_is_right_and_whose_words_are_not() -> None:
    import zlib

    for head in (b"xx 1 2 3 61", b"00 one 2 3 61", b"00 1 2 3 6"):
        assert Delivery.read(b"%s %08x" % (head, zlib.crc32(head))) is None


def test_the_journal_is_bounded(
    tmp_path: Path, folder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tcpcrypt.transfer.journal._SIZE_MAX", 1000)
    monkeypatch.setattr("tcpcrypt.transfer.journal._COUNT_MAX", 3)
    journal = Journal(Disk(), folder)
    for number in range(50):
        journal.add([Delivery(b"%016d" % number, 7, 8, 5, (b"a",))])
        assert (tmp_path / "delivered").stat().st_size <= 1000
    known = [n for n in range(50) if journal.find(b"%016d" % n) is not None]
    assert known
    assert known[-1] == 49
    assert len(known) <= 3
    journal.close()


def test_a_journal_that_cannot_be_emptied_does_no_harm() -> None:
    disk = MemoryDisk()
    journal = Journal(disk, disk.open_root(b""))
    journal.add([Delivery(bytes(16), 7, 8, 5, (b"a",))])
    disk.faults["truncate"] = lambda: stop(errno.EIO)
    journal.confirm({bytes(16)})
    assert journal.find(bytes(16)) is None


def test_a_journal_that_became_shorter_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = MemoryDisk()
    root = disk.open_root(b"")
    journal = Journal(disk, root)
    journal.add([Delivery(bytes(16), 7, 8, 5, (b"a",))])
    monkeypatch.setattr(disk, "read", lambda *_: 0)
    assert Journal(disk, root).find(bytes(16)) is None


# --- of accounts -----------------------------------------------------------------------


def test_unfinished_transfers_of_a_client_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_module, "_PARTS_MAX", 2)
    store = Store("out", Rules(), MemoryDisk())
    for number in range(2):
        b = Talk(store)
        b.data(b.put(b"f%d" % number, number=number), 0, b"he")
        b.over()
    b = Talk(store)
    assert code_of(b.send(b"f3", number=3)) is Code.TOO_MANY
    file = b.put(b"f1", number=1)
    assert isinstance(b.listen()[-1], Have)
    b.data(file, 2, b"llo")
    b.end(file, b"hello")
    assert code_of(b.listen()[-1]) is Code.OK
    assert code_of(b.send(b"f3", number=3)) is Code.OK
    b.over()
    store.close()


def test_a_partial_file_that_somebody_cut() -> None:
    disk = MemoryDisk()
    store = Store("out", Rules(), disk)
    b = Talk(store)
    b.data(b.put(b"a"), 0, b"hell")
    b.over()
    again = Talk(store)
    file = again.put(b"a")
    again.listen()
    home = disk.root.names[b".stx"]
    (account,) = [inode for inode in home.names.values() if inode.data is None]
    (part,) = [inode for name, inode in account.names.items() if name.endswith(b".part")]
    assert part.data is not None
    del part.data[2:]
    again.data(file, 4, b"o")
    assert code_of(again.listen()[-1]) is Code.STORAGE
    again.over()
    store.close()


def test_a_partial_file_that_is_cut_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = MemoryDisk()
    store = Store("out", Rules(), disk)
    b = Talk(store)
    b.data(b.put(b"a"), 0, b"hell")
    b.over()
    read = disk.read
    monkeypatch.setattr(disk, "read", lambda *_: 0)
    again = Talk(store)
    file = again.put(b"a")
    assert again.listen() == [Have(file, ())]
    monkeypatch.setattr(disk, "read", read)
    again.data(file, 0, b"hello")
    again.end(file, b"hello")
    assert code_of(again.listen()[-1]) is Code.OK
    assert dict(disk.files()) == {(b"a",): b"hello"}
    again.over()
    store.close()


def test_names_that_are_not_durable_are_not_delivered() -> None:
    """The sync of the folder fails: whether the name is there is told by the next connection."""
    disk = MemoryDisk()
    store = Store("out", Rules(), disk)
    b = Talk(store)
    file = b.put(b"a")
    b.data(file, 0, b"hello")
    synced: list[str] = []

    def third() -> OSError | None:
        synced.append("")
        return stop(errno.EIO) if len(synced) == 2 else None

    disk.faults["sync"] = third
    b.end(file, b"hello")
    assert code_of(b.listen()[-1]) is Code.STORAGE
    b.over()
    disk.faults.clear()
    again = Talk(store)
    file = again.put(b"a")
    before = len(disk.calls)
    again.end(file, b"hello")
    receipt = again.listen()[-1]
    assert isinstance(receipt, Receipt)
    assert (receipt.code, receipt.path) == (Code.OK, (b"a",))
    assert disk.calls[before:] == ["sync"]
    again.over()
    store.close()


@pytest.mark.parametrize("path", [(b"a",), (b"a", b"b"), (b"a", b"b", b"c", b"d", b"e")])
@pytest.mark.parametrize("whole", [True, False], ids=["syncfs", "fsync"])
def test_a_folder_of_somebody_who_did_not_sync_it_is_synced(
    path: tuple[bytes, ...], whole: bool
) -> None:
    """A receiver that was killed, or another connection that has not come to it."""
    disk = MemoryDisk(whole=whole)
    Folders(disk, disk.open_root(b"")).make(path)
    store = Store("out", Rules(), disk)
    b = Talk(store)
    assert code_of(b.send(*path, b"file")) is Code.OK
    assert dict(disk.after("lost").files()) == {(*path, b"file"): b"hello"}
    before = len(disk.calls)
    assert code_of(b.send(*path, b"more", number=2)) is Code.OK
    assert disk.calls[before:].count("sync") == 2, "the file, and the folder that it is in"
    b.over()
    store.close()


def test_folders_that_are_known_to_be_durable_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders_module, "_SETTLED_MAX", 2)
    disk, settled = MemoryDisk(), set[tuple[bytes, ...]]()
    folders = Folders(disk, disk.open_root(b""), settled)
    for name in (b"a", b"b", b"c"):
        folders.make((name,))
        folders.sync()
    assert settled == {(b"c",)}


def test_a_folder_that_another_connection_makes_meanwhile() -> None:
    disk = MemoryDisk()
    base = disk.open_root(b"")

    def meanwhile() -> None:
        disk.faults.clear()
        disk.make_folder(base, b"a", 0o700)

    disk.faults["make_folder"] = meanwhile
    folders = Folders(disk, base)
    assert folders.make((b"a",)) == folders.find((b"a",))


@pytest.mark.parametrize("count", [1, 6], ids=["one", "many"])
def test_contents_that_could_not_be_synced_are_sent_again(count: int) -> None:
    """What memory holds then may never have been written, and another sync may not say so."""
    disk = MemoryDisk()
    store = Store("out", Rules(), disk)
    b = Talk(store)
    for number in range(count):
        file = b.put(b"%d" % number, number=number)
        b.data(file, 0, b"hello")
        b.end(file, b"hello")
    for call in ("sync", "sync_all"):
        disk.faults[call] = lambda: stop(errno.EIO)
    said = [message for message in b.listen() if isinstance(message, Receipt)]
    assert [message.code for message in said] == [Code.STORAGE] * count
    b.over()
    disk.faults.clear()
    again = Talk(store)
    for number in range(count):
        file = again.put(b"%d" % number, number=number)
        assert again.listen() == [Have(file, ())]
    again.over()
    store.close()


def test_a_sync_that_fails_leaves_what_was_durable() -> None:
    disk = MemoryDisk()
    store = Store("out", Rules(window=2 * MIB), disk)
    b = Talk(store)
    data = bytes(range(256)) * 8192
    file = b.put(b"a", size=3 * MIB)
    b.data(file, 0, data[:MIB])
    assert b.listen()[-1] == Ack(file, MIB)
    b.data(file, MIB, data[MIB:])
    disk.faults["sync_data"] = lambda: stop(errno.ENOSPC)
    assert code_of(b.listen()[-1]) is Code.NO_SPACE
    b.over()
    disk.faults.clear()
    again = Talk(store)
    again.put(b"a", size=3 * MIB)
    (have,) = again.listen()
    assert isinstance(have, Have)
    assert [at for at, _ in have.prefixes] == [MIB]
    again.over()
    store.close()


def test_numbers_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_module, "_NUMBERS_MAX", 2)
    store = Store("out", Rules(on_exist=OnExist.RENAME), MemoryDisk())
    b = Talk(store)
    codes = [code_of(b.send(b"a", number=number)) for number in range(3)]
    assert codes == [Code.OK, Code.OK, Code.EXISTS]
    b.over()
    store.close()


def test_a_store_that_closes_takes_its_connections_files_with_it() -> None:
    disk = MemoryDisk()
    store = Store("out", Rules(), disk)
    b = Talk(store)
    b.data(b.put(b"a"), 0, b"he")
    store.close()
    assert disk.open_count == 0
    assert not list(disk.files())


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Store(tmp_path / "nothing", Rules())
    disk = MemoryDisk()
    disk.faults["make_folder"] = lambda: stop(errno.EROFS)
    with pytest.raises(OSError):
        Store("out", Rules(), disk)
    assert disk.open_count == 0


def test_an_empty_partial_is_no_offer() -> None:
    disk = MemoryDisk()
    store = Store("out", Rules(), disk)
    b = Talk(store)
    file = b.put(b"a", size=UNKNOWN_SIZE)
    disk.faults["write"] = lambda: stop(errno.ENOSPC)
    b.data(file, 0, b"x")
    b.over()
    disk.faults.clear()
    again = Talk(store)
    file = again.put(b"a", size=UNKNOWN_SIZE)
    assert again.listen() == [Have(file, ())]
    again.end(file, b"")
    assert code_of(again.listen()[-1]) is Code.OK
    again.over()
    store.close()


# --- of connections --------------------------------------------------------------------


def test_a_long_partial_file_is_read_with_signs_of_life() -> None:
    disk = MemoryDisk()
    store = Store("out", Rules(), disk)
    b = Talk(store)
    data = bytes(2 * MIB)
    file = b.put(b"a", size=5 * MIB)
    for at in (0, MIB):
        b.data(file, at, data[at : at + MIB])
    b.over()
    account, clock = store.account("client"), Time()
    machine = Receiving(account, clock=clock)
    feed(machine, HELLO)
    machine.work()
    read = disk.read

    def slow(fd: int, buffer: object, offset: int) -> int:
        clock.now += 15
        assert machine.deadline is None  # A is not to blame
        return read(fd, buffer, offset)

    disk.read = slow  # type: ignore[method-assign]
    b.machine, b.account = machine, account
    b._next = iter(range(9))  # type: ignore[assignment]
    file = b.put(b"a", size=5 * MIB)
    said = b.listen()
    assert said[:2] == [Alive(), Alive()]
    assert isinstance(said[2], Have)
    b.over()
    store.close()


def test_who_waits_is_woken(tmp_path: Path) -> None:
    store = Store(tmp_path, Rules())
    b = Talk(store)
    for word in (lambda: b.put(b"a"), b.machine.wake, b.machine.receive_eof):
        done = threading.Event()

        def wait(done: threading.Event = done) -> None:
            b.machine.wait(60)
            done.set()

        threading.Thread(target=wait, daemon=True).start()
        word()
        assert done.wait(20)
        b.listen()
    b.over()
    store.close()


def test_a_sync_that_fails_when_the_file_has_ended_is_left_to_the_commit() -> None:
    disk = MemoryDisk()
    store = Store("out", Rules(), disk)
    b = Talk(store)
    data = bytes(MIB)
    file = b.put(b"a", size=MIB)
    b.listen()
    b.data(file, 0, data)
    incoming = b.machine._files[file]

    def end_meanwhile() -> OSError:
        disk.faults.clear()
        b.end(file, data)
        return stop(errno.EIO)

    disk.faults["sync_data"] = end_meanwhile
    assert b.machine._sync(incoming) == []
    receipts = [message for message in b.listen() if isinstance(message, Receipt)]
    assert [message.code for message in receipts] == [Code.STORAGE]
    assert not list(disk.files())
    b.over()
    store.close()


def test_a_sync_that_fails_while_the_file_ends_is_answered_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = MemoryDisk()
    store = Store("out", Rules(), disk)
    b = Talk(store)
    data = bytes(MIB)
    file = b.put(b"a", size=MIB)
    b.listen()
    b.data(file, 0, data)
    incoming = b.machine._files[file]
    end = incoming.part.end

    def then_fail(*given: object) -> None:
        """The other thread is in the middle of a sync."""
        end(*given)  # type: ignore[arg-type]
        b.machine._spoil(incoming, stop(errno.EIO), unsound=True)

    monkeypatch.setattr(incoming.part, "end", then_fail)
    b.end(file, data)
    b.listen()
    assert [code_of(said) for said in b.heard if isinstance(said, Receipt)] == [Code.STORAGE]
    assert not b.machine._files
    b.over()
    store.close()


def test_bytes_that_come_while_a_sync_fails_take_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = MemoryDisk()
    store = Store("out", Rules(window=2 * MIB), disk)
    b = Talk(store)
    file = b.put(b"a", size=3 * MIB)
    b.listen()
    b.data(file, 0, bytes(MIB))
    disk.faults["sync_data"] = lambda: stop(errno.EIO)
    look_up = b.machine._look_up

    def then_fail(*given: object) -> object:
        found = look_up(*given)  # type: ignore[arg-type]
        b.listen()
        return found

    monkeypatch.setattr(b.machine, "_look_up", then_fail)
    b.data(file, MIB, bytes(MIB))
    assert b.machine._unacked == 0
    b.over()
    store.close()


def test_what_ends_while_a_sync_fails_is_not_forgotten() -> None:
    """It waits for the next call, whether or not the sync had anything to say."""
    disk = MemoryDisk()
    store = Store("out", Rules(window=2 * MIB), disk)
    b = Talk(store)
    data = bytes(MIB)
    file = b.put(b"a", size=MIB)
    b.listen()
    b.data(file, 0, data)

    def end_meanwhile() -> None:
        disk.faults.clear()
        b.end(file, data)
        b.machine._files[file].part.durable = MIB  # there is nothing more to acknowledge

    disk.faults["sync_data"] = end_meanwhile
    b.machine.work()
    assert code_of(b.listen()[-1]) is Code.OK
    assert dict(disk.files()) == {(b"a",): data}
    b.over()
    store.close()


def test_a_sync_that_ends_when_the_file_is_gone_acknowledges_nothing() -> None:
    disk = MemoryDisk()
    store = Store("out", Rules(), disk)
    b = Talk(store)
    file = b.put(b"a", size=3 * MIB)
    b.listen()
    b.data(file, 0, bytes(MIB))
    incoming = b.machine._files[file]

    def spoil_meanwhile() -> None:
        disk.faults.clear()
        b.data(file, 0, b"a wrong offset")

    disk.faults["sync_data"] = spoil_meanwhile
    assert b.machine._sync(incoming) == []
    assert code_of(b.listen()[-1]) is Code.SIZE
    b.over()
    store.close()


def test_a_delivered_file_that_has_its_partial_name_still_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a file system cannot rename without replacing, a kill may leave both names."""
    monkeypatch.setattr(disk_module, "_libc", Lacking())
    store = Store(tmp_path, Rules(reserve=0))
    b = Talk(store)
    with monkeypatch.context() as killed:
        killed.setattr(os, "unlink", lambda *_args, **_kwargs: None)
        assert code_of(b.send(b"a")) is Code.OK
    b.over()
    again = Talk(store)
    file = again.put(b"a", size=6)
    again.data(file, 0, b"other!")
    again.end(file, b"other!")
    assert code_of(again.listen()[-1]) is Code.EXISTS
    assert (tmp_path / "a").read_bytes() == b"hello"
    (tmp_path / "a").rename(tmp_path / "mine")
    assert code_of(again.send(b"a", data=b"new", number=1)) is Code.OK
    assert (tmp_path / "mine").read_bytes() == b"hello"
    assert (tmp_path / "a").read_bytes() == b"new"
    again.over()
    store.close()


def test_a_partial_file_that_could_not_be_made_is_made_later() -> None:
    disk = MemoryDisk()
    store = Store("out", Rules(), disk)
    b = Talk(store)
    file = b.put(b"a")
    disk.faults["create"] = lambda: stop(errno.ENOSPC)
    b.data(file, 0, b"hello")
    assert code_of(b.listen()[-1]) is Code.NO_SPACE
    b.end(file, b"hello")
    disk.faults.clear()
    assert code_of(b.send(b"a")) is Code.OK
    b.over()
    store.close()


class Folding(MemoryDisk):
    """One that takes many names for one, as file systems that fold Unicode do."""

    def open_folder(self, at: int, name: bytes) -> int:
        folded = name.decode().replace("\u200c", "").lower().encode()
        return super().open_folder(at, folded)


def test_no_other_name_of_the_receiver_s_own_folder_leads_there() -> None:
    store = Store("out", Rules(), Folding())
    b = Talk(store)
    for name in (".stx", ".STX", ".s\u200ctx"):
        assert code_of(b.send(name.encode(), b"lock", number=len(b.heard))) is Code.NAME
    b.over()
    for folder in (b".stx", b".sTX", b"..", b"a/b"):
        with pytest.raises(TransferError) as caught:
            store.account("another", folder=folder)
        assert caught.value.code is Code.NAME
    store.close()


def test_errors_can_be_pickled() -> None:
    import pickle

    for error in (TransferError(Code.QUOTA, "5"), MessageError(Code.SIZE, "6")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), again.code, again.detail) == (type(error), error.code, error.detail)


@pytest.mark.parametrize("taken", range(11))
def test_pieces_of_which_the_disk_takes_some_are_written_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    def some(fd: int, pieces: list[memoryview], offset: int) -> int:
        return os.pwrite(fd, b"".join(pieces)[:taken], offset)

    monkeypatch.setattr(os, "pwritev", some)
    data = memoryview(b"0123456789")
    disk, root = Disk(), os.open(tmp_path, os.O_RDONLY)
    fd = disk.create(root, b"file", 0o600)
    disk.write_pieces(fd, [data[:3], data[3:4], data[4:]], 2)
    disk.close(fd)
    disk.close(root)
    assert (tmp_path / "file").read_bytes() == bytes(2) + bytes(data)
