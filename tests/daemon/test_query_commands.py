"""`tcpcrypt status|sessions|peers|flush|session-id`: what they print and how they exit."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from daemon.overview import PEER, SESSION, Service, authenticated, entry, peer, plain, serving

from tcpcrypt.cli import tcpcrypt as command
from tcpcrypt.cli.table import duration, print_table
from tcpcrypt.daemon import control

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with serving(tmp_path / "control.sock") as running:
        yield running


@pytest.fixture
def run(service: Service, capsys: pytest.CaptureFixture[str]) -> Run:
    def run_it(*words: object) -> tuple[int, str, str]:
        try:
            status = command.main([*map(str, words), "--control", str(service.path)])
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        return status, *capsys.readouterr()

    return run_it


def ago(seconds: float) -> float:
    return time.time() - seconds


def test_status(run: Run) -> None:
    status, out, err = run("status")
    assert (status, err) == (0, "")
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    assert ["backend", "nfqueue"] in lines
    assert ["keylog", "off"] in lines
    assert ["queue", "0 overruns, 0 evicted, 1 held, 0 held overflowed"] in lines
    (counters,) = (line[1] for line in lines if line[0] == "counters")
    assert counters.startswith("3 fresh, 17 resumed, 1 fallback, 0 direct, ")
    (started,) = (line[1] for line in lines if line[0] == "started")
    assert started.endswith(" ago")
    assert json.loads(run("status", "--json")[1])["running"] is True


def test_status_cannot_keep_a_key_log_secret(
    service: Service, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = service.memory.status() | {"keylog": True}
    monkeypatch.setattr(service.memory, "status", lambda: told)
    assert "ON: whoever has the file can decrypt every connection" in run("status")[1]
    assert json.loads(run("status", "--json")[1])["keylog"] is True


def test_sessions(service: Service, run: Run) -> None:
    service.memory.connections = [
        entry(12, "[fe80::1]:40000", "[fe80::2]:443", since=ago(3725), start="resumed"),
        plain(7, "10.0.0.1:4000", "10.0.0.2:80") | {"since": ago(59.5)},
    ]
    status, out, err = run("sessions")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "ID  DIRECTION  CLIENT           SERVICE        STATE      PROFILE  START    AGE"
        "        SENT  RECEIVED  KEYS    PEER  TRUST  SESSION",
        " 7  outgoing   10.0.0.1:4000    10.0.0.2:80    plain      -        -        59 s"
        "          0         0  -          -      -  -",
        "12  outgoing   [fe80::1]:40000  [fe80::2]:443  encrypted  rfc8548  resumed  1 h 2 min"
        f"    78      1256  X25519     -      -  {SESSION}",
    ]
    only = run("sessions", "--state", "plain", "--json")[1]
    (session,) = json.loads(only)["sessions"]
    assert session["id"] == 7
    assert session["session"] is None
    everything = json.loads(run("sessions", "--json")[1])["sessions"]
    assert everything[1] == service.memory.connections[0]


def test_what_a_dialect_lacks_is_said_once(service: Service, run: Run) -> None:
    weak = {"profile": "stanford", "lacks": ["the end is not authenticated", "no\x1brandomness"]}
    service.memory.connections = [
        entry(number, "10.0.0.1:4000", "10.0.0.2:80", since=ago(2), start="fresh") | weak
        for number in (1, 2)
    ]
    _status, out, _err = run("sessions")
    assert out.splitlines()[3:] == [
        "stanford: the end is not authenticated",
        "stanford: no\\x1brandomness",
    ]


def test_no_sessions(run: Run) -> None:
    status, out, _err = run("sessions")
    assert status == 0
    assert out.startswith("ID  DIRECTION  CLIENT")
    assert out.count("\n") == 1


def test_peers(service: Service, run: Run, tmp_path: Path) -> None:
    service.memory.known = [
        peer("10.0.0.2", connections=120),
        peer("10.0.0.3", "plain", reason="SYN with option 69 got no answer", until=ago(-301.5)),
        peer("10.0.0.4", "refused", reason="\x1b[2J\nowned", until=ago(1)),
    ]
    status, out, err = run("peers", "--state", tmp_path)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "PEER      PORT  TRUST  KEY  SEEN  LAST       CONNECTIONS  PLAIN FOR  REASON",
        "10.0.0.2   443      -    -     -  encrypted          120  -          -",
        "10.0.0.3   443      -    -     -  plain                1  5 min 1 s  SYN with option 69"
        " got no answer",
        r"10.0.0.4   443      -    -     -  refused              1  -          \x1b[2J\nowned",
    ]
    assert json.loads(run("peers", "--json", "--last", "plain", "--state", tmp_path)[1]) == {
        "peers": [service.memory.known[1]],
        "known": [],
    }


def test_flush(service: Service, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    service.memory.known = [peer("10.0.0.2"), peer("10.0.0.3"), peer("2001:db8::1")]
    assert run("flush", "[2001:db8:0::1]") == (0, "forgot 1 secret or path\n", "")
    assert run("flush", "10.0.0.9") == (0, "nothing was kept of 10.0.0.9\n", "")
    assert run("flush") == (0, "forgot 2 secrets and paths\n", "")
    assert json.loads(run("flush", "--json")[1]) == {"forgotten": 0}
    status, _out, err = run("flush", "example.org")
    assert status == 2
    assert "'example.org' is not an IP address" in err
    stranger = struct.pack("3i", 1, 4321, 4321)
    monkeypatch.setattr(control, "_credentials", lambda _sock: stranger)
    status, out, err = run("flush")
    assert (status, out) == (1, "")
    assert err == "tcpcrypt: flush is for root and the daemon's own user, not for user 4321\n"


def test_sessions_with_peers_that_proved_who_they_are(service: Service, run: Run) -> None:
    service.memory.connections = [
        authenticated(1, "10.0.0.1:1", "10.0.0.2:2", since=ago(1)),
        authenticated(2, "10.0.0.1:2", "10.0.0.2:2", since=ago(1), proved=False, trust=None),
    ]
    _status, out, _err = run("sessions")
    short = PEER.partition(":")[2][:16]
    assert [line.split()[-4:-1] for line in out.splitlines()[1:]] == [
        ["X25519MLKEM768", short, "psk"],
        ["X25519MLKEM768", short + "?", "-"],
    ]
    _status, out, _err = run("sessions", "--json")
    assert json.loads(out)["sessions"] == service.memory.connections


# --- session-id --------------------------------------------------------------------


def test_session_id_by_addresses(service: Service, run: Run) -> None:
    known = service.memory.by_socket
    known[("10.0.0.1", 1), ("10.0.0.2", 2)] = entry(1, "10.0.0.1:1", "10.0.0.2:2")
    known[("fe80::1", 1), ("fe80::2", 2)] = plain(2, "[fe80::1]:1", "[fe80::2]:2")
    known[("10.0.0.1", 3), ("10.0.0.2", 2)] = plain(3, "-", "-", "exchanging")
    assert run("session-id", "10.0.0.1:1", "10.0.0.2:2") == (0, SESSION + "\n", "")
    assert run("session-id", "[fe80::1%eth0]:1", "[fe80::2]:2") == (
        *(1, "", "tcpcrypt: the connection is plain TCP\n"),
    )
    assert run("session-id", "10.0.0.1:3", "10.0.0.2:2", "--wait", "0.1") == (
        *(1, "", "tcpcrypt: the handshake is not over (state exchanging)\n"),
    )
    status, out, err = run("session-id", "10.0.0.1:9", "10.0.0.2:2")
    assert (status, out) == (1, "")
    assert "no such connection" in err
    status, out, err = run("session-id", "10.0.0.1:1", "10.0.0.2:2", "--json")
    assert status == 0
    assert json.loads(out)["session"] == known[("10.0.0.1", 1), ("10.0.0.2", 2)]
    status, out, err = run("session-id", "10.0.0.1:9", "10.0.0.2:2", "--json")
    assert (status, json.loads(out), err) == (1, {"session": None}, "")


def test_session_id_by_descriptor(service: Service) -> None:
    """In a process that inherits the socket, as under inetd."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _address = listener.accept()
    service.memory.by_socket[other.getsockname(), other.getpeername()] = entry(1, "-", "-")
    program = "import sys; from tcpcrypt.cli.tcpcrypt import main; sys.exit(main())"
    words = (sys.executable, "-c", program, "session-id", "--control", service.path, "--fd")

    def ask(number: int) -> tuple[int, str, str]:
        done = subprocess.run(
            (*words, str(number)),
            stdin=other,
            pass_fds=(other.fileno(),),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    with one, other:
        assert ask(0) == (0, SESSION + "\n", "")
        assert ask(other.fileno()) == (0, SESSION + "\n", "")
        assert ask(2) == (1, "", "tcpcrypt: descriptor 2: Socket operation on non-socket\n")
        assert ask(99) == (1, "", "tcpcrypt: descriptor 99: Bad file descriptor\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give LOCAL and REMOTE, or --fd N"),
        (("10.0.0.1:1",), "give LOCAL and REMOTE, or --fd N"),
        (("10.0.0.1:1", "10.0.0.2:2", "--fd", "0"), "give LOCAL and REMOTE, or --fd N"),
        (("10.0.0.1:1", "10.0.0.2:2", "10.0.0.3:3"), "give LOCAL and REMOTE, or --fd N"),
        (("10.0.0.1", "10.0.0.2:2"), "'10.0.0.1' is not ADDRESS:PORT"),
        (("fe80::1:1", "[fe80::2]:2"), "'fe80::1:1': write IPv6, and it alone, as [ADDRESS]:PORT"),
        (("[10.0.0.1]:1", "10.0.0.1:2"), "write IPv6, and it alone"),
        (("10.0.0.1:0", "10.0.0.2:2"), "'10.0.0.1:0': '0' is no port"),
        (("10.0.0.1:65536", "10.0.0.2:2"), "'65536' is no port"),
        (("10.0.0.1:1000000", "10.0.0.2:2"), "'1000000' is no port"),
        (("10.0.0.1:x", "10.0.0.2:2"), "'x' is no port"),
        (("--fd", "x"), "'x' is not a descriptor"),
        (("--fd", "0", "--wait", "61"), "'61' is not a number of seconds from 0 to 60"),
        (("--fd", "0", "--wait", "nan"), "'nan' is not a number of seconds from 0 to 60"),
        (("--fd", "0", "--wait", "soon"), "'soon' is not a number of seconds"),
    ],
)
def test_usage(run: Run, words: tuple[str, ...], message: str) -> None:
    status, out, err = run("session-id", *words)
    assert (status, out) == (2, "")
    assert message in err
    assert err.startswith("usage: tcpcrypt session-id")


# --- without a daemon, and everything else ---------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        *(["status"], ["sessions"], ["peers", "--last", "plain"], ["flush"]),
        ["sessions", "--json"],
        ["session-id", "10.0.0.1:1", "10.0.0.2:2"],
    ],
    ids=" ".join,
)
def test_no_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    path = tmp_path / "nobody"
    assert command.main([*words, "--control", str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"tcpcrypt: no tcpcryptd answers at {path} (No such file or directory); `tcpcrypt up` or"
        " `systemctl start tcpcryptd` starts it, --control names another socket\n"
    )


def test_no_daemon_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["status", "--json", "--control", str(tmp_path / "nobody")]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["running"] is False
    assert "no tcpcryptd answers" in answer["reason"]


@pytest.mark.parametrize("name", ["status", "sessions", "peers list", "flush", "session-id"])
def test_help_has_an_example(capsys: pytest.CaptureFixture[str], name: str) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main([*name.split(), "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert f"example: tcpcrypt {name}" in out
    for word in ("--json", "--control PATH", "/run/tcpcrypt/control.sock"):
        assert word in out


def test_colour_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    rows = [(1, "encrypted"), (20, "plain")]

    def on_a_terminal() -> str:
        master, slave = pty.openpty()
        with os.fdopen(slave, "w") as stream:
            print_table(("N", "STATE"), rows, stream)
        seen = bytearray()
        with os.fdopen(master, "rb", buffering=0) as screen, contextlib.suppress(OSError):
            while data := screen.read(4096):  # EIO tells that the other side is closed
                seen += data
        return seen.decode().replace("\r\n", "\n")

    plain_text = " N  STATE\n 1  encrypted\n20  plain\n"
    coloured = on_a_terminal()
    assert "\x1b[32mencrypted\x1b[0m" in coloured
    assert "\x1b[33mplain\x1b[0m" in coloured
    buffer = io.StringIO()
    print_table(("N", "STATE"), rows, buffer)
    assert buffer.getvalue() == plain_text
    monkeypatch.setenv("NO_COLOR", "1")
    assert on_a_terminal() == plain_text
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TERM", "dumb")
    assert on_a_terminal() == plain_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((-5, "0 s"), (0.9, "0 s"), (59, "59 s"), (60, "1 min"), (61, "1 min 1 s")),
        *((3600, "1 h"), (3661, "1 h 1 min"), (90000, "1 d 1 h"), (86401, "1 d 1 s")),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
