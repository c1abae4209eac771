"""What programs and administrators learn of real connections, on both hosts."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from netns.network import PORT, Network

from tcpcrypt.daemon.client import Client
from tcpcrypt.daemon.sockopt import Option, Value, getsockopt

EXAMPLE = Path(__file__).parents[2] / "examples" / "authenticate.py"


@pytest.fixture
def sockets(tmp_path: Path) -> tuple[Path, Path]:
    """Where the daemons of client and server are asked."""
    tmp_path.chmod(0o755)
    return tmp_path / "client.sock", tmp_path / "server.sock"


def start(pair: Network, sockets: tuple[Path, Path], *arguments: str) -> None:
    pair.daemon(pair.client, "--control", str(sockets[0]), *arguments)
    pair.daemon(pair.server, "--control", str(sockets[1]), *arguments)


def option(sock: socket.socket, name: Option, control: Path) -> Value:
    return getsockopt(sock, name, control=control, wait=10)


@pytest.mark.parametrize("family", [4, 6])
def test_both_applications_learn_the_same_session(
    pair: Network, sockets: tuple[Path, Path], family: int
) -> None:
    start(pair, sockets)
    with pair.conversation(family) as ends:

        def both(name: Option) -> list[Value]:
            return [option(end, name, at) for end, at in zip(ends, sockets, strict=True)]

        session_id = option(ends[0], Option.TCP_ENO_SESSID, sockets[0])
        assert isinstance(session_id, bytes)
        assert len(session_id) == 33
        assert both(Option.TCP_ENO_SESSID) == [session_id, session_id]
        assert both(Option.TCP_ENO_NEGTEP) == [session_id[0], session_id[0]]
        assert both(Option.TCP_ENO_ROLE) == [0, 1]
        assert both(Option.TCP_ENO_SELF_NAME) == [b"\0" + session_id, b"\1" + session_id]
        assert both(Option.TCP_ENO_PEER_NAME) == [b"\1" + session_id, b"\0" + session_id]
        transcripts = both(Option.TCP_ENO_TRANSCRIPT)
        assert transcripts[0] == transcripts[1] != b""
        assert both(Option.TCP_ENO_SELF_GOPT) == both(Option.TCP_ENO_PEER_GOPT)[::-1] == [0, 1]
        assert both(Option.TCP_ENO_TEP_MANDATORY) == [0, 0]
        found = []
        for end, at in zip(ends, sockets, strict=True):
            with Client(at) as daemon:
                session = daemon.find_socket(end)
                assert session is not None
                assert [session] == list(daemon.sessions())
                assert daemon.status()["connections"] == 1
                found.append(session)
        assert [session.direction for session in found] == ["outgoing", "incoming"]
        # The client's port is the daemon's own between the hosts.
        assert found[0].client.rpartition(":")[0] == found[1].client.rpartition(":")[0]
        assert found[0].service == found[1].service
        assert [(session.sent, session.received) for session in found] == [(1, 1), (1, 1)]


def test_resumed_sessions_and_their_flush(pair: Network, sockets: tuple[Path, Path]) -> None:
    pair.spare_room()
    start(pair, sockets)
    starts: list[bool | None] = []
    ids: set[bytes | None] = set()
    with Client(sockets[0]) as daemon:
        for flush in (False, False, True):
            if flush:
                assert daemon.flush(pair.server_end.v4) >= 1
            with pair.conversation() as (one, _other):
                session = daemon.find_socket(one, wait=10)
                assert session is not None
                starts.append(session.resumed)
                ids.add(session.session_id)
    assert starts == [False, True, False]
    assert len(ids) == 3


def test_a_plain_connection_has_no_session(pair: Network, sockets: tuple[Path, Path]) -> None:
    """The server has no daemon; its peer falls back."""
    pair.daemon(pair.client, "--control", str(sockets[0]))
    with pair.conversation() as (one, _other):
        for name in (Option.TCP_ENO_SESSID, Option.TCP_ENO_SELF_NAME, Option.TCP_ENO_ROLE):
            with pytest.raises(OSError) as caught:
                option(one, name, sockets[0])
            assert caught.value.errno == errno.EINVAL
        with Client(sockets[0]) as daemon:
            (peer,) = daemon.peers()
    assert peer["peer"] == pair.server_end.v4
    assert peer["last"] == "plain"
    assert peer["reason"]


def test_the_commands(pair: Network, sockets: tuple[Path, Path]) -> None:
    start(pair, sockets)

    def run(host: int, *words: str) -> Any:
        done = subprocess.run(
            (
                *(sys.executable, "-m", "tcpcrypt.cli.tcpcrypt", *words),
                *("--control", sockets[host], "--json"),
            ),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            cwd="/",
        )
        return json.loads(done.stdout)

    with pair.conversation() as ends:
        sessions = []
        for number, end in enumerate(ends):
            names = (f"{host}:{port}" for host, port in (end.getsockname(), end.getpeername()))
            session = run(number, "session-id", *names)["session"]
            assert run(number, "sessions")["sessions"] == [session]
            sessions.append(session)
        assert sessions[0]["session"] == sessions[1]["session"]
    status = run(0, "status")
    assert status["running"]
    assert status["counters"]["fresh"] == 1
    assert [peer["last"] for peer in run(0, "peers")["peers"]] == ["encrypted"]


def example(pair: Network, at: Path, where: str, *words: str, password: Path) -> Any:
    host = pair.server if where == "server" else pair.client
    return host.start(
        *(sys.executable, str(EXAMPLE), where, *words),
        *("--password-file", str(password), "--control", str(at)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(EXAMPLE.parents[1])},
    )


@pytest.mark.parametrize("guess", ["secret", "wrong"])
def test_a_program_authenticates_its_connection(
    pair: Network, sockets: tuple[Path, Path], tmp_path: Path, guess: str
) -> None:
    start(pair, sockets)
    right, guessed = tmp_path / "right", tmp_path / "guessed"
    right.write_text("secret")
    guessed.write_text(guess)
    server = example(pair, sockets[1], "server", str(PORT), "--once", password=right)
    assert server.stdout.readline() == f"listening on port {PORT}\n"
    client = example(pair, sockets[0], "client", pair.server_end.v4, str(PORT), password=guessed)
    outputs = [process.communicate(timeout=60) for process in (server, client)]
    statuses = [process.returncode for process in (server, client)]
    if guess == "secret":
        assert statuses == [0, 0], outputs
        sessions = [out.splitlines()[0].rpartition(" ")[2] for out, _err in outputs]
        assert sessions[0] == sessions[1]
        assert outputs[1][0].splitlines()[1] == "you said: hello"
    else:
        assert statuses == [1, 1], outputs
        assert all("another password" in err for _out, err in outputs)


def test_the_example_refuses_a_plain_connection(
    pair: Network, sockets: tuple[Path, Path], tmp_path: Path
) -> None:
    pair.daemon(pair.client, "--control", str(sockets[0]))
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with pair.listen() as listener:
        client = example(pair, sockets[0], "client", pair.server_end.v4, str(PORT), password=secret)
        sock, _address = listener.accept()
        with sock:
            sock.settimeout(20)
            assert sock.recv(100) == b""  # nothing is said on it
    out, err = client.communicate(timeout=60)
    assert (client.returncode, out) == (1, "")
    assert "it is plain TCP" in err
