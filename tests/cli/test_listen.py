"""`tcpcrypt listen`: whom it takes, how it ends."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.programs import HOST, Programs

from tcpcrypt.cli import tcpcrypt as command


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    started = Programs(tmp_path)
    yield started
    started.stop()


def test_who_is_refused_does_not_take_the_place_of_another(programs: Programs) -> None:
    there = programs.listen()
    port = there.port()
    with socket.create_connection((HOST, port)) as plain:
        plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert there.event("failed")["error"] == "NoEncryptionError"
    silent = socket.create_connection((HOST, port))
    here = programs.connect(port)
    here.write(b"x", end=True)
    there.write(b"", end=True)
    assert (here.wait(), there.wait()) == (0, 0)
    assert there.out == b"x"
    silent.close()


def test_one_connection_and_no_more(programs: Programs) -> None:
    there = programs.listen()
    port = there.port()
    here = programs.connect(port)
    there.event("connected")
    with pytest.raises(OSError):
        socket.create_connection((HOST, port), 5)
    for program in (here, there):
        program.write(b"", end=True)
    assert (here.wait(), there.wait()) == (0, 0)


def test_one_connection_after_the_other(programs: Programs) -> None:
    there = programs.listen("--keep")
    port = there.port()
    for number in range(3):
        here = programs.connect(port)
        here.write(b"%d" % number, end=True)
        assert here.wait() == 0
        assert there.event("ended")["received"] == 1
    broken = programs.connect(port)
    broken.event("connected")
    broken.interrupt()
    assert broken.wait() == 1
    assert there.event("failed")["error"] == "ResetError"
    there.interrupt(signal.SIGTERM)
    assert there.wait() == 1
    assert there.out == b"012"
    assert json.loads(there.told[-1])["event"] == "interrupted"


def test_a_pre_shared_key_at_both_ends(programs: Programs) -> None:
    assert programs.start("psk", "new", "site", "--state", str(programs.ours)).wait() == 0
    (programs.theirs / "psk").mkdir(parents=True, mode=0o700)
    programs.theirs.chmod(0o700)
    key = programs.theirs / "psk" / "site"
    key.touch(0o600)
    key.write_bytes((programs.ours / "psk" / "site").read_bytes())
    there = programs.listen("--peer", "psk:site")
    port = there.port()
    without = programs.connect(port, "--peer", "tofu")
    without.write(b"", end=True)
    assert without.wait() == 1
    here = programs.connect(port, "--peer", "psk:site")
    for program in (here, there):
        program.write(b"", end=True)
    assert (here.wait(), there.wait()) == (0, 0)


def test_an_address_that_is_taken(programs: Programs) -> None:
    with socket.create_server((HOST, 0)) as taken:
        there = programs.start("listen", f"{HOST}:{taken.getsockname()[1]}")
        assert there.wait() == 1
    assert "in use" in there.told[-1]


def test_a_key_that_is_not_there(programs: Programs) -> None:
    there = programs.start("listen", f"{HOST}:0", "--peer", "psk:nowhere")
    assert there.wait() == 1
    assert "nowhere" in there.told[-1]


@pytest.mark.parametrize("words", [(), ("x",), ("70000",), ("1:2:3",), ("[::1]",)])
def test_usage(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(["listen", *words])
    assert caught.value.code == 2
    assert "usage: tcpcrypt listen" in capsys.readouterr().err


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(["listen", "--help"])
    assert caught.value.code == 0
    assert "example: tcpcrypt listen" in capsys.readouterr().out
