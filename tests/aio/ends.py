"""Two programs on one loop, each with a directory of keys, for tests of `tcpcrypt.aio`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tcpcrypt import aio
from tcpcrypt.sockets import arrangement

Stream = tuple[asyncio.StreamReader, aio.SecureWriter]
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
SECONDS = 20
"""No test takes longer, whatever fails."""
HOST = "127.0.0.1"


@dataclass
class Ends:
    """Keys of a client and of a server, and what both loops reported by mistake."""

    directory: Path
    loop: str = "asyncio"
    complaints: list[dict[str, Any]] = field(default_factory=list)

    @property
    def client_keys(self) -> Path:
        return self.directory / "client"

    @property
    def server_keys(self) -> Path:
        return self.directory / "server"

    def run(self, main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run `main` to its end; nothing may be left to complain about."""

        async def bounded() -> Any:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _loop, context: self.complaints.append(context))
            async with asyncio.timeout(SECONDS):
                return await main()

        with asyncio.Runner(loop_factory=LOOPS[self.loop]) as runner:
            return runner.run(bounded())

    async def server(self, handler: Any = None, **more: Any) -> aio.StreamServer:
        arguments = {"peer": "tofu", "keys": self.server_keys, **more}
        return await aio.create_server((HOST, 0), handler, **arguments)

    async def connect(self, server: aio.SecureServer, **more: Any) -> Stream:
        arguments = {"peer": "tofu", "keys": self.client_keys, **more}
        return await aio.connect(server.sockets[0].getsockname(), **arguments)

    @contextlib.asynccontextmanager
    async def pair(self, **more: Any) -> AsyncIterator[tuple[Stream, Stream]]:
        """One connection: the client's streams and the server's.  Both are closed at last."""
        async with await self.server() as server:
            async with asyncio.TaskGroup() as group:
                ours = group.create_task(self.connect(server, **more))
                theirs = group.create_task(server.accept())
            (one, other) = ours.result(), theirs.result()
            try:
                yield one, other
            finally:
                for _reader, writer in (one, other):
                    writer.transport.abort()


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine, and that gets `ends`."""

    @functools.wraps(test)
    def wrapped(ends: Ends, **more: Any) -> None:
        ends.run(lambda: test(ends, **more))
        assert ends.complaints == []

    return wrapped


def hurry(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """A handshake that is not over in `seconds` has failed."""
    for name in ("_BASE", "_UNAUTHENTICATED"):
        config = replace(getattr(arrangement, name), handshake_timeout=seconds)
        monkeypatch.setattr(arrangement, name, config)
