"""What goes wrong on the way, and what comes of it: a verified file, or a state to go on from."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.transfers import PATIENCE, Program, Receiver, events_of, until
from support.wire import Wire

from tcpcrypt.cli import stx_send
from tcpcrypt.errors import PeerError
from tcpcrypt.transfer import limits, peers, receiver, service
from tcpcrypt.transfer.keys import ClientKey, create_key, read_key
from tcpcrypt.transfer.peers import KeyedClient
from tcpcrypt.transfer.rules import Rules

SIZE = 6 << 20
SEED = 7


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BACKOFF_FIRST", 0.01)
    monkeypatch.setattr(service, "_TURN", 0.05)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "film.mkv"
    path.write_bytes(random.Random(SEED).randbytes(SIZE))
    return path


def send(to: Receiver, port: int, *words: str | Path) -> int:
    os.environ["STX_KEY_FILE"] = str(to.keys / "default")
    *options, file = words
    return stx_send.main(["--json", *map(str, options), "127.0.0.1", str(port), str(file)])


def parts(to: Receiver) -> list[Path]:
    return sorted((to.out / ".stx").rglob("*.part"))


def names(to: Receiver) -> list[str]:
    return sorted(path.name for path in to.out.iterdir() if path.name != ".stx")


# --- the link ------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [1, 200, 3_000, 300_000, 2_000_000, 5_900_000])
def test_a_link_that_is_cut_is_followed_by_another(tmp_path: Path, file: Path, after: int) -> None:
    with (
        Receiver(tmp_path) as to,
        Wire(("127.0.0.1", to.port), cut_after=after) as wire,
    ):
        assert send(to, wire.port, file) == 0
        assert wire.connections == 2
        until(lambda: not parts(to))
    assert (to.out / "film.mkv").read_bytes() == file.read_bytes()


def test_a_link_that_is_cut_again_and_again(tmp_path: Path, file: Path) -> None:
    """What is durable is not sent again: each attempt gets further."""
    with Receiver(tmp_path) as to, Wire(("127.0.0.1", to.port), cut_after=2_000_000) as wire:
        over = threading.Event()

        def again() -> None:
            for number in range(4):
                until(lambda: wire.cut_after is None or over.is_set())
                wire.cut_after = wire.from_client + 2_000_000 - 100_000 * number

        thread = threading.Thread(target=again)
        thread.start()
        assert send(to, wire.port, "--retries", "20", "--bwlimit", "40M", file) == 0
        over.set()
        thread.join()
        assert wire.connections >= 3
        assert wire.from_client < 3 * SIZE
    assert (to.out / "film.mkv").read_bytes() == file.read_bytes()


def test_standard_input_goes_on_after_a_cut(tmp_path: Path, file: Path) -> None:
    """What is not durable is kept: a pipe cannot be read twice."""
    with Receiver(tmp_path) as to, Wire(("127.0.0.1", to.port), cut_after=2_000_000) as wire:
        words = ("stx-send", "--json", "--name", "film.mkv", "127.0.0.1", wire.port, "-")
        with Program(*words, **to.environment()) as program:
            assert program.process.stdin is not None
            program.process.stdin.buffer.write(file.read_bytes())
            program.process.stdin.close()
            assert program.join() == 0, program.events()
        assert wire.connections == 2
    assert (to.out / "film.mkv").read_bytes() == file.read_bytes()


def test_a_link_that_is_down_for_a_while(tmp_path: Path, file: Path) -> None:
    with Receiver(tmp_path) as to, Wire(("127.0.0.1", to.port), cut_after=1_000_000) as wire:

        def restore() -> None:
            until(lambda: wire.cut_after is None)
            wire.up = False
            time.sleep(0.1)
            wire.up = True

        thread = threading.Thread(target=restore)
        thread.start()
        assert send(to, wire.port, "--retries", "1000", file) == 0
        thread.join()
    assert (to.out / "film.mkv").read_bytes() == file.read_bytes()


def test_a_link_that_stays_down_is_exit_1_and_leaves_what_has_arrived(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Receiver(tmp_path) as to:
        with Wire(("127.0.0.1", to.port), cut_after=5_500_000) as wire:
            assert send(to, wire.port, "--retries", "0", "--bwlimit", "20M", file) == 1
        assert names(to) == []
        assert len(parts(to)) == 1
        capsys.readouterr()
        assert send(to, to.port, file) == 0
        (resumed,) = events_of(capsys.readouterr().out, "resumed")
        assert 0 < resumed["offset"] < SIZE
    assert (to.out / "film.mkv").read_bytes() == file.read_bytes()


def test_a_receiver_that_comes_back_on_another_port(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Receiver(tmp_path) as to, Wire(("127.0.0.1", to.port), cut_after=5_500_000) as wire:
        assert send(to, wire.port, "--retries", "0", "--bwlimit", "20M", file) == 1
    with Receiver(tmp_path) as later:
        assert later.port != to.port
        capsys.readouterr()
        assert send(later, later.port, file) == 0
        (resumed,) = events_of(capsys.readouterr().out, "resumed")
        assert resumed["offset"] > 0
    assert (later.out / "film.mkv").read_bytes() == file.read_bytes()


def test_a_receiver_that_comes_back_while_the_sender_tries(tmp_path: Path, file: Path) -> None:
    with Wire(("127.0.0.1", 9)) as wire:
        first = Receiver(tmp_path)
        wire.to = ("127.0.0.1", first.port)

        def restart() -> None:
            with first:
                until(lambda: wire.from_client > 2_000_000)
            wire.cut()

        status: list[int] = []
        sender = threading.Thread(
            target=lambda: status.append(
                in_a_process(first, wire.port, "--retries", "2000", "--bwlimit", "10M", file)
            )
        )
        sender.start()
        restart()
        with Receiver(tmp_path) as second:
            wire.to = ("127.0.0.1", second.port)
            sender.join(PATIENCE)
            assert status == [0]
    assert (second.out / "film.mkv").read_bytes() == file.read_bytes()


def in_a_process(to: Receiver, port: int, *words: str | Path) -> int:
    """stx-send in a process of its own: signals are the main thread's."""
    *options, file = words
    with Program("stx-send", "--json", *options, "127.0.0.1", port, file, **to.environment()) as it:
        return it.join()


def test_delay_does_not_stop_the_window(tmp_path: Path, file: Path) -> None:
    """50 ms each way: one message at a time would take 1536 x 0.1 s, however idle the machine."""
    with Receiver(tmp_path) as to, Wire(("127.0.0.1", to.port), delay=0.05) as wire:
        began = time.monotonic()
        assert send(to, wire.port, "--block-size", "4096", file) == 0
        assert time.monotonic() - began < 1536 * 0.1 / 2
    assert (to.out / "film.mkv").read_bytes() == file.read_bytes()


# --- what others see -------------------------------------------------------------------------


def test_nothing_of_a_file_is_on_the_wire(tmp_path: Path) -> None:
    """Faults of the originals: names, sizes and contents went in clear."""
    secret = tmp_path / "plans-for-the-surprise.txt"
    secret.write_bytes(b"The cake is a chocolate one.  " * 3000)
    with Receiver(tmp_path) as to, Wire(("127.0.0.1", to.port), record=True) as wire:
        assert send(to, wire.port, secret) == 0
        seen = [bytes(side) for side in wire.recorded]
        digest = to.events("file")[0]["digest"].partition(":")[2]
    assert len(seen[0]) > 90_000
    size = secret.stat().st_size
    for side in seen:
        for what in (b"surprise", b"chocolate", b"default", bytes.fromhex(digest)):
            assert what not in side
        for width in (4, 8):
            assert size.to_bytes(width, "big") not in side


@pytest.mark.parametrize("at", [3, 6, 8, 60, 120, 400, 5_000])
@pytest.mark.parametrize("forward", [True, False])
def test_a_bit_that_is_flipped_anywhere_delivers_nothing(
    tmp_path: Path, at: int, forward: bool
) -> None:
    small = tmp_path / "small"
    small.write_bytes(random.Random(SEED).randbytes(20_000))

    def flip(data: bytes, offset: int) -> bytes:
        if not offset <= at < offset + len(data):
            return data
        octets = bytearray(data)
        octets[at - offset] ^= 1
        flipped.set()
        return bytes(octets)

    flipped = threading.Event()
    altered: dict[str, Any] = {"forward": flip} if forward else {"backward": flip}
    with Receiver(tmp_path) as to, Wire(("127.0.0.1", to.port), **altered) as wire:
        status = send(to, wire.port, "--retries", "0", small)
        if flipped.is_set():
            assert status in {1, 2, 4, 5}
        else:
            assert status == 0, "the stream was shorter than that"
            return
        if forward:
            assert names(to) == []


def test_a_stripped_offer_is_exit_2_and_no_byte(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "HANDSHAKE_TIMEOUT", 0.5)
    for direction in ("forward", "backward"):
        with (
            Receiver(tmp_path / direction) as to,
            Wire(("127.0.0.1", to.port), **{direction: lambda _data, _offset: b""}) as wire,
        ):
            assert send(to, wire.port, "--retries", "0", file) == 2
            assert wire.from_client < 300
            assert names(to) == []


# --- other senders -----------------------------------------------------------------------------


def test_two_senders_of_one_name(tmp_path: Path) -> None:
    contents = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        path = tmp_path / str(number) / "same"
        path.write_bytes(random.Random(number).randbytes(SIZE))
        contents.append(path)
    with Receiver(tmp_path, clients=("one", "two")) as to:
        programs = [
            Program(
                "stx-send", "--json", "--id", name, "--bwlimit", "20M", "127.0.0.1", to.port, path,
                **to.environment(name),
            )
            for name, path in zip(("one", "two"), contents, strict=True)
        ]  # fmt: skip
        statuses = []
        for program in programs:
            with program:
                statuses.append(program.join())
        codes = [error["code"] for program in programs for error in program.events("error")]
    assert sorted(statuses) == [0, 3]
    assert codes[0] in {"BUSY", "EXISTS"}
    winner = contents[statuses.index(0)]
    assert (to.out / "same").read_bytes() == winner.read_bytes()
    assert names(to) == ["same"]


def test_two_senders_of_one_transfer(tmp_path: Path, file: Path) -> None:
    """The later one goes on with it; the earlier one does not take it back."""
    with Receiver(tmp_path) as to:
        words = ("stx-send", "--json", "127.0.0.1", to.port, file)
        slow = ("stx-send", "--bwlimit", "1M", *words[1:])
        with Program(*slow, **to.environment()) as earlier:
            until(lambda: any(e["bytes"] > 0 for e in earlier.events("progress")))
            with Program(*words, **to.environment()) as later:
                assert later.join() == 0, later.events()
            assert earlier.join() == 1
    assert (to.out / "film.mkv").read_bytes() == file.read_bytes()


def test_many_senders_at_once(tmp_path: Path) -> None:
    with Receiver(tmp_path, connections=2) as to:
        programs = []
        for number in range(4):
            path = tmp_path / f"file{number}"
            path.write_bytes(random.Random(number).randbytes(300_000))
            programs.append(Program("stx-send", "127.0.0.1", to.port, path, **to.environment()))
        for program in programs:
            with program:
                assert program.join() == 0, program.told
    assert names(to) == [f"file{number}" for number in range(4)]


def test_a_silent_client_delays_nobody_and_is_sent_away(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "HELLO_TIMEOUT", 1.0)
    with Receiver(tmp_path, clients=("default", "silent"), connections=8) as to:
        key = ClientKey.of("silent", read_key(to.keys / "silent"))
        client = KeyedClient(key)
        with socket.create_connection(("127.0.0.1", to.port)):  # not even a handshake
            silent = [client.connect("127.0.0.1", to.port, 10) for _ in range(5)]
            assert send(to, to.port, file) == 0
            until(lambda: len(to.events("disconnected")) >= 3)
            for secured in silent[:1]:
                secured.settimeout(PATIENCE)
                hello = secured.recv(100)
                assert hello
                with pytest.raises(PeerError):
                    secured.recv(100)
            for secured in silent:
                secured.close()
        errors = [event for event in to.events("error") if event["client"] == "silent"]
    assert errors
    assert all("silent" in event["message"] for event in errors[:2])


# --- the source ------------------------------------------------------------------------------


def test_exit_3_a_file_that_changes_while_it_is_sent(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Receiver(tmp_path) as to:
        over = threading.Event()

        def change() -> None:
            until(lambda: to.events("connected"))
            while not over.wait(0.02):
                with file.open("r+b") as stream:
                    stream.seek(SIZE // 2)
                    stream.write(os.urandom(10))

        thread = threading.Thread(target=change)
        thread.start()
        assert send(to, to.port, "--bwlimit", "20M", file) == 3
        over.set()
        thread.join()
        assert names(to) == []
    assert events_of(capsys.readouterr().out, "error")[0]["code"] == "CHANGED"


@pytest.mark.long
def test_a_sparse_file_of_more_than_4_gib(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as stream:
        stream.truncate((4 << 30) + 5)
        stream.seek((4 << 30) + 1)
        stream.write(b"end")
    with Receiver(tmp_path, rules=Rules(reserve=0)) as to:
        assert send(to, to.port, path) == 0
    arrived = to.out / "sparse"
    assert arrived.stat().st_size == (4 << 30) + 5
    with arrived.open("rb") as stream:
        stream.seek(4 << 30)
        assert stream.read() == b"\0end\0"


# --- processes ---------------------------------------------------------------------------------


@pytest.fixture
def listening(tmp_path: Path) -> Any:
    """stx-recv in a process of its own."""
    create_key(tmp_path / "keys" / "default")
    (tmp_path / "out").mkdir()
    with Program(
        "stx-recv", "--json", "--listen", 0, "--bind", "127.0.0.1", "--out", tmp_path / "out",
        "--keys", tmp_path / "keys",
    ) as program:  # fmt: skip
        yield program


def sender(tmp_path: Path, port: int, *words: str | Path | int) -> Program:
    *options, file = words
    key = {"STX_KEY_FILE": str(tmp_path / "keys" / "default")}
    return Program("stx-send", "--json", *options, "127.0.0.1", port, file, **key)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_sender_that_is_stopped_leaves_a_state_to_go_on_from(
    tmp_path: Path, file: Path, listening: Program, number: signal.Signals
) -> None:
    port = listening.wait_for("listening")["port"]
    with sender(tmp_path, port, "--bwlimit", "4M", file) as first:
        until(lambda: any(e["bytes"] > 0 for e in first.events("progress")))
        first.signal(number)
        assert first.join() == (-9 if number is signal.SIGKILL else 1)
        if number is not signal.SIGKILL:
            assert "the same command goes on" in first.events("error")[0]["message"]
    assert not (tmp_path / "out" / "film.mkv").exists()
    with sender(tmp_path, port, file) as second:
        assert second.join() == 0, second.told
        assert second.events("resumed")[0]["offset"] > 0
    assert (tmp_path / "out" / "film.mkv").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_receiver_that_is_stopped_leaves_a_state_to_go_on_from(
    tmp_path: Path, file: Path, listening: Program, number: signal.Signals
) -> None:
    port = listening.wait_for("listening")["port"]
    with sender(tmp_path, port, "--bwlimit", "4M", "--retries", 0, file) as first:
        until(lambda: any(e["bytes"] > 0 for e in first.events("progress")))
        listening.signal(number)
        assert listening.join() == (-9 if number is signal.SIGKILL else 0)
        assert first.join() == 1
        if number is signal.SIGTERM:  # it says so, and neither end takes it for a fault
            assert "the receiver is stopping" in first.events("error")[-1]["message"]
            assert [e["code"] for e in listening.events("error")] == ["SHUTDOWN"]
    assert not (tmp_path / "out" / "film.mkv").exists()
    with Program(
        "stx-recv", "--json", "--listen", 0, "--bind", "127.0.0.1", "--out", tmp_path / "out",
        "--keys", tmp_path / "keys", "--once",
    ) as again:  # fmt: skip
        port = again.wait_for("listening")["port"]
        with sender(tmp_path, port, file) as second:
            assert second.join() == 0, second.told
            assert second.events("resumed")[0]["offset"] > 0
        assert again.join() == 0
    assert (tmp_path / "out" / "film.mkv").read_bytes() == file.read_bytes()


def test_a_file_whose_turn_has_not_come_is_for_the_receiver_after_this_one(tmp_path: Path) -> None:
    """What the receiver has is neither lost nor said twice; the rest comes with the next."""
    files = []
    for number in range(3):
        files.append(tmp_path / f"{number}.bin")
        files[-1].write_bytes(random.Random(number).randbytes(SIZE))
    with contextlib.ExitStack() as stack:
        with Receiver(tmp_path) as to:
            words = ("--json", "--bwlimit", "8M", "--retries", 9, "127.0.0.1", to.port)
            program = stack.enter_context(
                Program("stx-send", *words, *files, STX_KEY_FILE=str(to.keys / "default"))
            )
            until(lambda: names(to) == ["0.bin"])
        assert "the receiver is stopping" in program.wait_for("retry")["message"]
        with Receiver(tmp_path, port=to.port) as again:
            assert program.join() == 0, program.told
            assert names(again) == ["0.bin", "1.bin", "2.bin"]
        assert len(program.events("file")) == 3
        assert program.events("resumed")[0]["offset"] > 0
    for path in files:
        assert (to.out / path.name).read_bytes() == path.read_bytes()


def test_a_receiver_looks_at_its_keys_again_on_sighup(
    tmp_path: Path, file: Path, listening: Program
) -> None:
    port = listening.wait_for("listening")["port"]
    key = tmp_path / "keys" / "default"
    before = key.read_text()
    key.write_text("00" * 32 + "\n")  # in place: no name in the folder has changed
    listening.signal(signal.SIGHUP)
    listening.wait_for("keys")
    with Program("stx-send", "--json", "127.0.0.1", port, file, STX_KEY=before.strip()) as old:
        assert old.join() == 2
    with Program("stx-send", "--json", "127.0.0.1", port, file, STX_KEY="00" * 32) as new:
        assert new.join() == 0
    listening.signal(signal.SIGTERM)
    assert listening.join() == 0


def test_exit_3_a_full_disk_and_then_there_is_room(
    tmp_path: Path, file: Path, listening: Program
) -> None:
    """A limit of the process stands for the disk: what is written behind it fails."""
    port = listening.wait_for("listening")["port"]
    pid, kind = listening.process.pid, resource.RLIMIT_FSIZE
    _soft, hard = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (2 << 20, hard))
    with sender(tmp_path, port, file) as first:
        assert first.join() == 3
        assert first.events("error")[0]["code"] == "NO_SPACE"
    assert not (tmp_path / "out" / "film.mkv").exists()
    resource.prlimit(pid, kind, (hard, hard))
    with sender(tmp_path, port, file) as second:
        assert second.join() == 0, second.events()
        assert second.told == "", "with --json, everything is said there"
        kinds = [json.loads(line)["event"] for line in second._lines]
    assert kinds[0] == "connected"
    assert kinds[-2:] == ["file", "done"]
    assert (tmp_path / "out" / "film.mkv").read_bytes() == file.read_bytes()
