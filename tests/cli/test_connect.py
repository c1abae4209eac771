"""`tcpcrypt connect`: what goes through it, what it refuses, what it says."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.programs import HOST, TCPCRYPT, Program, Programs, plain_service, wait_until

from tcpcrypt.auth.fingerprint import fingerprint
from tcpcrypt.auth.identity import Identity
from tcpcrypt.cli import tcpcrypt as command

STRANGER = fingerprint(Identity.from_private(bytes(range(32))).public)
DATA = bytes(range(256)) * 8192


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    started = Programs(tmp_path)
    yield started
    started.stop()


def pair(programs: Programs, *words: str) -> tuple[Program, Program]:
    there = programs.listen()
    return programs.connect(there.port(), *words), there


def test_both_directions_each_with_its_own_end(programs: Programs) -> None:
    here, there = pair(programs)
    here.write(DATA, end=True)
    there.write(DATA[::-1], end=True)
    assert (here.wait(), there.wait()) == (0, 0)
    assert bytes(there.out) == DATA
    assert bytes(here.out) == DATA[::-1]
    ended = json.loads(here.told[-1])
    assert (ended["event"], ended["sent"], ended["received"]) == ("ended", len(DATA), len(DATA))


def test_an_answer_after_the_question_has_ended(programs: Programs) -> None:
    here, there = pair(programs)
    here.write(b"question", end=True)
    there.event("connected")
    there.write(b"ans")
    there.write(b"wer", end=True)
    assert (here.wait(), there.wait()) == (0, 0)
    assert (bytes(there.out), bytes(here.out)) == (b"question", b"answer")


def test_both_ends_name_the_same_session(programs: Programs) -> None:
    here, there = pair(programs)
    ours, theirs = here.event("connected"), there.event("connected")
    assert len(ours["session_id"]) == 66
    assert ours["session_id"] == theirs["session_id"]
    assert ours["cipher"] == "AES-128-GCM"
    assert ours["resumed"] is False
    assert ours["peer_identity"] != theirs["peer_identity"]
    for program in (here, there):
        program.write(b"", end=True)
    assert (here.wait(), there.wait()) == (0, 0)


def test_post_quantum_keys_or_none(programs: Programs) -> None:
    there = programs.listen("--keep", "--pq", "require")
    port = there.port()
    assert programs.connect(port, "--pq", "off").wait() == 1
    here = programs.connect(port, "--pq", "require")
    here.event("connected")
    here.write(b"", end=True)
    assert here.wait() == 0


def test_each_step_is_told_when_asked_for(programs: Programs) -> None:
    there = programs.listen()
    here = programs.start("connect", f"{HOST}:{there.port()}", "-v")
    for program in (here, there):
        program.write(b"", end=True)
    assert (here.wait(), there.wait()) == (0, 0)
    text = "\n".join(here.told)
    for step in ("INIT -> EXCHANGE_KEYS: ", "EXCHANGE_KEYS -> DERIVE_KEYS: ",
                 "DERIVE_KEYS -> AES_MODE: ", "session ID ", "ended; 0 bytes"):  # fmt: skip
        assert step in text


def test_nothing_is_told_when_all_is_well(programs: Programs) -> None:
    there = programs.listen()
    here = programs.start("connect", f"{HOST}:{there.port()}")
    for program in (here, there):
        program.write(b"", end=True)
    assert (here.wait(), there.wait()) == (0, 0)
    assert here.told == []


def test_a_service_in_the_clear_gets_not_one_byte_of_the_input(programs: Programs) -> None:
    got = bytearray()

    def banner(sock: socket.socket) -> None:
        sock.sendall(b"220 mail.example.org ESMTP\r\n")
        while data := sock.recv(4096):
            got.extend(data)

    with plain_service(banner) as port:
        here = programs.connect(port)
        here.write(b"secret", end=True)
        assert here.wait() == 1
    assert json.loads(here.told[-1])["error"] == "NoEncryptionError"
    assert got.startswith(b"TCENO") or not got
    assert b"secret" not in got
    assert here.out == b""


def test_a_stranger(programs: Programs) -> None:
    there = programs.listen()
    here = programs.connect(there.port(), "--peer", f"pin:{STRANGER}")
    here.write(b"secret", end=True)
    assert here.wait() == 1
    assert json.loads(here.told[-1])["error"] == "IdentityChangedError"
    assert there.event("failed")
    assert there.out == b""


def test_nobody_there(programs: Programs) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))  # and does not listen
        place = f"{HOST}:{taken.getsockname()[1]}"
        here = programs.start("connect", place)
        assert here.wait() == 1
    assert here.told[-1] == f"tcpcrypt: {place}: Connection refused"


def test_a_transfer_that_is_interrupted_is_seen_to_be_broken(programs: Programs) -> None:
    """EOF is never what is not an end."""
    here, there = pair(programs)
    here.write(DATA[:1000])
    there.event("connected")
    here.event("connected")
    here.interrupt()
    assert (here.wait(), there.wait()) == (1, 1)
    assert json.loads(here.told[-1])["event"] == "interrupted"
    assert json.loads(there.told[-1])["error"] == "ResetError"


def test_an_output_that_is_gone(programs: Programs) -> None:
    there = programs.listen()
    port = there.port()
    reader, writer = os.pipe()
    os.close(reader)
    here = subprocess.Popen(
        (*TCPCRYPT, "connect", f"{HOST}:{port}"),
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=subprocess.PIPE,
        env={**os.environ, "TCPCRYPT_KEYS": str(programs.ours)},
        text=True,
    )
    os.close(writer)
    there.write(b"data")
    _out, err = here.communicate(timeout=20)
    assert here.returncode == 1
    assert "standard output: Broken pipe" in err


def test_typing_on_a_terminal(programs: Programs) -> None:
    """Ctrl-C sends what was typed, and ends the stream: nothing is lost."""
    there = programs.listen()
    port = there.port()
    controller, terminal = pty.openpty()
    here = programs.connect(port, stdin=terminal)
    os.close(terminal)
    here.event("connected")
    os.write(controller, b"hello\n")
    there.event("connected")
    there.write(b"", end=True)
    assert here.wait() == 0  # the other end's end is enough
    os.close(controller)
    assert there.wait() == 0
    assert bytes(there.out) == b"hello\n"


def test_ctrl_c_on_a_terminal(programs: Programs) -> None:
    there = programs.listen()
    controller, terminal = pty.openpty()
    here = programs.connect(there.port(), stdin=terminal)
    os.close(terminal)
    there.event("connected")
    os.write(controller, b"hello\n")
    wait_until(lambda: bytes(there.out) == b"hello\n")
    here.interrupt()
    assert here.wait() == 1
    os.close(controller)
    there.write(b"", end=True)
    assert there.wait() == 0
    assert bytes(there.out) == b"hello\n"


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("example.org",),
        ("example.org:0",),
        ("example.org:70000",),
        ("::1:80",),
        (":80",),
        ("example.org:80", "--peer", "anybody"),
        ("example.org:80", "--peer", "pin:short"),
        ("example.org:80", "--peer", "psk:../x"),
        ("example.org:80", "--timeout", "soon"),
        ("example.org:80", "--timeout", "-1"),
        ("example.org:80", "--transport", "tls"),
    ],
)
def test_usage(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(["connect", *words])
    assert caught.value.code == 2
    assert "usage: tcpcrypt connect" in capsys.readouterr().err


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(["connect", "--help"])
    assert caught.value.code == 0
    assert "example: tcpcrypt connect" in capsys.readouterr().out


def test_a_pre_shared_key_that_is_not_there(programs: Programs) -> None:
    here = programs.start("connect", f"{HOST}:9", "--peer", "psk:nowhere")
    assert here.wait() == 1
    assert "nowhere" in here.told[-1]
