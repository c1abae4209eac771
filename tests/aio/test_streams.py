"""Streams do what asyncio's own do, in the patterns of CPython's tests."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
from dataclasses import replace
from typing import Any

import pytest
from aio.ends import HOST, Ends, Stream, in_a_loop

from tcpcrypt import aio
from tcpcrypt.aio.channel import Channel
from tcpcrypt.errors import LocalError, ResetError
from tcpcrypt.sockets import arrangement
from tcpcrypt.sockets.state import State

TCP = socket.IPPROTO_TCP
BIG = bytes(range(256)) * (1 << 13)
"""2 MiB: more than all buffers of one direction that are not the kernel's."""


async def echo(reader: asyncio.StreamReader, writer: aio.SecureWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def close(*streams: Stream) -> None:
    for _reader, writer in streams:
        writer.close()
    for _reader, writer in streams:
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@in_a_loop
async def test_an_echo_server(ends: Ends) -> None:
    async with await ends.server(echo) as server:
        reader, writer = await ends.connect(server)
        for data in (b"x", b"hello", bytes(70_000)):
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
        writer.write_eof()
        assert await reader.read() == b""
        await close((reader, writer))


@in_a_loop
async def test_what_both_ends_know_of_each_other(ends: Ends) -> None:
    async with ends.pair() as ((_, one), (_, other)):
        assert one.state is other.state is State.AES_MODE
        assert one.session_id == other.session_id
        assert one.session_id is not None
        assert len(one.session_id) == 33
        assert one.cipher == other.cipher == "AES-128-GCM"
        assert one.peer_identity is not None
        assert other.peer_identity not in (None, one.peer_identity)
        assert (one.resumed, one.failure, one.error) == (False, None, None)
        assert one.get_extra_info("state") is State.AES_MODE
        assert one.get_extra_info("session_id") == one.session_id
        assert one.get_extra_info("peername") == other.get_extra_info("sockname")
        assert one.get_extra_info("nothing", 7) == 7
        assert "AES_MODE" in repr(one)


@in_a_loop
async def test_the_second_connection_resumes_the_first(ends: Ends) -> None:
    async with await ends.server(echo) as server:
        seen = []
        for _ in range(3):
            reader, writer = await ends.connect(server)
            writer.write(b"x")
            assert await reader.read(1) == b"x"
            seen.append((writer.resumed, writer.session_id, writer.peer_identity))
            await close((reader, writer))
        assert [resumed for resumed, _, _ in seen] == [False, True, True]
        assert len({session_id for _, session_id, _ in seen}) == 3
        assert len({identity for _, _, identity in seen}) == 1


@in_a_loop
async def test_lines(ends: Ends) -> None:
    async with ends.pair() as ((reader, _), (_, writer)):
        writer.writelines([b"one\n", b"tw", b"o\n", b"three"])
        writer.write_eof()
        assert await reader.readline() == b"one\n"
        assert await reader.readuntil(b"o\n") == b"two\n"
        assert [line async for line in reader] == [b"three"]
        assert reader.at_eof()


@in_a_loop
async def test_a_stream_that_ends_too_early_for_the_program(ends: Ends) -> None:
    async with ends.pair() as ((reader, _), (_, writer)):
        writer.write(b"abc")
        writer.close()
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await reader.readexactly(4)
        assert caught.value.partial == b"abc"


@in_a_loop
async def test_a_line_that_is_longer_than_the_limit(ends: Ends) -> None:
    async with ends.pair(limit=100) as ((reader, _), (_, writer)):
        writer.write(bytes(1000))
        with pytest.raises(ValueError, match="limit"):
            await reader.readline()


@in_a_loop
async def test_bulk_in_both_directions_at_once(ends: Ends) -> None:
    async with ends.pair() as (one, other):

        async def send(writer: aio.SecureWriter) -> None:
            for start in range(0, len(BIG), 100_000):
                writer.write(BIG[start : start + 100_000])
                await writer.drain()
            writer.write_eof()

        async with asyncio.TaskGroup() as group:
            reads = [group.create_task(reader.read()) for reader, _ in (one, other)]
            for _, writer in (one, other):
                group.create_task(send(writer))
        assert all(read.result() == BIG for read in reads)


@pytest.mark.parametrize("limit", [100_000, 9 << 20])
@in_a_loop
async def test_keys_change_within_bulk(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """RFC 8548 section 3.8: what moves bulk gives back before a key is spent, and goes on."""
    config = replace(arrangement._BASE, rekey_after_bytes=limit)
    monkeypatch.setattr(arrangement, "_BASE", config)
    async with ends.pair() as (one, other):

        async def send(writer: aio.SecureWriter) -> None:
            for _ in range(12):
                writer.write(BIG)
                await writer.drain()
            writer.write_eof()

        async with asyncio.TaskGroup() as group:
            reads = [group.create_task(reader.read()) for reader, _ in (one, other)]
            for _, writer in (one, other):
                group.create_task(send(writer))
        assert all(read.result() == BIG * 12 for read in reads)


@in_a_loop
async def test_one_write_of_any_size_arrives_whole(ends: Ends) -> None:
    async with ends.pair() as ((reader, _), (_, writer)):
        writer.write(BIG)  # and nobody waits for drain()
        writer.write(b"end")
        writer.close()
        assert await reader.read() == BIG + b"end"
        assert reader.at_eof()


@in_a_loop
async def test_buffers_may_change_once_written(ends: Ends) -> None:
    async with ends.pair() as ((reader, _), (_, writer)):
        whole = bytearray(BIG)
        writer.write(whole)
        whole[:] = bytes(len(whole))
        half = memoryview(bytearray(BIG))
        writer.write(half)
        half[:] = bytes(len(half))
        words = memoryview(BIG).cast("I")
        writer.write(words)
        writer.write(b"")
        writer.close()
        assert await reader.read() == BIG * 3


@in_a_loop
async def test_half_close(ends: Ends) -> None:
    """RFC 8548 section 3.7: FINp ends one direction alone."""
    async with ends.pair() as ((reader, writer), (far_reader, far_writer)):
        assert writer.can_write_eof()
        writer.write(b"question")
        writer.write_eof()
        writer.write_eof()  # again: nothing
        with pytest.raises(RuntimeError, match="after write_eof"):
            writer.write(b"more")
        assert await far_reader.read() == b"question"
        for _ in range(3):
            far_writer.write(b"answer")
            await asyncio.sleep(0.01)
        assert await reader.readexactly(18) == b"answer" * 3
        far_writer.write_eof()
        assert await reader.read() == b""


@in_a_loop
async def test_half_close_by_the_server_first(ends: Ends) -> None:
    async with ends.pair() as ((reader, writer), (far_reader, far_writer)):
        far_writer.write_eof()
        assert await reader.read() == b""
        writer.write(BIG)
        writer.write_eof()
        assert await far_reader.read() == BIG


@in_a_loop
async def test_both_close_at_once(ends: Ends) -> None:
    async with ends.pair() as (one, other):
        await close(one, other)
        assert one[1].is_closing()
        assert one[1].failure is other[1].failure is None


@in_a_loop
async def test_reading_is_cancelled_and_nothing_is_lost(ends: Ends) -> None:
    async with ends.pair() as ((reader, _), (_, writer)):
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.readexactly(5), 0.01)
        waiting = asyncio.create_task(reader.read(5))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"


@in_a_loop
async def test_connecting_is_cancelled(ends: Ends) -> None:
    """The server's side hears a failure; nobody's task is left."""
    with socket.create_server((HOST, 0)) as silent:
        silent.settimeout(5)
        task = asyncio.create_task(
            aio.connect(silent.getsockname(), peer="tofu", keys=ends.client_keys)
        )
        await asyncio.sleep(0.1)
        peer, _ = silent.accept()
        with peer:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.05)
            peer.settimeout(5)
            assert peer.recv(5) == b"TCENO"
            peer.recv(4096)  # what else an opener sends before it knows with whom
            with pytest.raises(ConnectionResetError):
                peer.recv(1)


@in_a_loop
async def test_a_writer_waits_for_a_reader_that_does_not_read(ends: Ends) -> None:
    async with ends.pair() as ((reader, _), (_, writer)):
        written = 0

        async def fill() -> None:
            nonlocal written
            while True:
                writer.write(BIG[:65536])
                written += 65536
                await writer.drain()

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(fill(), 1.0)
        before, waiting = written, writer.transport.get_write_buffer_size()
        assert waiting < 1 << 20  # what the kernel does not have is bounded
        writer.close()
        got = 0
        while data := await reader.read(1 << 16):
            got += len(data)
        assert got == before


@in_a_loop
async def test_a_drain_is_cancelled(ends: Ends) -> None:
    async with ends.pair() as ((reader, _), (_, writer)):
        writer.write(BIG * 8)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.05)
        writer.close()
        assert len(await reader.read()) == len(BIG) * 8


@in_a_loop
async def test_corked_writes_are_one_frame(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write is on the wire at once unless corked."""
    async with ends.pair() as ((reader, _), (_, writer)):
        sent: list[int] = []
        send = Channel.send
        monkeypatch.setattr(
            Channel, "send", lambda self, view: (sent.append(len(view)), send(self, view))
        )
        writer.write(b"a")
        writer.write(b"b")
        assert sent == [1, 1]
        with writer.cork():
            for _ in range(100):
                writer.write(b"c")
            with writer.cork():
                writer.write(b"d")
            assert len(sent) == 2
        assert sent[2:] == [101]
        with writer.cork():
            writer.write(BIG)  # a cork does not hold any amount
            assert sum(sent[3:]) >= 1 << 18
        writer.write_eof()
        assert len(await reader.read()) == 2 + 101 + len(BIG)


@in_a_loop
async def test_a_connection_that_is_aborted_is_no_end(ends: Ends) -> None:
    """RFC 8548 section 3.7: nothing but FINp ends a stream."""
    async with ends.pair() as ((reader, writer), (_, far)):
        far.write(b"data")
        assert await reader.read(4) == b"data"
        far.abort()
        with pytest.raises(ResetError):
            await reader.read()
        assert writer.state is State.FAIL
        assert isinstance(writer.error, ResetError)
        writer.write(b"x")
        with pytest.raises(ConnectionResetError):
            await writer.drain()


@in_a_loop
async def test_closing_with_bytes_that_never_left_is_a_failure(ends: Ends) -> None:
    """Even towards one that has ended its own stream: it may have died in the middle of ours."""
    async with ends.pair() as ((reader, writer), (_reader, other)):
        for end, option in ((writer, socket.SO_SNDBUF), (other, socket.SO_RCVBUF)):
            end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, option, 4096)
        other.write_eof()
        assert await reader.read() == b""
        other.transport.pause_reading()
        writer.write(bytes(250_000))
        writer.close()
        await asyncio.sleep(0.1)
        other.transport.abort()
        with pytest.raises(ResetError):
            await writer.wait_closed()


@in_a_loop
async def test_a_child_does_not_seal_with_the_keys_of_its_parent(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a fork both have the keys; one of them uses them."""
    parent = os.getpid()
    async with ends.pair() as ((_, writer), (reader, _other)):
        with monkeypatch.context() as child:
            child.setattr(os, "getpid", lambda: parent + 1)
            with pytest.raises(LocalError, match="process that made it"):
                writer.write(b"child")
        writer.write(b"parent")
        assert await reader.read(100) == b"parent"


@pytest.mark.parametrize("how", ["close", "abort", "write_eof"])
@in_a_loop
async def test_a_child_does_not_end_what_is_its_parents(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    parent = os.getpid()
    async with ends.pair() as ((_, writer), (reader, _other)):
        with monkeypatch.context() as child:
            child.setattr(os, "getpid", lambda: parent + 1)
            getattr(writer.transport, how)()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)
        writer.transport._channel.raw.abort()  # which the parent would have done


@in_a_loop
async def test_a_server_that_is_closed_keeps_its_connections(ends: Ends) -> None:
    server = await ends.server(echo)
    reader, writer = await ends.connect(server)
    writer.write(b"once")
    assert await reader.readexactly(4) == b"once"  # the server is in AES_MODE, too
    address = server.sockets[0].getsockname()
    server.close()
    await server.wait_closed()
    assert not server.is_serving()
    assert server.sockets == ()
    writer.write(b"still")
    assert await reader.readexactly(5) == b"still"
    with pytest.raises(ConnectionRefusedError):
        await aio.connect(address, peer="tofu", keys=ends.client_keys)
    await close((reader, writer))


@in_a_loop
async def test_serve_forever_ends_by_being_cancelled(ends: Ends) -> None:
    server = await ends.server(echo, start_serving=False)
    assert not server.is_serving()
    task = asyncio.create_task(server.serve_forever())
    await asyncio.sleep(0)
    assert server.is_serving()
    reader, writer = await ends.connect(server)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not server.is_serving()
    await close((reader, writer))


@in_a_loop
async def test_accept(ends: Ends) -> None:
    async with await ends.server() as server:
        impatient = asyncio.create_task(server.accept())
        await asyncio.sleep(0)
        impatient.cancel()
        patient = asyncio.create_task(server.accept())
        ours = await ends.connect(server)
        theirs = await patient
        theirs[1].write(b"x")
        assert await ours[0].read(1) == b"x"
        unaccepted = await ends.connect(server)
        last = asyncio.create_task(server.accept())
        await asyncio.sleep(0)
        assert (await last)[1].session_id == unaccepted[1].session_id
        waiting = asyncio.create_task(server.accept())
        await asyncio.sleep(0)
        server.close()
        with pytest.raises(ConnectionAbortedError, match="closed"):
            await waiting
        await close(ours, theirs, unaccepted)


@in_a_loop
async def test_what_nobody_accepted_is_reset(ends: Ends) -> None:
    server = await ends.server()
    reader, _writer = await ends.connect(server)
    await asyncio.sleep(0.1)
    server.close()
    with pytest.raises(ResetError):
        await reader.read()


@in_a_loop
async def test_a_callback_gets_what_accept_would(ends: Ends) -> None:
    async with await ends.server(lambda _reader, _writer: None) as server:
        with pytest.raises(LocalError, match="callback"):
            await server.accept()


def test_a_handler_that_fails_is_no_end_of_the_stream(ends: Ends) -> None:
    async def handler(_reader: asyncio.StreamReader, writer: aio.SecureWriter) -> None:
        writer.write(b"half an ans")
        raise ZeroDivisionError

    async def main() -> None:
        async with await ends.server(handler) as server:
            reader, _writer = await ends.connect(server)
            with pytest.raises(ResetError):
                await reader.read()

    ends.run(main)
    (complaint,) = ends.complaints
    assert isinstance(complaint["exception"], ZeroDivisionError)


@in_a_loop
async def test_a_handler_that_lets_the_failure_of_its_peer_pass(ends: Ends) -> None:
    """That is no fault of the program, and nobody is told of one."""

    async def handler(reader: asyncio.StreamReader, _writer: aio.SecureWriter) -> None:
        try:
            await reader.read()
        finally:
            over.set()

    over = asyncio.Event()
    async with await ends.server(handler) as server:
        _reader, writer = await ends.connect(server)
        writer.abort()
        await over.wait()
        await asyncio.sleep(0.01)


def test_a_callback_that_fails_is_no_end_of_the_stream(ends: Ends) -> None:
    def callback(_reader: asyncio.StreamReader, _writer: aio.SecureWriter) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        async with await ends.server(callback) as server:
            reader, writer = await ends.connect(server)
            with pytest.raises(ResetError):
                await reader.read()
            assert writer.state is State.FAIL

    ends.run(main)
    (complaint,) = ends.complaints
    assert "client_connected_cb" in complaint["message"]


@in_a_loop
async def test_asyncio_s_own_signatures(ends: Ends) -> None:
    keys: dict[str, Any] = {"peer": "tofu"}
    async with await aio.start_server(echo, HOST, 0, keys=ends.server_keys, **keys) as server:
        host, port = server.sockets[0].getsockname()
        reader, writer = await aio.open_connection(host, port, keys=ends.client_keys, **keys)
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        await close((reader, writer))


@in_a_loop
async def test_sockets_that_were_there_before(ends: Ends) -> None:
    listener = socket.socket()
    listener.bind((HOST, 0))
    async with await aio.create_server(
        None, echo, sock=listener, peer="tofu", keys=ends.server_keys
    ) as server:
        sock = socket.create_connection(server.sockets[0].getsockname())
        sock.setblocking(False)
        reader, writer = await aio.connect(sock=sock, peer="tofu", keys=ends.client_keys)
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        await close((reader, writer))


@in_a_loop
async def test_either_an_address_or_a_socket(ends: Ends) -> None:
    with pytest.raises(LocalError, match="either"):
        await aio.connect(peer="tofu", keys=ends.client_keys)
    with pytest.raises(LocalError, match="either"):
        await aio.create_server(peer="tofu", keys=ends.server_keys)
    with pytest.raises(LocalError, match="handshake"):
        await ends.server(handshakes=0)


@in_a_loop
async def test_ipv6_and_names(ends: Ends) -> None:
    async with await aio.create_server(
        ("::1", 0), echo, peer="tofu", keys=ends.server_keys
    ) as server:
        address = server.sockets[0].getsockname()
        for host in ("::1", "localhost"):
            with contextlib.suppress(ConnectionRefusedError):  # of a host without ::1 localhost
                reader, writer = await aio.connect(
                    (host, address[1]), peer="tofu", keys=ends.client_keys
                )
                writer.write(b"x")
                assert await reader.read(1) == b"x"
                await close((reader, writer))


@in_a_loop
async def test_all_addresses_of_this_host(ends: Ends) -> None:
    async with await aio.create_server(("", 0), echo, peer="tofu", keys=ends.server_keys) as server:
        assert {sock.family for sock in server.sockets} >= {socket.AF_INET}
        ports = {sock.family: sock.getsockname()[1] for sock in server.sockets}
        reader, writer = await aio.connect(
            (HOST, ports[socket.AF_INET]), peer="tofu", keys=ends.client_keys
        )
        await close((reader, writer))


@in_a_loop
async def test_many_connections_at_once(ends: Ends) -> None:
    async with await ends.server(echo) as server:

        async def one(number: int) -> None:
            reader, writer = await ends.connect(server)
            data = number.to_bytes(4, "big") * 1000
            writer.write(data)
            writer.write_eof()
            assert await reader.read() == data
            await close((reader, writer))

        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(one(number))
        assert server.handshakes == 0
        assert not server.failures


@in_a_loop
async def test_options_by_name_and_by_number(ends: Ends) -> None:
    async with ends.pair() as ((_, ours), (_, theirs)):
        for writer, role in ((ours, 0), (theirs, 1)):
            assert writer.getsockopt(TCP, "TCP_ENO_SESSID") == ours.session_id
            assert writer.getsockopt(TCP, "TCP_ENO_ROLE") == role
            assert writer.getsockopt(TCP, socket.TCP_NODELAY), "a write is on the wire at once"
            assert writer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert writer.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE)
            writer.setsockopt(TCP, socket.TCP_NODELAY, 0)
            assert not writer.getsockopt(TCP, socket.TCP_NODELAY)
            writer.setsockopt(TCP, "TCP_CRYPT_CACHE_FLUSH", 1)
            with pytest.raises(OSError, match="the offer has left"):
                writer.setsockopt(TCP, "TCP_ENO_TEPS", b"")
            with pytest.raises(OSError, match="cannot be read"):
                writer.getsockopt(TCP, "TCP_CRYPT_CACHE_FLUSH")


@in_a_loop
async def test_states_are_told_in_order(ends: Ends) -> None:
    told: dict[str, list[aio.StateChanged]] = {"client": [], "server": []}
    async with await ends.server(echo, on_state=told["server"].append) as server:
        reader, writer = await ends.connect(server, on_state=told["client"].append)
        writer.write(b"x")
        await reader.read(1)
        await close((reader, writer))
    for events in told.values():
        assert [event.new for event in events] == [
            State.EXCHANGE_KEYS,
            State.DERIVE_KEYS,
            State.AES_MODE,
        ]
        assert [event.old for event in events[1:]] == [event.new for event in events[:-1]]
        assert all(event.reason for event in events)


@in_a_loop
async def test_nothing_is_left_of_connections_that_are_gone(ends: Ends) -> None:
    async with await ends.server(echo) as server:
        for _ in range(5):
            reader, writer = await ends.connect(server)
            await close((reader, writer))
        del reader, writer
        await asyncio.sleep(0.1)
        gc.collect()
        assert not [thing for thing in gc.get_objects() if isinstance(thing, aio.SecureTransport)]
