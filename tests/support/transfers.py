"""Both ends of a file transfer for tests: a receiver in a thread, or programs."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tcpcrypt.transfer.keys import create_key
from tcpcrypt.transfer.progress import Progress
from tcpcrypt.transfer.rules import Rules
from tcpcrypt.transfer.service import Service, Setup
from tcpcrypt.transfer.status import Status

PATIENCE = 30.0


def events_of(text: str, kind: str | None = None) -> list[dict[str, Any]]:
    """The JSON lines of a program."""
    found = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [event for event in found if kind in (None, event["event"])]


def until(condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Wait for what others do."""
    end = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.005)
    return found


class Receiver:
    """A receiver within the test's own process; a context manager."""

    def __init__(
        self,
        root: Path,
        *,
        clients: tuple[str, ...] = ("default",),
        once: bool = False,
        rules: Rules | None = None,
        **settings: Any,
    ) -> None:
        self.out = root / "out"
        self.keys = root / "client_keys"
        self.out.mkdir(parents=True, exist_ok=True)
        for client in clients:
            if not (self.keys / client).exists():
                create_key(self.keys / client)
        setup = Setup(
            0, address="127.0.0.1", out=self.out, keys=self.keys, rules=rules or Rules(reserve=0)
        )
        self._told = io.StringIO()
        progress = Progress(self._told, io.StringIO(), program="stx-recv", as_json=True)
        self.service = Service(replace(setup, **settings), progress)
        self.port = self.service.port
        self.status: Status | None = None
        self._thread = threading.Thread(target=self._run, args=(once,))

    def _run(self, once: bool) -> None:
        self.status = self.service.serve(once=once)

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        return events_of(self._told.getvalue(), kind)

    def join(self) -> Status:
        """What a receiver of one sender ended with."""
        self._thread.join(PATIENCE)
        assert self.status is not None, "it goes on"
        return self.status

    def environment(self, client: str = "default") -> dict[str, str]:
        return {"STX_KEY_FILE": str(self.keys / client)}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.service.stop()
        self._thread.join(PATIENCE)
        self.service.close()
        assert not self._thread.is_alive()


class Program:
    """A program of the package in a process of its own; a context manager."""

    def __init__(self, name: str, *words: str | Path | int, **environment: str) -> None:
        module = f"tcpcrypt.cli.{name.replace('-', '_')}"
        clean = {key: value for key, value in os.environ.items() if not key.startswith("STX_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**clean, **environment},
        )
        self._lines: list[str] = []
        self._errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self._lines)),
            threading.Thread(target=self._read, args=(self.process.stderr, self._errors)),
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: Any, lines: list[str]) -> None:
        lines.extend(iter(stream.readline, ""))

    @property
    def told(self) -> str:
        return "".join(list(self._errors))

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        return events_of("".join(list(self._lines)), kind)

    def wait_for(self, kind: str) -> dict[str, Any]:
        """The first event of a kind."""

        def found() -> list[dict[str, Any]]:
            if self.process.poll() is not None:
                self.join()
                assert self.events(kind), self.told
            return self.events(kind)

        event: dict[str, Any] = until(found)[0]
        return event

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def join(self) -> int:
        """Its exit status."""
        status = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.join()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
