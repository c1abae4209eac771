"""The key log of secure sockets: written on demand alone, and enough to read a capture."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.captures import Tape
from support.decoding import decode, store
from support.wire import Wire

from tcpcrypt import aio, sockets
from tcpcrypt.core.key_log import KeyLine
from tcpcrypt.errors import LocalError
from tcpcrypt.sockets import key_log as module

UNAUTHENTICATED = "insecure-unauthenticated"
PATIENCE = 20.0


@pytest.fixture(autouse=True)
def _nothing_logged() -> Iterator[None]:
    yield
    sockets.log_keys(None)


def talk(peer: str, keys: tuple[Path, Path]) -> tuple[bytes, bytes]:
    """A conversation; the bytes of both streams as they were on the wire."""
    with (
        sockets.create_server(("127.0.0.1", 0), peer=peer, keys=keys[1]) as listener,
        Wire(listener.getsockname()[:2], record=True) as wire,
        ThreadPoolExecutor(1) as pool,
    ):
        accepted = pool.submit(listener.accept)
        address = ("127.0.0.1", wire.port)
        with sockets.connect(address, peer=peer, keys=keys[0], timeout=PATIENCE) as client:
            server, _address = accepted.result(PATIENCE)
            with server:
                client.sendall(b"question")
                client.shutdown(socket.SHUT_WR)
                assert server.makefile("rb").read() == b"question"
                server.sendall(b"answer " * 20_000)
                server.shutdown(socket.SHUT_WR)
                assert client.makefile("rb").read() == b"answer " * 20_000
    return bytes(wire.recorded[0]), bytes(wire.recorded[1])


def captured(streams: tuple[bytes, bytes]) -> list[bytes]:
    """What an eavesdropper has: TCP without an option, and these streams."""
    tape = Tape()
    tape.syn(b"\x02\x04\x05\xb4")
    tape.syn(b"\x02\x04\x05\xb4", from_client=False, ack=True)
    tape.say(True, b"")
    tape.say(True, streams[0][:100])
    tape.say(False, streams[1])
    tape.say(True, streams[0][100:])
    for side in (True, False):
        tape.fin(side)
    return tape.packets()


def check(streams: tuple[bytes, bytes], lines: list[str], tep: int) -> None:
    (report,), sink = decode(captured(streams), store(*lines))
    assert report.errors == []
    assert (report.profile, report.tep, report.in_band) == ("rfc8548", tep, True)
    assert report.session_id == KeyLine.parse(lines[0]).session_id
    assert sink.said[0, True] == b"question"
    assert sink.said[0, False] == b"answer " * 20_000
    for direction in (report.client_to_server, report.server_to_client):
        assert (direction.authenticated, direction.ended) == (True, "finp")


@pytest.mark.parametrize(("peer", "tep"), [(UNAUTHENTICATED, 0x23), ("tofu", 0x20)])
def test_a_capture_is_read_by_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], peer: str, tep: int
) -> None:
    log = tmp_path / "keys.log"
    sockets.log_keys(log)
    warning = "whoever reads this file can decrypt every secure connection of this process"
    assert capfd.readouterr().err == f"tcpcrypt: KEY LOG {log}: {warning}\n"
    assert log.stat().st_mode & 0o777 == 0o600
    streams = talk(peer, (tmp_path / "a", tmp_path / "b"))
    lines = log.read_text().splitlines()
    # Both ends are of this process, and say the same.
    assert len(lines) == 2
    assert lines[0] == lines[1]
    check(streams, lines, tep)
    # Without a key it is told what is missing.
    (report,), sink = decode(captured(streams), store())
    assert report.in_band is True
    assert "no key: the 0 secrets given hold none of it" in report.errors[0]
    assert sink.said == {}


def test_a_resumed_session_has_its_line(tmp_path: Path) -> None:
    """RFC 8548 section 3.5, within the streams."""
    log = tmp_path / "keys.log"
    keys = tmp_path / "a", tmp_path / "b"
    talk("tofu", keys)
    sockets.log_keys(log)
    streams = talk("tofu", keys)
    lines = log.read_text().splitlines()
    check(streams, lines, 0x20)


def test_after_its_end_nothing_is_written(tmp_path: Path) -> None:
    log = tmp_path / "keys.log"
    sockets.log_keys(log)
    sockets.log_keys(None)
    talk(UNAUTHENTICATED, (tmp_path / "a", tmp_path / "b"))
    assert log.read_text() == ""


def test_asyncio_writes_it_too(tmp_path: Path) -> None:
    log = tmp_path / "keys.log"
    aio.log_keys(log)

    async def run() -> None:
        async def answer(reader: asyncio.StreamReader, writer: aio.SecureWriter) -> None:
            writer.write(await reader.read())
            writer.close()

        server = await aio.create_server(("127.0.0.1", 0), answer, peer="tofu", keys=tmp_path / "b")
        async with server:
            address = server.sockets[0].getsockname()[:2]
            reader, writer = await aio.connect(address, peer="tofu", keys=tmp_path / "a")
            writer.write(b"x" * 1000)
            writer.write_eof()
            assert await reader.read() == b"x" * 1000
            writer.close()

    asyncio.run(asyncio.wait_for(run(), PATIENCE))
    lines = log.read_text().splitlines()
    assert len(lines) == 2
    assert KeyLine.parse(lines[0]).session_id == KeyLine.parse(lines[1]).session_id


@pytest.mark.parametrize("mode", [0o644, 0o620, 0o604])
def test_a_file_that_others_may_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    log = tmp_path / "keys.log"
    log.touch()
    log.chmod(mode)
    with pytest.raises(LocalError, match=f"others may read or write it .mode {mode:04o}"):
        sockets.log_keys(log)
    link = tmp_path / "link"
    link.symlink_to(log)
    with pytest.raises(LocalError):
        sockets.log_keys(link)
    assert module.key_log() is None


PROGRAM = """
import contextlib, sys, threading
from tcpcrypt import sockets
from tcpcrypt.errors import LocalError

def accept():
    # Its traceback would be under way, and hold stderr, when the program ends.
    with contextlib.suppress(Exception):
        listener.accept()

with sockets.create_server(("127.0.0.1", 0), peer="insecure-unauthenticated") as listener:
    accepted = threading.Thread(target=accept, daemon=True)
    accepted.start()
    try:
        sockets.connect(listener.getsockname()[:2], peer="insecure-unauthenticated").close()
    except LocalError as error:
        sys.exit(str(error))
"""


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_the_environment_of_a_program_that_calls_nothing(tmp_path: Path, mode: int) -> None:
    """Where the file cannot be used the program does not go on without it."""
    log = tmp_path / "keys.log"
    log.touch()
    log.chmod(mode)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"TCPCRYPT_KEYLOG": str(log)},
        capture_output=True, text=True, check=False, timeout=60, cwd="/",
    )  # fmt: skip
    if mode == 0o600:
        assert done.returncode == 0, done.stderr
        assert f"tcpcrypt: KEY LOG {log}: whoever reads" in done.stderr
        assert log.read_text().startswith("TCPCRYPT_SS ")
    else:
        assert done.returncode == 1
        assert "others may read or write it" in done.stderr
        assert log.read_text() == ""


def test_the_environment_counts_for_nobody_elses_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that runs with other rights than its caller's."""
    monkeypatch.setenv("TCPCRYPT_KEYLOG", str(tmp_path / "keys.log"))
    monkeypatch.setattr(module, "_log", module._Log())
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert module.key_log() is None
    assert list(tmp_path.iterdir()) == []


def test_lost_lines_are_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module._tell("keylog_failed", {"file": "keys.log", "lost": "00"})
    assert "KEY LOG keys.log: lines are lost" in capfd.readouterr().err


def test_who_asks_while_another_says_none_gets_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment counts without a call alone, whatever the order of threads."""
    monkeypatch.setenv(module.VARIABLE, str(tmp_path / "keys.log"))
    monkeypatch.setattr(module._log, "asked", False)
    with ThreadPoolExecutor(1) as pool:
        with module._log.lock:
            asked = pool.submit(module.key_log)
            with pytest.raises(TimeoutError):
                asked.result(0.2)
            module._open(None)
        assert asked.result(PATIENCE) is None
    assert not (tmp_path / "keys.log").exists()
