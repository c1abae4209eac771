"""The patterns that programs use on plain sockets, on secure ones."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tcpcrypt import sockets
from tcpcrypt.errors import IntegrityError, LocalError, ResetError, TruncationError
from tcpcrypt.sockets import Failure, SecureSocket, State, StateChanged, arrangement, inband
from tcpcrypt.sockets.buffers import WIRE_MAX

PATIENCE = 10.0
Pair = tuple[SecureSocket, SecureSocket]


def read(sock: SecureSocket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return bytes(data)


def read_all(sock: SecureSocket) -> bytes:
    data = bytearray()
    while more := sock.recv(1 << 20):
        data += more
    return bytes(data)


def test_both_ends_know_the_same_connection(pair: Pair) -> None:
    client, server = pair
    for end in pair:
        assert end.state is State.AES_MODE
        assert end.cipher == "AES-128-GCM"
        assert end.error is end.failure is None
        assert end.resumed is False
        assert end.transport == "inband"
        assert end.family == socket.AF_INET
        assert end.type == socket.SOCK_STREAM
        assert "AES_MODE" in repr(end)
    assert client.session_id == server.session_id
    assert client.getpeername() == server.getsockname()
    assert client.peer_identity != server.peer_identity
    assert (client.peer_identity or "").startswith("tcpcrypt1:")


def test_nagles_delay_is_off(pair: Pair) -> None:
    for end in pair:
        assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_request_and_response(pair: Pair) -> None:
    client, server = pair
    for size in (1, 2, 1399, 1400, 1401, 14_000, 65_516, 65_517, 300_000):
        question = random.Random(size).randbytes(size)
        writing = threading.Thread(target=client.sendall, args=(question,))
        writing.start()
        assert read(server, size) == question
        writing.join(PATIENCE)
    server.sendall(b"answer")
    assert client.recv(100) == b"answer"


def test_bulk_both_ways_at_once(pair: Pair, pool: ThreadPoolExecutor) -> None:
    """One thread reads and another writes on each end."""
    data = [os.urandom(3_000_000), os.urandom(3_000_000)]

    def write(end: SecureSocket, what: bytes) -> None:
        view, place = memoryview(what), 0
        chance = random.Random(len(what))
        while place < len(view):
            size = chance.choice((1, 100, 4096, 70_000, 1 << 20))
            end.sendall(view[place : place + size])
            place += size
        end.shutdown(socket.SHUT_WR)

    writing = [pool.submit(write, end, what) for end, what in zip(pair, data, strict=True)]
    reading = [pool.submit(read_all, end) for end in pair]
    for future in writing:
        future.result(PATIENCE)
    assert reading[0].result(PATIENCE) == data[1]
    assert reading[1].result(PATIENCE) == data[0]


def test_recv_takes_what_there_is_and_no_more(pair: Pair) -> None:
    client, server = pair
    client.sendall(b"abcdef")
    assert server.recv(2) == b"ab"
    assert server.pending() == 4
    assert server.recv(0) == b""
    assert server.recv(100) == b"cdef"
    assert server.pending() == 0
    with pytest.raises(ValueError, match="negative"):
        server.recv(-1)


@pytest.mark.parametrize("size", [10, 4096, 65_536, 200_000, 1 << 20])
def test_recv_into(pair: Pair, size: int) -> None:
    client, server = pair
    data = os.urandom(700_000)
    writing = threading.Thread(target=client.sendall, args=(data,))
    writing.start()
    buffer, got = bytearray(size), bytearray()
    while len(got) < len(data):
        got += buffer[: server.recv_into(buffer)]
    writing.join(PATIENCE)
    assert got == data
    client.sendall(b"xyz")
    assert server.recv_into(buffer, 2) == 2
    assert buffer[:2] == b"xy"
    assert server.recv_into(bytearray()) == 0


def test_half_close(pair: Pair) -> None:
    """RFC 8548 section 3.7: the end of one stream is said in a frame; the other goes on."""
    client, server = pair
    client.sendall(b"all that I have")
    client.shutdown(socket.SHUT_WR)
    client.shutdown(socket.SHUT_WR)
    assert read_all(server) == b"all that I have"
    assert server.recv(10) == b""
    server.sendall(b"thanks")
    server.close()
    assert read_all(client) == b"thanks"
    with pytest.raises(BrokenPipeError):
        client.send(b"more")
    with pytest.raises(BrokenPipeError):
        client.sendall(b"more")


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_RDWR])
def test_only_the_own_stream_can_be_shut_down(pair: Pair, how: int) -> None:
    with pytest.raises(OSError, match="SHUT_WR") as refused:
        pair[0].shutdown(how)
    assert refused.value.errno == errno.EOPNOTSUPP


def test_close_ends_the_stream_authenticated(pair: Pair) -> None:
    client, server = pair
    client.sendall(b"x" * 100_000)
    client.close()
    client.close()
    assert read_all(server) == b"x" * 100_000
    assert server.error is None
    assert client.fileno() == -1
    with pytest.raises(OSError, match="closed") as refused:
        client.recv(1)
    assert refused.value.errno == errno.EBADF


def test_abort_is_never_an_end_of_file(pair: Pair) -> None:
    client, server = pair
    client.sendall(b"a part")
    assert server.recv(100) == b"a part"
    client.abort()
    with pytest.raises(ResetError):
        server.recv(100)
    assert server.state is State.FAIL
    assert server.failure is Failure.RESET
    with pytest.raises(ConnectionResetError):
        server.send(b"more")


def test_one_that_is_forgotten_is_never_an_end_of_file(pair: Pair) -> None:
    """A program that dies, or drops its socket: FIN without FINp (RFC 8548 section 3.7)."""
    client, server = pair
    client._sock.close()
    with pytest.raises(TruncationError):
        server.recv(100)
    assert server.failure is Failure.TRUNCATION


def test_an_unclosed_socket_is_told_of(pair: Pair) -> None:
    with pytest.warns(ResourceWarning, match="unclosed <InBandSocket"):
        pair[0].__del__()


# --- timeouts ------------------------------------------------------------------------


def test_a_socket_blocks_unless_it_is_told_otherwise(listen, client_keys: Path, pool) -> None:
    listener = listen()
    accepted = pool.submit(listener.accept)
    client = sockets.connect(
        listener.getsockname(), peer="tofu", keys=client_keys, transport="inband", timeout=3.0
    )
    with client, accepted.result(PATIENCE)[0]:
        assert client.gettimeout() is None
        settings_of(client)


def settings_of(client: SecureSocket) -> None:
    client.settimeout(None)
    assert client.gettimeout() is None
    assert client.getblocking()
    client.setblocking(False)
    assert client.timeout == 0.0
    assert not client.getblocking()
    client.setblocking(True)
    assert client.gettimeout() is None
    with pytest.raises(ValueError, match="Timeout"):
        client.settimeout(-1)


def test_recv_times_out_and_goes_on(pair: Pair) -> None:
    client, server = pair
    server.settimeout(0.05)
    with pytest.raises(TimeoutError):
        server.recv(10)
    with pytest.raises(TimeoutError):
        server.recv_into(bytearray(10))
    client.sendall(b"late")
    server.settimeout(PATIENCE)
    assert server.recv(10) == b"late"


def test_recv_of_a_socket_that_does_not_block(pair: Pair) -> None:
    client, server = pair
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.recv(10)
    client.sendall(b"now")
    assert select.select([server], [], [], PATIENCE)[0] == [server]
    assert server.recv(10) == b"now"


def filled(sock: SecureSocket) -> int:
    """Bytes until nothing goes any more."""
    total, chunk = 0, bytes(100_000)
    for _ in range(1000):
        try:
            total += sock.send(chunk)
        except (BlockingIOError, TimeoutError):
            return total
    raise AssertionError("a peer that does not read takes everything")


@pytest.mark.parametrize("timeout", [0.0, 0.05])
def test_backpressure(pair: Pair, timeout: float, pool: ThreadPoolExecutor) -> None:
    """What send has taken arrives, once and in order, however often it had no room."""
    client, server = pair
    client.settimeout(timeout)
    total = filled(client)
    assert total > 0
    reading = pool.submit(read, server, total)
    # What the kernel had no room for goes out with whatever is done next, or by reading.
    with pytest.raises((BlockingIOError, TimeoutError)):
        client.recv(1)
    client.settimeout(PATIENCE)
    client.shutdown(socket.SHUT_WR)
    assert reading.result(PATIENCE) == bytes(total)
    assert server.recv(1) == b""


def test_sendall_times_out_without_losing_the_stream(pair: Pair, pool: ThreadPoolExecutor) -> None:
    client, server = pair
    client.settimeout(0.1)
    with pytest.raises(TimeoutError):
        client.sendall(bytes(100_000_000))
    reading = pool.submit(read_all, server)
    client.settimeout(PATIENCE)
    client.close()
    assert not any(reading.result(PATIENCE))


def test_a_waiting_reader_writes_what_had_no_room(pair: Pair, pool: ThreadPoolExecutor) -> None:
    client, server = pair
    client.setblocking(False)
    total = filled(client)
    client.settimeout(PATIENCE)
    answer = pool.submit(client.recv, 10)  # nobody sends any more
    assert len(read(server, total)) == total
    server.sendall(b"got it")
    assert answer.result(PATIENCE) == b"got it"


def test_closing_with_bytes_that_nobody_takes_resets(pair: Pair) -> None:
    client, server = pair
    client.setblocking(False)
    total = filled(client)
    client.close()
    with pytest.raises((ResetError, TruncationError)):
        read(server, total)


def test_ending_with_bytes_that_never_left_is_a_failure(pair: Pair) -> None:
    """Even towards one that has ended its own stream: it may have died in the middle of ours."""
    client, server = pair
    server.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    client.setblocking(False)
    filled(client)
    server.abort()
    client.settimeout(PATIENCE)
    with pytest.raises(ResetError):
        client.shutdown(socket.SHUT_WR)
    assert client.failure is Failure.RESET


# --- select, files, corks --------------------------------------------------------------------


def test_select_tells_of_the_wire_and_pending_of_the_rest(pair: Pair) -> None:
    client, server = pair
    assert select.select([server], [server], [], 0)[:2] == ([], [server])
    client.sendall(b"12")
    assert select.select([server], [], [], PATIENCE)[0] == [server]
    assert server.recv(1) == b"1"
    assert select.select([server], [], [], 0)[0] == []
    assert server.pending() == 1


def test_files(pair: Pair) -> None:
    client, server = pair
    with client.makefile("rw", encoding="utf-8", newline="\n") as mine:
        with server.makefile("rb") as theirs:
            mine.write("größer\nzwei\n")
            mine.flush()
            assert theirs.readline() == "größer\n".encode()
            assert theirs.readline() == b"zwei\n"
            assert theirs.raw.mode == "rb"
            assert theirs.raw.name == server.fileno()
            assert not theirs.seekable()
            assert not theirs.writable()
        server.sendall(b"answer\n")
        assert mine.readline() == "answer\n"


def test_a_connection_lives_as_long_as_its_files(pair: Pair) -> None:
    client, server = pair
    file = client.makefile("wb", 0)
    client.close()
    file.write(b"still there")
    assert server.recv(100) == b"still there"
    file.close()
    file.close()
    assert server.recv(100) == b""
    with pytest.raises(ValueError, match="closed"):
        file.write(b"x")


def test_a_file_that_timed_out_is_not_read_again(pair: Pair) -> None:
    client, server = pair
    server.settimeout(0.05)
    with server.makefile("rb") as file:
        with pytest.raises(TimeoutError):
            file.read(10)
        client.sendall(b"late")
        with pytest.raises(OSError, match="timed out"):
            file.read(4)


def test_a_file_of_a_socket_that_does_not_block(pair: Pair) -> None:
    client, server = pair
    server.setblocking(False)
    with server.makefile("rb", buffering=0) as file:
        assert file.read(10) is None
    client.setblocking(False)
    filled(client)
    with client.makefile("wb", buffering=0) as file:
        assert file.write(b"x") is None


def test_files_refuse_what_socket_refuses(pair: Pair) -> None:
    with pytest.raises(ValueError, match="mode"):
        pair[0].makefile("a")
    with pytest.raises(ValueError, match="binary"):
        pair[0].makefile("r", buffering=0)


def test_a_cork_collects_what_is_written(pair: Pair) -> None:
    client, server = pair
    with client.cork():
        for _ in range(100):
            client.sendall(b"0123456789")
            assert client.send(b"!") == 1
        with pytest.raises(LocalError, match="corked"), client.cork():
            pass
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.recv(1)
    server.settimeout(PATIENCE)
    assert read(server, 1100) == b"0123456789!" * 100
    with client.cork():
        pass


def test_a_cork_does_not_hold_more_than_its_share(pair: Pair, pool: ThreadPoolExecutor) -> None:
    client, server = pair
    reading = pool.submit(read, server, 3_000_000)
    with client.cork():
        for _ in range(300):
            client.sendall(bytes(10_000))
        assert len(client._corked or b"") < WIRE_MAX
    assert reading.result(PATIENCE) == bytes(3_000_000)


@pytest.mark.parametrize("end", ["close", "shutdown"])
def test_the_end_of_the_stream_is_behind_what_a_cork_holds(pair: Pair, end: str) -> None:
    """A part that was said to be the whole would be worse than no end."""
    client, server = pair
    with client.cork():
        client.sendall(b"all of it")
        if end == "close":
            client.close()
        else:
            client.shutdown(socket.SHUT_WR)
    assert read_all(server) == b"all of it"


def test_an_error_that_is_raised_often_does_not_grow(pair: Pair) -> None:
    client, server = pair
    client.abort()
    depths = set()
    for _ in range(5):
        with pytest.raises(ResetError) as raised:
            server.recv(1)
        depths.add(len(raised.traceback))
    assert len(depths) <= 2


def test_the_timeout_is_not_for_the_handshake(client_keys: Path, server_keys: Path, pool) -> None:
    one, other = socket.socketpair()
    client = sockets.wrap(one, peer="tofu", keys=client_keys, name="s:1", transport="inband")
    client.settimeout(0.05)
    sending = pool.submit(client.sendall, b"patient")
    time.sleep(0.2)
    server = sockets.wrap(
        other, peer="tofu", keys=server_keys, server_side=True, transport="inband"
    )
    with client, server:
        assert server.recv(10) == b"patient"
        sending.result(PATIENCE)


def test_each_write_is_on_the_wire_at_once(pair: Pair) -> None:
    """One frame for one write: 20 bytes more than what was written (RFC 8548 section 4.2)."""
    client, server = pair
    for size in (1, 10, 1000):
        client.sendall(bytes(size))
        deadline = time.monotonic() + PATIENCE
        raw = b""
        while len(raw) < size + 20 and time.monotonic() < deadline:
            select.select([server], [], [], PATIENCE)
            raw = server._sock.recv(1 << 16, socket.MSG_PEEK)
        assert len(raw) == size + 20
        assert read(server, size) == bytes(size)


# --- what is refused ---------------------------------------------------------------------------


def test_a_descriptor_alone_would_be_plaintext(pair: Pair) -> None:
    with pytest.raises(LocalError, match="detached"):
        pair[0].detach()


def test_flags_of_plain_sockets_are_refused(pair: Pair) -> None:
    for call in (
        lambda: pair[0].send(b"x", socket.MSG_OOB),
        lambda: pair[0].sendall(b"x", socket.MSG_OOB),
        lambda: pair[0].recv(1, socket.MSG_PEEK),
        lambda: pair[0].recv_into(bytearray(1), 1, socket.MSG_PEEK),
    ):
        with pytest.raises(OSError, match="flags"):
            call()


def test_empty_writes_are_none(pair: Pair) -> None:
    client, server = pair
    assert client.send(b"") == 0
    client.sendall(b"")
    server.settimeout(0.02)
    with pytest.raises(TimeoutError):
        server.recv(1)


# --- signals --------------------------------------------------------------------------------


class InterruptedByHandlerError(Exception):
    pass


@pytest.fixture
def alarm() -> Iterator[Callable[[bool], None]]:
    """Sends a signal soon, whose handler raises or does not."""

    def handler(_number: int, _frame: object) -> None:
        if raising:
            raise InterruptedByHandlerError

    def soon(raises: bool) -> None:
        nonlocal raising
        raising = raises
        signal.setitimer(signal.ITIMER_REAL, 0.05)

    raising = False
    before = signal.signal(signal.SIGALRM, handler)
    yield soon
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_signal_interrupts_what_waits_and_nothing_is_lost(
    pair: Pair, alarm: Callable[[bool], None], pool: ThreadPoolExecutor
) -> None:
    client, server = pair
    alarm(True)
    with pytest.raises(InterruptedByHandlerError):
        server.recv(10)
    alarm(False)
    answer = pool.submit(lambda: (time.sleep(0.15), client.sendall(b"after")))
    assert server.recv(10) == b"after"
    answer.result(PATIENCE)
    alarm(True)
    with pytest.raises(InterruptedByHandlerError):
        client.sendall(bytes(100_000_000))
    reading = pool.submit(read_all, server)
    client.sendall(b"the end")
    client.close()
    data = reading.result(PATIENCE)
    assert data.endswith(b"the end")
    assert not any(data[:-7])
    assert server.error is None


# --- threads -----------------------------------------------------------------------------------


def test_closing_wakes_another_thread(pair: Pair, pool: ThreadPoolExecutor) -> None:
    client, server = pair
    waiting = pool.submit(client.recv, 10)
    time.sleep(0.05)
    client.close()
    with pytest.raises(OSError, match=r"closed|reset"):
        waiting.result(PATIENCE)
    assert server.recv(10) == b""


def test_aborting_wakes_a_thread_that_writes(pair: Pair, pool: ThreadPoolExecutor) -> None:
    client, server = pair
    writing = pool.submit(client.sendall, bytes(100_000_000))
    time.sleep(0.05)
    client.abort()
    with pytest.raises(OSError, match=r"closed|reset"):
        writing.result(PATIENCE)
    with pytest.raises(OSError, match=r"reset|FIN"):
        read_all(server)


def test_keys_change_under_traffic_of_two_threads(pair: Pair, pool: ThreadPoolExecutor) -> None:
    """RFC 8548 section 3.8: both ends go to new keys while data flow both ways."""
    client, server = pair
    data = os.urandom(2_000_000)

    def write(end: SecureSocket) -> None:
        for start in range(0, len(data), 100_000):
            end.sendall(data[start : start + 100_000])
            streams = end._streams
            with streams._for_opening, streams._for_sealing:
                streams._take_back()
                streams.conversation._session.rekey()
                streams._go_on()
        end.shutdown(socket.SHUT_WR)

    writing = [pool.submit(write, end) for end in pair]
    reading = [pool.submit(read_all, end) for end in pair]
    for future in writing:
        future.result(PATIENCE)
    assert [future.result(PATIENCE) for future in reading] == [data, data]
    assert client.error is server.error is None


@pytest.mark.parametrize("limit", [100_000, 9 << 20])
def test_keys_are_renewed_at_their_limit(
    listen, connect, pool, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """RFC 8548 section 3.8, by either side, also where both streams are sealed elsewhere."""
    base = arrangement.replace(arrangement._BASE, rekey_after_bytes=limit)
    monkeypatch.setattr(arrangement, "_BASE", base)
    listener = listen()
    accepted = pool.submit(listener.accept)
    client = connect(listener.getsockname())
    server = accepted.result(PATIENCE)[0]
    server.settimeout(PATIENCE)
    size = 20 << 20 if limit > 1 << 20 else 2 << 20
    with server:
        sending = [pool.submit(end.sendall, bytes(size)) for end in (client, server)]
        reading = [pool.submit(read, end, size) for end in (server, client)]
        for future in sending:
            future.result(PATIENCE)
        assert all(len(future.result(PATIENCE)) == size for future in reading)
        for end in (client, server):
            assert end._streams.conversation._session._receiver.generation >= 2
            assert end.error is None


def test_threads_that_shake_hands_at_once(client_keys: Path, server_keys: Path, pool) -> None:
    """Who writes does not wait for what another has begun to read meanwhile."""
    one, other = socket.socketpair()
    client = sockets.wrap(one, peer="tofu", keys=client_keys, name="s:1", transport="inband")
    server = sockets.wrap(
        other, peer="tofu", keys=server_keys, server_side=True, transport="inband"
    )
    with client, server:
        answer = pool.submit(client.recv, 10)
        asking = pool.submit(client.sendall, b"question")
        assert server.recv(10) == b"question"
        asking.result(PATIENCE)
        server.sendall(b"answer")
        assert answer.result(PATIENCE) == b"answer"


def test_what_came_before_a_failure_is_received_and_the_failure_after_it(pair: Pair) -> None:
    client, server = pair
    client.sendall(b"authentic")
    client._sock.setblocking(True)
    client._sock.sendall(b"\x00\x00\x20" + bytes(32))
    assert select.select([server], [], [], PATIENCE)[0]
    time.sleep(0.05)
    assert server.recv(4) == b"auth"
    assert server.recv(100) == b"entic"
    for _ in range(2):
        with pytest.raises(IntegrityError):
            server.recv(100)
    with pytest.raises(IntegrityError):
        server.send(b"x")
    assert server.failure is Failure.INTEGRITY
    with pytest.raises(ResetError):
        client.recv(1)


# --- opening -----------------------------------------------------------------------------------


def test_each_change_of_state_is_told_of(listen, connect, pool) -> None:
    seen: dict[str, list[StateChanged]] = {"a": [], "b": []}
    listener = listen(on_state=seen["b"].append)
    accepted = pool.submit(listener.accept)
    client = connect(listener.getsockname(), on_state=seen["a"].append)
    server, _address = accepted.result(PATIENCE)
    way = [State.EXCHANGE_KEYS, State.DERIVE_KEYS, State.AES_MODE]
    for changes in seen.values():
        assert [change.new for change in changes] == way
        assert [change.old for change in changes] == [State.INIT, *way[:-1]]
        assert all(change.reason for change in changes)
    client.abort()
    with pytest.raises(ResetError):
        server.recv(1)
    assert seen["b"][-1].new is State.FAIL
    server.close()


def test_the_second_connection_resumes(listen, connect, pool) -> None:
    listener = listen()
    identities = set()
    for resumed in (False, True, True):
        accepted = pool.submit(listener.accept)
        with connect(listener.getsockname()) as client:
            server, _address = accepted.result(PATIENCE)
            with server:
                assert client.resumed is server.resumed is resumed
                identities.add(client.session_id)
                client.sendall(b"hello")
                assert server.recv(10) == b"hello"
    assert len(identities) == 3


def test_ipv6(listen, connect, pool, server_keys: Path) -> None:
    if not socket.has_ipv6:
        pytest.fail("this machine has no IPv6")
    with sockets.create_server(
        ("::1", 0), peer="tofu", keys=server_keys, family=socket.AF_INET6, transport="inband"
    ) as listener:
        listener.settimeout(PATIENCE)
        accepted = pool.submit(listener.accept)
        client = connect(listener.getsockname()[:2])
        with accepted.result(PATIENCE)[0] as server:
            assert server.family == socket.AF_INET6
            client.sendall(b"six")
            assert server.recv(10) == b"six"


def test_wrapping_connected_sockets(client_keys: Path, server_keys: Path, pool) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    a = socket.create_connection(listening.getsockname())
    b, _address = listening.accept()
    listening.close()
    a.settimeout(7.0)
    client = sockets.wrap(a, peer="tofu", keys=client_keys, transport="inband")
    server = sockets.wrap(b, peer="tofu", keys=server_keys, server_side=True, transport="inband")
    assert a.fileno() == -1  # nobody writes past the keys
    assert client.gettimeout() == 7.0
    with client, server:
        assert client.state is State.INIT
        greeting = pool.submit(server.recv, 10)
        client.sendall(b"first use")
        assert greeting.result(PATIENCE) == b"first use"
        assert client.state is State.AES_MODE


def test_a_pair_without_addresses_needs_a_name(client_keys: Path, server_keys: Path, pool) -> None:
    a, b = socket.socketpair()
    with pytest.raises(LocalError, match="name"):
        sockets.wrap(a, peer="tofu", keys=client_keys, transport="inband")
    client = sockets.wrap(a, peer="tofu", keys=client_keys, name="worker:1", transport="inband")
    server = sockets.wrap(b, peer="tofu", keys=server_keys, server_side=True, transport="inband")
    with client, server:
        got = pool.submit(server.recv, 10)
        client.sendall(b"pair")
        assert got.result(PATIENCE) == b"pair"


@pytest.mark.parametrize(
    "peer", ["", "any", "tofu:", "pin", "pin:tcpcrypt1:short", "psk", "psk:/etc/passwd", "none"]
)
def test_a_peer_that_means_nothing_is_refused(peer: str) -> None:
    for make in (sockets.connect, sockets.create_server):
        with pytest.raises(LocalError):
            make(("127.0.0.1", 1), peer=peer)


def test_a_transport_that_means_nothing_is_refused() -> None:
    with pytest.raises(LocalError, match="auto, inband, eno"):
        sockets.connect(("127.0.0.1", 1), peer="tofu", transport="tls")


def test_what_cannot_be_wrapped(client_keys: Path, tmp_path: Path) -> None:
    with socket.socket() as sock:
        with pytest.raises(OSError, match="not connected"):
            sockets.wrap(sock, peer="tofu", keys=client_keys)
        assert sock.fileno() >= 0
    with pytest.raises(LocalError, match="HOST:PORT"):
        sockets.connect(("127.0.0.1", 1), peer="tofu", keys=client_keys, name="meter")
    one, other = socket.socketpair()
    (tmp_path / "file").touch()
    with one, other, pytest.raises(LocalError):
        sockets.wrap(one, peer="tofu", keys=tmp_path / "file" / "keys", name="[::1]:5")


def test_a_service_that_is_not_there(client_keys: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()
    with pytest.raises(ConnectionRefusedError):
        sockets.connect(address, peer="tofu", keys=client_keys)


def test_a_missing_key_is_told_before_anybody_is_asked(client_keys: Path) -> None:
    with pytest.raises(LocalError, match="no pre-shared key 'pump'"):
        sockets.connect(("127.0.0.1", 1), peer="psk:pump", keys=client_keys)


# --- urgent data ----------------------------------------------------------------------------


def carry(one: socket.socket, other: socket.socket) -> None:
    """To the end; the last byte of each piece is marked urgent."""
    with contextlib.suppress(OSError):  # who has closed does not hear the other's end
        while data := one.recv(1 << 16):
            other.sendall(data[:-1])
            other.send(data[-1:], socket.MSG_OOB)
        other.shutdown(socket.SHUT_WR)


def test_a_byte_that_is_marked_urgent_on_the_way_stays_in_its_place(listen, connect, pool) -> None:
    """TCP's urgent pointer is not authenticated: it must not take a byte out of a frame."""
    listener = listen()
    with socket.create_server(("127.0.0.1", 0)) as middle:
        accepted, shaken = pool.submit(listener.accept), pool.submit(connect, middle.getsockname())
        near, _address = middle.accept()
        with near, socket.create_connection(listener.getsockname(), PATIENCE) as far:
            carried = pool.submit(carry, near, far), pool.submit(carry, far, near)
            client, (server, _address) = shaken.result(PATIENCE), accepted.result(PATIENCE)
            for one, other in ((client, server), (server, client)):
                assert one.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE)
                one.sendall(b"telemetry")
                assert other.recv(100) == b"telemetry"
            client.close()
            assert server.recv(100) == b""
            server.close()
            for one in carried:
                one.result(PATIENCE)


# --- what is done while the other end is at work ---------------------------------------------


def test_the_next_key_pair_is_made_ahead_and_used_once(listen, connect, pool) -> None:
    listener = listen()
    shown = set()
    for _ in range(4):
        accepted = pool.submit(listener.accept)
        client = connect(listener.getsockname())
        server, _address = accepted.result(PATIENCE)
        assert 1 <= inband._KEYS.ready <= 2, "one for either end, which are one process here"
        shown.add(client.session_id)
        client.setsockopt(socket.IPPROTO_TCP, "TCP_CRYPT_CACHE_FLUSH", 1)
        assert client.resumed is False
        client.close()
        server.close()
    assert len(shown) == 4


def test_closing_ends_tcp_too(pair: Pair) -> None:
    client, server = pair
    client.close()
    assert server.recv(1) == b""
    server._sock.settimeout(PATIENCE)
    assert server._sock.recv(1) == b""
