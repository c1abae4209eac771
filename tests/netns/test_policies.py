"""Which connections a configuration reaches, and which it leaves alone."""

import contextlib
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns.network import PORT, Network
from netns.observed import eno, segments

from tcpcrypt.tools.labdaemon import LabDaemon
from tcpcrypt.tools.netns import Capture, Host, Link, wait_until
from tcpcrypt.wire.segment import Segment

IP_TOS_VOICE = 0xB8
HERE = "/"
"""`-m` looks into the current directory first, and what is to run is what is installed."""


def configured(network: Network, host: Host, directory: Path, text: str) -> LabDaemon:
    """A daemon with this configuration file."""
    path = directory / f"{host.name}.toml"
    path.write_text(text)
    daemon = LabDaemon(host, "--config", str(path))
    network.daemons.append(daemon)
    return daemon


def policy(mode: str, **match: object) -> str:
    inside = ", ".join(
        f"{key} = {value if isinstance(value, int) else repr(value)}"
        for key, value in match.items()
    ).replace("'", '"')
    return f'[[policy]]\nmode = "{mode}"\nmatch = {{ {inside} }}\n'


def control(directory: Path) -> str:
    return f'[daemon]\ncontrol = "{directory}/control.sock"\n'


@contextlib.contextmanager
def opened(network: Network, port: int, family: int = 4) -> Iterator[list[bytes | None]]:
    """A connection to `port` that exchanges a byte; the ENO options of its SYNs on the wire."""
    found: list[bytes | None] = []
    with (
        network.listen(family, port) as listener,
        Capture(network.client_end) as capture,
        network.connect(family, port) as one,
    ):
        one.sendall(b"?")
        other, _address = listener.accept()
        with other:
            other.settimeout(10)
            assert other.recv(1) == b"?"

        def syns() -> list[Segment]:
            return [s for s in segments(capture.packets, port) if s.flags.syn and not s.flags.ack]

        found += [eno(syn) for syn in wait_until(syns, "SYN")]
        yield found


def test_nothing_is_touched_unless_named(pair: Network, tmp_path: Path) -> None:
    ours = configured(
        pair, pair.client, tmp_path, control(tmp_path) + policy("require", ports=5432)
    )
    for family in (4, 6):
        with opened(pair, 8000, family) as syns:
            assert syns == [None]
    assert not ours.events("enabled", "fallback", "failed", "refused")


def test_the_first_policy_that_matches_decides(pair: Network, tmp_path: Path) -> None:
    text = (
        control(tmp_path)
        + policy("never", remote=f"{pair.server_end.v4}/32")
        + policy("opportunistic", ports="8000-8010")
    )
    ours = configured(pair, pair.client, tmp_path, text)
    with opened(pair, 8000, 4) as syns:
        assert syns == [None]
    with opened(pair, 8005, 6) as syns:
        assert None not in syns
    assert [line["service"] for line in ours.wait_for("fallback")] == [
        f"[{pair.server_end.v6}]:8005"
    ]


def test_by_user(pair: Network, tmp_path: Path) -> None:
    """What user 4711 opens is refused in clear, what root opens is left alone."""
    text = control(tmp_path) + policy("require", uid=4711, direction="outgoing", ports=PORT)
    ours = configured(pair, pair.client, tmp_path, text)
    with opened(pair, PORT) as syns:
        assert syns == [None]
    script = (
        "import socket,sys\n"
        "try: socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)\n"
        "except ConnectionRefusedError: sys.exit(42)\n"
    )
    with pair.listen() as listener:
        process = pair.client.start(
            *("setpriv", "--reuid", "4711", "--clear-groups", sys.executable, "-c", script),
            *(pair.server_end.v4, str(PORT)),
            cwd=HERE,
        )
        assert process.wait(15) == 42
        listener.settimeout(0.2)
    assert ours.wait_for("refused")[0]["reason"]


def test_a_user_that_is_spared(pair: Network, tmp_path: Path) -> None:
    """`never` for root stands before `require`; data after the SYN goes the same way."""
    text = (
        control(tmp_path)
        + policy("never", uid=0, direction="outgoing")
        + policy("require", ports=PORT, direction="outgoing")
    )
    ours = configured(pair, pair.client, tmp_path, text)
    with pair.conversation() as (one, other):
        one.sendall(b"x" * 100_000)
        got = 0
        while got < 100_000:
            got += len(other.recv(65536))
    assert not ours.events("enabled", "refused", "failed")


def test_a_service_is_chosen_by_its_clients_address(pair: Network, tmp_path: Path) -> None:
    theirs = configured(
        pair,
        pair.server,
        tmp_path,
        control(tmp_path)
        + policy("never", direction="incoming", remote=f"{pair.client_end.v4}/32")
        + policy("require", direction="incoming", ports=PORT),
    )
    pair.daemon(pair.client)
    with pair.conversation(4):
        pass
    assert not theirs.events("enabled")
    with pair.conversation(6):
        theirs.wait_for("enabled")


def test_a_peer_without_eno_is_left_alone_for_a_while(pair: Network, tmp_path: Path) -> None:
    """The first connection asks; the next ones do not even pass through the daemon."""
    ours = configured(
        pair,
        pair.client,
        tmp_path,
        '[daemon]\npath_memory = 3\ncontrol = "'
        + str(tmp_path)
        + '/control.sock"\n'
        + policy("opportunistic", ports=PORT),
    )
    with opened(pair, PORT) as syns:
        assert None not in syns
    assert len(ours.wait_for("remembered")) == 1
    for _ in range(3):
        with opened(pair, PORT) as syns:
            assert syns == [None]
    with pair.conversation() as (one, other):  # and what follows the SYN goes on untouched
        other.sendall(b"y" * 50_000)
        got = 0
        while got < 50_000:
            got += len(one.recv(65536))
    assert len(ours.events("fallback")) == 1

    def asked() -> bool:
        with opened(pair, PORT) as syns:
            return None not in syns

    wait_until(asked, "question after the memory faded", 8, 0.5)


def test_marks_and_dscp_of_the_application_are_carried(pair: Network) -> None:
    pair.both()
    pair.client.run(
        *("iptables", "-t", "mangle", "-A", "POSTROUTING", "-o", pair.client_end.device),
        *("-m", "mark", "--mark", "0x7/0xf", "-m", "dscp", "--dscp", "46"),
    )
    with pair.listen() as listener, Capture(pair.client_end) as capture:
        sock = pair.client.socket(socket.AF_INET, socket.SOCK_STREAM)
        with sock:
            sock.settimeout(10)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 7)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, IP_TOS_VOICE)
            sock.connect((pair.server_end.v4, PORT))
            sock.sendall(b"x" * 1000)
            other, _address = listener.accept()
            with other:
                other.settimeout(10)
                assert other.recv(10)
    sent = [p for p in capture.packets if p[12:16] == socket.inet_aton(pair.client_end.v4)]
    assert {packet[1] & 0xFC for packet in sent if packet[9] == socket.IPPROTO_TCP} == {
        IP_TOS_VOICE
    }
    counted = pair.client.run("iptables", "-t", "mangle", "-L", "POSTROUTING", "-vnx").stdout
    line = next(x for x in counted.splitlines() if "DSCP" in x)
    assert int(line.split()[0]) >= 3


def device_address(link: Link, family: int) -> str:
    return link.v4 if family == 4 else link.v6


@pytest.mark.parametrize("family", [4, 6])
def test_services_on_one_address_or_all(pair: Network, family: int) -> None:
    """A listener on a specific address, and one on the wildcard, both get the real client."""
    pair.both()
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    for where in ("", device_address(pair.server_end, family)):
        with pair.server.socket(kind, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.settimeout(10)
            listener.bind((where, PORT))
            listener.listen()
            with pair.connect(family) as one:
                one.sendall(b"?")
                other, address = listener.accept()
                other.close()
                assert address[0] == device_address(pair.client_end, family)


def test_an_ip_version_that_is_not_served_is_refused_under_require(
    pair: Network, tmp_path: Path
) -> None:
    for host in (pair.client, pair.server):
        text = f'[daemon]\nfamilies = [4]\ncontrol = "{tmp_path}/{host.name}.sock"\n'
        configured(pair, host, tmp_path, text + policy("require", ports=PORT))
    with pair.conversation(4):
        pass
    with pair.listen(6), pytest.raises(ConnectionRefusedError):
        pair.connect(6)
    with opened(pair, 8000, 6) as syns:
        assert syns == [None]


def test_a_reload_that_the_kernel_would_not_take_changes_nothing(
    pair: Network, tmp_path: Path
) -> None:
    """The control group does not exist: the daemon says so and serves on as before."""
    before = control(tmp_path) + policy("require", ports=PORT)
    ours = configured(pair, pair.client, tmp_path, before)
    pair.daemon(pair.server)
    saved = pair.client.run("iptables-save").stdout
    file = tmp_path / "client.toml"
    file.write_text(before + policy("require", direction="outgoing", cgroup="there/is/none"))
    ours.process.send_signal(signal.SIGHUP)
    assert "iptables" in ours.wait_for("reload_failed")[0]["reason"]
    with pair.conversation():
        assert ours.wait_for("enabled")
    text = pair.client.run("iptables-save").stdout
    assert "TRIAL" not in text
    assert text.count("TCPCRYPT") == saved.count("TCPCRYPT")


def test_draining_spares_nothing_that_require_names_first(pair: Network, tmp_path: Path) -> None:
    """A later policy lets connections pass by meanwhile; the first that matches still decides."""
    text = (
        control(tmp_path)
        + "drain = 20\n"
        + policy("require", remote=f"{pair.server_end.v4}/32", ports=PORT)
        + policy("opportunistic", ports="1-1000")
    )
    pair.daemon(pair.server)
    ours = configured(pair, pair.client, tmp_path, text)
    with pair.conversation() as (one, other):
        ours.process.send_signal(signal.SIGTERM)
        ours.wait_for("draining")
        with Capture(pair.client_end) as capture, pytest.raises(ConnectionRefusedError):
            pair.connect()
        assert not [s for s in segments(capture.packets) if s.flags.syn]
        with opened(pair, 90) as syns:
            assert syns == [None]
        one.sendall(b"goes on")
        assert other.recv(10) == b"goes on"
