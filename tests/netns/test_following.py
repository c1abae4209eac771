"""What follows the segment that makes a connection, where the kernel finds none (yet)."""

import socket

import pytest
from netns.network import PORT, Network

from tcpcrypt.runtime.following import looked_up
from tcpcrypt.runtime.rules import MARK_ACCEPTED, MARK_DONE, MARK_MADE, MARK_MASK, QUEUE_NUMBER
from tcpcrypt.tools.netns import Host, wait_until

IP_TRANSPARENT, IPV6_TRANSPARENT = 19, 75
ADDRESS = {4: "0.0.0.0", 6: "::"}
IPTABLES = {4: "iptables", 6: "ip6tables"}


def listener(host: Host, family: int, *, ours: bool) -> socket.socket:
    sock = host.socket(socket.AF_INET if family == 4 else socket.AF_INET6)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if ours:
        level = socket.SOL_IP if family == 4 else socket.IPPROTO_IPV6
        sock.setsockopt(level, IP_TRANSPARENT if family == 4 else IPV6_TRANSPARENT, 1)
    sock.bind((ADDRESS[family], PORT))
    sock.listen()
    sock.settimeout(5)
    return sock


def resets(host: Host) -> int:
    """How many its TCP has sent."""
    lines = host.run("cat", "/proc/net/snmp").stdout.splitlines()
    names, values = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(values[names.index("OutRsts")])


@pytest.fixture(params=[4, 6])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def made(pair: Network, family: int) -> Network:
    """All that comes behind the first two segments is of a connection with MARK_MADE."""
    tables = IPTABLES[family], "-t", "mangle"
    made = ("-j", "CONNMARK", "--set-xmark", f"{MARK_MADE:#x}/{MARK_MASK:#x}")
    data = ("-p", "tcp", "--tcp-flags", "SYN,PSH", "PSH")
    pair.server.run(*tables, "-A", "PREROUTING", *data, *made)
    for rule in looked_up({family: 9}, QUEUE_NUMBER):
        if family in rule.families:
            pair.server.run(*tables, "-A", "PREROUTING", *rule.words)
    return pair


def test_a_segment_that_finds_its_connection_is_let_through(made: Network, family: int) -> None:
    """And has the mark by which the connection is known to be there from then on."""
    done = ("-m", "mark", "--mark", f"{MARK_DONE:#x}/{MARK_MASK:#x}")
    accepted = ("-j", "CONNMARK", "--set-xmark", f"{MARK_ACCEPTED:#x}/{MARK_MASK:#x}")
    tables = IPTABLES[family], "-t", "mangle"
    made.server.run(*tables, "-A", "INPUT", *done, *accepted)
    with listener(made.server, family, ours=True) as service, made.connect(family) as client:
        accepting, _ = service.accept()
        with accepting:
            client.sendall(b"Init1")
            accepting.settimeout(5)
            assert accepting.recv(99) == b"Init1"
    found = made.server.run(*tables, "-nvxL", "INPUT").stdout.splitlines()[-1]
    assert int(found.split()[0]) == 1


def test_a_segment_that_finds_none_waits_in_the_queue(made: Network, family: int) -> None:
    """The socket of a service counts as none: it has no part in what was asked of us."""
    with (
        listener(made.server, family, ours=False) as service,
        made.connect(family) as client,
    ):
        accepting, _ = service.accept()
        with accepting:
            client.sendall(b"Init1")
            wait_until(lambda: queued(made.server, family), "queue")
            accepting.settimeout(0.3)
            with pytest.raises(TimeoutError):
                accepting.recv(99)
            assert resets(made.server) == 0


def queued(host: Host, family: int) -> int:
    """How many packets have come to the rule that queues what is of a connection that is made."""
    lines = host.run(IPTABLES[family], "-t", "mangle", "-nvxL", "PREROUTING").stdout.splitlines()
    (line,) = (line for line in lines if "NFQUEUE" in line and f"{MARK_MADE:#x}" in line)
    return int(line.split()[0])
