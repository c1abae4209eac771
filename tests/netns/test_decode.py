"""Captures of real daemons, and their key logs: what programs said comes out again."""

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from netns.network import Network
from support.captures import write

from tcpcrypt.tools.netns import Capture

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
