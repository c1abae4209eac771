"""`tcpcrypt demo`, which `make demo` runs, and what it leaves behind: nothing."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tcpcrypt.tools.netns import wait_until

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


def test_it_verifies_everything(tmp_path: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--size", "3", "--json"],
        capture_output=True,
        text=True,
        env=environment(tmp_path),
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout)
    assert found["ok"] is True
    assert len(found["checks"]) >= 26
    assert found["trust"]["remembered"] != found["trust"]["refused"]
    assert [c["start"] for c in found["connections"]] == ["fresh", "resumed"]
    for connection in found["connections"]:
        assert connection["client_session_id"] == connection["server_session_id"]
    assert found["throughput"]["ratio_to_plain"] > 0
    assert list(tmp_path.iterdir()) == []


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
