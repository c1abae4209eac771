"""What there is to tell of a host: its connections, its peers, its counters; never a secret."""

from __future__ import annotations

import collections
import dataclasses
import ipaddress
import os
import time
from collections.abc import Collection

from tcpcrypt import __version__
from tcpcrypt.auth.known_peers import TrustLevel
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.connection import Connection, peer_name
from tcpcrypt.runtime.context import Context
from tcpcrypt.runtime.eno_backend import EnoBackend
from tcpcrypt.runtime.figures import Figures, connection_slots
from tcpcrypt.runtime.queue import PacketQueue
from tcpcrypt.runtime.segment_divert import SegmentDivert
from tcpcrypt.runtime.steering import Steering
from tcpcrypt.runtime.synhold import SynHold
from tcpcrypt.runtime.tcps import TcpsDivert

__all__ = ["Overview"]


class Overview:
    """Looks at the parts of a `Host`; all it hands out can be written as JSON."""

    def __init__(
        self,
        context: Context,
        *,
        connections: Collection[Connection],
        hold: SynHold,
        queue: PacketQueue,
        backend: EnoBackend,
        steering: Steering,
        tcps: TcpsDivert,
        segments: SegmentDivert | None = None,
    ) -> None:
        self._context = context
        self._connections = connections
        self._hold = hold
        self._queue = queue
        self._backend = backend
        self._steering = steering
        self._tcps = tcps
        self._segments = segments
        self._started = time.time()

    def status(self) -> dict[str, object]:
        """The facts of the whole host."""
        return {
            "pid": os.getpid(),
            "version": __version__,
            "started": round(self._started, 3),
            "backend": self._backend.name,
            "steering": self._steering.name,
            "identity": self._context.authentication.identity,
            "keylog": self._context.key_log is not None,
            "policies": len(self._context.policies),
            "counters": dataclasses.asdict(self._context.tally.counters),
            "connections": len(self._connections)
            + len(self._tcps.sessions())
            + (self._segments.live if self._segments is not None else 0),
            "queue": {
                "overruns": self._queue.overruns,
                "evicted": self._backend.evicted,
                "held": len(self._hold),
                "held_overflowed": self._hold.overflowed,
            },
        }

    def figures(self) -> Figures:
        """All numbers of the host, at this moment."""
        context, tally = self._context, self._context.tally
        states: collections.Counter[tuple[str, str]] = collections.Counter()
        moved, frames, rekeys = tally.moved.copy(), tally.frames, tally.rekeys
        for connection in self._connections:
            states[connection.state, connection.direction] += 1
            connection.add_to(moved)
            frames += connection.frames
            rekeys += connection.rekeys
        cached = len(context.resumption)
        if self._segments is not None:
            rekeys += self._segments.add_to(states, moved)
            cached += self._segments.cached
        trust = context.authentication.trust
        return Figures(
            backend=self._backend.name,
            steering=self._steering.name,
            started=self._started,
            cpu=time.process_time(),
            policies=len(context.policies),
            key_log=context.key_log is not None,
            tally=tally,
            connections=states,
            tcps=collections.Counter(str(entry["state"]) for entry in self._tcps.sessions()),
            slots=connection_slots(),
            moved=moved,
            frames=frames,
            rekeys=rekeys,
            cached=cached,
            cache_capacity=context.config.cache_capacity,
            overruns=self._queue.overruns,
            evicted=self._backend.evicted,
            held=len(self._hold),
            held_overflowed=self._hold.overflowed,
            identities={}
            if trust is None
            else {level: trust.known.count(level) for level in TrustLevel},
        )

    def sessions(self) -> list[dict[str, object]]:
        """One entry a live connection, oldest first."""
        entries = [c.entry() for c in self._connections] + self._of_packets()
        return sorted(entries, key=lambda entry: int(str(entry["id"])))

    def _of_packets(self) -> list[dict[str, object]]:
        """Those that stay connections of their programs; most hosts have none."""
        segments = self._segments.sessions() if self._segments is not None else []
        return self._tcps.sessions() + segments

    def peers(self) -> list[dict[str, object]]:
        """One entry a service of another host that applications here used lately."""
        found = []
        for address, port, known in self._context.paths:
            left = self._context.paths.seconds_left(known)
            found.append(
                {
                    "peer": str(ipaddress.ip_address(address)),
                    "port": port,
                    "last": known.last,
                    "reason": known.reason,
                    "until": None if left is None else round(time.time() + left, 3),
                    "connections": known.connections,
                }
            )
        return found

    def find(self, local: tuple[str, int], remote: tuple[str, int]) -> dict[str, object] | None:
        """The connection of the application's socket with these addresses, on either side."""
        one, other = (local, remote), (remote, local)
        for connection in self._connections:
            ends = connection.ends
            if ends in (one, other):
                return connection.entry()
        return None if self._segments is None else self._segments.find(local, remote)

    def flush(self, peer: str | None) -> int:
        """Forget secrets for resumption, and what is known of paths; how many entries.

        `peer` is an address; None means all of them.  Raises `LocalError` if it is none.
        """
        resumption, paths = self._context.resumption, self._context.paths
        segments = self._segments
        if peer is None:
            found = resumption.flush() + paths.forget()
            return found + (segments.flush(None) if segments is not None else 0)
        try:
            address = ipaddress.ip_address(peer).packed
        except ValueError:
            raise LocalError(f"{peer!r} is no address") from None
        names = [address, *(peer_name(a, port) for a, port, _ in paths if a == address)]
        found = sum(resumption.flush(name) for name in names) + paths.forget(address)
        return found + (segments.flush(address) if segments is not None else 0)
