"""Thousands of connections at once: all of them open, each answers, none costs much.

Both ends are in this process, on one loop.
"""

from __future__ import annotations

import asyncio
import gc
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from aio.ends import LOOPS, Ends, Stream

AT_ONCE = 50
"""Handshakes; each has its five seconds for itself."""
LIMIT = (16 + 4) << 10
"""16 KiB beyond what asyncio has for each end of a stream in plain TCP: 4.2 KiB, with its task."""
PATIENCE = 500
WARM = 100


@pytest.fixture
def _descriptors() -> Iterator[None]:
    """As many as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def crowd(ends: Ends, count: int) -> float:
    """Bytes of memory for each end of a connection."""
    gate, open_now, most = asyncio.Semaphore(AT_ONCE), 0, 0

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        while data := await reader.read(100):
            writer.write(data)
        writer.close()
        open_now -= 1

    async def one() -> Stream:
        async with gate:
            return await ends.connect(server)

    async def ask(number: int, stream: Stream) -> None:
        reader, writer = stream
        said = number.to_bytes(16, "big")
        writer.write(said)
        assert await reader.readexactly(16) == said

    async def leave(stream: Stream) -> None:
        reader, writer = stream
        writer.close()
        assert await reader.read() == b""
        await writer.wait_closed()

    server = await ends.server(echo)
    async with server:
        streams = [await one() for _ in range(WARM)]
        before = resident()
        streams += await asyncio.gather(*(one() for _ in range(count)))
        for number, stream in enumerate(streams):
            await ask(number, stream)  # that the last one is served is known then
        grown = resident() - before
        assert most == WARM + count, "all were open at once"
        await asyncio.gather(*(ask(number, stream) for number, stream in enumerate(streams)))
        for stream in streams:
            await leave(stream)
    return grown / (2 * count)


@pytest.mark.usefixtures("_descriptors")
@pytest.mark.parametrize("loop", sorted(LOOPS))
@pytest.mark.parametrize("count", [100, pytest.param(5000, marks=pytest.mark.long)])
def test_many_connections_at_once(tmp_path: Path, loop: str, count: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < 2 * (count + WARM) + 100:
        pytest.fail(f"this process may have {hard} descriptors: raise `ulimit -Hn`")
    ends = Ends(tmp_path, loop)

    async def bounded() -> float:
        async with asyncio.timeout(PATIENCE):
            return await crowd(ends, count)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        each = runner.run(bounded())
    if count >= 1000:  # fewer are lost in what the process has anyway
        assert each <= LIMIT
