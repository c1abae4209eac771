"""How connections end: what the one application does the other sees, and nothing else.

RFC 8548 section 3.7: the end of the stream is reported when, and only when, a
frame with FINp was authenticated.
"""

import contextlib
import hashlib
import random
import signal
import socket
import struct
import threading

import pytest
from netns.network import PORT, Network
from netns.observed import segments

from tcpcrypt.tools.netns import Capture, wait_until
from tcpcrypt.wire.segment import Segment


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def read_all(sock: socket.socket) -> bytes:
    parts = []
    while part := sock.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("family", [4, 6])
def test_half_close_each_way(pair: Network, family: int) -> None:
    ours, theirs = pair.both()
    with pair.conversation(family) as (one, other):
        one.sendall(b"question")
        one.shutdown(socket.SHUT_WR)
        assert read_all(other) == b"question"
        # The other direction goes on.
        other.sendall(b"a long answer")
        other.shutdown(socket.SHUT_WR)
        assert read_all(one) == b"a long answer"
    for daemon in (ours, theirs):
        assert daemon.wait_for("closed")[0]["how"] == "closed"


def test_half_close_by_the_server_first(pair: Network) -> None:
    pair.both()
    with pair.conversation() as (one, other):
        other.sendall(b"greeting")
        other.shutdown(socket.SHUT_WR)
        assert read_all(one) == b"greeting"
        one.sendall(b"and a reply")
        one.close()
        assert read_all(other) == b"and a reply"


def test_both_directions_at_once_under_backpressure(pair: Network) -> None:
    """A reader that waits slows the writer down and loses nothing."""
    pair.both()
    there, back = random.Random(3).randbytes(12_000_000), random.Random(4).randbytes(12_000_000)
    got: dict[str, bytes] = {}
    with pair.conversation() as (one, other):

        def send(sock: socket.socket, data: bytes) -> None:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

        def receive(name: str, sock: socket.socket) -> None:
            got[name] = read_all(sock)

        for sock in (one, other):
            sock.settimeout(60)
        writers = [
            threading.Thread(target=send, args=(one, there)),
            threading.Thread(target=send, args=(other, back)),
        ]
        for writer in writers:
            writer.start()
        writers[0].join(0.7)  # nobody reads yet
        readers = [
            threading.Thread(target=receive, args=("there", other)),
            threading.Thread(target=receive, args=("back", one)),
        ]
        for reader in readers:
            reader.start()
        for thread in (*writers, *readers):
            thread.join(60)
    assert hashlib.sha256(got["there"]).digest() == hashlib.sha256(there).digest()
    assert hashlib.sha256(got["back"]).digest() == hashlib.sha256(back).digest()


def test_memory_stays_bounded_when_nobody_reads(pair: Network) -> None:
    ours, theirs = pair.both()
    sent = 0
    with pair.conversation() as (one, _other):
        one.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while sent < 400_000_000:
                sent += one.send(bytes(1 << 20))
        for daemon in (ours, theirs):
            status = daemon.host.run("cat", f"/proc/{daemon.worker}/status").stdout
            resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
            assert int(resident.split()[1]) < 120_000  # kB
    assert sent < 400_000_000


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_is_carried_over(pair: Network, who: str) -> None:
    pair.both()
    with pair.conversation() as (one, other):
        first, second = (one, other) if who == "client" else (other, one)
        reset(first)
        with pytest.raises(ConnectionResetError):
            second.recv(10)


@pytest.mark.parametrize("who", ["client", "server"])
def test_closing_while_the_other_side_still_sends(pair: Network, who: str) -> None:
    """close() with data under way: the sender gets a reset, as in plain TCP."""
    pair.both()
    with pair.conversation() as (one, other):
        closing, sending = (one, other) if who == "client" else (other, one)
        closing.close()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            sending.sendall(bytes(100_000_000))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("daemons", ["client", "both"])
def test_a_refused_connection_is_refused(pair: Network, daemons: str, family: int) -> None:
    """The SYN is held until the peer has answered: connect() itself fails."""
    ours = pair.daemon(pair.client)
    if daemons == "both":
        pair.daemon(pair.server)
    with pytest.raises(ConnectionRefusedError):
        pair.connect(family)
    assert "refused" in ours.wait_for("failed")[0]["reason"]


@pytest.mark.parametrize("family", [4, 6])
def test_an_unreachable_peer_is_unreachable(pair: Network, family: int) -> None:
    ours = pair.daemon(pair.client)
    pair.server.run("ip", "address", "flush", "dev", pair.server_end.device)
    with pytest.raises(OSError, match="No route to host"):
        pair.connect(family)
    assert ours.wait_for("failed")


def test_rfc8548_3_7_a_forged_fin_is_no_end_of_file(path: Network) -> None:
    """A FIN that an attacker puts into the stream reaches the application as a reset."""
    for host in (path.client, path.server):
        host.sysctl("net.ipv4.tcp_timestamps", "0")
    ours, _theirs = path.both()
    assert path.middle is not None
    with Capture(path.client_end) as capture, path.conversation() as (one, other):
        other.sendall(b"half of an ans")
        assert one.recv(100) == b"half of an ans"

        def from_server() -> list[Segment]:
            sent = segments(capture.settled())
            return [s for s in sent if s.source_port == PORT and s.payload]

        forged = forge_fin(wait_until(from_server, "segment of the server")[-1])
        with path.middle.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            raw.sendto(forged, (path.client_end.v4, 0))
        with pytest.raises(ConnectionResetError):
            one.recv(100)
    aborted = ours.wait_for("aborted")[0]
    assert "FINp" in aborted["reason"]


def forge_fin(last: Segment) -> bytes:
    """A bare FIN that continues the server's stream behind `last`."""
    seq = (last.seq + len(last.payload)) % (1 << 32)
    tcp = struct.pack(
        "!HHIIBBHHH", last.source_port, last.destination_port, seq, last.ack, 0x50, 0x11, 500, 0, 0
    )
    header = struct.pack(
        "!BBHHHBBH4s4s",
        *(0x45, 0, 40, 0, 0, 64, 6, 0, last.source.packed, last.destination.packed),
    )
    return Segment.parse(header + tcp).with_options(b"")


def test_a_killed_daemon_leaves_no_end_of_file_behind(pair: Network) -> None:
    """SIGKILL: both applications see a reset, never a clean end of a stream cut short."""
    ours, _theirs = pair.both()
    with pair.conversation() as (one, other):
        other.sendall(b"half")
        assert one.recv(10) == b"half"
        ours.stop(signal.SIGKILL)
        with pytest.raises(ConnectionResetError):
            one.recv(10)
        with pytest.raises(ConnectionResetError):
            other.recv(10)


def test_stopping_the_daemon_resets_its_connections(pair: Network) -> None:
    ours, _theirs = pair.both()
    with Capture(pair.client_end) as capture, pair.conversation() as (one, other):
        assert ours.stop() == 0
        for sock in (one, other):
            with pytest.raises(ConnectionResetError):
                sock.recv(10)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            one.sendall(b"must not leave in clear")
    assert not any(b"must not leave" in packet for packet in capture.packets)


def test_a_port_used_again_at_once(pair: Network) -> None:
    """The same client port thirty times in a row: no stale state sends a packet astray."""
    ours, theirs = pair.both()
    with pair.listen() as listener:
        for round_ in range(30):
            with pair.client.socket(socket.AF_INET) as one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.settimeout(10)
                one.bind(("", 45678))
                one.connect((pair.server_end.v4, PORT))
                one.sendall(b"%d" % round_)
                other, _address = listener.accept()
                with other:
                    assert other.recv(10) == b"%d" % round_
                    other.sendall(b"ok")
                    assert one.recv(10) == b"ok"
                    if round_ % 3 == 0:
                        reset(other)
                        with pytest.raises(ConnectionResetError):
                            one.recv(10)
                if round_ % 3 != 0:
                    reset(one)
    assert len(ours.wait_for("enabled", count=30)) == 30
    assert len(theirs.wait_for("enabled", count=30)) == 30


def test_an_urgent_byte_stays_in_the_stream(pair: Network) -> None:
    pair.both()
    with pair.conversation() as (one, other):
        one.sendall(b"before")
        one.send(b"!", socket.MSG_OOB)
        one.sendall(b"after")
        one.shutdown(socket.SHUT_WR)
        assert read_all(other) == b"before!after"
