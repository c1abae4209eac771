"""`tcpcrypt probe` against hosts and paths of every kind."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from netns.network import PORT, Network
from netns.observed import eno, segments

from tcpcrypt.tools.labdaemon import LabDaemon
from tcpcrypt.tools.netns import Capture, Host

SYN = ("-p", "tcp", "--tcp-flags", "SYN,ACK", "SYN")
WITH_OPTION = ("--tcp-option", "69")


def probe(network: Network, *arguments: str, family: int = 4, port: int = PORT) -> dict[str, Any]:
    """What the command says of the server, and that its exit status goes with it."""
    end = network.server_end
    target = f"{end.v4}:{port}" if family == 4 else f"[{end.v6}]:{port}"
    done = network.client.run(
        *(sys.executable, "-m", "tcpcrypt.cli.tcpcrypt", "probe", target, "--json", *arguments),
        check=False,
        cwd="/",
    )
    assert not done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if document["ok"] else 1)
    (result,) = document["results"]
    assert isinstance(result, dict)
    return result


@pytest.mark.parametrize("family", [4, 6])
def test_a_host_that_encrypts(pair: Network, family: int) -> None:
    theirs = pair.daemon(pair.server)
    with Capture(pair.client_end) as capture, pair.listen(family):
        result = probe(pair, family=family)
    assert result["conclusion"] == "encrypts"
    assert (result["keeps_option"], result["tep"]) == (True, "0x23")
    assert result["option"]["teps"][0]["name"] == "ECDHE-Curve25519 (0x23)"
    assert (result["option"]["a"], result["option"]["b"]) == (False, True)
    assert result["with_option"]["answer"] == result["without_option"]["answer"] == "accepted"
    assert result["with_option"]["ttl"] == 64
    assert result["with_option"]["hops"] == 0
    assert not result["notes"]
    # Two half-open connections, and both are given up.
    seen = segments(capture.packets)
    syns = {s.source_port: bool(eno(s)) for s in seen if s.flags.syn and not s.flags.ack}
    assert sorted(syns.values()) == [False, True]
    assert {s.source_port for s in seen if s.flags.rst} == set(syns)
    assert not theirs.events("enabled")


@pytest.mark.parametrize("family", [4, 6])
def test_a_host_that_does_not(pair: Network, family: int) -> None:
    with pair.listen(family):
        result = probe(pair, family=family)
    assert result["conclusion"] == "plain"
    assert result["keeps_option"] is None
    assert "no usable ENO option" in result["fallback"]


def test_each_protocol_by_itself(pair: Network) -> None:
    pair.daemon(pair.server)
    with pair.listen():
        each = probe(pair, "--each")["each"]
    assert each == {"0x23": True, "0x24": True, "0x21": True, "0x22": False}


def test_a_daemon_of_the_own_host_is_gone_around(pair: Network) -> None:
    """Else its listener would answer the probe, whatever the peer does."""
    ours = pair.daemon(pair.client)
    with pair.listen():
        result = probe(pair)
    assert result["conclusion"] == "plain"
    assert not ours.events("fallback", "enabled", "failed")
    assert probe(pair)["conclusion"] == "refused"


@pytest.mark.parametrize("policies", ["one", "all"])
def test_requirements_on_both_sides_do_not_mislead_it(
    pair: Network, tmp_path: Path, policies: str
) -> None:
    """Neither the own daemon's, of any port at all, nor the peer's."""
    ports = {"one": str(PORT), "all": '"1-65535"'}[policies]
    config = tmp_path / "tcpcrypt.toml"
    config.write_text(
        f'[daemon]\ncontrol = "{tmp_path}/run/control.sock"\n'
        f'[[policy]]\nmatch = {{ ports = {ports} }}\nmode = "require"\n'
    )
    LabDaemon(pair.client, "--config", str(config))
    pair.daemon(pair.server, "--mode", "require")
    with pair.listen():
        result = probe(pair)
    assert result["conclusion"] == "encrypts"
    assert result["without_option"]["answer"] == "refused"
    assert result["notes"] == ["the host refuses connections that are not encrypted"]


@pytest.mark.parametrize("family", [4, 6])
def test_a_refused_port(pair: Network, family: int) -> None:
    result = probe(pair, family=family)
    assert result["conclusion"] == "refused"
    assert result["with_option"]["answer"] == result["without_option"]["answer"] == "refused"


@pytest.mark.parametrize("family", [4, 6])
def test_a_filtered_port(path: Network, family: int) -> None:
    path.meddle(*SYN, "-j", "DROP")
    with path.listen(family):
        result = probe(path, "--timeout", "1.5", family=family)
    assert result["conclusion"] == "filtered"
    assert result["with_option"]["syns"] == result["without_option"]["syns"] == 2


@pytest.mark.parametrize("family", [4, 6])
def test_a_path_that_drops_the_option(path: Network, family: int) -> None:
    path.daemon(path.server)
    path.meddle(*SYN, *WITH_OPTION, "-j", "DROP")
    with path.listen(family):
        result = probe(path, "--timeout", "4", family=family)
    assert result["conclusion"] == "dropped"
    assert result["keeps_option"] is False
    assert result["with_option"]["syns"] == 3


@pytest.mark.parametrize("family", [4, 6])
def test_a_path_that_refuses_the_option(path: Network, family: int) -> None:
    """With a reset in the host's name."""
    assert path.middle is not None
    for command in ("iptables", "ip6tables"):
        path.middle.run(
            *(command, "-A", "FORWARD", *SYN, *WITH_OPTION),
            *("-j", "REJECT", "--reject-with", "tcp-reset"),
        )
    with path.listen(family):
        result = probe(path, family=family)
    assert result["conclusion"] == "rejected"
    assert result["with_option"]["answer"] == "refused"


@pytest.mark.parametrize("family", [4, 6])
def test_a_router_that_says_no(path: Network, family: int) -> None:
    """ICMP errors are told apart by the ports in them, and their sender is named."""
    assert path.middle is not None
    command, kind = {
        4: ("iptables", "icmp-admin-prohibited"),
        6: ("ip6tables", "icmp6-adm-prohibited"),
    }[family]
    rule = (*SYN, *WITH_OPTION, "-j", "REJECT", "--reject-with", kind)
    path.middle.run(command, "-A", "FORWARD", *rule)
    with path.listen(family):
        result = probe(path, family=family)
    assert result["conclusion"] == "rejected"
    assert result["with_option"]["answer"] == "unreachable"
    near = path.middle_ends[0]
    assert result["with_option"]["detail"].endswith(f"says {near.v4 if family == 4 else near.v6}")
    assert result["without_option"]["answer"] == "accepted"
    assert result["without_option"]["hops"] == 1


@pytest.mark.parametrize("family", [4, 6])
def test_a_path_that_strips_the_option(path: Network, family: int) -> None:
    path.daemon(path.server)
    path.meddle(*SYN, "-j", "TCPOPTSTRIP", "--strip-options", "69")
    with path.listen(family):
        result = probe(path, family=family)
    assert result["conclusion"] == "plain"
    assert "removes option 69" in result["meaning"]


def test_a_middle_box_that_answers_for_the_host(path: Network) -> None:
    """The hosts are at different distances; that is worth a note."""
    assert path.middle is not None
    path.middle.run(
        *("iptables", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", *WITH_OPTION),
        *("-j", "REDIRECT", "--to-ports", str(PORT)),
    )
    with path.listen(), listening(path.middle):
        result = probe(path)
    assert result["conclusion"] == "plain"
    assert "different TTLs" in result["notes"][0]


def listening(host: Host) -> socket.socket:
    sock = host.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind(("", PORT))
    sock.listen()
    return sock


def test_no_route(pair: Network) -> None:
    done = pair.client.run(
        *(sys.executable, "-m", "tcpcrypt.cli.tcpcrypt", "probe", "192.0.2.1:80"),
        check=False,
        cwd="/",
    )
    assert done.returncode == 1
    assert "cannot be reached" in done.stdout
    assert "Network is unreachable" in done.stdout
    assert not done.stderr


def test_the_own_firewall(pair: Network) -> None:
    pair.client.run("iptables", "-A", "OUTPUT", *SYN, "-j", "DROP")
    result = probe(pair)
    assert result["conclusion"] == "unreachable"
    assert "firewall of this host" in result["with_option"]["detail"]


def test_answers_of_strangers_do_not_count(pair: Network) -> None:
    """A SYN-ACK and a reset with wrong numbers, from the right address and ports."""
    forger = """
import socket, struct, sys
from tcpcrypt.errors import PeerError
from tcpcrypt.wire.segment import Segment
raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0x0008)
out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
print("ready", flush=True)
while True:
    try:
        s = Segment.parse(raw.recv(2048))
    except PeerError:
        continue
    if s.flags.syn and not s.flags.ack:
        for flags, options in ((0x12, b""), (0x14, b""), (0x12, bytes.fromhex("45FF2323"))):
            tcp = struct.pack("!HHIIBBHHH", s.destination_port, s.source_port, 7,
                              (s.seq + 5) % 2**32, 0x50, flags, 99, 0, 0)
            ip = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 6, 0)
            whole = Segment.parse(ip + s.destination.packed + s.source.packed + tcp)
            out.sendto(whole.with_options(options), (str(s.source), 0))
        out.sendto(struct.pack("!BBHHHBBH", 0x45, 0, 23, 0, 0, 64, 6, 0)
                   + s.destination.packed + s.source.packed + b"odd", (str(s.source), 0))
"""
    process = pair.server.start(
        sys.executable, "-c", forger, stdout=subprocess.PIPE, cwd="/", env=dict(os.environ)
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    # What is right would come from the kernel, which does not get to see the SYN.
    pair.server.run("iptables", "-A", "INPUT", *SYN, "-j", "DROP")
    with Capture(pair.client_end) as capture:
        assert probe(pair, "--timeout", "1")["conclusion"] == "filtered"
    forged = [s for s in segments(capture.packets) if s.source_port == PORT]
    assert {(s.flags.syn, s.flags.rst) for s in forged} >= {(True, False), (False, True)}
    pair.server.run("iptables", "-F", "INPUT")
    assert probe(pair)["conclusion"] == "refused"
    assert process.poll() is None
