"""What TCP/S does wrong is done right here: its weaknesses, one named test each.

docs/tcps-weaknesses.md says what each of them is, and where one cannot arise
by construction.  An attacker sits on the path between two daemons that
authenticate each other, unless a test says otherwise.
"""

import contextlib
import select
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns.mallory import forge
from netns.network import PORT, Network
from netns.observed import segments
from netns.trusting import Pair, ended_by_reset, pair_of, policy

from tcpcrypt.daemon.client import Client
from tcpcrypt.tools.netns import Capture, Host, free_of, wait_until
from tcpcrypt.tools.syn import ordinary_options
from tcpcrypt.wire.segment import Segment
from tcpcrypt.wire.tcpopt import insert_option, parse_options

SECRET = b"for the right host alone"
SYNS = 5000
"""More than TCP/S has entries for."""
FORGED = b"\x00\x00\x1d" + b"GET /forged HTTP/1.0\r\n\r\n".ljust(29)
"""As long as its first bytes say that a frame is, so that nobody waits for more of it."""
ACK, PSH, FIN, RST = 0x10, 0x08, 0x01, 0x04
TI = b"\xfd\x28TI" + bytes(36)
"""The option of TCP/S that poisons its table and turns its connections plain."""


@pytest.fixture
def two(path: Network, tmp_path: Path) -> Pair:
    for host in (path.client, path.server):
        host.sysctl("net.ipv4.tcp_timestamps", "0")  # a forger need not know them then
    two = pair_of(path, tmp_path)
    two.start(policy("tofu"))
    return two


@contextlib.contextmanager
def talking(two: Pair) -> Iterator[tuple[socket.socket, socket.socket, Capture]]:
    """A connection on which both have spoken, watched."""
    with Capture(two.network.client_end) as capture, two.network.conversation() as (one, other):
        yield one, other, capture


def last_of(capture: Capture, source_port: int | None = PORT) -> Segment:
    """The last segment with data, of the server or (None) of the client."""

    def found() -> list[Segment]:
        sent = [s for s in segments(capture.settled()) if s.payload]
        return [s for s in sent if (s.source_port == PORT) == (source_port == PORT)]

    return wait_until(found, "segment with data")[-1]


def still_talk(one: socket.socket, other: socket.socket) -> None:
    for sender, receiver in ((one, other), (other, one)):
        sender.sendall(SECRET)
        assert receiver.recv(100) == SECRET


@pytest.mark.parametrize("options", [b"", TI], ids=["bare", "with the option of TCP/S"])
def test_s1_a_blind_packet_turns_no_connection_plain(two: Pair, options: bytes) -> None:
    middle = two.network.middle
    assert middle is not None
    with talking(two) as (one, other, capture):
        last = last_of(capture)
        for ahead in (1 << 20, 1 << 30, -(1 << 20)):
            for flags in (ACK, ACK | PSH, FIN | ACK, RST, RST | ACK):
                forge(middle, last, flags=flags, ahead=ahead, data=FORGED, options=options)
        still_talk(one, other)
    assert free_of(capture.packets, SECRET) == [SECRET]
    assert len(two.client.daemon.wait_for("closed")) == 1


def test_s2_nothing_blind_or_replayed_is_remembered(two: Pair) -> None:
    """Handshake and Init1 of a client once seen: no key written, no service reached."""
    network = two.network
    with Capture(network.client_end) as capture:
        two.meet()
    sent = [s for s in segments(capture.packets) if s.destination_port == PORT]
    syn = next(s for s in sent if s.flags.syn)
    init1 = next(s for s in sent if s.payload)
    two.client.stop()
    two.server.stop()
    (two.server.state / "known_peers").unlink()
    two.server.start(policy("tofu"))
    with network.listen() as listener:
        replay(two, syn, init1)
        listener.settimeout(1)
        with pytest.raises(TimeoutError):
            listener.accept()
    assert len(two.server.known()) == 0
    assert not two.server.daemon.events("enabled", "first_contact")


def replay(two: Pair, syn: Segment, init1: Segment) -> None:
    """Send the SYN, the ACK and Init1 again, as they were; wait for Init2."""
    middle = two.network.middle
    assert middle is not None
    silent = ("-p", "tcp", "--tcp-flags", "RST", "RST", "-j", "DROP")
    middle.run("iptables", "-t", "mangle", "-A", "FORWARD", *silent)
    with Capture(two.network.client_end) as capture:

        def answers(with_data: bool) -> list[Segment]:
            found = [s for s in segments(capture.packets) if s.source_port == PORT]
            return [s for s in found if bool(s.payload) == with_data]

        again(middle, syn)
        isn = wait_until(lambda: answers(False), "SYN-ACK")[0].seq
        again(middle, syn, ack=isn + 1, data=b"")
        again(middle, syn, ack=isn + 1, data=bytes(init1.payload))
        assert bytes(wait_until(lambda: answers(True), "Init2")[0].payload[:4]).hex() == "097105e0"


def again(middle: Host, syn: Segment, ack: int = 0, data: bytes | None = None) -> None:
    """The SYN as it was, or with `data` the segment behind it."""
    options, flags, seq = bytes(syn.options), 0x02, syn.seq
    if data is not None:
        options, flags, seq = b"\x45\x02\x01\x01", 0x18, syn.seq + 1
    words = (syn.source_port, syn.destination_port, seq % 2**32, ack % 2**32)
    tcp = struct.pack("!HHIIBBHHH", *words, 0x50, flags, 60000, 0, 0) + (data or b"")
    ends = (syn.source.packed, syn.destination.packed)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 9, 0, 64, 6, 0, *ends)
    with middle.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(Segment.parse(head + tcp).with_options(options), (str(syn.destination), 0))


def test_s3_a_proof_once_seen_is_worth_nothing_in_another_connection(two: Pair) -> None:
    """It covers both ephemeral keys: each handshake shows another, and a replay ends there."""
    with Capture(two.network.client_end) as capture:
        for _ in range(2):
            two.meet()
            for side in (two.client, two.server):
                with Client(side.control) as client:
                    client.flush()
    inits = [s for s in segments(capture.packets) if bytes(s.payload[:4]).hex() == "097105e0"]
    assert len(inits) == 2
    assert len({bytes(s.payload[-80:]) for s in inits}) == len(inits)


def test_s4_the_client_proves_the_server_in_every_connection(two: Pair) -> None:
    two.meet()
    for count in (2, 3):
        two.talk()
        line = two.client.daemon.wait_for("closed", count=count)[-1]
        assert (line["fingerprint"], line["proved"]) == (two.server.fingerprint(), "yes")


@pytest.mark.parametrize("which", ["SYN,ACK SYN", "SYN,ACK SYN,ACK"], ids=["SYN", "SYN-ACK"])
def test_s5_a_lost_first_handshake_packet_costs_no_encryption(two: Pair, which: str) -> None:
    middle = two.network.middle
    assert middle is not None
    these = ("-p", "tcp", "--tcp-flags", *which.split())
    once = ("-m", "limit", "--limit", "1/hour", "--limit-burst", "1", "-j", "DROP")
    middle.run("iptables", "-t", "mangle", "-A", "FORWARD", *these, *once)
    with talking(two) as (one, other, capture):
        still_talk(one, other)
    assert free_of(capture.packets, SECRET) == [SECRET]


def test_s6_what_is_sent_again_after_the_end_is_encrypted_too(two: Pair) -> None:
    two.network.meddle(
        *("-p", "tcp", "-m", "length", "--length", "100:65535"),
        *("-m", "statistic", "--mode", "nth", "--every", "4", "--packet", "0", "-j", "DROP"),
    )
    block = SECRET * 4000
    with Capture(two.network.client_end) as capture, two.network.listen() as listener:
        with two.network.connect(timeout=40) as one:
            one.sendall(block)
            other, _address = listener.accept()
        with other:
            other.settimeout(40)
            got = b""
            while data := other.recv(1 << 16):
                got += data
    assert got == block
    assert free_of(capture.packets, SECRET) == [SECRET]


def test_s7_silence_ends_no_encryption(two: Pair) -> None:
    """No entry here ages; those of connection tracking do, and it does not matter."""
    name = "net.netfilter.nf_conntrack_tcp_timeout_established"
    for host in (two.network.client, two.network.server):
        with contextlib.suppress(OSError):
            host.sysctl(name, "1")
    with talking(two) as (one, other, capture):
        time.sleep(4)
        still_talk(one, other)
    assert free_of(capture.packets, SECRET) == [SECRET]


def test_s8_a_forged_segment_moves_no_position(two: Pair) -> None:
    """Outside of the window TCP discards it; inside the stream it is a reset, nothing worse."""
    middle = two.network.middle
    assert middle is not None
    with talking(two) as (one, other, capture):
        forge(middle, last_of(capture), flags=ACK | PSH, ahead=1 << 31, data=FORGED)
        forge(middle, last_of(capture), flags=ACK | PSH, ahead=1 << 28, data=FORGED)
        still_talk(one, other)
        forge(middle, last_of(capture), flags=ACK | PSH, data=FORGED)
        assert ended_by_reset(one)
    assert "authentication" in two.client.daemon.wait_for("aborted")[0]["reason"]


def test_s11_options_of_the_handshake_are_kept(two: Pair) -> None:
    """SACK, window scale and MSS of an ordinary SYN are there beside ours; timestamps, too."""
    for host in (two.network.client, two.network.server):
        host.sysctl("net.ipv4.tcp_timestamps", "1")
    with Capture(two.network.client_end) as capture:
        two.talk()
    syns = [s for s in segments(capture.packets) if s.flags.syn]
    assert len(syns) == 2
    for syn in syns:
        assert {2, 3, 4, 8, 69} <= {option.kind for option in parse_options(syn.options)}


def test_s12_a_flood_of_syns_makes_nothing_plain(two: Pair) -> None:
    network, middle = two.network, two.network.middle
    assert middle is not None
    option = insert_option(ordinary_options(4), b"\x45\x06\xa0TA\x01")
    source, target = (socket.inet_aton(a) for a in ("10.99.2.77", network.server_end.v4))
    with middle.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for number in range(SYNS):
            words = (1024 + number, PORT, number, 0, 0x50, 2, 60000, 0, 0)
            tcp = struct.pack("!HHIIBBHHH", *words)
            head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 1, 0, 64, 6, 0, source, target)
            raw.sendto(Segment.parse(head + tcp).with_options(option or b""), ("10.99.2.2", 0))
    with talking(two) as (one, other, capture):
        still_talk(one, other)
    assert free_of(capture.packets, SECRET) == [SECRET]
    assert not two.client.daemon.events("fallback")
    assert not two.server.daemon.events("fallback")


def test_a1_forged_fragments_reach_no_application(two: Pair) -> None:
    """In place, in two IP fragments: the daemon's frames are all that is believed."""
    middle = two.network.middle
    assert middle is not None
    with talking(two) as (one, other, capture):
        forge(middle, last_of(capture, None), flags=ACK | PSH, data=FORGED, fragment=24)
        assert ended_by_reset(other)
        assert ended_by_reset(one)
    assert "authentication" in two.server.daemon.wait_for("aborted")[0]["reason"]


def test_a2_what_fails_fails_closed(two: Pair) -> None:
    """A worker that is gone leaves a reset behind, and nothing in the clear after it."""
    with talking(two) as (one, other, capture):
        two.client.host.run("kill", "-KILL", str(two.client.daemon.worker))
        assert ended_by_reset(one)
        with contextlib.suppress(OSError):
            one.sendall(SECRET)
        assert ended_by_reset(other)
    with pytest.raises(ConnectionRefusedError):
        two.network.connect()
    assert free_of(capture.packets, SECRET) == [SECRET]


# --- what its users wanted: forged FIN and RST ------------------------------------------------


@pytest.mark.parametrize("target", ["client", "server"])
@pytest.mark.parametrize("flags", [FIN | ACK, RST, RST | ACK], ids=["FIN", "RST", "RST-ACK"])
def test_a_forged_fin_or_reset_is_a_reset_and_never_an_end(
    two: Pair, target: str, flags: int
) -> None:
    """RST cannot be stopped in this data plane: TCP obeys it before anybody is asked."""
    middle = two.network.middle
    assert middle is not None
    with talking(two) as (one, other, capture):
        at, to = (PORT, one) if target == "client" else (None, other)
        for _ in range(5):
            # A capture that lags shows a number that is no longer at the edge.
            forge(middle, last_of(capture, at), flags=flags)
            if select.select([to], [], [], 2)[0]:
                break
        assert ended_by_reset(to)
        with contextlib.suppress(OSError):
            one.sendall(SECRET)
        with contextlib.suppress(OSError):
            other.sendall(SECRET)
        time.sleep(0.2)
    assert free_of(capture.packets, SECRET) == [SECRET]
