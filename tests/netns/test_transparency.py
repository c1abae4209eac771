"""What an application may notice of the daemon: nothing.

Plain sockets on both hosts.  `test_endings.py` has how connections end when
something breaks, `test_addresses.py` whose addresses the two sides see.
"""

import contextlib
import errno
import hashlib
import random
import select
import socket
import statistics
import struct
import threading
import time

import pytest
from netns.network import PORT, Network
from netns.processes import descriptors, resident

from tcpcrypt.tools.labdaemon import LabDaemon
from tcpcrypt.tools.netns import wait_until

FAMILIES = pytest.mark.parametrize("family", [4, 6])
WHO = pytest.mark.parametrize("who", ["client", "server"])


def close_with_reset(sock: socket.socket) -> None:
    """SO_LINGER with no time: close() sends RST and drops what waits."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def ordered(who: str, pair: tuple[socket.socket, socket.socket]) -> tuple[socket.socket, ...]:
    """The connection's ends, `who` first."""
    return pair if who == "client" else pair[::-1]


def send_then_end(sock: socket.socket, data: bytes) -> None:
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def fill(sock: socket.socket, block: bytes, timeout: float) -> list[int]:
    """How much of `block` each send() took until one did not return in time."""
    sock.settimeout(timeout)
    sizes: list[int] = []
    with contextlib.suppress(TimeoutError):
        while sum(sizes) < 256 << 20:
            sizes.append(sock.send(block))
    return sizes


def receive(sock: socket.socket) -> bytes:
    """Digest of everything up to the end of the stream."""
    digest = hashlib.sha256()
    while part := sock.recv(1 << 18):
        digest.update(part)
    return digest.digest()


def all_encrypted(*daemons: LabDaemon) -> bool:
    trouble = ("fallback", "refused", "failed", "aborted", "bug")
    return all(d.events("enabled") and not d.events(*trouble) for d in daemons)


# --- ends ---------------------------------------------------------------------------


@FAMILIES
@WHO
def test_after_a_half_close_the_other_direction_goes_on(
    pair: Network, family: int, who: str
) -> None:
    daemons = pair.both()
    data = random.Random(31).randbytes(3_000_000)
    with pair.conversation(family) as ends:
        first, second = ordered(who, ends)
        first.shutdown(socket.SHUT_WR)
        assert second.recv(10) == b""
        # Long after the end of the one direction.
        time.sleep(0.3)
        sender = threading.Thread(target=send_then_end, args=(second, data))
        sender.start()
        assert receive(first) == hashlib.sha256(data).digest()
        sender.join(10)
    for daemon in daemons:
        assert daemon.wait_for("closed")[0]["how"] == "closed"
    assert all_encrypted(*daemons)


@WHO
@pytest.mark.parametrize("how", ["idle", "waiting to write", "polling"])
def test_a_reset_is_econnreset_at_the_other_side(pair: Network, who: str, how: str) -> None:
    daemons = pair.both()
    with pair.conversation() as ends:
        first, second = ordered(who, ends)
        if how == "waiting to write":
            fill(second, bytes(1 << 20), timeout=0.5)
            second.settimeout(10)
            threading.Timer(0.2, close_with_reset, (first,)).start()
            with pytest.raises(ConnectionResetError):
                second.send(b"more")
        elif how == "polling":
            poll = select.poll()
            poll.register(second, select.POLLIN)
            assert poll.poll(0) == []
            close_with_reset(first)
            [(_fd, events)] = poll.poll(5000)
            assert events & select.POLLERR
            assert events & select.POLLHUP
            number = second.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            assert number == errno.ECONNRESET
        else:
            close_with_reset(first)
            with pytest.raises(ConnectionResetError):
                second.recv(10)
            # Once reported, the stream is over, as ever.
            assert second.recv(10) == b""
            with pytest.raises(BrokenPipeError):
                second.send(b"more")
    for daemon in daemons:
        daemon.wait_for("closed")
        assert not daemon.events("bug", "failed", "fallback")


@WHO
def test_close_with_linger_waits_and_loses_nothing(pair: Network, who: str) -> None:
    """SO_LINGER with time: what was written arrives although the writer is gone."""
    daemons = pair.both()
    data = random.Random(32).randbytes(1_000_000)
    with pair.conversation() as ends:
        first, second = ordered(who, ends)
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 10))

        def write() -> None:
            first.sendall(data)
            first.close()

        writer = threading.Thread(target=write)
        writer.start()
        assert receive(second) == hashlib.sha256(data).digest()
        writer.join(10)
    assert all_encrypted(*daemons)


# --- data ---------------------------------------------------------------------------


def test_one_byte_there_and_back_takes_no_time(pair: Network) -> None:
    """No Nagle, no delayed ACK and no timer stands between the applications."""
    daemons = pair.both()
    times = []
    with pair.conversation() as (one, other):
        for sock in (one, other):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def echo() -> None:
            while byte := other.recv(1):
                other.sendall(byte)

        thread = threading.Thread(target=echo)
        thread.start()
        for number in range(500):
            begun = time.perf_counter()
            one.sendall(b"%c" % (number % 256))
            assert one.recv(1) == b"%c" % (number % 256)
            times.append(time.perf_counter() - begun)
        one.shutdown(socket.SHUT_WR)
        thread.join(10)
    assert all_encrypted(*daemons)
    assert statistics.median(times) < 0.005
    # Delayed ACKs take 40 ms; the slowest few are the scheduler's.
    assert sorted(times)[-10] < 0.035


def test_small_writes_in_both_directions_do_not_wait_for_each_other(pair: Network) -> None:
    """write, write, read: what Nagle and delayed ACK make slow."""
    pair.both()
    with pair.conversation() as (one, other):
        for sock in (one, other):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def answer() -> None:
            for _ in range(100):
                got = b""
                while len(got) < 6:
                    got += other.recv(6 - len(got))
                other.sendall(b"an")
                other.sendall(b"swer")

        thread = threading.Thread(target=answer)
        thread.start()
        begun = time.perf_counter()
        for _ in range(100):
            one.sendall(b"que")
            one.sendall(b"ry?")
            got = b""
            while len(got) < 6:
                got += one.recv(6 - len(got))
        assert time.perf_counter() - begun < 2
        thread.join(10)


@WHO
def test_a_reader_that_stops_stops_the_writer(pair: Network, who: str) -> None:
    daemons = pair.both()
    block = random.Random(33).randbytes(1 << 20)
    with pair.conversation() as ends:
        writer, reader = ordered(who, ends)
        before = [resident(daemon.process.pid) for daemon in daemons]
        sizes = fill(writer, block, timeout=1)
        digest = hashlib.sha256()
        for size in sizes:
            digest.update(block[:size])
        # The buffers of eight sockets at the most.
        assert sum(sizes) < 48 << 20
        # It stays so.
        time.sleep(1)
        with pytest.raises(TimeoutError):
            writer.send(b"x")
        grown = [resident(d.process.pid) - was for d, was in zip(daemons, before, strict=True)]
        assert max(grown) < 16 << 20
        # And goes on where it was.
        writer.settimeout(20)
        reader.settimeout(20)
        sender = threading.Thread(target=send_then_end, args=(writer, block))
        sender.start()
        digest.update(block)
        assert receive(reader) == digest.digest()
        sender.join(20)
    assert all_encrypted(*daemons)


def test_64_megabytes_each_way_at_once(pair: Network) -> None:
    daemons = pair.both()
    there, back = random.Random(34).randbytes(64 << 20), random.Random(35).randbytes(64 << 20)
    with pair.conversation() as (one, other):
        for sock in (one, other):
            sock.settimeout(60)
        senders = [
            threading.Thread(target=send_then_end, args=(one, there)),
            threading.Thread(target=send_then_end, args=(other, back)),
        ]
        for sender in senders:
            sender.start()
        got = {}

        def receive_there() -> None:
            got["there"] = receive(other)

        receiver = threading.Thread(target=receive_there)
        receiver.start()
        got["back"] = receive(one)
        for thread in (receiver, *senders):
            thread.join(60)
    assert got == {
        "there": hashlib.sha256(there).digest(),
        "back": hashlib.sha256(back).digest(),
    }
    assert all_encrypted(*daemons)


@FAMILIES
def test_a_server_that_speaks_first(pair: Network, family: int) -> None:
    daemons = pair.both()
    with pair.listen(family) as listener, pair.connect(family) as one:
        other, _address = listener.accept()
        with other:
            other.sendall(b"220 at your service\r\n")
            assert one.recv(100) == b"220 at your service\r\n"
            one.sendall(b"thanks")
            assert other.recv(100) == b"thanks"
    assert all_encrypted(*daemons)


def test_both_sides_may_wait(pair: Network) -> None:
    """connect() and accept() return although nobody says anything."""
    daemons = pair.both()
    with pair.listen() as listener, pair.connect() as one:
        other, _address = listener.accept()
        with other:
            time.sleep(1.2)
            other.sendall(b"at last")
            assert one.recv(100) == b"at last"
    assert all_encrypted(*daemons)


# --- many ---------------------------------------------------------------------------


def test_two_hundred_short_connections_leave_no_descriptor_open(pair: Network) -> None:
    daemons = pair.both()
    before: list[int] = []
    with pair.listen() as listener:
        for number in range(201):
            with pair.connect() as one:
                other, _address = listener.accept()
                with other:
                    one.sendall(b"%d" % number)
                    assert other.recv(10) == b"%d" % number
            if number == 0:  # whatever is kept for a peer is there now
                for daemon in daemons:
                    daemon.wait_for("closed")
                before = [descriptors(daemon.process.pid) for daemon in daemons]
    for daemon, was in zip(daemons, before, strict=True):
        daemon.wait_for("closed", count=201)
        wait_until(
            lambda daemon=daemon, was=was: descriptors(daemon.process.pid) <= was,
            f"as few descriptors as before, {was}",
        )
    assert all_encrypted(*daemons)


@pytest.mark.parametrize("family", [4, 6])
def test_what_the_daemon_sends_within_its_host_is_not_paced(pair: Network, family: int) -> None:
    """However the host paces what leaves it."""
    pair.both()
    with pair.conversation(family):
        # The daemon's ends: it has the service's address here, and the client's there.
        for host, which in ((pair.client, "sport"), (pair.server, "dport")):
            said = host.run("ss", "--no-header", "-tin", f"{which} = :{PORT}").stdout
            (facts,) = said.splitlines()[1::2]
            assert "reno" in facts.split(), said
