"""`tcpcrypt demo`, which `make demo` runs, and what it leaves behind: nothing."""

import hashlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import tcpcrypt
from tcpcrypt.tools.netns import wait_until

DISSECTOR = Path(tcpcrypt.__file__).parent / "contrib" / "wireshark" / "tcpcrypt.lua"

DEMO = [sys.executable, "-c", "import sys; from tcpcrypt.tools.demo import main; sys.exit(main())"]


def processes(directory: Path) -> list[str]:
    """Command lines of running processes that mention `directory`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(directory) in line:
            found.append(line)
    return found


def environment(directory: Path) -> dict[str, str]:
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": str(directory)}


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory in which names of sockets have room (108 bytes are all that there is)."""
    with tempfile.TemporaryDirectory(prefix="demo-") as name:
        yield Path(name)


def test_it_verifies_everything(tmp_path: Path, short: Path) -> None:
    temporary, kept = short, tmp_path / "kept"
    done = subprocess.run(
        [*DEMO, "--size", "3", "--json", "--keep", str(kept)],
        capture_output=True,
        text=True,
        env=environment(temporary),
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout)
    assert found["ok"] is True
    assert len(found["checks"]) >= 28
    assert found["trust"]["remembered"] != found["trust"]["refused"]
    assert [c["start"] for c in found["connections"]] == ["fresh", "resumed"]
    for connection in found["connections"]:
        assert connection["client_session_id"] == connection["server_session_id"]
    assert found["throughput"]["ratio_to_plain"] > 0
    assert list(temporary.iterdir()) == []
    look_into(kept, found["connections"])


def look_into(kept: Path, connections: list[dict[str, str]]) -> None:
    """What was captured decodes to the very request and file, and tshark prints its tree."""
    capture, keys, opened = kept / "capture.pcap", kept / "keys.log", kept / "opened"
    assert keys.stat().st_mode & 0o777 == 0o600

    def decode(*arguments: str) -> bytes:
        argv = [sys.executable, "-m", "tcpcrypt.cli.tcpcrypt", "decode", str(capture)]
        done = subprocess.run(
            [*argv, "--keylog", str(keys), *arguments], capture_output=True, check=True, cwd="/"
        )
        assert done.stderr == b""
        return done.stdout

    decoded = json.loads(decode("--json", "--opened", str(opened)))["connections"]
    assert [c["session_id"] for c in decoded] == [c["client_session_id"] for c in connections]
    for number, connection in enumerate(connections):
        said = decode("--stream", str(number), "--raw", "client")
        assert [line for line in said.split(b"\r\n") if line.startswith(b"GET")] == [
            b"GET / HTTP/1.1",
            b"GET /file HTTP/1.1",
        ]
        answered = decode("--stream", str(number), "--raw", "server")
        file = answered.split(b"\r\n\r\n", 2)[2]
        assert hashlib.sha256(file).hexdigest() == connection["sha256"]
    done = subprocess.run(
        ["tshark", "-n", "-X", f"lua_script:{DISSECTOR}", "-o", f"tcpcrypt.opened:{opened}",
         "-r", str(capture), "-O", "tcpcrypt,http"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    tree = done.stdout
    assert "Lua Error" not in tree
    assert tree.count("Message: Init1") == tree.count("Message: Init2") == 1
    assert tree.count("Request URI: /file") == 2
    assert "[Resumes a session: True]" in tree
    assert ".... ...1 = FINp: True" in tree


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(tmp_path: Path, sig: int) -> None:
    demo = subprocess.Popen(
        [*DEMO, "--size", "500"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path),
        text=True,
    )
    try:
        # In the midst of it: the daemons run.
        wait_until(lambda: len(processes(tmp_path)) >= 2, "daemons", timeout=30)
        demo.send_signal(sig)
        _out, error = demo.communicate(timeout=20)
    finally:
        demo.kill()
    assert demo.returncode == 130, error
    assert list(tmp_path.iterdir()) == []
    assert processes(tmp_path) == []
