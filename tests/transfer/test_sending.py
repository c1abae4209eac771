"""The sender's machine, told things one message at a time; its sources."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tcpcrypt.errors import LocalError
from tcpcrypt.transfer.buffers import Buffers
from tcpcrypt.transfer.codes import Code, MessageError, TransferError
from tcpcrypt.transfer.digest import Algorithm, Digest, Hashing, fastest
from tcpcrypt.transfer.messages import (
    UNKNOWN_SIZE,
    WINDOW_MAX,
    Ack,
    Alive,
    Bye,
    Data,
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
from tcpcrypt.transfer.outgoing import TABLE, Happened, Stage
from tcpcrypt.transfer.parser import Parser
from tcpcrypt.transfer.sender import Accepted, Delivered, Failed, Progress, Sending
from tcpcrypt.transfer.source import Entry, FileSource, Skipped, Source, entries, file_entry
from tcpcrypt.transfer.stream import StreamSource, stream_entry

MIB = 1 << 20
SHA = frozenset((Algorithm.SHA256,))


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Talk:
    """One connection at the sender, and B's words."""

    def __init__(self, *wanted: Entry, window: int = 4 * MIB, files: int = 1024,
                 algorithms: frozenset[Algorithm] = SHA, block: int = 1000, greet: bool = True,
                 ) -> None:  # fmt: skip
        self.time = Time()
        self.machine = Sending(
            wanted, peer="b", block=block, algorithm=Algorithm.SHA256, clock=self.time
        )
        self._parser = Parser()
        if greet:
            self.tell(Hello(window, MIB, files, algorithms))

    def tell(self, *messages: Message | bytes) -> None:
        for message in messages:
            self.machine.receive_data(
                message if isinstance(message, bytes) else message.build()  # type: ignore[union-attr]
            )

    def listen(self) -> list[Message]:
        found: list[Message] = []
        while buffers := self.machine.data_to_send():
            for buffer in buffers:
                found += [
                    Data(m.file, m.offset, memoryview(bytes(m.data))) if isinstance(m, Data) else m
                    for m in self._parser.feed(buffer)
                ]
        return found

    def events(self) -> list[object]:
        return list(iter(self.machine.next_event, None))


def receipt(file: int, data: bytes, *path: bytes, code: Code = Code.OK) -> Receipt:
    return Receipt(file, code, Digest(Algorithm.SHA256, hashlib.sha256(data).digest()), path)


def joined(messages: list[Message]) -> bytes:
    return b"".join(message.data for message in messages if isinstance(message, Data))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_bytes(b"hello")
    os.utime(path, ns=(1, 10**18))
    path.chmod(0o640)
    return path


def entry(path: Path) -> Entry:
    return file_entry(str(path), (path.name.encode(),))


def test_a_file(file: Path) -> None:
    a = Talk(greet=False)
    assert [type(message) for message in a.listen()] == [Hello]
    a = Talk(entry(file), greet=False)
    assert a.listen() == [Hello(MIB, 1000, 1, SHA)]
    a.tell(Hello(4 * MIB, MIB, 10, SHA))
    (put,) = a.listen()
    assert isinstance(put, Put)
    assert (put.file, put.kind, put.size, put.mtime) == (0, Kind.FILE, 5, 10**18)
    assert (put.mode, put.block, put.path) == (0o640, 1000, (b"a.txt",))
    a.tell(Have(0, ()))
    data, end = a.listen()
    assert isinstance(data, Data)
    assert data.data == b"hello"
    digest = Digest(Algorithm.SHA256, hashlib.sha256(b"hello").digest())
    assert end == End(0, Code.OK, 5, digest)
    assert not a.machine.finished
    a.tell(receipt(0, b"hello", b"a.txt"))
    assert a.listen() == [Bye()]
    assert a.machine.finished
    accepted, delivered = a.events()
    assert isinstance(accepted, Accepted)
    assert (accepted.offset, accepted.size) == (0, 5)
    assert isinstance(delivered, Delivered)
    assert (delivered.path, delivered.size, delivered.digest) == ((b"a.txt",), 5, digest)
    a.machine.close()
    assert list(a.machine.remaining()) == []


def test_a_stream_that_comes_a_byte_at_a_time_is_kept_in_few_pieces() -> None:
    data = os.urandom(40_000)
    source = StreamSource(io.BytesIO(data))  # type: ignore[arg-type]
    list(source.start((), Algorithm.SHA256))
    uses, hashing = Buffers(1, 1).take(), Hashing()
    while source.read([memoryview(uses.buffer)], hashing, uses):
        pass
    assert len(source._chunks) == 3
    for at in (0, 1, 16_384, 30_000, 40_000):
        prefix = (at, hashlib.sha256(data[:at]).digest())
        list(source.start((prefix,), Algorithm.SHA256))
        buffer, rest = memoryview(bytearray(7000)), b""
        while took := source.read([buffer], hashing, uses):
            rest += buffer[:took]
        assert rest == data[at:]
    source.acknowledged(20_000)
    assert source._chunks[0].offset == 16_384


def test_no_receiver_has_a_sender_keep_more_than_a_window() -> None:
    """Of a stream all that is not durable is kept."""
    with open("/dev/zero", "rb", buffering=0) as zeros:
        a = Talk(stream_entry(zeros, (b"zeros",)), block=MIB, window=2 * WINDOW_MAX, files=0xFFFF)
        a.listen()
        a.tell(Have(0, ()))
        assert len(joined(a.listen())) == WINDOW_MAX
        a.machine.close()


def test_the_id_is_the_same_for_the_same_file_and_another_for_another(
    file: Path, tmp_path: Path
) -> None:
    def transfer_id(path: Path, peer: str = "b") -> bytes:
        machine = Sending([entry(path)], peer=peer)
        machine.data_to_send()
        machine.receive_data(Hello(1, 1, 1, SHA).build())
        (put,) = Parser().feed(machine.data_to_send()[0])
        assert isinstance(put, Put)
        return put.transfer_id

    first = transfer_id(file)
    assert transfer_id(file) == first
    assert transfer_id(file, "c") != first
    os.utime(file, ns=(1, 10**18 + 1))
    assert transfer_id(file) != first
    other = tmp_path / "b.txt"
    other.write_bytes(b"hello")
    assert transfer_id(other) != first


def test_the_window(tmp_path: Path) -> None:
    path = tmp_path / "long"
    data = os.urandom(20_000)
    path.write_bytes(data)
    a = Talk(entry(path), window=4096)
    a.listen()
    a.tell(Have(0, ()))
    assert joined(a.listen()) == data[:4096]
    a.tell(Ack(0, 1000))
    assert joined(a.listen()) == data[4096:5096]
    a.tell(Ack(0, 1000))
    assert a.listen() == []
    a.tell(Ack(0, 5096))
    assert joined(a.listen()) == data[5096:9192]
    with pytest.raises(MessageError, match="not sent"):
        a.tell(Ack(0, 9193))
    progress = [event for event in a.events() if isinstance(event, Progress)]
    assert [(event.sent, event.durable) for event in progress] == [(4096, 1000), (5096, 5096)]


def test_many_files_are_announced_ahead(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"f{number:02}").write_bytes(b"%d" % number)
    wanted = [entry(path) for path in sorted(tmp_path.iterdir())]
    a = Talk(*wanted, files=20)
    puts = [message.file for message in a.listen() if isinstance(message, Put)]
    assert puts == list(range(20))
    for number in puts:
        a.tell(Have(number, ()))
    said = a.listen()
    assert len(said) == 40
    a.tell(receipt(0, b"0", b"x"), receipt(1, b"1", b"x"))
    assert [message.file for message in a.listen() if isinstance(message, Put)] == [20, 21]


def test_it_goes_on_behind_the_longest_prefix_that_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "long"
    data = os.urandom(3 * MIB)
    path.write_bytes(data)

    def prefix(size: int, *, wrong: bool = False) -> tuple[int, bytes]:
        return size, hashlib.sha256(data[:size] + b"x" * wrong).digest()

    cases: list[tuple[tuple[tuple[int, bytes], ...], int]] = [
        ((prefix(MIB), prefix(2 * MIB), prefix(2 * MIB + 5)), 2 * MIB + 5),
        ((prefix(MIB), prefix(2 * MIB), prefix(2 * MIB + 5, wrong=True)), 2 * MIB),
        ((prefix(MIB, wrong=True),), 0),
        ((prefix(MIB), (4 * MIB, bytes(32))), MIB),
        ((prefix(3 * MIB),), 3 * MIB),
    ]
    for prefixes, offset in cases:
        a = Talk(entry(path))
        a.listen()
        a.tell(Have(0, prefixes))
        said = a.listen()
        assert joined(said) == data[offset:]
        assert said[-1] == End(
            0, Code.OK, len(data), Digest(Algorithm.SHA256, hashlib.sha256(data).digest())
        )
        (accepted,) = a.events()
        assert isinstance(accepted, Accepted)
        assert accepted.offset == offset
        a.machine.close()


def test_a_long_proof_lets_others_have_a_look(tmp_path: Path) -> None:
    path = tmp_path / "long"
    with path.open("wb") as made:
        made.truncate(40 * MIB)
    a = Talk(entry(path))
    a.listen()
    a.tell(Have(0, ((40 * MIB, hashlib.sha256(bytes(40 * MIB)).digest()),)))
    assert a.machine.data_to_send() == []
    a.machine.wait(60)  # returns at once
    a.time.now += 11
    (buffer,) = a.machine.data_to_send()
    assert bytes(buffer) == Alive().build()
    a.machine.wait(60)
    assert [type(message) for message in a.listen()] == [End]


def change(path: Path, how: str) -> None:
    before = path.stat()
    if how == "longer":
        with path.open("ab") as made:
            made.write(b"more")
    elif how == "shorter":
        os.truncate(path, before.st_size // 2)
    elif how == "other bytes":
        path.write_bytes(bytes(before.st_size))
        os.utime(path, ns=(1, before.st_mtime_ns + 1))
    elif how == "another file":
        path.rename(path.with_name("old"))
        path.write_bytes(bytes(before.st_size))
        os.utime(path, ns=(1, before.st_mtime_ns))
    else:
        path.unlink()


HOWS = ["longer", "shorter", "other bytes", "another file", "gone"]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("when", ["announced", "half"])
def test_a_source_that_changes_is_given_up(tmp_path: Path, how: str, when: str) -> None:
    path = tmp_path / "long"
    path.write_bytes(os.urandom(20_000))
    a = Talk(entry(path), window=4096)
    a.listen()
    if when == "announced":
        change(path, how)
    a.tell(Have(0, ()))
    said = a.listen()
    if when == "half":
        change(path, how)
        for at in range(4096, 24_000, 4096):
            if isinstance(said[-1], End):
                break
            a.tell(Ack(0, min(at, 20_000)))
            said += a.listen()
    end = said[-1]
    assert isinstance(end, End)
    if when == "half" and how in {"another file", "gone"}:
        assert end.code is Code.OK  # what is open stays what it was
        return
    assert end.code is (Code.UNREADABLE if how == "gone" else Code.CHANGED)
    with pytest.raises(MessageError):
        a.tell(receipt(0, b"", b"long"))


def test_what_was_given_up_fails_with_the_sender_s_own_reason(file: Path) -> None:
    a = Talk(entry(file))
    a.listen()
    file.write_bytes(b"other")
    a.tell(Have(0, ()))
    assert [message.code for message in a.listen() if isinstance(message, End)] == [Code.CHANGED]
    a.tell(receipt(0, b"", code=Code.DIGEST))
    assert a.listen() == [Bye()]
    (failed,) = a.events()
    assert isinstance(failed, Failed)
    assert failed.code is Code.CHANGED


def test_files_of_the_kernel_that_claim_to_be_empty() -> None:
    a = Talk(file_entry("/proc/self/status", (b"status",)))
    a.listen()
    a.tell(Have(0, ()))
    assert [message.code for message in a.listen() if isinstance(message, End)] == [Code.CHANGED]


def test_a_file_that_cannot_be_opened_fails_alone(file: Path, tmp_path: Path) -> None:
    a = Talk(entry(tmp_path / "nothing"), file_entry(str(file), (b"..",)), entry(file))
    (put,) = [message for message in a.listen() if isinstance(message, Put)]
    assert put.path == (b"a.txt",)
    missing, named = a.events()
    assert isinstance(missing, Failed)
    assert missing.code is Code.UNREADABLE
    assert isinstance(named, Failed)
    assert named.code is Code.NAME


def test_refused_and_given_back(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "b"
    other.write_bytes(b"b")
    third = tmp_path / "c"
    third.write_bytes(b"c")
    a = Talk(entry(file), entry(other), entry(third), files=2)
    a.listen()
    a.tell(Refuse(0, Code.EXISTS))
    (failed,) = a.events()
    assert isinstance(failed, Failed)
    assert (failed.entry.path, failed.code) == ((b"a.txt",), Code.EXISTS)
    a.machine.close()
    assert [item.path for item in a.machine.remaining()] == [(b"b",), (b"c",)]


def test_the_same_file_twice_is_sent_one_after_the_other(file: Path) -> None:
    a = Talk(entry(file), entry(file))
    assert sum(isinstance(message, Put) for message in a.listen()) == 1
    a.machine.close()
    assert len(list(a.machine.remaining())) == 2
    a = Talk(entry(file), entry(file))
    a.listen()
    a.tell(Have(0, ()))
    a.listen()
    a.tell(receipt(0, b"hello", b"a.txt"))
    (put,) = a.listen()
    assert isinstance(put, Put)
    assert put.file == 1


def test_a_failure_in_the_middle_stops_the_file(tmp_path: Path, file: Path) -> None:
    long = tmp_path / "long"
    long.write_bytes(bytes(20_000))
    a = Talk(entry(long), entry(file), window=4096)
    a.listen()
    a.tell(Have(0, ()), Have(1, ()))
    a.listen()
    a.tell(receipt(0, b"", code=Code.NO_SPACE))
    said = a.listen()
    assert joined(said) == b"hello"
    assert {message.file for message in said if isinstance(message, (Data, End))} == {1}
    a.tell(receipt(1, b"hello", b"a.txt"))
    assert a.listen() == [Bye()]


@pytest.mark.parametrize("moment", ["read", "finish", "broken"])
def test_a_failure_that_comes_while_the_file_is_read(
    file: Path, tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that receives hears of it while the other one reads: nothing more is sent."""
    other = tmp_path / "b"
    other.write_bytes(b"other")
    a = Talk(entry(file), entry(other))
    a.listen()
    a.tell(Have(0, ()), Have(1, ()))
    source = a.machine._files[0].source
    name = "finish" if moment == "finish" else "read"
    method = getattr(source, name)

    def interrupted(*args: object) -> object:
        a.tell(receipt(0, b"", code=Code.NO_SPACE))
        if moment == "broken":
            raise OSError(5, "Input/output error")
        return method(*args)

    monkeypatch.setattr(source, name, interrupted)
    said = a.listen()
    of_first = [m for m in said if isinstance(m, (Data, End)) and m.file == 0]
    assert len(of_first) == (1 if moment == "finish" else 0)
    assert joined([m for m in said if isinstance(m, Data) and m.file == 1]) == b"other"
    a.tell(receipt(1, b"other", b"b"))
    assert a.listen() == [Bye()]
    failed = [event for event in a.events() if isinstance(event, Failed)]
    assert [event.code for event in failed] == [Code.NO_SPACE]


def test_what_cannot_be_read_in_the_middle_is_given_up(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = Talk(entry(file))
    a.listen()
    a.tell(Alive(), Have(0, ()))

    def broken(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(a.machine._files[0].source, "read", broken)
    (end,) = a.listen()
    assert isinstance(end, End)
    assert end.code is Code.UNREADABLE


def test_every_stage_and_every_word_of_b(file: Path) -> None:
    """What the table lacks breaks the protocol."""
    words: dict[Happened, Message] = {
        Happened.HAVE: Have(0, ()),
        Happened.REFUSE: Refuse(0, Code.QUOTA),
        Happened.ACK: Ack(0, 0),
        Happened.DELIVERED: receipt(0, b"hello", b"a.txt"),
        Happened.NOT_DELIVERED: receipt(0, b"", code=Code.QUOTA),
    }
    stages = (Stage.ANNOUNCED, Stage.PROVING, Stage.SENDING, Stage.ENDED, Stage.OVER)
    for stage, (word, message) in itertools.product(stages, words.items()):
        a = Talk(entry(file), window=1 if stage is Stage.SENDING else 100)
        a.listen()
        if stage is not Stage.ANNOUNCED:
            a.tell(Have(0, ()))
        if stage in {Stage.SENDING, Stage.ENDED, Stage.OVER}:
            a.listen()
        if stage is Stage.OVER:
            a.tell(words[Happened.DELIVERED])
            assert 0 not in a.machine._files
        else:
            assert a.machine._files[0].stage is stage
        if (stage, word) in TABLE:
            a.tell(message)
            following = TABLE[stage, word][1]
            if following is not Stage.OVER:
                assert a.machine._files[0].stage is following
            else:
                assert 0 not in a.machine._files
        else:
            with pytest.raises(MessageError):
                a.tell(message)
        a.machine.close()


@pytest.mark.parametrize(
    "message",
    [
        Hello(1, 1, 1, SHA),
        Put(0, bytes(16), Kind.FILE, Algorithm.SHA256, 0, 0, 0, 1, (b"x",)),
        data_header(0, 0, 1) + b"x",
        End(0, Code.OK, 0, Digest(Algorithm.SHA256, bytes(32))),
        Bye(),
        Ack(7, 0),
        b"\xff" * 9,
    ],
)
def test_what_no_receiver_says(file: Path, message: Message | bytes) -> None:
    a = Talk(entry(file))
    a.listen()
    with pytest.raises(MessageError):
        a.tell(message)


def test_no_word_before_hello(file: Path) -> None:
    a = Talk(entry(file), greet=False)
    with pytest.raises(MessageError, match="HELLO"):
        a.tell(Alive())
    a = Talk(entry(file), greet=False)
    with pytest.raises(MessageError):
        a.tell(Hello(1, 1, 1, frozenset()))


@pytest.mark.parametrize(
    "lie", [receipt(0, b"HELLO", b"a.txt"), receipt(0, b"hello", b".."), receipt(0, b"hello")]
)
def test_a_receipt_for_something_else_is_none(file: Path, lie: Receipt) -> None:
    a = Talk(entry(file))
    a.listen()
    a.tell(Have(0, ()))
    a.listen()
    with pytest.raises(MessageError):
        a.tell(lie)
    assert not any(isinstance(event, Delivered) for event in a.events())


def test_what_the_receiver_takes_bounds_what_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(bytes(100))
    machine = Sending([entry(path)], peer="b", block=50, algorithm=Algorithm.BLAKE2B)
    machine.receive_data(Hello(1000, 30, 1, SHA).build())
    (buffer,) = machine.data_to_send()
    _, put = Parser().feed(buffer)
    assert isinstance(put, Put)
    assert (put.block, put.algorithm) == (30, Algorithm.SHA256)
    machine.receive_data(Have(0, ()).build())
    sizes = [
        len(message.data)
        for message in Parser().feed(machine.data_to_send()[0])
        if isinstance(message, Data)
    ]
    assert sizes == [30, 30, 30, 10]
    machine.close()


@pytest.mark.parametrize("block", [0, -1, MIB + 1, 0xFFFFFFFF])
def test_block_sizes_out_of_bounds(block: int) -> None:
    with pytest.raises(LocalError, match="block size"):
        Sending([], peer="b", block=block)


@pytest.mark.parametrize("block", [1, 7, MIB])
def test_block_sizes_at_their_bounds(tmp_path: Path, block: int) -> None:
    path = tmp_path / "long"
    data = os.urandom(3000)
    path.write_bytes(data)
    a = Talk(entry(path), block=block)
    a.listen()
    a.tell(Have(0, ()))
    said = a.listen()
    assert joined(said) == data
    assert max(len(message.data) for message in said if isinstance(message, Data)) == min(
        block, 3000
    )


def test_silence_has_a_deadline(file: Path) -> None:
    a = Talk(entry(file), greet=False)
    assert a.machine.deadline == 1010
    a.tell(Hello(1, 1, 1, SHA))
    assert a.machine.deadline == 1060
    a.listen()
    a.time.now = 1059
    a.machine.handle_timeout()
    assert a.listen() == [Alive()]
    a.time.now = 1060
    with pytest.raises(TransferError) as caught:
        a.machine.handle_timeout()
    assert caught.value.code is Code.TIMEOUT


def test_wait_is_woken(file: Path) -> None:
    a = Talk(entry(file))
    a.listen()
    done = threading.Event()

    def wait() -> None:
        a.machine.wait(60)
        done.set()

    threading.Thread(target=wait, daemon=True).start()
    a.machine.wake()
    assert done.wait(20)


# --- streams ---------------------------------------------------------------------------


def pipe(data: bytes, *, end: bool = True) -> tuple[io.FileIO, Callable[[bytes], int]]:
    read, write = os.pipe()
    os.write(write, data)
    if end:
        os.close(write)
    return io.FileIO(read, "rb"), lambda more: os.write(write, more)


def test_a_stream() -> None:
    stream, _ = pipe(b"hello")
    a = Talk(stream_entry(stream, (b"x",)))
    (put,) = [message for message in a.listen() if isinstance(message, Put)]
    assert put.size == UNKNOWN_SIZE
    a.tell(Have(0, ()))
    said = a.listen()
    assert joined(said) == b"hello"
    assert said[-1] == End(
        0, Code.OK, 5, Digest(Algorithm.SHA256, hashlib.sha256(b"hello").digest())
    )
    a.tell(receipt(0, b"hello", b"x"))
    assert a.listen() == [Bye()]
    stream.close()


def test_a_stream_that_pauses_is_waited_for() -> None:
    stream, more = pipe(b"hel", end=False)
    a = Talk(stream_entry(stream, (b"x",)))
    a.listen()
    a.tell(Have(0, ()))
    assert joined(a.listen()) == b"hel"
    assert a.machine.data_to_send() == []
    a.machine.wait(0.01)
    more(b"lo")
    a.machine.wait(60)  # returns at once
    assert joined(a.listen()) == b"lo"
    a.time.now += 20
    assert a.listen() == [Alive()]
    stream.close()


def test_a_stream_goes_on_over_the_next_connection() -> None:
    """What was not acknowledged is kept, and the receiver's partial file is proven."""
    data = os.urandom(9000)
    stream, _ = pipe(data)
    source = stream_entry(stream, (b"x",))
    a = Talk(source, window=6000)
    (first,) = [message for message in a.listen() if isinstance(message, Put)]
    a.tell(Have(0, ()))
    assert joined(a.listen()) == data[:6000]
    a.tell(Ack(0, 2500))
    a.listen()
    a.machine.close()
    (again,) = a.machine.remaining()
    b = Talk(again, window=60_000)
    (put,) = [message for message in b.listen() if isinstance(message, Put)]
    assert put.transfer_id == first.transfer_id
    have = [(at, hashlib.sha256(data[:at]).digest()) for at in (1000, 2500, 4321)]
    b.tell(Have(0, (*have, (5000, bytes(32)))))
    said = b.listen()
    assert joined(said) == data[4321:]
    assert said[-1] == End(
        0, Code.OK, 9000, Digest(Algorithm.SHA256, hashlib.sha256(data).digest())
    )
    b.machine.close()
    stream.close()


def test_a_stream_keeps_the_mebibyte_in_which_it_has_gone_on() -> None:
    """The length of what was there is no offer any more once garbage lies behind it."""
    data = os.urandom(MIB + 50_000)
    stream, more = pipe(b"", end=False)
    source = stream_entry(stream, (b"x",))
    digest = [(at, hashlib.sha256(data[:at]).digest()) for at in (MIB, MIB + 40_000)]
    entries = [source]
    for have, at in (((), 0), (digest, MIB + 40_000), (digest[:1], MIB)):
        a = Talk(*entries)
        a.listen()
        a.tell(Have(0, tuple(have)))
        found = joined(a.listen())
        if not at:
            for start in range(0, len(data), 50_000):
                more(data[start : start + 50_000])
                found += joined(a.listen())
        assert found == data[at:]
        a.machine.close()
        entries = list(a.machine.remaining())
    stream.close()


def test_a_stream_whose_beginning_was_lost_is_given_up() -> None:
    stream, _ = pipe(os.urandom(9000))
    source = stream_entry(stream, (b"x",))
    a = Talk(source, window=4000)
    a.listen()
    a.tell(Have(0, ()))
    a.listen()
    a.tell(Ack(0, 4000))
    a.listen()
    a.machine.close()
    b = Talk(source)
    b.listen()
    b.tell(Have(0, ()))
    (end,) = b.listen()
    assert isinstance(end, End)
    assert end.code is Code.CHANGED
    stream.close()


def test_a_stream_keeps_to_its_algorithm() -> None:
    stream, _ = pipe(b"hello")
    source = StreamSource(stream)
    list(source.start((), Algorithm.SHA256))
    with pytest.raises(TransferError) as caught:
        list(source.start((), Algorithm.BLAKE2B))
    assert caught.value.code is Code.ALGORITHM
    stream.close()
    with pytest.raises(LocalError):
        StreamSource(io.BytesIO()).finish(Hashing())


# --- folders ---------------------------------------------------------------------------


def test_a_folder(tmp_path: Path) -> None:
    top = tmp_path / "photos"
    (top / "sub" / "empty").mkdir(parents=True)
    (top / "a").write_bytes(b"a")
    (top / "sub" / "b").write_bytes(b"b")
    (top / "link").symlink_to("/etc/passwd")
    (top / "folder link").symlink_to("/etc")
    (top / "new\nline").write_bytes(b"")
    os.mkfifo(top / "fifo")
    found = list(entries(str(top) + "/"))
    sent = {(item.path, item.is_file) for item in found if isinstance(item, Entry)}
    assert sent == {
        ((b"photos",), False),
        ((b"photos", b"a"), True),
        ((b"photos", b"sub"), False),
        ((b"photos", b"sub", b"b"), True),
        ((b"photos", b"sub", b"empty"), False),
    }
    skipped = {item.path[-1]: item.reason for item in found if isinstance(item, Skipped)}
    assert skipped.keys() == {b"link", b"folder link", b"new\nline", b"fifo"}
    a = Talk(*[item for item in found if isinstance(item, Entry)])
    kinds = [message.kind for message in a.listen() if isinstance(message, Put)]
    assert kinds.count(Kind.DIRECTORY) == 3
    a.tell(receipt(0, b"", b"photos"))
    with pytest.raises(MessageError):
        a.tell(Have(1, ()), Have(1, ()))


def test_a_folder_that_cannot_be_read_is_not_left_out_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "top" / "sub").mkdir(parents=True)
    scandir = os.scandir

    def refuse(fd: int) -> object:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("sub"):
            raise PermissionError(13, "Permission denied")
        return scandir(fd)

    monkeypatch.setattr(os, "scandir", refuse)
    wanted = [item for item in entries(str(tmp_path / "top")) if isinstance(item, Entry)]
    a = Talk(*wanted)
    a.listen()
    (failed,) = a.events()
    assert isinstance(failed, Failed)
    assert (failed.entry.path, failed.code) == ((b"top", b"sub"), Code.UNREADABLE)


@pytest.mark.parametrize("when", ["before it is looked into", "before it is opened", "later"])
def test_a_folder_that_becomes_a_link_gives_away_nothing(tmp_path: Path, when: str) -> None:
    """Whoever may write to what root sends is not to read what root can."""
    top, secret = tmp_path / "top", tmp_path / "secret"
    for folder in (top / "sub", secret):
        folder.mkdir(parents=True)
        (folder / "a").write_bytes(b"hello")
        os.utime(folder / "a", ns=(1, 10**18))

    def swap() -> None:
        (top / "sub").rename(top / "old")
        (top / "sub").symlink_to(secret)

    found = entries(str(top))
    wanted = [next(found), next(found)]
    if when == "before it is looked into":
        swap()
    wanted += list(found)
    if when == "before it is opened":
        swap()
    a = Talk(*[item for item in wanted if isinstance(item, Entry)])
    puts = [message for message in a.listen() if isinstance(message, Put)]
    if when == "later":
        swap()
    a.tell(*[Have(put.file, ()) for put in puts if put.kind is Kind.FILE])
    said = a.listen()
    assert joined(said) == b""
    failed = [event.code for event in a.events() if isinstance(event, Failed)]
    given_up = [message.code for message in said if isinstance(message, End)]
    assert {*failed, *given_up} == {Code.UNREADABLE}


def test_a_link_that_is_named_is_followed_and_one_that_appears_is_not(
    file: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    (item,) = entries(str(link))
    assert isinstance(item, Entry)
    assert item.open().size == 5
    top = tmp_path / "top"
    top.mkdir()
    (top / "a").write_bytes(b"a")
    _, inside = entries(str(top))
    assert isinstance(inside, Entry)
    source = inside.open()
    (top / "a").unlink()
    (top / "a").symlink_to(file)
    with pytest.raises(OSError):
        list(source.start((), Algorithm.SHA256))


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(LocalError):
        list(entries(str(tmp_path / "fifo")))
    with pytest.raises(OSError):
        list(entries(str(tmp_path / "nothing")))
    with pytest.raises(TransferError):
        list(entries("/"))


def test_a_source_that_is_not_open() -> None:
    uses = Buffers(1, 10).take()
    source: Source = FileSource("/etc/hostname")
    with pytest.raises(LocalError):
        source.read([memoryview(uses.buffer)], Hashing(), uses)


# --- digests ---------------------------------------------------------------------------


def test_digests() -> None:
    assert fastest() in Algorithm
    assert Algorithm.SHA256.new().digest() == hashlib.sha256().digest()
    blake = Algorithm.BLAKE2B.new()
    blake.update(b"abc")
    assert blake.digest() == hashlib.blake2b(b"abc", digest_size=32).digest()
    assert str(Digest(Algorithm.SHA256, bytes(32))) == "sha256:" + "00" * 32


def test_hashing_keeps_the_order_of_long_and_short_pieces() -> None:
    hashing, hasher, wanted = Hashing(), Algorithm.SHA256.new(), hashlib.sha256()
    released = []
    for number, size in enumerate([10, 200_000, 3, 300_000, 49_152, 49_153, 1]):
        data = memoryview(os.urandom(size))
        wanted.update(data)
        pieces = [data[at : at + 65_536] for at in range(0, size, 65_536)]
        hashing.update(hasher, pieces, lambda number=number: released.append(number))  # type: ignore[misc]
    hashing.settle()
    assert hasher.digest() == wanted.digest()
    assert released == list(range(7))
    hashing.close()
    hashing.close()
