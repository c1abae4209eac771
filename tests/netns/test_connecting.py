"""How connections come about, or do not: addresses, ports, refusals, silence.

Plain sockets; what connect(), bind() and accept() tell is what they tell
without the daemon.
"""

import contextlib
import errno
import os
import select
import socket
import time

import pytest
from netns.network import PORT, Network
from netns.observed import segments
from netns.processes import descriptors

from tcpcrypt.tools.labdaemon import LabDaemon
from tcpcrypt.tools.netns import Capture, free_of, wait_until
from tcpcrypt.wire.tcpopt import parse_options

FAMILIES = pytest.mark.parametrize("family", [4, 6])


def all_encrypted(*daemons: LabDaemon) -> bool:
    trouble = ("fallback", "refused", "failed", "aborted", "bug")
    return all(d.events("enabled") and not d.events(*trouble) for d in daemons)


# --- addresses ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "family"),
    [("0.0.0.0", 4), ("::", 6), ("::", 4), ("v4", 4), ("v6", 6)],
    ids=["wildcard-4", "wildcard-6", "dual-stack", "specific-4", "specific-6"],
)
def test_listeners_on_any_and_on_one_address(pair: Network, bound: str, family: int) -> None:
    daemons = pair.both()
    end, mine = pair.server_end, pair.client_end
    address = {"v4": end.v4, "v6": end.v6}.get(bound, bound)
    client = mine.v4 if family == 4 else mine.v6
    kind = socket.AF_INET6 if ":" in address else socket.AF_INET
    with pair.server.socket(kind, socket.SOCK_STREAM) as listener:
        if ":" in address:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bound != "::"))
        listener.bind((address, PORT))
        listener.listen()
        listener.settimeout(10)
        with pair.connect(family) as one:
            other, came = listener.accept()
            with other:
                one.sendall(b"hello")
                assert other.recv(10) == b"hello"
                assert came[0].removeprefix("::ffff:") == client
                assert other.getsockname()[1] == PORT
    assert all_encrypted(*daemons)


@pytest.mark.parametrize("mode", ["opportunistic", "require"])
@pytest.mark.parametrize("to", ["127.0.0.1", "::1", "v4", "v6"])
def test_traffic_of_a_host_to_itself_is_left_alone(pair: Network, to: str, mode: str) -> None:
    daemon = pair.daemon(pair.server, "--mode", mode)
    address = {"v4": pair.server_end.v4, "v6": pair.server_end.v6}.get(to, to)
    kind = socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        pair.listen(6 if ":" in address else 4) as listener,
        pair.server.socket(kind, socket.SOCK_STREAM) as one,
    ):
        one.settimeout(10)
        one.connect((address, PORT))
        other, came = listener.accept()
        with other:
            assert came[:2] == one.getsockname()[:2]
            one.sendall(b"hello")
            assert other.recv(10) == b"hello"
            other.sendall(b"back")
            assert one.recv(10) == b"back"
    assert not daemon.events("enabled", "fallback", "refused", "failed", "closed")


@FAMILIES
def test_a_service_restarts_while_connections_live_or_linger(pair: Network, family: int) -> None:
    """bind() with SO_REUSEADDR minds only what it would mind without the daemon."""
    daemons = pair.both()
    kind = socket.AF_INET if family == 4 else socket.AF_INET6

    def service() -> socket.socket:
        listener = pair.server.socket(kind, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.settimeout(10)
        listener.bind(("", PORT))
        listener.listen()
        return listener

    with service() as listener, pair.connect(family) as one:
        other, _address = listener.accept()
        listener.close()
        with other, service() as again, pair.connect(family) as two:
            third, _address = again.accept()
            # The service closes first: TIME_WAIT is on its side.
            third.close()
            assert two.recv(1) == b""
            one.sendall(b"still there")
            assert other.recv(100) == b"still there"
            other.close()
            assert one.recv(1) == b""
    for daemon in daemons:
        daemon.wait_for("closed", count=2)
    with service() as once_more, pair.connect(family):
        once_more.accept()[0].close()
    assert all_encrypted(*daemons)


@FAMILIES
def test_the_clients_host_may_serve_the_same_port(pair: Network, family: int) -> None:
    """A connection to a service elsewhere does not take the port here."""
    daemons = pair.both()
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with pair.conversation(family), pair.client.socket(kind, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", PORT))
        listener.listen()
    assert all_encrypted(*daemons)


# --- options of the application's socket ----------------------------------------------


def test_data_that_fast_open_puts_into_the_syn_are_encrypted(pair: Network) -> None:
    secret = b"what TCP Fast Open would send in clear"

    def exchange() -> None:
        with pair.listen() as listener, pair.client.socket() as one:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 10)
            one.sendto(secret, socket.MSG_FASTOPEN, (pair.server_end.v4, PORT))
            other, _address = listener.accept()
            with other:
                assert other.recv(100) == secret
                other.sendall(b"thanks")
                assert one.recv(100) == b"thanks"

    for host in (pair.client, pair.server):
        host.sysctl("net.ipv4.tcp_fastopen", "3")
    # The first connection gets a cookie, with which the next one's SYN has data.
    with Capture(pair.client_end) as capture:
        exchange()
        exchange()
    assert any(s.flags.syn and bytes(s.payload) == secret for s in segments(capture.packets))
    daemons = pair.both()
    with Capture(pair.client_end) as capture:
        for _ in range(3):
            exchange()
    assert capture.dropped == 0
    assert free_of(capture.packets, secret) == [secret]
    # RFC 8547 section 4.7: neither data nor a cookie of Fast Open in a SYN with ENO.
    syns = [segment for segment in segments(capture.packets) if segment.flags.syn]
    assert len(syns) >= 6
    for syn in syns:
        assert not syn.payload
        assert all(option.kind != 34 or not option.data for option in parse_options(syn.options))
    assert len(daemons[0].wait_for("enabled", count=3)) == 3
    assert all_encrypted(*daemons)


@pytest.mark.parametrize(("opener", "service"), [(True, True), (True, False), (False, True)])
def test_multipath_sockets(pair: Network, opener: bool, service: bool) -> None:
    """They go on as plain TCP does where the other side has no MPTCP."""
    try:
        pair.client.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP).close()
    except OSError as error:
        pytest.skip(f"this kernel has no MPTCP: {error}")
    daemons = pair.both()
    protocol = {True: socket.IPPROTO_MPTCP, False: socket.IPPROTO_TCP}
    with (
        pair.server.socket(socket.AF_INET, socket.SOCK_STREAM, protocol[service]) as listener,
        pair.client.socket(socket.AF_INET, socket.SOCK_STREAM, protocol[opener]) as one,
    ):
        listener.settimeout(10)
        listener.bind(("", PORT))
        listener.listen()
        one.settimeout(10)
        one.connect((pair.server_end.v4, PORT))
        one.sendall(b"question")
        other, _address = listener.accept()
        with other:
            assert other.recv(100) == b"question"
            other.sendall(b"answer")
            assert one.recv(100) == b"answer"
    assert all_encrypted(*daemons)


# --- connections that do not come about ---------------------------------------------


def outcome(pair: Network, address: str, family: int = 4, port: int = PORT) -> str:
    """Name of the error that connect() reports."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with pair.client.socket(kind, socket.SOCK_STREAM) as one:
        one.setblocking(False)
        number = one.connect_ex((address, port))
        if number == errno.EINPROGRESS:
            ready = select.select([], [one], [], 15)[1]
            assert ready, "connect() did not end"
            number = one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return errno.errorcode.get(number, os.strerror(number))


@FAMILIES
@pytest.mark.parametrize("daemons", ["both", "client", "server"])
@pytest.mark.parametrize("mode", ["opportunistic", "require"])
def test_a_port_without_a_listener_refuses(
    pair: Network, daemons: str, mode: str, family: int
) -> None:
    ours = None
    if daemons != "server":
        ours = pair.daemon(pair.client, "--mode", mode)
    if daemons != "client":
        pair.daemon(pair.server, "--mode", mode)
    address = pair.server_end.v4 if family == 4 else pair.server_end.v6
    # The first packet ever waits a second for neighbour discovery.
    assert outcome(pair, address, family, PORT + 1) == "ECONNREFUSED"
    for _ in range(2):
        begun = time.monotonic()
        assert outcome(pair, address, family) == "ECONNREFUSED"
        assert time.monotonic() - begun < 1
    if ours is not None:
        # Nothing was learnt from it: as soon as a service is there it is reached.
        if daemons == "client":
            pair.daemon(pair.server, "--mode", mode)
        with pair.conversation(family):
            ours.wait_for("enabled")


@FAMILIES
def test_a_host_that_is_not_there_is_unreachable(pair: Network, family: int) -> None:
    """Nobody answers ARP or neighbour discovery."""
    address = "10.99.1.200" if family == 4 else "fd99:1::200"
    without = outcome(pair, address, family)
    assert without == "EHOSTUNREACH"
    pair.client.run("ip", "neighbour", "flush", "dev", pair.client_end.device)
    ours = pair.daemon(pair.client)
    assert outcome(pair, address, family) == without
    assert not ours.events("enabled", "fallback")


@FAMILIES
def test_a_network_without_a_route_is_unreachable(pair: Network, family: int) -> None:
    pair.daemon(pair.client)
    address = "203.0.113.1" if family == 4 else "2001:db8::1"
    assert outcome(pair, address, family) == "ENETUNREACH"


@FAMILIES
@pytest.mark.parametrize(
    ("v4", "v6"),
    [
        ("icmp-host-unreachable", "icmp6-addr-unreachable"),
        ("icmp-net-unreachable", "icmp6-no-route"),
        ("icmp-admin-prohibited", "icmp6-adm-prohibited"),
    ],
)
def test_a_router_that_says_unreachable(path: Network, family: int, v4: str, v6: str) -> None:
    assert path.middle is not None
    # By default a router says it to one host once a second, and each silence costs a SYN.
    path.middle.sysctl("net.ipv4.icmp_ratelimit", "0")
    path.middle.sysctl("net.ipv6.icmp.ratelimit", "0")
    for command, name in (("iptables", v4), ("ip6tables", v6)):
        path.middle.run(
            *(command, "-A", "FORWARD", "-p", "tcp", "--dport", str(PORT)),
            *("-j", "REJECT", "--reject-with", name),
        )
    address = path.server_end.v4 if family == 4 else path.server_end.v6
    begun = time.monotonic()
    without = outcome(path, address, family)
    assert without in {"EHOSTUNREACH", "ENETUNREACH", "EACCES"}
    # A second for IPv6: the answer is here before `connect` has let go of the socket.
    plain = time.monotonic() - begun
    path.daemon(path.client)
    begun = time.monotonic()
    # The daemon does not carry which kind of unreachable: "host" stands for all.
    assert outcome(path, address, family) == "EHOSTUNREACH"
    assert time.monotonic() - begun < plain + 1


def test_silence_is_a_timeout(path: Network) -> None:
    path.client.sysctl("net.ipv4.tcp_syn_retries", "1")
    path.meddle("-p", "tcp", "--dport", str(PORT), "-j", "DROP")
    assert outcome(path, path.server_end.v4) == "ETIMEDOUT"
    ours = path.daemon(path.client)
    begun = time.monotonic()
    assert outcome(path, path.server_end.v4) == "ETIMEDOUT"
    assert time.monotonic() - begun < 8
    assert not ours.events("enabled", "fallback")


def test_an_application_that_gives_up_leaves_nothing(path: Network) -> None:
    """Its own time-out closes the socket while the daemon still tries."""
    path.meddle("-p", "tcp", "--dport", str(PORT), "-j", "DROP")
    ours = path.daemon(path.client)
    before = descriptors(ours.process.pid)
    for _ in range(5):
        with pytest.raises(TimeoutError):
            path.connect(timeout=0.2)
    wait_until(
        lambda: descriptors(ours.process.pid) <= before, "as few descriptors as before", 30, 0.2
    )


def test_connect_waits_for_the_peer(path: Network) -> None:
    """connect() succeeds when the server has answered, not before."""
    assert path.middle is not None
    path.both()
    block = ("-p", "tcp", "--sport", str(PORT), "-j", "DROP")
    with path.listen():
        path.meddle(*block)
        with path.client.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
            one.setblocking(False)
            assert one.connect_ex((path.server_end.v4, PORT)) == errno.EINPROGRESS
            assert select.select([], [one], [], 0.7)[1] == []
            path.middle.run("iptables", "-t", "mangle", "-D", "FORWARD", *block)
            assert select.select([], [one], [], 15)[1] == [one]
            assert one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


@pytest.mark.long
def test_connections_that_are_given_up_at_once_leave_nothing(pair: Network) -> None:
    """As a browser does with the slower of two addresses: close() amid connect()."""
    daemons = pair.both()
    before = [descriptors(daemon.process.pid) for daemon in daemons]
    with pair.listen() as listener:
        for _ in range(10):
            socks = []
            for _ in range(20):
                sock = pair.client.socket(socket.AF_INET, socket.SOCK_STREAM)
                sock.setblocking(False)
                sock.connect_ex((pair.server_end.v4, PORT))
                socks.append(sock)
            for sock in socks:
                sock.close()
            listener.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                while True:
                    listener.accept()[0].close()
        for daemon, was in zip(daemons, before, strict=True):
            wait_until(
                lambda daemon=daemon, was=was: descriptors(daemon.process.pid) <= was + 4,
                f"as few descriptors as before, {was}",
                60,
                0.2,
            )
        listener.settimeout(10)
        with pair.connect() as one:
            one.sendall(b"?")
            other, _address = listener.accept()
            assert other.recv(1) == b"?"
            other.close()
