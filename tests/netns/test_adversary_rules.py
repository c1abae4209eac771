"""What others do to a host, or on it, must not bring a byte of an application into the clear.

Hostile packets are made by hand and sent from the server's namespace, which
stands for whoever can send with a forged source: its own TCP is kept silent
where it would answer in between.
"""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest
from netns.network import PORT, Network

from tcpcrypt.tools.netns import Capture, Host, Link, wait_until

SECRET = b"not for the wire"
CLIENT_PORT = 40001
SYN, ACK = 0x02, 0x10
_ANY_PORT = ("--port", "1-65535")


def _sum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _forge(host: Host, source: str, target: str, flags: int, *, seq: int, ack: int = 0) -> None:
    """Send a segment from `source`:PORT to `target`:CLIENT_PORT that no socket sent."""
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    head = struct.pack("!HHIIBBHHH", PORT, CLIENT_PORT, seq, ack, 5 << 4, flags, 65535, 0, 0)
    checksum = _sum(addresses + struct.pack("!HH", 6, len(head)) + head)
    head = head[:16] + struct.pack("!H", checksum) + head[18:]
    packet = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(head), 1, 0, 64, 6, 0) + addresses + head
    with host.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(packet, (target, 0))


def _syn_acks(capture: Capture) -> list[int]:
    """Sequence numbers of the SYN-ACKs that left CLIENT_PORT."""
    found = []
    for packet in capture.packets:
        if packet[0] == 0x45 and packet[9] == 6:
            port, _to, seq, _ack, _offset, flags = struct.unpack_from("!HHIIBB", packet, 20)
            if port == CLIENT_PORT and flags & (SYN | ACK) == SYN | ACK:
                found.append(seq)
    return found


def _silent(host: Host) -> None:
    host.run(*("iptables", "-A", "OUTPUT", "-p", "tcp", "--tcp-flags", "RST", "RST", "-j", "DROP"))


def _bound(network: Network) -> socket.socket:
    sock = network.client.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.settimeout(5)
    sock.bind((network.client_end.v4, CLIENT_PORT))
    return sock


def _leaks(end: Link, during: Callable[[Capture], None]) -> bool:
    with Capture(end) as capture:
        during(capture)
        time.sleep(0.3)
    assert capture.dropped == 0
    return any(SECRET in packet for packet in capture.packets)


def test_a_forged_syn_opens_nothing_while_the_applications_is_held(pair: Network) -> None:
    """Simultaneous open: the application would answer the forger, in clear."""
    pair.server.run("iptables", "-A", "INPUT", "-p", "tcp", "--dport", str(PORT), "-j", "DROP")
    _silent(pair.server)
    pair.daemon(pair.client, "--mode", "require")

    def attack(capture: Capture) -> None:
        with _bound(pair) as sock:

            def application() -> None:
                with contextlib.suppress(OSError):
                    sock.connect((pair.server_end.v4, PORT))
                    sock.sendall(SECRET)

            thread = threading.Thread(target=application)
            thread.start()
            time.sleep(0.3)
            _forge(pair.server, pair.server_end.v4, pair.client_end.v4, SYN, seq=5000)
            time.sleep(0.3)
            for seq in _syn_acks(capture):
                _forge(
                    pair.server, pair.server_end.v4, pair.client_end.v4, ACK, seq=5001, ack=seq + 1
                )
            thread.join()

    assert not _leaks(pair.client_end, attack)


def test_a_forged_syn_does_not_turn_a_forgotten_connection_plain(pair: Network) -> None:
    """conntrack forgets what is idle; a SYN from outside must not be the next it learns."""
    pair.both("--mode", "require")
    for name in ("established", "unacknowledged"):
        pair.client.sysctl(f"net.netfilter.nf_conntrack_tcp_timeout_{name}", "1")
    _silent(pair.server)

    def attack(_capture: Capture) -> None:
        with pair.listen() as listener, _bound(pair) as sock:
            sock.connect((pair.server_end.v4, PORT))
            sock.sendall(b"?")
            other, _address = listener.accept()
            with other:
                time.sleep(3)
                _forge(pair.server, pair.server_end.v4, pair.client_end.v4, SYN, seq=5000)
                time.sleep(0.2)
                with contextlib.suppress(OSError):
                    sock.sendall(SECRET)
                time.sleep(0.5)

    assert not _leaks(pair.client_end, attack)


def test_answers_of_services_stay_here_when_somebody_takes_the_routes(pair: Network) -> None:
    """systemd-networkd removes rules that it does not know."""
    pair.both("--mode", "require")

    def flush(_capture: Capture) -> None:
        with pair.conversation() as (_one, other):
            pair.server.run("ip", "rule", "flush")
            for pref, table in (("0", "local"), ("32766", "main")):
                add = ("ip", "rule", "add", "pref", pref, "lookup", table)
                pair.server.run(*add, check=False)
            with contextlib.suppress(OSError):
                other.sendall(SECRET)
            time.sleep(0.5)

    assert not _leaks(pair.client_end, flush)


def test_answers_stay_here_whatever_mark_a_service_gives_them(pair: Network) -> None:
    pair.both("--mode", "require")

    def change(_capture: Capture) -> None:
        with pair.conversation() as (one, other):
            other.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 1)
            other.sendall(SECRET)
            one.settimeout(5)
            with contextlib.suppress(OSError):
                one.recv(64)

    assert not _leaks(pair.client_end, change)


def test_a_policy_for_all_ports_of_both_directions_encrypts(pair: Network) -> None:
    """The peer's SYN-ACK has option 69 too, and comes to no service."""
    daemons = [pair.daemon(host, *_ANY_PORT) for host in (pair.client, pair.server)]
    with pair.conversation():
        for daemon in daemons:
            daemon.wait_for("enabled")


def test_a_translated_destination_is_reached(pair: Network) -> None:
    """As kube-proxy and others do: DNAT in nat OUTPUT."""
    virtual = "10.99.1.77"
    to = ("-j", "DNAT", "--to-destination", f"{pair.server_end.v4}:{PORT}")
    pair.client.run("iptables", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-d", virtual, *to)
    client, _server = pair.both()
    with pair.listen(), pair.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(5)
        sock.connect((virtual, PORT))
        sock.sendall(b"?")
        client.wait_for("enabled")


@pytest.mark.parametrize("mode", ["opportunistic", "require"])
def test_a_socket_bound_to_a_device_is_not_left_hanging(pair: Network, mode: str) -> None:
    """It cannot be steered: plain where policy allows it, refused otherwise, but soon."""
    pair.both("--mode", mode)
    with pair.listen(), pair.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        device = pair.client_end.device.encode()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
        sock.settimeout(5)
        if mode == "require":
            with pytest.raises(ConnectionRefusedError):
                sock.connect((pair.server_end.v4, PORT))
        else:
            sock.connect((pair.server_end.v4, PORT))


def test_a_flushed_mangle_table_is_not_all_that_holds_data_back(pair: Network) -> None:
    pair.both("--mode", "require")

    def flush(_capture: Capture) -> None:
        with pair.conversation() as (one, _other):
            pair.client.run("iptables", "-t", "mangle", "-F")
            with contextlib.suppress(OSError):
                one.sendall(SECRET)
            time.sleep(0.5)

    assert not _leaks(pair.client_end, flush)


def test_a_lock_cannot_be_taken_by_just_anybody(pair: Network) -> None:
    program = "import os,socket,time; os.setuid(65534); s=socket.socket(socket.AF_UNIX);"
    program += "s.bind('\\0tcpcryptd'); t=socket.socket(socket.AF_UNIX);"
    program += "t.bind(b'\\0\\xff is no text'); print('taken', flush=True); time.sleep(60)"
    process = pair.client.start("python3", "-c", program)
    look = ("grep", "--text", "--count", "is no text", "/proc/net/unix")
    wait_until(lambda: pair.client.run(*look, check=False).stdout == "1\n", "lock")
    try:
        pair.daemon(pair.client)
    finally:
        pair.client.stop(process)
