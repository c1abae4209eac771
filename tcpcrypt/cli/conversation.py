"""Standard input and output at the ends of a secure connection, for `connect` and `listen`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, TypeVar

from tcpcrypt.aio import SecureWriter

__all__ = ["Interrupted", "Talk", "interruptible", "talk"]

_T = TypeVar("_T")

_SIZE: Final = 64 << 10
_GRACE: Final = 2.0
"""Seconds that what was typed has to leave after Ctrl-C."""
_STDIN: Final = 0
_STDOUT: Final = 1


class Interrupted(Exception):
    """Somebody pressed Ctrl-C, or the program was told to end."""


@dataclass(slots=True)
class Talk:
    """What went over a connection."""

    sent: int = 0
    received: int = 0


@contextlib.asynccontextmanager
async def interruptible() -> AsyncIterator[None]:
    """Within, Ctrl-C and SIGTERM are `Interrupted`, where something is awaited."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    asked: list[None] = []

    def ask() -> None:
        asked.append(None)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ask)
    try:
        yield
    except asyncio.CancelledError:
        if not asked:
            raise
        task.uncancel()
        raise Interrupted from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def talk(
    reader: asyncio.StreamReader, writer: SecureWriter, told: Talk, *, sending: bool = True
) -> None:
    """Carry standard input to the other end and what comes from there to standard output.

    Both directions end by themselves; on a terminal, the other end's end is
    enough.  Raises `OSError` for what breaks the connection, or the output.
    """
    typed = sending and os.isatty(_STDIN)
    there = asyncio.create_task(_receive(reader, told))
    here = asyncio.create_task(_send(writer, told, sending=sending))
    try:
        enough = asyncio.FIRST_COMPLETED if typed else asyncio.FIRST_EXCEPTION
        done, _ = await asyncio.wait((there, here), return_when=enough)
        for task in done:
            task.result()
        await there
        writer.close()
        await writer.wait_closed()
    except asyncio.CancelledError:
        if typed:  # whoever types has said all he wanted to
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), _GRACE)
        raise
    finally:
        writer.abort()  # unless it is closed: half a file is not to look whole
        for task in (there, here):
            task.cancel()
        await asyncio.gather(there, here, return_exceptions=True)


async def _send(writer: SecureWriter, told: Talk, *, sending: bool) -> None:
    if sending:
        source = _Source(asyncio.get_running_loop())
        while data := await source.read():
            writer.write(data)
            await writer.drain()
            told.sent += len(data)
    writer.write_eof()


async def _receive(reader: asyncio.StreamReader, told: Talk) -> None:
    sink = _Sink(asyncio.get_running_loop())
    while data := await reader.read(_SIZE):
        await sink.write(data)
        told.received += len(data)


class _Source:
    """Standard input, read by a thread that nobody waits for at the end."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wanted: queue.SimpleQueue[asyncio.Future[bytes]] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    async def read(self) -> bytes:
        """The next bytes; none at the end."""
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._wanted.put(future)
        return await future

    def _work(self) -> None:
        while True:
            future = self._wanted.get()
            try:
                _tell(self._loop, future, os.read(_STDIN, _SIZE), None)
            except OSError as error:
                _tell(self._loop, future, b"", error)


class _Sink:
    """Standard output, written by such a thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wanted: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    async def write(self, data: bytes) -> None:
        """Returns once all of it is written."""
        future = self._loop.create_future()
        self._wanted.put((data, future))
        await future

    def _work(self) -> None:
        while True:
            data, future = self._wanted.get()
            view = memoryview(data)
            try:
                while view:
                    view = view[os.write(_STDOUT, view) :]
            except OSError as error:
                detail = OSError(error.errno, f"standard output: {error.strerror}")
                _tell(self._loop, future, None, detail)
            else:
                _tell(self._loop, future, None, None)


def _tell(
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[_T],
    result: _T,
    error: OSError | None,
) -> None:
    """Settle a future of a loop that may be closed meanwhile."""

    def settle() -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(settle)
