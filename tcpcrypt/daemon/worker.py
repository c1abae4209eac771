"""The process that faces the network: negotiation, cryptography, relays, control socket.

It has no privilege.  What it needs of the parent goes over the two channels
that it inherits; it ends when the parent says so, or with it.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Final

from tcpcrypt.auth.learned import Learned, remember
from tcpcrypt.auth.trust import Trust
from tcpcrypt.daemon import configuration
from tcpcrypt.daemon.broker import BrokeredPrivileges
from tcpcrypt.daemon.confinement import Account, confine, name_process
from tcpcrypt.daemon.control import ControlServer
from tcpcrypt.daemon.hoard import unpack
from tcpcrypt.daemon.metrics_server import serve_metrics
from tcpcrypt.daemon.preload import preload
from tcpcrypt.daemon.verdicts import DelegatedQueue
from tcpcrypt.daemon.words import Words
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.context import Report, Settings
from tcpcrypt.runtime.host import Host
from tcpcrypt.runtime.overview import Overview
from tcpcrypt.runtime.sockops import Maps
from tcpcrypt.runtime.steering import Steering

__all__ = ["Inheritance", "Observed", "work"]

_LIFE_SIGN: Final = 1.0
"""Seconds between two signs of life."""
_LOOK: Final = 0.1
"""Seconds between two looks whether all connections have ended."""

_REASON_MAX: Final = 500
_UNWRITTEN_MAX: Final = 8192


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What the parent leaves to the worker."""

    settings: Settings
    steering: Steering
    queue: int
    """The descriptor of the socket that is bound to the netfilter queues."""
    maps: Maps | None
    """Those of the BPF program, if that is in use."""
    words: Words
    verdicts: socket.socket
    segments: tuple[int, socket.socket]
    """The same two for the queues of the segment plane."""
    control: socket.socket | None
    metrics: socket.socket | None
    """For readers of metrics; None: there are to be none."""
    trust: int | None
    """A descriptor with what is known of keys (`tcpcrypt.daemon.hoard`), or None."""
    confirming: bool
    """Whether the parent waits to be told that all is well."""
    keep: Collection[int]
    """Descriptors of the log."""


class Observed:
    """What the control socket tells of a host: the daemon's process is the parent."""

    def __init__(self, host: Overview, pid: int) -> None:
        self._host = host
        self._pid = pid
        self.sessions: Callable[[], list[dict[str, Any]]] = host.sessions
        self.peers: Callable[[], list[dict[str, Any]]] = host.peers
        self.find = host.find
        self.flush = host.flush

    def status(self) -> dict[str, Any]:
        return {**self._host.status(), "pid": self._pid, "worker": os.getpid()}


def work(inherited: Inheritance, account: Account | None, parent: int, report: Report) -> int:
    """The life of a worker; returns its exit status.  Raises `LocalError`."""
    steering, control = inherited.steering, inherited.control
    listeners = (*steering.application_listeners, *steering.peer_listeners)
    trust = None
    if inherited.trust is not None:
        trust, _applied = unpack(inherited.trust)
    asked = [sock for sock in (control, inherited.metrics) if sock is not None]
    segments, segment_verdicts = inherited.segments
    sockets = [inherited.verdicts, segment_verdicts, *listeners, *asked]
    maps = inherited.maps or ()
    channels = [
        inherited.queue,
        segments,
        *maps,
        inherited.words.fileno(),
        *(sock.fileno() for sock in sockets),
    ]
    preload(inherited.settings.config)
    confine(account, parent, [*channels, *inherited.keep])
    name_process("tcpcrypt-worker")
    worker = _Worker(inherited, trust, parent, report)
    try:
        worker.run()
    finally:
        worker.close()
    return 0


class _Worker:
    def __init__(
        self, inherited: Inheritance, trust: Trust | None, parent: int, report: Report
    ) -> None:
        settings = inherited.settings
        self._queue = DelegatedQueue(inherited.queue, inherited.verdicts)
        self._segments = DelegatedQueue(*inherited.segments)
        self._privileges = BrokeredPrivileges(
            inherited.words,
            settings.families,
            self._heard,
            diverted=inherited.maps is None,
        )
        self._host = Host(
            settings,
            report,
            steering=inherited.steering,
            queue=self._queue,
            segments=(self._segments, self._segments),
            privileges=self._privileges,
            trust=trust,
            remember=self._remember,
            maps=inherited.maps,
        )
        self._unwritten: deque[tuple[int, Learned]] = deque(maxlen=_UNWRITTEN_MAX)
        """What the parent was told and has not written down yet, by number."""
        self._told = 0
        self._loop = self._host.loop
        self._queue.attach(self._loop)
        self._segments.attach(self._loop)
        self._privileges.attach(self._loop)
        self._text = ""
        """The parts of a configuration that have come."""
        self._server: ControlServer | None = None
        if inherited.control is not None:
            self._server = ControlServer(
                self._loop,
                inherited.control,
                Observed(self._host.overview, parent),
                policies=lambda: self._host.settings.policies,
                report=report,
                confirm=self._confirm if inherited.confirming else None,
                trust_changed=lambda: self._privileges.say("trust_changed", None),
            )

        self._metrics = serve_metrics(self._loop, inherited.metrics, self._host.overview, report)

    def run(self) -> None:
        self._host.start()
        if self._server is not None:
            self._server.start()
        self._privileges.say("ready", None)
        self._loop.call_every(_LIFE_SIGN, self._live)
        self._host.run()

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._metrics is not None:
            self._metrics.close()
        self._host.end_segments()  # it takes a moment, in which others are served
        for connection in tuple(self._host.connections):
            connection.reset()
        self._privileges.close()
        self._queue.flush()
        self._host.close()

    def _live(self) -> None:
        self._privileges.say("alive", None)

    def _confirm(self) -> None:
        self._privileges.say("confirmed", None)

    def _heard(self, verb: str, value: Any) -> None:
        if verb == "part":
            self._text += value
        elif verb == "reload":
            text, self._text = self._text + value, ""
            try:
                self._reload(text)
            except LocalError as error:
                self._privileges.say("reload_failed", str(error)[:_REASON_MAX])
            else:
                self._privileges.say("reloaded", None)
        elif verb == "trust":
            self._trust(value)
        elif verb == "remembered":
            self._written(value)
        elif verb == "drain":
            self._drain()
        elif verb == "stop":
            self._host.stop()

    def _remember(self, learned: Learned) -> None:
        self._told += 1
        self._unwritten.append((self._told, learned))
        self._privileges.say("learned", learned.as_json())

    def _written(self, number: int) -> None:
        while self._unwritten and self._unwritten[0][0] <= number:
            self._unwritten.popleft()

    def _trust(self, descriptor: int) -> None:
        """Go by what the parent has read, and what it had not been told by then."""
        try:
            trust, applied = unpack(descriptor)
        finally:
            os.close(descriptor)
        self._written(applied)
        remember(trust.known, [learned for _number, learned in self._unwritten], int(time.time()))
        self._host.trust(trust)

    def _reload(self, text: str) -> None:
        found = configuration.parse(text)
        self._host.reload(
            replace(
                self._host.settings,
                policies=found.policies,
                config=found.config,
                path_memory=found.daemon.path_memory,
            )
        )

    def _drain(self) -> None:
        self._host.drain_segments()
        segments = self._host.segments
        if self._host.connections or (segments is not None and segments.count):
            self._loop.call_later(_LOOK, self._drain)
        else:
            self._privileges.say("drained", None)
