"""Captures of real daemons, and their key logs: what programs said comes out again."""

import hashlib
import json
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from netns.network import Network
from support.captures import write

from tcpcrypt.tools.netns import Capture, wait_until

SIZE = 3_000_000


def decode(capture: Capture, directory: Path, keylog: Path, *arguments: str) -> dict:
    assert capture.dropped == 0
    path = write(directory / "x.pcap", [p for p in capture.packets if p[0] >> 4 in (4, 6)])
    done = subprocess.run(
        [sys.executable, "-m", "tcpcrypt.cli.tcpcrypt", "decode", str(path), "--keylog",
         str(keylog), "--json", *arguments],
        capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("single", [True, False], ids=["single", "separated"])
def test_connections_of_unmodified_programs(pair: Network, tmp_path: Path, single: bool) -> None:
    pair.spare_room()
    content = random.Random(1).randbytes(SIZE)
    (tmp_path / "big").write_bytes(content)
    pair.web(tmp_path)
    logs = tmp_path / "client.keys", tmp_path / "server.keys"
    more = ("--single-process",) if single else ()
    ours = pair.daemon(pair.client, "--keylog", str(logs[0]), *more)
    theirs = pair.daemon(pair.server, "--keylog", str(logs[1]), *more)
    with Capture(pair.client_end) as capture:
        for _ in range(3):
            pair.curl("/big", 4, "--output", str(tmp_path / "got"))
            assert (tmp_path / "got").read_bytes() == content
        ours.wait_for("closed", count=3)
    enabled = ours.wait_for("enabled", count=3)
    # Either host's log will do, and both say the same.
    assert logs[0].read_text() == logs[1].read_text()
    for log in logs:
        assert log.stat().st_mode & 0o777 == 0o600
        found = decode(capture, tmp_path, log)["connections"]
        found = [c for c in found if c["server"].endswith(":80")]
        assert [c["session_id"] for c in found] == [line["session"] for line in enabled]
        assert [c["resumed"] for c in found] == [False, True, True]
        for connection in found:
            assert connection["profile"] == "rfc8548"
            assert connection["errors"] == []
            for direction in ("client_to_server", "server_to_client"):
                assert connection[direction]["authenticated"] is True
                assert connection[direction]["ended"] == "finp"
            assert connection["server_to_client"]["bytes"] > SIZE
    path = tmp_path / "x.pcap"
    raw = subprocess.run(
        [sys.executable, "-m", "tcpcrypt.cli.tcpcrypt", "decode", str(path), "--keylog",
         str(logs[0]), "--stream", "0", "--raw", "server"],
        capture_output=True, check=True, cwd="/",
    ).stdout  # fmt: skip
    assert hashlib.sha256(raw.partition(b"\r\n\r\n")[2]).digest() == (
        hashlib.sha256(content).digest()
    )
    # It cannot be overlooked that somebody listens.
    for daemon, log in ((ours, logs[0]), (theirs, logs[1])):
        (line,) = daemon.events("keylog")
        assert line["file"] == str(log)
        assert "whoever reads this file can decrypt every connection" in line["warning"]
        assert f"KEY LOG {log}: whoever reads" in daemon.errors()


def test_a_key_log_that_others_may_read_is_refused(pair: Network, tmp_path: Path) -> None:
    from tcpcrypt.errors import LocalError

    log = tmp_path / "keys"
    log.touch()
    log.chmod(0o644)
    with pytest.raises(LocalError, match=r"others may read or write it \(mode 0644\)"):
        pair.daemon(pair.client, "--keylog", str(log))


def test_without_the_option_no_secret_is_written(pair: Network, tmp_path: Path) -> None:
    ours, theirs = pair.both()
    with pair.conversation():
        ours.wait_for("enabled")
    for daemon in (ours, theirs):
        assert "TCPCRYPT_SS" not in daemon.log_text() + daemon.errors()
        assert daemon.events("keylog") == []


class Live:
    """`tcpcrypt decode` on the client's interface, once it listens."""

    def __init__(self, pair: Network, output: Path, *arguments: str) -> None:
        self._pair, self._files = pair, (output, output.with_suffix(".err"))
        argv = (sys.executable, "-u", "-m", "tcpcrypt.cli.tcpcrypt", "decode")
        before = self._listening()
        with self._files[0].open("w") as out, self._files[1].open("w") as err:
            self.process = pair.client.start(
                *(*argv, "--interface", pair.client_end.device, *arguments),
                stdout=out,
                stderr=err,
                cwd="/",
            )
        wait_until(lambda: self._listening() > before, "packet socket", timeout=30)

    def _listening(self) -> int:
        return len(self._pair.client.run("cat", "/proc/net/packet").stdout.splitlines())

    def out(self) -> str:
        return self._files[0].read_text()

    def err(self) -> str:
        return self._files[1].read_text()

    def end(self, *, interrupt: bool = True) -> None:
        if interrupt:
            self.process.send_signal(signal.SIGINT)
        assert self.process.wait(60) == 0, self.out() + self.err()


def test_connections_are_decoded_while_they_speak(pair: Network, tmp_path: Path) -> None:
    """From an interface, by a key log that is not there yet when it begins; Ctrl-C tells all."""
    content = random.Random(2).randbytes(100_000)
    (tmp_path / "big").write_bytes(content)
    pair.web(tmp_path)
    log = tmp_path / "client.keys"
    words = ("--port", "80", "--keylog", str(log))
    shown = Live(pair, tmp_path / "shown", *words)
    told = Live(pair, tmp_path / "told", *words, "--json")
    followed = Live(pair, tmp_path / "followed", *words, "--follow", "1")
    ours = pair.daemon(pair.client, "--keylog", str(log))
    pair.daemon(pair.server)
    for _ in range(2):
        pair.curl("/big", 4, "--output", str(tmp_path / "got"))
    ours.wait_for("closed", count=2)
    # Each is printed when it ends, not at the end of all.
    wait_until(lambda: shown.out().count("ended finp") == 4, "two connections", timeout=30)
    assert shown.out().count("> GET /big HTTP/1.1\n") == 2
    for program in (shown, told, followed):
        program.end()
    assert "2 connections" in shown.err()
    found = json.loads(told.out())["connections"]
    enabled = ours.wait_for("enabled", count=2)
    assert [c["session_id"] for c in found] == [line["session"] for line in enabled]
    for connection in found:
        assert connection["errors"] == []
        assert connection["client_to_server"]["authenticated"] is True
        assert connection["server_to_client"]["bytes"] > len(content)
        assert connection["server_to_client"]["ended"] == "finp"
    assert followed.out().startswith("1: 10.99.1.1:")
    assert followed.out().count("> GET /big HTTP/1.1\n") == 1
    assert "every tag verified, ended finp" in followed.out()


def test_a_live_capture_is_bounded(pair: Network, tmp_path: Path) -> None:
    """By --packets or --seconds; and an interface that is none is a usage error."""
    empty = tmp_path / "keys"
    empty.touch(0o600)
    argv = (sys.executable, "-m", "tcpcrypt.cli.tcpcrypt", "decode", "--keylog", str(empty))
    device = pair.client_end.device
    few = pair.client.start(
        *argv, "--interface", device, "--packets", "3", stderr=subprocess.PIPE, text=True, cwd="/"
    )
    with pair.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:

        def sent() -> bool:
            sender.sendto(b"x", (pair.server_end.v4, 9))
            return few.poll() is not None

        wait_until(sent, "end", timeout=30)
    _out, err = few.communicate()
    assert (few.returncode, "3 packets, 0 connections" in err) == (0, True)
    brief = pair.client.run(*argv, "--interface", device, "--seconds", "1", "--json", cwd="/")
    assert (json.loads(brief.stdout), brief.stderr) == ({"connections": []}, "")
    wrong = pair.client.run(*argv, "--interface", "nothing0", check=False, cwd="/")
    assert wrong.returncode == 2
    assert "nothing0: No such device" in wrong.stderr
