"""stx-send and stx-recv as people use them: what arrives, and each exit status."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.transfers import Receiver, events_of
from support.wire import Wire

from tcpcrypt.auth.identity import ensure_identity
from tcpcrypt.cli import stx_keygen, stx_recv, stx_send
from tcpcrypt.transfer import limits, peers
from tcpcrypt.transfer.keys import ClientKey, ClientTable, create_key, read_key
from tcpcrypt.transfer.peers import KeyedClient, KeyedServer
from tcpcrypt.transfer.rules import OnExist, Rules

Send = Callable[..., int]
CONTENT = os.urandom(700_000)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STX_KEY", "STX_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(limits, "BACKOFF_FIRST", 0.01)


@pytest.fixture
def send(monkeypatch: pytest.MonkeyPatch) -> Send:
    """`stx-send` with the key of a client, to a port."""

    def run(to: Receiver, *words: str | Path, port: int = 0, client: str = "default") -> int:
        monkeypatch.setenv("STX_KEY_FILE", str(to.keys / client))
        own = () if client == "default" else ("--id", client)
        known = ("127.0.0.1", str(port or to.port))
        return stx_send.main(["--json", *own, *map(str, words[:-1]), *known, str(words[-1])])

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "notes.txt"
    path.write_bytes(CONTENT)
    return path


# --- what arrives ----------------------------------------------------------------------


def test_a_file_arrives_with_its_bytes_mode_and_time(
    tmp_path: Path, file: Path, send: Send, capsys: pytest.CaptureFixture[str]
) -> None:
    file.chmod(0o640)
    os.utime(file, ns=(1_600_000_000_123_456_789, 1_600_000_000_123_456_789))
    with Receiver(tmp_path) as receiver:
        assert send(receiver, file) == 0
        arrived = receiver.out / "notes.txt"
        assert arrived.read_bytes() == CONTENT
        assert arrived.stat().st_mode & 0o777 == 0o640
        assert arrived.stat().st_mtime_ns == 1_600_000_000_123_456_789
        (there,) = receiver.events("file")
    events = events_of(capsys.readouterr().out)
    (here,) = [event for event in events if event["event"] == "file"]
    assert here["digest"] == there["digest"]
    assert (here["size"], there["client"]) == (len(CONTENT), "default")
    assert events[-1]["event"] == "done"
    assert events[-1]["status"] == 0
    assert [path.name for path in receiver.out.iterdir() if path.name != ".stx"] == ["notes.txt"]


def test_a_file_arrives_over_ipv6(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not socket.has_ipv6:
        pytest.fail("this machine has no IPv6")
    for number, address in enumerate(("::1", "")):  # there alone, and wherever it is looked for
        with Receiver(tmp_path / str(number), address=address) as receiver:
            monkeypatch.setenv("STX_KEY_FILE", str(receiver.keys / "default"))
            assert stx_send.main(["::1", str(receiver.port), str(file)]) == 0
            assert (receiver.out / "notes.txt").read_bytes() == CONTENT
            (came,) = receiver.events("connected")
            assert came["address"].startswith("[::1]:")


def test_folders_arrive_as_they_are(tmp_path: Path, send: Send) -> None:
    tree = tmp_path / "photos"
    (tree / "2026" / "empty").mkdir(parents=True)
    (tree / "a.jpg").write_bytes(CONTENT[:70_000])
    (tree / "2026" / "ünï cödé .txt").write_bytes(b"")
    for number in range(100):
        (tree / "2026" / f"{number}.bin").write_bytes(CONTENT[number : 2 * number])
    with Receiver(tmp_path) as receiver:
        assert send(receiver, tree) == 0
    arrived = receiver.out / "photos"
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))
    assert sorted(str(path.relative_to(arrived)) for path in arrived.rglob("*")) == names
    for path in tree.rglob("*"):
        if path.is_file():
            assert (arrived / path.relative_to(tree)).read_bytes() == path.read_bytes()


def test_links_within_folders_are_left_out_and_told_of(
    tmp_path: Path, send: Send, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a").write_bytes(b"a")
    (tree / "link").symlink_to("/etc/passwd")
    os.mkfifo(tree / "pipe")
    with Receiver(tmp_path) as receiver:
        assert send(receiver, tree) == 0
    assert sorted(path.name for path in (receiver.out / "tree").iterdir()) == ["a"]
    skipped = events_of(capsys.readouterr().out, "skipped")
    assert sorted(event["file"] for event in skipped) == ["tree/link", "tree/pipe"]


def test_standard_input_arrives_under_a_name(
    tmp_path: Path, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr(stx_send, "_STDIN", reading)

    def feed() -> None:
        with open(writing, "wb") as stream:
            stream.write(CONTENT)

    thread = threading.Thread(target=feed)
    thread.start()
    with Receiver(tmp_path) as receiver:
        assert send(receiver, "--name", "backup/dump.sql", "-") == 0
    thread.join()
    os.close(reading)
    assert (receiver.out / "backup" / "dump.sql").read_bytes() == CONTENT


@pytest.mark.parametrize("block", ["1", "4095", "1M", "4294967295"])
def test_any_block_size_will_do(tmp_path: Path, send: Send, block: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(CONTENT[:5000])
    with Receiver(tmp_path) as receiver:
        assert send(receiver, "--block-size", block, file) == 0
    assert (receiver.out / "file").read_bytes() == CONTENT[:5000]


def test_an_empty_file_and_many_at_once(tmp_path: Path, send: Send) -> None:
    names = [tmp_path / f"{number}" for number in range(5)]
    for path in names:
        path.write_bytes(b"")
    with Receiver(tmp_path) as receiver:
        assert send(receiver, *names[:1]) == 0
        tree = tmp_path / "tree"
        tree.mkdir()
        for number in range(300):
            (tree / str(number)).write_bytes(CONTENT[: 13 * number])
        assert send(receiver, tree) == 0
    assert (receiver.out / "0").stat().st_size == 0
    assert len(list((receiver.out / "tree").iterdir())) == 300


def test_clients_have_directories_of_their_own(tmp_path: Path, file: Path, send: Send) -> None:
    with Receiver(tmp_path, clients=("laptop", "phone"), per_client=True) as receiver:
        assert send(receiver, file, client="laptop") == 0
        assert send(receiver, file, client="phone") == 0
    for client in ("laptop", "phone"):
        assert (receiver.out / client / "notes.txt").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("how", "status", "names"),
    [
        (OnExist.FAIL, 3, {"notes.txt": b"old"}),
        (OnExist.REPLACE, 0, {"notes.txt": CONTENT}),
        (OnExist.RENAME, 0, {"notes.txt": b"old", "notes.1.txt": CONTENT}),
    ],
)
def test_what_happens_to_a_name_that_is_taken(
    file: Path, send: Send, how: OnExist, status: int, names: dict[str, bytes]
) -> None:
    tmp_path = file.parent
    with Receiver(tmp_path, rules=Rules(on_exist=how, reserve=0)) as receiver:
        (receiver.out / "notes.txt").write_bytes(b"old")
        assert send(receiver, file) == status
    found = {p.name: p.read_bytes() for p in receiver.out.iterdir() if p.is_file()}
    assert set(found.values()) == set(names.values())
    assert found["notes.txt"] == names["notes.txt"]


def test_known_hosts_instead_of_keys(tmp_path: Path, file: Path) -> None:
    """`--peer pin:` at both ends, `tofu` at the receiver."""
    own, others = tmp_path / "sender", tmp_path / "receiver"
    here, _ = ensure_identity(own / "identity")
    there, _ = ensure_identity(others / "identity")
    for number, allowed in enumerate((f"pin:{here.fingerprint}", "tofu")):
        root = tmp_path / str(number)
        with Receiver(root, keys=None, peer=allowed, state=others) as receiver:
            words = ["--peer", f"pin:{there.fingerprint}", "--state", str(own), "127.0.0.1"]
            assert stx_send.main([*words, str(receiver.port), str(file)]) == 0
            (done,) = receiver.events("file")
            assert done["client"] == here.fingerprint
        assert (receiver.out / "notes.txt").read_bytes() == CONTENT


def test_a_rate_is_kept(tmp_path: Path, send: Send, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.write_bytes(CONTENT[:200_000])
    with Receiver(tmp_path) as receiver:
        assert send(receiver, "--bwlimit", "400K", file) == 0
    (done,) = events_of(capsys.readouterr().out, "done")
    assert done["seconds"] >= 0.3


# --- exit statuses: 1 ------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["host", "12345"],
        ["host", "0", "file"],
        ["host", "65536", "file"],
        ["host", "port", "file"],
        ["--block-size", "0", "host", "1", "file"],
        ["--block-size", "4294967296", "host", "1", "file"],
        ["--block-size", "-1", "host", "1", "file"],
        ["--bwlimit", "0", "host", "1", "file"],
        ["--bwlimit", "fast", "host", "1", "file"],
        ["--retries", "-1", "host", "1", "file"],
        ["--timeout", "0", "host", "1", "file"],
        ["--timeout", "never", "host", "1", "file"],
        ["--id", "../laptop", "host", "1", "file"],
        ["--peer", "anybody", "host", "1", "file"],
        ["--peer", "insecure-unauthenticated", "host", "1", "file"],
        ["--unknown", "host", "1", "file"],
    ],
)
def test_exit_1_a_wrong_command_line_of_the_sender(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        stx_send.main(words)
    assert caught.value.code == 1
    assert "stx-send: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--listen", "70000"],
        ["--on-exist", "ask"],
        ["--connections", "0"],
        ["--max-size", "big"],
        ["--peer", "pin:none"],
        ["more"],
    ],
)
def test_exit_1_a_wrong_command_line_of_the_receiver(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        stx_recv.main(words)
    assert caught.value.code == 1
    assert "stx-recv: " in capsys.readouterr().err


def test_exit_1_arguments_that_do_not_go_together(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STX_KEY", "00" * 32)
    assert stx_send.main(["127.0.0.1", "9", "-"]) == 1
    assert stx_send.main(["--name", "x", "127.0.0.1", "9", str(file)]) == 1
    assert stx_send.main(["--name", "x", "127.0.0.1", "9", "-", "-"]) == 1
    create_key(tmp_path / "keys" / "a")
    words = ["--keys", tmp_path / "keys", "--out", tmp_path, "--listen", "0", "--quota", "1M"]
    assert stx_recv.main(list(map(str, words))) == 1


def test_exit_1_nobody_listens(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STX_KEY", "00" * 32)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert stx_send.main(["--retries", "2", "127.0.0.1", str(port), str(file)]) == 1
    assert stx_send.main(["host.invalid", str(port), str(file)]) == 1


def test_exit_1_a_port_that_is_taken(tmp_path: Path) -> None:
    create_key(tmp_path / "keys" / "a")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        words = ["--keys", str(tmp_path / "keys"), "--out", str(tmp_path), "--bind", "127.0.0.1"]
        assert stx_recv.main([*words, "--listen", port]) == 1


# --- 2 ---------------------------------------------------------------------------------


def test_exit_2_no_key(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        words = ["127.0.0.1", str(listener.getsockname()[1]), str(file)]
        assert stx_send.main(words) == 2
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert "STX_KEY_FILE" in capsys.readouterr().err
    assert stx_recv.main(["--keys", str(tmp_path / "nowhere"), "--out", str(tmp_path)]) == 2


@pytest.mark.parametrize("client", ["phone", "nobody"])
def test_exit_2_the_wrong_key_and_nothing_is_sent(
    tmp_path: Path, file: Path, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Receiver(tmp_path, clients=("laptop", "phone")) as receiver:
        monkeypatch.setenv("STX_KEY_FILE", str(receiver.keys / "laptop"))
        with Wire(("127.0.0.1", receiver.port), record=True) as wire:
            words = ["--id", client, "127.0.0.1", str(wire.port), str(file)]
            assert stx_send.main(words) == 2
            sent = bytes(wire.recorded[0])
    assert len(sent) < 300
    assert receiver.events("connected") == []
    assert [path.name for path in receiver.out.iterdir()] == [".stx"]


def rogue(answer: Callable[[bytes], bytes]) -> tuple[socket.socket, bytearray, threading.Thread]:
    listener, got = socket.create_server(("127.0.0.1", 0)), bytearray()

    def run() -> None:
        with contextlib.suppress(OSError):
            sock, _ = listener.accept()
            with sock:
                while data := sock.recv(65536):
                    got.extend(data)
                    sock.sendall(answer(data))

    thread = threading.Thread(target=run)
    thread.start()
    return listener, got, thread


@pytest.mark.parametrize(
    "answer",
    [
        lambda data: data,
        lambda data: b"",
        lambda data: b"220 welcome\r\n",
        lambda data: bytes(5000),
    ],
    ids=["echo", "silence", "greeting", "zeros"],
)
def test_exit_2_a_rogue_receiver_gets_no_byte_of_a_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, answer: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(peers, "HANDSHAKE_TIMEOUT", 0.5)
    monkeypatch.setenv("STX_KEY", "00" * 32)
    listener, got, thread = rogue(answer)
    with listener:
        assert stx_send.main(["127.0.0.1", str(listener.getsockname()[1]), str(file)]) == 2
        thread.join(10)
    assert len(got) < 300, "public values of a handshake, and no more"


# --- 3 ---------------------------------------------------------------------------------


def test_exit_3_a_file_that_is_not_there(tmp_path: Path, send: Send) -> None:
    with Receiver(tmp_path) as receiver:
        assert send(receiver, tmp_path / "missing") == 3
        assert receiver.events("connected") == []


@pytest.mark.parametrize("becomes", ["nothing", "a pipe"])
def test_exit_3_a_file_that_goes_before_its_turn_costs_the_others_nothing(
    tmp_path: Path, send: Send, monkeypatch: pytest.MonkeyPatch, becomes: str
) -> None:
    files = [tmp_path / name for name in ("a", "b", "c")]
    for path in files:
        path.write_bytes(CONTENT)
    connect = KeyedClient.connect

    def late(*given: Any) -> Any:
        if files[1].is_file():
            files[1].unlink()
            if becomes == "a pipe":
                os.mkfifo(files[1])
        return connect(*given)

    monkeypatch.setattr(KeyedClient, "connect", late)
    with Receiver(tmp_path) as receiver:
        monkeypatch.setenv("STX_KEY_FILE", str(receiver.keys / "default"))
        words = ("--json", "127.0.0.1", str(receiver.port), *map(str, files))
        assert stx_send.main(words) == 3
    assert sorted(path.name for path in receiver.out.iterdir()) == [".stx", "a", "c"]


def test_any_number_of_attempts(
    tmp_path: Path, file: Path, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than the interpreter's stack has room for."""
    monkeypatch.setattr(limits, "BACKOFF_FIRST", 0.0)
    connect, refusals = KeyedClient.connect, iter(range(sys.getrecursionlimit()))

    def refused(*given: Any) -> Any:
        for _ in refusals:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        return connect(*given)

    monkeypatch.setattr(KeyedClient, "connect", refused)
    with Receiver(tmp_path) as receiver:
        assert send(receiver, "--retries", "100000", file) == 0
    assert (receiver.out / "notes.txt").read_bytes() == CONTENT


def test_exit_3_a_file_that_cannot_be_read_costs_the_others_nothing(
    tmp_path: Path, file: Path, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, real = tmp_path / "tree", os.preadv
    tree.mkdir()
    file.rename(tree / "notes.txt")
    (tree / "bad").write_bytes(CONTENT)

    def failing(fd: int, *more: Any) -> int:
        if os.readlink(f"/proc/self/fd/{fd}") == str(tree / "bad"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, *more)

    monkeypatch.setattr(os, "preadv", failing)
    with Receiver(tmp_path) as receiver:
        assert send(receiver, tree) == 3
    assert [path.name for path in (receiver.out / "tree").iterdir()] == ["notes.txt"]


def test_exit_3_what_the_receiver_does_not_take(
    tmp_path: Path, file: Path, send: Send, capsys: pytest.CaptureFixture[str]
) -> None:
    with Receiver(tmp_path / "1", rules=Rules(max_size=699_999, reserve=0)) as receiver:
        assert send(receiver, file) == 3
    rules = Rules(quota=1_000_000, reserve=0)
    with Receiver(tmp_path / "2", rules=rules, per_client=True) as receiver:
        assert send(receiver, file) == 0
        other = tmp_path / "other"
        other.write_bytes(CONTENT)
        assert send(receiver, other) == 3
    errors = [event["code"] for event in events_of(capsys.readouterr().out, "error")]
    assert errors == ["TOO_LARGE", "QUOTA"]


@pytest.mark.parametrize("name", ["a\nb", "x\x1b[2J"])
def test_exit_3_a_name_that_would_fool_a_terminal(tmp_path: Path, send: Send, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with Receiver(tmp_path) as receiver:
        assert send(receiver, tmp_path / name) == 3
    assert [path.name for path in receiver.out.iterdir()] == [".stx"]


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a//b", "..", "", ".stx/x"])
def test_exit_3_a_name_for_standard_input_that_leads_out(
    tmp_path: Path, send: Send, name: str
) -> None:
    with Receiver(tmp_path) as receiver:
        assert send(receiver, "--name", name, "-") == 3
        assert receiver.events("connected") == []


def test_exit_3_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    create_key(tmp_path / "keys" / "a")
    words = ["--keys", str(tmp_path / "keys"), "--listen", "0", "--out"]
    assert stx_recv.main([*words, str(tmp_path / "missing")]) == 3
    assert stx_recv.main([*words, "/proc"]) == 3
    (tmp_path / "file").write_text("")
    assert stx_recv.main([*words, str(tmp_path / "file")]) == 3


def test_exit_3_two_receivers_of_one_directory(tmp_path: Path) -> None:
    with Receiver(tmp_path) as receiver:
        words = ["--keys", receiver.keys, "--listen", "0", "--out", receiver.out]
        assert stx_recv.main(list(map(str, words))) == 3


# --- 4 and 5 ---------------------------------------------------------------------------


def flipped(at: int) -> Callable[[bytes, int], bytes]:
    """One bit of the stream, that far in."""

    def alter(data: bytes, offset: int) -> bytes:
        if not offset <= at < offset + len(data):
            return data
        octets = bytearray(data)
        octets[at - offset] ^= 4
        return bytes(octets)

    return alter


def test_exit_4_a_frame_that_was_forged_is_noticed_by_the_receiver(
    tmp_path: Path, file: Path, send: Send
) -> None:
    with Receiver(tmp_path, once=True) as receiver:
        with Wire(("127.0.0.1", receiver.port), forward=flipped(300_000)) as wire:
            assert send(receiver, "--retries", "0", file, port=wire.port) == 1
        assert receiver.join() == 4
    assert not (receiver.out / "notes.txt").exists()


def test_exit_4_a_frame_that_was_forged_is_noticed_by_the_sender(
    tmp_path: Path, file: Path, send: Send
) -> None:
    with (
        Receiver(tmp_path) as receiver,
        Wire(("127.0.0.1", receiver.port), backward=flipped(300)) as wire,
    ):
        assert send(receiver, file, port=wire.port) == 4


def test_exit_5_a_receiver_that_does_not_follow_the_protocol(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_key(tmp_path / "keys" / "default")
    table = ClientTable(tmp_path / "keys", print)
    with KeyedServer(table).listen(socket.create_server(("127.0.0.1", 0))) as listener:

        def run() -> None:
            secured, _ = listener.accept()
            with contextlib.suppress(OSError):
                secured.sendall(b"\xff" * 100)
                secured.recv(100)
            secured.close()

        thread = threading.Thread(target=run)
        thread.start()
        monkeypatch.setenv("STX_KEY_FILE", str(tmp_path / "keys" / "default"))
        words = ["127.0.0.1", str(listener.getsockname()[1]), str(file)]
        assert stx_send.main(words) == 5
        thread.join(10)


def test_exit_5_a_sender_that_does_not_follow_the_protocol(tmp_path: Path) -> None:
    with Receiver(tmp_path, once=True) as receiver:
        key = ClientKey.of("default", read_key(receiver.keys / "default"))
        with KeyedClient(key).connect("127.0.0.1", receiver.port, 10) as secured:
            secured.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert receiver.join() == 5


# --- the example ---------------------------------------------------------------------------


def test_the_five_lines_of_readme_work_as_printed(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("stx-keygen", "stx-recv", "stx-send"):
        module = f"tcpcrypt.cli.{name.replace('-', '_')}"
        path = programs / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        path.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", readme, re.M | re.S)
    (example,) = (block for language, block in blocks if not language and "stx-send" in block)
    assert len(example.splitlines()) == 5
    text = example.replace("stx-recv", f"stx-recv --listen {port}").replace("12345", str(port))
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    script = f"trap 'kill $!; wait $!' EXIT\nset -e\n{text}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    print(done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "incoming" / "letter.txt").read_text() == "Dear receiver\n"


# --- keys --------------------------------------------------------------------------------


def test_keygen_makes_keys_and_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--keys", str(tmp_path / "keys")]
    assert stx_keygen.main([*words, "laptop", "phone"]) == 0
    told = capsys.readouterr().out
    assert "STX_KEY_FILE=FILE stx-send --id laptop HOST PORT FILE" in told
    assert read_key(tmp_path / "keys" / "laptop") != read_key(tmp_path / "keys" / "phone")
    assert read_key(tmp_path / "keys" / "laptop").view().hex() not in told
    assert stx_keygen.main([*words, "laptop"]) == 3
    assert stx_keygen.main([*words, "--replace", "--json", "laptop"]) == 0
    assert stx_keygen.main(words) == 0
    assert (tmp_path / "keys" / "default").exists()
    with pytest.raises(SystemExit) as caught:
        stx_keygen.main([*words, "../x"])
    assert caught.value.code == 1


@pytest.mark.parametrize("program", [stx_send, stx_recv, stx_keygen])
def test_help_has_an_example(program: object, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--help", "--version"):
        with pytest.raises(SystemExit) as caught:
            program.main([option])  # type: ignore[attr-defined]
        assert caught.value.code == 0
        told = capsys.readouterr().out
        assert ("example: " in told) == (option == "--help")
