"""Protocols of every kind over a secure transport, in the patterns of CPython's tests."""

from __future__ import annotations

import asyncio
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from aio.ends import Ends, in_a_loop

from tcpcrypt import aio
from tcpcrypt.aio.channel import Channel
from tcpcrypt.aio.moving import ViewProtocol
from tcpcrypt.errors import ResetError
from tcpcrypt.sockets.state import State

BIG = bytes(range(256)) * 4096


class Recorder(asyncio.Protocol):
    """Writes down what happens to it."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.transport: aio.SecureTransport | None = None
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.Event()
        self.data = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, aio.SecureTransport)
        assert transport.state is State.AES_MODE
        self.transport = transport
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        self.data += data

    def eof_received(self) -> bool | None:
        self.events.append("eof")
        self.ended.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")
        self.lost.set_result(exc)

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    async def has(self, size: int) -> None:
        while len(self.data) < size:
            await asyncio.sleep(0.005)


class Buffered(asyncio.BufferedProtocol):
    """Receives into a small buffer of its own."""

    def __init__(self, size: int = 100) -> None:
        self.buffer = bytearray(size)
        self.data = bytearray()
        self.hints: list[int] = []
        self.ended = asyncio.Event()

    def get_buffer(self, sizehint: int) -> bytearray:
        self.hints.append(sizehint)
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self.buffer[:nbytes]

    def eof_received(self) -> None:
        self.ended.set()


class Views(ViewProtocol):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def data_received(self, data: bytes) -> None:
        self.kept.append(data)


async def two(ends: Ends, one: Any, other: Any) -> tuple[Any, Any, aio.SecureServer]:
    """A protocol at each end of a connection, both in AES_MODE."""
    made: list[Any] = []

    def factory() -> Any:
        made.append(other())
        return made[-1]

    server = await aio.serve(
        factory, ("127.0.0.1", 0), peer="tofu", keys=ends.server_keys, start_serving=False
    )
    await server.start_serving()
    _transport, protocol = await aio.create_connection(
        one, server.sockets[0].getsockname(), peer="tofu", keys=ends.client_keys
    )
    while not made:
        await asyncio.sleep(0.005)
    return protocol, made[0], server


@in_a_loop
async def test_what_happens_and_in_which_order(ends: Ends) -> None:
    one, other, server = await two(ends, Recorder, Recorder)
    one.transport.write(b"hello")
    await other.has(5)
    assert other.data == b"hello"
    one.transport.write_eof()
    await other.ended.wait()
    other.transport.write(b"bye")
    other.transport.close()
    assert other.transport.is_closing()
    assert await other.lost is None
    await one.ended.wait()
    assert one.data == b"bye"
    one.transport.close()
    assert await one.lost is None
    assert one.events == ["made", "eof", "lost"]
    assert other.events == ["made", "eof", "lost"]
    server.close()


@in_a_loop
async def test_a_protocol_with_its_own_buffer(ends: Ends) -> None:
    one, other, server = await two(ends, Recorder, Buffered)
    one.transport.write(BIG)
    one.transport.write_eof()
    await other.ended.wait()
    assert other.data == BIG
    assert max(other.hints) > 100
    # `eof_received` returned nothing: the transport closes, as asyncio's does.
    assert await asyncio.wait_for(one.ended.wait(), 5)
    server.close()


def test_a_buffer_without_room(ends: Ends) -> None:
    async def main() -> None:
        one, _other, server = await two(ends, Recorder, lambda: Buffered(0))
        one.transport.write(b"x")
        assert isinstance(await one.lost, ResetError)
        server.close()

    ends.run(main)
    assert "empty buffer" in str(ends.complaints[0]["exception"])


@in_a_loop
async def test_views_may_be_kept(ends: Ends) -> None:
    one, other, server = await two(ends, Recorder, Views)
    for start in range(0, len(BIG), 50_000):
        one.transport.write(BIG[start : start + 50_000])
        await asyncio.sleep(0)
    while sum(map(len, other.kept)) < len(BIG):
        await asyncio.sleep(0.005)
    assert b"".join(other.kept) == BIG
    assert all(isinstance(view, memoryview) and view.readonly for view in other.kept)
    one.transport.abort()
    server.close()


class Keeping(asyncio.StreamReaderProtocol):
    """One that has a way of its own with what comes."""

    def __init__(self) -> None:
        super().__init__(asyncio.StreamReader())
        self.kept: list[object] = []

    def data_received(self, data: bytes) -> None:
        self.kept.append(data)


@in_a_loop
async def test_streams_of_another_kind_may_keep_what_they_are_given(ends: Ends) -> None:
    """What lies in memory that all connections share is copied for them."""
    one, other, server = await two(ends, Recorder, Keeping)
    one.transport.write(BIG)
    while sum(map(len, other.kept)) < len(BIG):
        await asyncio.sleep(0.005)
    assert b"".join(other.kept) == BIG
    assert {type(data) for data in other.kept} == {bytes}
    one.transport.abort()
    server.close()


@in_a_loop
async def test_reading_pauses(ends: Ends) -> None:
    one, other, server = await two(ends, Recorder, Recorder)
    other.transport.pause_reading()
    other.transport.pause_reading()
    assert not other.transport.is_reading()
    one.transport.write(b"hello")
    await asyncio.sleep(0.1)
    assert other.data == b""
    other.transport.resume_reading()
    other.transport.resume_reading()
    assert other.transport.is_reading()
    await other.has(5)
    one.transport.abort()
    server.close()


@in_a_loop
async def test_reading_pauses_from_within(ends: Ends) -> None:
    """What had arrived already waits, too."""

    class Sipping(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            assert self.transport is not None
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(0.01, self.transport.resume_reading)

    one, other, server = await two(ends, Recorder, Sipping)
    for _ in range(5):
        one.transport.write(BIG[:1000])
        await asyncio.sleep(0.005)
    one.transport.write_eof()
    await other.ended.wait()
    assert other.data == BIG[:1000] * 5
    one.transport.abort()
    server.close()


@in_a_loop
async def test_writing_pauses_and_resumes(ends: Ends) -> None:
    one, other, server = await two(ends, Recorder, Recorder)
    transport = one.transport
    transport.set_write_buffer_limits(high=1000)
    assert transport.get_write_buffer_limits() == (250, 1000)
    transport.set_write_buffer_limits(low=10)
    assert transport.get_write_buffer_limits() == (10, 40)
    transport.set_write_buffer_limits(high=20, low=10)
    with pytest.raises(ValueError, match="high"):
        transport.set_write_buffer_limits(high=1, low=2)
    other.transport.pause_reading()
    for _ in range(32):
        transport.write(BIG)
    assert one.events == ["made", "pause"]
    assert transport.get_write_buffer_size() > 20
    other.transport.resume_reading()
    await other.has(32 * len(BIG))
    while one.events != ["made", "pause", "resume"]:
        await asyncio.sleep(0.005)
    assert transport.get_write_buffer_size() <= 20
    assert other.data == BIG * 32
    transport.abort()
    server.close()


@in_a_loop
async def test_writing_resumes_whatever_the_limits_and_sizes(ends: Ends) -> None:
    """A program that waits to be resumed is, wherever the bytes stopped."""
    one, other, server = await two(ends, Recorder, Recorder)
    transport, sent = one.transport, 0
    for limits in ({"high": 0}, {"high": 1, "low": 0}, {}, {"high": 100_000, "low": 99_000}):
        transport.set_write_buffer_limits(**limits)
        for size in (1, 20_000, 66_000, 300_000, 7):
            for _ in range(20):
                transport.write(BIG[:size])
                sent += size
                while one.events.count("pause") > one.events.count("resume"):
                    await asyncio.sleep(0)
    await other.has(sent)
    transport.abort()
    server.close()


@in_a_loop
async def test_closing_sends_what_waits(ends: Ends) -> None:
    one, other, server = await two(ends, Recorder, Recorder)
    for _ in range(16):
        one.transport.write(BIG)
    one.transport.close()
    one.transport.close()
    one.transport.write(b"nothing more")
    await other.ended.wait()
    assert other.data == BIG * 16
    assert await one.lost is None
    other.transport.close()
    server.close()


@in_a_loop
async def test_who_has_closed_hears_nothing_more(ends: Ends) -> None:
    one, other, server = await two(ends, Recorder, Recorder)
    other.transport.write(b"late")
    one.transport.close()
    assert not one.transport.is_reading()
    one.transport.pause_reading()
    one.transport.resume_reading()
    assert await one.lost is None
    assert one.data == b""
    assert one.events == ["made", "lost"]
    other.transport.abort()
    # What lay unread when it was closed makes the kernel reset the connection.
    assert isinstance(await other.lost, ResetError | None)
    server.close()


@in_a_loop
async def test_another_protocol_takes_over(ends: Ends) -> None:
    one, other, server = await two(ends, Recorder, Recorder)
    one.transport.write(b"a")
    await other.has(1)
    later = Recorder()
    other.transport.set_protocol(later)
    assert other.transport.get_protocol() is later
    one.transport.write(b"b")
    await later.has(1)
    assert (other.data, later.data) == (b"a", b"b")
    one.transport.abort()
    assert isinstance(await later.lost, ResetError)
    server.close()


@pytest.mark.parametrize("where", ["connection_made", "data_received", "eof_received"])
def test_a_protocol_that_fails_is_no_end(ends: Ends, where: str) -> None:
    async def main() -> None:
        def fail(self: Recorder, *_arguments: object) -> None:
            raise ZeroDivisionError

        failing = type("Failing", (Recorder,), {where: fail})
        one, _other, server = await two(ends, Recorder, failing)
        one.transport.write(b"x")
        one.transport.write_eof()
        assert isinstance(await one.lost, ResetError)
        assert one.events[-1] == "lost"
        assert "eof" not in one.events
        server.close()

    ends.run(main)
    assert isinstance(ends.complaints[0]["exception"], ZeroDivisionError)


def test_silence_costs_little(tmp_path: Path) -> None:
    """A connection that is open and silent has at most 16 KiB beyond what asyncio has."""
    ends = Ends(tmp_path)  # the memory of uvloop is not Python's
    ends.run(lambda: silence(ends))


async def silence(ends: Ends) -> None:
    count = 100
    kept: list[Any] = []
    plain = await asyncio.start_server(lambda *streams: kept.append(streams), "127.0.0.1", 0)
    secure = await ends.server(lambda *streams: kept.append(streams))

    async def measure(connect: Any) -> float:
        for _ in range(5):
            kept.append(await connect())
        tracemalloc.start()
        try:
            for _ in range(count):
                kept.append(await connect())
            while len(kept) % 2:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.1)
            return tracemalloc.get_traced_memory()[0] / count / 2
        finally:
            tracemalloc.stop()

    address = plain.sockets[0].getsockname()
    bare = await measure(lambda: asyncio.open_connection(*address))
    ours = await measure(lambda: ends.connect(secure))
    assert 0 < ours - bare <= 16 << 10
    for _reader, writer in kept:
        writer.transport.abort()
    plain.close()
    secure.close()
    await asyncio.sleep(0.05)


@in_a_loop
async def test_what_was_given_up_before_tcp_came(ends: Ends) -> None:
    """A channel whose owner has gone resets what it is given."""
    settled: list[Channel] = []
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    channel = Channel(loop, lambda _raw: pytest.fail("nobody wants it"), Recorder, settled.append)
    assert not channel.connected
    channel.give_up(ConnectionAbortedError("gone"))
    await loop.create_connection(lambda: channel, *server.sockets[0].getsockname())
    await asyncio.sleep(0.05)
    assert settled == [channel]
    assert str(channel.error) == "gone"
    server.close()
