"""TCP/S between real kernels: two daemons, and a daemon and the model of the kernel module."""

import contextlib
import hashlib
import os
import random
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns.mallory import forge
from netns.network import PORT, Network
from netns.observed import segments
from netns.trusting import Pair, Trusting, policy
from tcps.model import Module

from tcpcrypt.daemon.client import Client
from tcpcrypt.runtime.netlink import Hook, QueuedPacket, Verdict
from tcpcrypt.runtime.queue import PacketQueue
from tcpcrypt.tcps.options import find_identity, find_key, find_tag
from tcpcrypt.tools.netns import Capture, Host, free_of, wait_until
from tcpcrypt.wire.segment import Segment

QUEUE = 9
TCP_CLOSE = 7
SECRET = b"for the right host alone"
REQUIRE = policy("none", profile="tcps")
OPPORTUNISTIC = policy("none", "opportunistic", profile="tcps")
ENFORCED = policy("tofu", profile="tcps")


class Modelled:
    """A host with the model of the kernel module loaded."""

    def __init__(self, host: Host, device: str) -> None:
        self.module = Module()
        self._host = host
        # The module tags whatever TCP gives it: this keeps super-packets from it.
        host.run("ip", "link", "set", device, "gso_max_segs", "1")
        self._stop = threading.Event()

    def __enter__(self) -> Module:
        with self._host.entered():
            self._queue = PacketQueue.open({QUEUE: 4096})
        for hook, device in (("OUTPUT", "-o"), ("PREROUTING", "-i")):
            rule = ("-p", "tcp", "!", device, "lo", "-j", "NFQUEUE", "--queue-num", str(QUEUE))
            self._host.run("iptables", "-t", "mangle", "-A", hook, *rule)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self.module

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        for hook in ("OUTPUT", "PREROUTING"):
            self._host.run("iptables", "-t", "mangle", "-F", hook)
        self._queue.close()

    def _run(self) -> None:
        while not self._stop.wait(0.001):
            self._queue.receive(self._decide)

    def _decide(self, packet: QueuedPacket) -> None:
        octets = bytes(packet.payload)
        out = packet.hook is Hook.OUTPUT
        made = (self.module.local_out if out else self.module.pre_routing)(octets)
        what = Verdict.DROP if made is None else Verdict.ACCEPT
        self._queue.verdict(packet, what, made if made != octets else None)


@pytest.fixture
def ends(path: Network, tmp_path: Path) -> Pair:
    for host in (path.client, path.server):
        host.sysctl("net.ipv4.tcp_timestamps", "0")  # a forger need not know them then
    one = Trusting(path, path.client, tmp_path / "client")
    return Pair(path, one, Trusting(path, path.server, tmp_path / "server"))


def exchange(network: Network, sent: bytes, answer: bytes, *, end: bool = True) -> None:
    """A connection on which the client says `sent` and the server `answer`.

    `end`: and both say that this is all, with which the module cannot cope under loss:
    behind the second FIN it lets ciphertext that comes late go to the program (S6).
    """
    with network.listen() as listener, connected(network) as one:
        one.settimeout(60)
        other, _address = listener.accept()
        other.settimeout(60)
        with other:
            heard: list[bytes] = []

            def serve() -> None:
                heard.append(so_much(other, len(sent)))
                other.sendall(answer)

            thread = threading.Thread(target=serve)
            thread.start()
            one.sendall(sent)
            got = so_much(one, len(answer))
            thread.join(60)
            for sender, receiver in ((one, other), (other, one)) if end else ():
                sender.shutdown(socket.SHUT_WR)
                assert receiver.recv(1) == b""
        assert hashlib.sha256(heard[0]).digest() == hashlib.sha256(sent).digest()
        assert hashlib.sha256(got).digest() == hashlib.sha256(answer).digest()


def connected(network: Network) -> socket.socket:
    """The module repeats a lost SYN-ACK without its key, and such a server is refused (S5)."""
    for _ in range(5):
        with contextlib.suppress(ConnectionRefusedError):
            return network.connect()
    raise ConnectionRefusedError


def so_much(sock: socket.socket, size: int) -> bytes:
    heard = b""
    while len(heard) < size and (data := sock.recv(size - len(heard))):
        heard += data
    return heard


def ended(sock: socket.socket) -> bool:
    """Whether the kernel has given up the connection; it says so once."""
    try:
        sock.sendall(SECRET)
        sock.recv(1)
    except ConnectionAbortedError:
        return True
    return False


def gone(sock: socket.socket) -> bool:
    """Whether the kernel has no connection of this socket any more."""
    state: int = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state == TCP_CLOSE


@contextlib.contextmanager
def talking(pair: Pair, client: str, server: str) -> Iterator[None]:
    """What each host has: a policy's text, or `model`."""
    with contextlib.ExitStack() as stack:
        for side, end, text in (
            (pair.client, pair.network.client_end, client),
            (pair.server, pair.network.server_end, server),
        ):
            if text == "model":
                stack.enter_context(Modelled(side.host, end.device))
            else:
                side.start(text)
        yield


SIDES = [(REQUIRE, REQUIRE), (ENFORCED, "model"), ("model", ENFORCED)]


@pytest.mark.parametrize(("client", "server"), SIDES, ids=["ours", "server-model", "client-model"])
def test_100_kb_each_way_under_3_percent_loss(ends: Pair, client: str, server: str) -> None:
    network = ends.network
    for end in network.middle_ends:
        end.host.run("ip", "link", "set", end.device, "gso_max_segs", "1")
    maker = random.Random(3)
    sent, answer = maker.randbytes(100_000), maker.randbytes(100_000)
    with talking(ends, client, server):
        network.meddle("-m", "statistic", "--mode", "random", "--probability", "0.03", "-j", "DROP")
        with Capture(network.client_end) as capture:
            exchange(network, sent, answer, end="model" not in (client, server))
        seen = segments(capture.settled())
    needles = [sent[5000:5040], answer[5000:5040]]
    assert free_of(capture.packets, *needles) == needles
    data = [s for s in seen if s.payload or s.flags.fin]
    assert len(data) > 100
    assert all(find_tag(s.options) for s in data)
    assert all(find_key(s.options) for s in seen if s.flags.syn and not s.flags.ack)
    assert any(find_identity(s.options) for s in seen)
    assert network.middle is not None
    dropped = network.middle.run("iptables", "-t", "mangle", "-L", "FORWARD", "-v", "-x", "-n")
    assert int(dropped.stdout.splitlines()[2].split()[0]) > 0


def test_three_connections_between_the_same_hosts_by_programs(ends: Pair, tmp_path: Path) -> None:
    """The module fails with the second (S4); what is shown and logged says what it is worth."""
    network = ends.network
    (tmp_path / "page").write_bytes(SECRET * 1000)
    network.web(tmp_path)
    with talking(ends, ENFORCED, "model"), Capture(network.client_end) as capture:
        for _ in range(3):
            assert network.curl("/page") == (SECRET * 1000).decode()
        log = ends.client.daemon
        assert len(log.wait_for("tcps_encrypted", count=3)) == 3
        assert "nothing proves who the peer is" in log.events("tcps")[0]["lacks"]
    assert free_of(capture.settled(), SECRET, b"GET /page") == [SECRET, b"GET /page"]


def test_a_plain_peer_is_refused_or_spoken_to_in_the_clear(ends: Pair) -> None:
    network = ends.network
    ends.client.start(REQUIRE)
    with network.listen(), pytest.raises(ConnectionRefusedError):
        network.connect()
    with network.listen(6), pytest.raises(ConnectionRefusedError):
        network.connect(6)  # TCP/S has no IPv6
    ends.client.reload(OPPORTUNISTIC)
    exchange(network, SECRET, b"answer")
    assert ends.client.daemon.events("tcps_plain", "tcps_refused")
    ends.client.stop()
    ends.server.start(REQUIRE)
    with network.listen(), pytest.raises(TimeoutError):
        network.connect(timeout=1.5)


def test_a_session_is_shown_and_its_end_is_not_in_the_clear(ends: Pair) -> None:
    """Without the daemon the kernel's sockets would go on as they are."""
    network = ends.network
    with (
        talking(ends, REQUIRE, REQUIRE),
        Capture(network.client_end) as capture,
        network.conversation() as (one, other),
    ):
        (session,) = ends.client.sessions()
        assert (session.state, session.profile) == ("encrypted", "tcps")
        assert len(session.lacks) == 3
        assert (session.sent, session.received) == (1, 1)
        with Client(ends.client.control) as client:
            assert client.status()["connections"] == 1
        ends.client.stop()
        assert ended(one)
        ends.server.reload(policy("none", profile="rfc8548"))
        assert ended(other)
    assert free_of(capture.settled(), SECRET) == [SECRET]


def test_nor_does_one_of_which_nobody_is_left(ends: Pair) -> None:
    """Its rules stand, and the next daemon does not take its connections for older ones."""
    network = ends.network
    with (
        talking(ends, REQUIRE, REQUIRE),
        Capture(network.client_end) as capture,
        network.conversation() as (one, _other),
    ):
        daemon = ends.client.daemon
        parent = daemon.process.pid
        os.kill(parent, signal.SIGSTOP)  # or it would find the janitor a successor
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        for pid in (*map(int, children), parent):
            os.kill(pid, signal.SIGKILL)
        daemon.process.wait(10)
        one.sendall(SECRET)
        ends.client.start(REQUIRE)
        assert gone(one)
    assert free_of(capture.settled(), SECRET) == [SECRET]


def test_a_killed_daemon_leaves_nothing_in_the_clear(ends: Pair) -> None:
    network = ends.network
    with (
        talking(ends, REQUIRE, REQUIRE),
        Capture(network.client_end) as capture,
        network.conversation() as (one, other),
    ):
        os.kill(ends.client.daemon.worker, signal.SIGKILL)
        os.kill(ends.server.daemon.process.pid, signal.SIGKILL)
        for side in (ends.client, ends.server):
            side.daemon.process.wait(10)
        for sock in (one, other):
            with contextlib.suppress(ConnectionAbortedError, BrokenPipeError):
                sock.sendall(SECRET)
            wait_until(lambda sock=sock: gone(sock), "end of the connection")
    assert free_of(capture.settled(), SECRET) == [SECRET]


ACK, PSH, FIN, RST, SYN = 0x10, 0x08, 0x01, 0x04, 0x02
TI = b"\xfd\x28TI" + bytes(36)


def test_forged_segments_and_fragments_change_nothing(ends: Pair) -> None:
    """S1, S2, S8, A1: whoever knows all numbers, and who does not."""
    network = ends.network
    middle = network.middle
    assert middle is not None
    with (
        talking(ends, ENFORCED, ENFORCED),
        Capture(network.client_end) as capture,
        network.conversation() as (one, other),
    ):

        def last() -> object:
            found = [s for s in segments(capture.settled()) if s.payload]
            return [s for s in found if s.source_port == PORT]

        answer = wait_until(last, "answer")[-1]
        for ahead in (0, 1, 1 << 20, 1 << 31):
            for flags in (ACK | PSH, FIN | ACK, RST, RST | ACK):
                forge(middle, answer, flags=flags, ahead=ahead, data=b"forged")
        for ahead in (1 << 20, 1 << 30, -(1 << 20)):
            forge(middle, answer, flags=ACK, ahead=ahead, options=TI)
        for cut in (24, 40):
            forge(middle, answer, flags=ACK | PSH, data=b"forged" * 10, fragment=cut)
        for sender, receiver in ((one, other), (other, one)):
            sender.sendall(SECRET)
            assert receiver.recv(100) == SECRET
        (session,) = ends.client.sessions()
        assert session.state == "encrypted"
    assert free_of(capture.settled(), SECRET) == [SECRET]
    assert not ends.client.daemon.events("tcps_refused", "bug")


def test_a_syn_in_place_of_an_answer_makes_nothing_plain(ends: Pair) -> None:
    """Linux takes it for a simultaneous open, and would connect."""
    network = ends.network
    assert network.middle is not None
    network.meddle("-p", "tcp", "-j", "DROP")
    ends.client.start(REQUIRE)
    with (
        Capture(network.client_end) as capture,
        network.client.socket(socket.AF_INET, socket.SOCK_STREAM) as one,
    ):
        one.setblocking(False)
        one.connect_ex((network.server_end.v4, PORT))
        found = wait_until(lambda: [s for s in segments(capture.settled()) if s.flags.syn], "SYN")
        answer = answer_to(found[0])
        for flags, ahead in ((SYN, 0), (ACK, 1)):
            forge(network.middle, answer, flags=flags, ahead=ahead)
            assert len(segments(capture.settled())) > 1
        with pytest.raises(BlockingIOError):
            one.send(SECRET)
        assert free_of(capture.settled(), SECRET) == [SECRET]


def answer_to(syn: Segment) -> Segment:
    """What the other side would send, with any number."""
    ports = syn.destination_port, syn.source_port
    acknowledged = (syn.seq + 1) % 2**32
    tcp = struct.pack("!HHIIBBHHH", *ports, 1000, acknowledged, 0x50, ACK, 500, 0, 0)
    ends = syn.destination.packed, syn.source.packed
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 7, 0, 64, 6, 0, *ends)
    return Segment.parse(Segment.parse(head + tcp).with_options(b""))


def test_what_was_open_before_is_left_alone(ends: Pair) -> None:
    network = ends.network
    with network.conversation() as (one, other):
        ends.client.start(REQUIRE)
        ends.server.start(REQUIRE)
        for sender, receiver in ((one, other), (other, one)):
            sender.sendall(b"goes on")
            assert receiver.recv(100) == b"goes on"
        for side in (ends.client, ends.server):
            side.stop()
        one.sendall(b"goes on")
        assert other.recv(100) == b"goes on"
