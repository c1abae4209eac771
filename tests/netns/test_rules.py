"""The rules: there while the daemon runs, gone afterwards, and closed when they fail."""

import json
import os
import signal
import socket
import struct
import sys
from pathlib import Path

import pytest
from netns.network import PORT, Network
from netns.observed import eno, segments

from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.nfqueue import QUEUE_NUMBER
from tcpcrypt.runtime.queue import PacketQueue
from tcpcrypt.runtime.rules import MARK_DONE
from tcpcrypt.tools.labdaemon import BACKEND, LabDaemon
from tcpcrypt.tools.netns import Capture, Host, Link, wait_until
from tcpcrypt.wire.segment import Segment


def rules(host: Host) -> str:
    """Everything of ours in the kernel."""
    text = "".join(
        host.run(f"{command}-save").stdout
        for command in ("iptables", "ip6tables", "iptables-legacy", "ip6tables-legacy")
    )
    lines = [line for line in text.splitlines() if "TCPCRYPT" in line]
    for family in ("-4", "-6"):
        lines += [
            line for line in host.run("ip", family, "rule").stdout.splitlines() if "fwmark" in line
        ]
        lines += host.run(
            "ip", family, "route", "show", "table", "29795", check=False
        ).stdout.splitlines()
    lines += [
        f"{name} {value}"
        for name in (
            "net.ipv4.tcp_fwmark_accept",
            "net.ipv4.fwmark_reflect",
            "net.ipv6.fwmark_reflect",
        )
        if (value := sysctl(host, name)) != "0"
    ]
    return "\n".join(lines)


def sysctl(host: Host, name: str) -> str:
    return host.run("cat", "/proc/sys/" + name.replace(".", "/")).stdout.strip()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("mode", ["opportunistic", "require"])
def test_nothing_is_left_after_the_end(pair: Network, sig: int, mode: str) -> None:
    assert rules(pair.client) == ""
    daemon = pair.daemon(pair.client, "--port", "1000-2000", "--mode", mode)
    assert "TCPCRYPT-OUTPUT" in rules(pair.client)
    assert daemon.stop(sig) == 0
    assert rules(pair.client) == ""


def test_rules_of_others_stay(pair: Network) -> None:
    pair.client.run("iptables", "-t", "mangle", "-A", "OUTPUT", "-p", "udp", "-j", "ACCEPT")
    pair.client.run("ip", "rule", "add", "pref", "100", "fwmark", "7", "lookup", "main")
    before = pair.client.run("iptables", "-t", "mangle", "-S").stdout
    daemon = pair.daemon(pair.client)
    assert daemon.stop() == 0
    assert pair.client.run("iptables", "-t", "mangle", "-S").stdout == before
    assert "0x7" in pair.client.run("ip", "rule").stdout


def test_a_killed_daemon_fails_closed_and_its_rules_go_with_the_next(pair: Network) -> None:
    """In one process there is no janitor (see tests/netns/test_daemon_processes.py)."""
    pair.daemon(pair.client, "--single-process").stop(signal.SIGKILL)
    assert "TCPCRYPT-OUTPUT" in rules(pair.client)
    with (
        Capture(pair.client_end) as capture,
        pair.listen(),
        pytest.raises(TimeoutError),
    ):
        pair.connect(timeout=0.5)
    assert not [packet for packet in capture.packets if packet[9:10] == b"\x06"]
    again = pair.daemon(pair.client)
    with pair.listen(), pair.connect():
        pass
    assert again.stop() == 0
    assert rules(pair.client) == ""


def test_one_daemon_in_a_namespace(pair: Network) -> None:
    first = pair.daemon(pair.client)
    with pytest.raises(LocalError, match="another tcpcryptd"):
        pair.daemon(pair.client)
    assert "TCPCRYPT-OUTPUT" in rules(pair.client)
    first.stop()
    assert rules(pair.client) == ""


def test_connections_older_than_the_rules_stay_untouched(pair: Network) -> None:
    with pair.conversation() as (one, other):
        ours, _theirs = pair.both()
        one.sendall(b"still plain")
        assert other.recv(100) == b"still plain"
        other.sendall(b"and back")
        assert one.recv(100) == b"and back"
        assert ours.events("started")[0]["older_connections"] == "1"
        assert not ours.events("fallback", "enabled")
        # New ones are steered, the older one notwithstanding.
        with pair.connect() as new:
            new.sendall(b"?")
            ours.wait_for("enabled")


def test_the_listeners_cannot_be_reached_directly(pair: Network) -> None:
    theirs = pair.daemon(pair.server)
    for command in ("iptables", "ip6tables"):
        saved = pair.server.run(f"{command}-save", "-t", "mangle").stdout
        ports = {int(words.split()[0]) for words in saved.split("--on-port ")[1:]}
        if os.environ.get(BACKEND) != "sockops":
            ports.remove(1)  # at which nobody listens (`tcpcrypt.runtime.following`)
        assert len(ports) == 2
        family = 4 if command == "iptables" else 6
        for port in ports:
            with pytest.raises(ConnectionRefusedError):
                pair.connect(family, port)
            # Nor by programs of the server itself, which get a reset or no answer.
            local = pair.server.socket(socket.AF_INET if family == 4 else socket.AF_INET6)
            with local, pytest.raises((ConnectionResetError, TimeoutError)):
                greet(local, "127.0.0.1" if family == 4 else "::1", port)
    assert not theirs.events("enabled", "fallback")


def greet(sock: socket.socket, host: str, port: int) -> bytes:
    sock.settimeout(1)
    sock.connect((host, port))
    return sock.recv(1)


@pytest.mark.parametrize("mode", ["opportunistic", "require"])
def test_the_hosts_own_firewall_decides_on_the_real_port(pair: Network, mode: str) -> None:
    """A firewall that lets in one port and nothing else works as without the daemon."""
    for command in ("iptables", "ip6tables"):
        for rule in (
            ("-i", "lo", "-j", "ACCEPT"),
            ("-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED,DNAT", "-j", "ACCEPT"),
            ("-p", "tcp", "--dport", str(PORT), "-j", "ACCEPT"),
            ("-p", "ipv6-icmp", "-j", "ACCEPT"),
            ("-j", "DROP"),
        ):
            if command == "ip6tables" or "ipv6-icmp" not in rule:
                pair.server.run(command, "-A", "INPUT", *rule)
    daemons = [
        LabDaemon(host, "--port", f"{PORT}-{PORT + 1}", "--mode", mode)
        for host in (pair.client, pair.server)
    ]
    for family in (4, 6):
        with pair.conversation(family):
            pass
        # Somebody listens on the next port; the firewall does not let it be reached.
        with pair.listen(family, PORT + 1) as closed:
            with pytest.raises(TimeoutError):
                pair.connect(family, PORT + 1, timeout=1)
            closed.settimeout(0.1)
            with pytest.raises(TimeoutError):
                closed.accept()
    assert len(daemons[1].wait_for("enabled", count=2)) == 2


def test_nobody_outside_speaks_to_the_service_in_the_name_of_a_client(pair: Network) -> None:
    """What fits the daemon's connection to the service and comes from the wire is dropped."""
    pair.both()
    loopback = Link(pair.server, "lo", "127.0.0.1", "::1")
    with Capture(loopback) as capture, pair.conversation() as (one, other):
        name = other.getpeername()

        def from_daemon() -> list[Segment]:
            found = segments(capture.packets)
            return [s for s in found if s.source_port == name[1] and s.payload]

        last = wait_until(from_daemon, "segment on lo")[-1]
        following = last.seq + len(last.payload)
        for flags in (0x04, 0x14, 0x11, 0x18):  # RST, RST ACK, FIN ACK, PSH ACK
            tcp = struct.pack(
                *("!HHIIBBHHH", name[1], PORT, following, last.ack),
                *(0x50, flags, 500, 0, 0),
            )
            header = struct.pack(
                *("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, 6, 0),
                *(socket.inet_aton(name[0]), socket.inet_aton(pair.server_end.v4)),
            )
            packet = Segment.parse(header + tcp).with_options(b"")
            with pair.client.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_DONE)
                raw.sendto(packet, (pair.server_end.v4, 0))
        saved = pair.server.run("iptables", "-t", "mangle", "-L", "TCPCRYPT-INPUT", "-vnx").stdout
        assert sum(int(line.split()[0]) for line in saved.splitlines() if " DROP " in line) == 4
        for here, there in ((one, other), (other, one)):
            here.sendall(b"goes on")
            assert there.recv(100) == b"goes on"


def test_a_steered_packet_never_leaves_when_routing_fails(pair: Network) -> None:
    """Without its policy route a marked SYN would go out in clear: it is refused."""
    pair.both("--mode", "require")
    pair.client.run("ip", "route", "flush", "table", "29795")
    with (
        Capture(pair.client_end) as capture,
        pair.listen(),
        pytest.raises(ConnectionRefusedError),
    ):
        pair.connect()
    # What the daemon itself says to the peer has ENO; the application's SYN has not.
    syns = [s for s in segments(capture.packets) if s.flags.syn and not s.flags.ack]
    assert syns
    assert all(eno(syn) is not None for syn in syns)


def test_what_somebody_takes_out_comes_back(pair: Network) -> None:
    """Rules and routes are compared with what was installed every ten seconds."""
    ours, _theirs = pair.both("--mode", "require")
    before = sorted(rules(pair.client).splitlines())
    pair.client.run("iptables", "-t", "mangle", "-F")
    pair.client.run("ip", "rule", "del", "pref", "29795")
    ours.wait_for("restored", timeout=25)
    assert sorted(rules(pair.client).splitlines()) == before
    with pair.conversation():
        ours.wait_for("enabled")


def test_lost_connection_tracking_leaks_nothing(pair: Network) -> None:
    """Entries that vanish (a flush, a time-out) must not send steered data out in clear."""
    with pair.conversation():  # an older connection makes the rules use tracking
        ours, _theirs = pair.both()
        for state in ("established", "unacknowledged", "max_retrans"):
            pair.client.sysctl(f"net.netfilter.nf_conntrack_tcp_timeout_{state}", "1")
        with Capture(pair.client_end) as capture, pair.connect() as one:
            one.sendall(b"first")
            ours.wait_for("enabled")
            assert tracked(pair.client, one.getsockname()[1])
            wait_until(lambda: not tracked(pair.client, one.getsockname()[1]), "expiry")
            one.sendall(b"second, still secret")
    assert not any(b"second, still" in packet for packet in capture.packets)


def tracked(host: Host, port: int) -> bool:
    """Whether connection tracking has an entry for a connection from `port`."""
    return f"sport={port} " in host.run("cat", "/proc/net/nf_conntrack").stdout


def test_the_status_file(pair: Network, tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    ours = pair.daemon(pair.client, "--status", str(path))
    pair.daemon(pair.server)
    with pair.conversation():
        ours.wait_for("enabled")

        def encrypted() -> list[dict[str, object]]:
            found = json.loads(path.read_text())["connections"]
            return found if found and found[0]["state"] == "encrypted" else []

        found = wait_until(encrypted, "encrypted connection in the file")
        assert found[0]["session"] == ours.events("enabled")[0]["session"]
    ours.stop()
    final = json.loads(path.read_text())
    assert final["counters"]["fresh"] == 1
    assert final["connections"] == []


def test_a_daemon_that_cannot_start_leaves_nothing(pair: Network) -> None:
    """Its netfilter queue is taken: it says so, and no rule stays."""
    with pair.client.entered():
        queue = PacketQueue.open({QUEUE_NUMBER: 10})
    try:
        with pytest.raises(LocalError, match="netfilter queue"):
            LabDaemon(pair.client, "--port", "80")
    finally:
        queue.close()
    assert rules(pair.client) == ""


def test_files_that_cannot_be_written_are_named(pair: Network) -> None:
    with pytest.raises(LocalError, match=r"/nowhere/status: No such file"):
        pair.daemon(pair.client, "--status", "/nowhere/status")
    done = pair.client.run(
        *(sys.executable, "-m", "tcpcrypt.cli.tcpcryptd", "--port", "80"),
        *("--log-file", "/nowhere/log"),
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        1,
        "tcpcryptd: /nowhere/log: No such file or directory\n",
    )
    assert rules(pair.client) == ""
