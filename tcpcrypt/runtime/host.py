"""The daemon's work on one host, free of command lines and signals.

A `Host` owns the loop, an ENO backend, a steering, the rules that serve both,
and the connections.  There is one in a network namespace; a second refuses
to start.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import resource
import socket
import traceback
from collections.abc import Callable
from typing import Final

from tcpcrypt.core.negotiation import Negotiation, Opener
from tcpcrypt.core.policy import Mode, Policy
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.connection import AcceptedByPeer, Connection, OpenedByApplication
from tcpcrypt.runtime.context import Context, Counters, Report, Settings
from tcpcrypt.runtime.eno_backend import EnoBackend, Tuple4
from tcpcrypt.runtime.loop import READ, Loop
from tcpcrypt.runtime.nfqueue import NfqueueBackend
from tcpcrypt.runtime.rules import Firewall, Routing
from tcpcrypt.runtime.steering import Steering, TransparentSteering, older_connections

__all__ = ["Host"]

_ACCEPTS_A_TURN: Final = 64
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_MMAP_THRESHOLD: Final = 8 << 20
"""A relay's largest block is a read and what was left of the frame before it."""
_TRIM_THRESHOLD: Final = 32 << 20
_ACCEPT_PAUSE: Final = 0.1
"""Seconds without accepting when the process has run out of descriptors."""


class Host:
    """Encrypts the connections of this host.  `start`, `run`, and in any case `close`."""

    def __init__(self, settings: Settings, report: Report) -> None:
        self.settings = settings
        self.counters = Counters()
        self.loop = Loop()
        self.connections: set[Connection] = set()
        self.resumption = ResumptionCache(settings.config)
        self._report = report
        self._config = Policy(settings.mode).configure(settings.config)
        self._context: Context | None = None
        self._lock: socket.socket | None = None
        self._backend: EnoBackend | None = None
        self._steering: Steering | None = None
        self._routing = Routing(settings.families)
        self._firewall = Firewall(settings.families)
        self._installed = False

    def start(self) -> None:
        """Take hold of the host.  Raises `LocalError` with what is missing."""
        self._lock = _only_one()
        _raise_descriptor_limit()
        _keep_freed_memory()
        ports, mode = self.settings.ports, self.settings.mode
        try:
            self._backend = NfqueueBackend(self.loop, insist=mode is Mode.REQUIRE)
            self._steering = TransparentSteering(self.settings.families)
        except OSError as error:
            raise LocalError(f"cannot set up sockets: {error}") from error
        self._context = Context(
            settings=self.settings,
            config=self._config,
            loop=self.loop,
            backend=self._backend,
            steering=self._steering,
            resumption=self.resumption,
            counters=self.counters,
            report=self._report,
        )
        for listener in self._steering.peer_listeners:
            self._backend.adopt_listener(listener, self._negotiate_passively)
        self._steering.listen()
        for listener in self._steering.application_listeners:
            self._accept_from(listener, self._application_came)
        for listener in self._steering.peer_listeners:
            self._accept_from(listener, self._peer_came)
        self.loop.failed = self._on_bug
        older = older_connections(ports)
        rules = [*self._backend.rules(ports), *self._steering.rules(ports, mode, older)]
        self._installed = True
        self._routing.install()
        self._firewall.install(rules)
        self._report(
            "started",
            {
                "ports": ",".join(map(str, ports)),
                "mode": mode.value,
                "backend": self._backend.name,
                "steering": self._steering.name,
                "older_connections": len(older),
            },
        )

    def run(self) -> None:
        """Serve until `stop`."""
        self.loop.run()

    def stop(self) -> None:
        """Let `run` return; safe in a signal handler."""
        self.loop.stop()

    def close(self) -> None:
        """Reset the connections, then take out every rule.  Idempotent.

        In that order: an application must see a reset, and its next segments
        must not leave in clear.
        """
        for connection in tuple(self.connections):
            connection.reset()
        if self._installed:
            self._installed = False
            try:
                self._firewall.remove()
            finally:
                self._routing.remove()
        if self._backend is not None:
            self._backend.close()
            self._backend = None
        if self._steering is not None:
            for listener in (
                *self._steering.application_listeners,
                *self._steering.peer_listeners,
            ):
                self.loop.forget(listener.fileno())
            self._steering.close()
            self._steering = None
        self.resumption.flush()
        if self._lock is not None:
            self._lock.close()
            self._lock = None
            self.loop.close()

    def _on_bug(self, fd: int, error: Exception) -> None:
        """One connection is not to take the others down with it."""
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{where.filename}:{where.lineno}"
        self._report("bug", {"error": f"{type(error).__name__}: {error}", "at": place})
        for connection in tuple(self.connections):
            if connection.owns(fd):
                connection.reset()
                return
        # Listeners and the queue take up the next event by themselves.

    # --- connections that come ---------------------------------------------------

    def _accept_from(self, listener: socket.socket, came: Callable[[socket.socket], None]) -> None:
        def watch() -> None:
            if listener.fileno() >= 0:
                self.loop.watch(listener.fileno(), READ, on_ready)

        def on_ready(_events: int) -> None:
            for _ in range(_ACCEPTS_A_TURN):
                try:
                    sock, _address = listener.accept()
                except BlockingIOError:
                    return
                except OSError as error:
                    if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                        self._report("exhausted", {"reason": error.strerror})
                        self.loop.watch(listener.fileno(), 0, on_ready)
                        self.loop.call_later(_ACCEPT_PAUSE, watch)
                        return
                    continue  # a connection that is gone already
                came(sock)

        watch()

    def _application_came(self, inner: socket.socket) -> None:
        if self._context is not None:
            self._begin(OpenedByApplication(self._context, self.connections.discard, inner))

    def _peer_came(self, outer: socket.socket) -> None:
        if self._context is not None:
            self._begin(AcceptedByPeer(self._context, self.connections.discard, outer))

    def _begin(self, connection: Connection) -> None:
        self.connections.add(connection)
        connection.start()

    def _negotiate_passively(self, connection: Tuple4) -> Negotiation:
        return Negotiation(
            self._config,
            Opener.PASSIVE,
            resumption=self.resumption,
            peer=connection.remote,
        )


def _only_one() -> socket.socket:
    """An abstract socket name is taken once in a network namespace, and never left behind."""
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        lock.bind("\0tcpcryptd")
    except OSError as error:
        lock.close()
        raise LocalError("another tcpcryptd serves this network namespace") from error
    return lock


def _keep_freed_memory() -> None:
    """Let the allocator keep what relays free and take again for every read.

    By default glibc gives blocks of this size back to the kernel at once, and
    then every quarter of a megabyte costs its page faults again: measured, up
    to three times the processor time on the receiving side.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)


def _raise_descriptor_limit() -> None:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
