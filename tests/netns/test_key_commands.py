"""`tcpcrypt id` and `tcpcrypt peers` beside daemons that run."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from netns.network import Network
from netns.trusting import Pair, Trusting, ended_by_reset, pair_of, policy

from tcpcrypt.tools.netns import wait_until


@pytest.fixture
def two(pair: Network, tmp_path: Path) -> Pair:
    return pair_of(pair, tmp_path)


def run(side: Trusting, *words: str, status: int = 0) -> Any:
    """What a command answers, as JSON."""
    done = subprocess.run(
        (
            *(sys.executable, "-m", "tcpcrypt.cli.tcpcrypt", *words, "--json"),
            *("--state", side.state, "--control", side.control),
        ),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd="/",
    )
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout) if done.stdout else None


def test_commands_and_daemons_see_the_same_keys(two: Pair) -> None:
    two.start(policy("tofu"))
    two.meet()
    key = two.server.fingerprint()
    assert run(two.server, "id", "show")["fingerprint"] == key
    (known,) = run(two.client, "peers")["known"]
    assert (known["key"], known["scope"], known["trust"]) == (key, two.scope, "tofu")
    (seen,) = run(two.client, "peers")["peers"]
    assert (f"{seen['peer']}:{seen['port']}", seen["last"]) == (two.scope, "encrypted")
    answer = run(two.client, "peers", "pin", two.scope, "--force")
    assert answer["daemon"] is True
    with two.network.conversation():
        (session,) = two.client.sessions()
        assert session.trust == "pinned"


def test_revoking_resets_what_the_key_has_proved_and_trusting_another_ends_it(two: Pair) -> None:
    two.start(policy("tofu"))
    two.meet()
    key = two.server.fingerprint()
    with two.network.conversation() as (one, other):
        answer = run(two.client, "peers", "revoke", key)
        assert (answer["daemon"], answer["revoked"][0]["scope"]) == (True, two.scope)
        assert ended_by_reset(one)
        # A reset is sent once, and may get lost; who goes on to send gets another.
        assert _send_was_reset(other) or ended_by_reset(other)
    with two.refused():
        assert key in two.client.daemon.wait_for("refused")[-1]["reason"]
    rotated = run(two.server, "id", "rotate")
    assert (rotated["old"], rotated["daemon"]) == (key, True)
    # No first contact: whoever answers there now has to be accepted.
    with two.refused():
        pass
    run(two.client, "peers", "trust", two.scope, rotated["fingerprint"])
    wait_until(lambda: _talked(two), "connection with the new key")
    assert run(two.client, "peers", "trust", two.scope, key, "--force", status=1) is None


def _send_was_reset(sock: socket.socket) -> bool:
    try:
        sock.sendall(b"still there?")
    except (ConnectionResetError, BrokenPipeError):
        return True
    return False


def _talked(two: Pair) -> bool:
    try:
        two.talk()
    except ConnectionRefusedError:
        return False
    return True
