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
    ) -> None:
        self._context = context
        self._connections = connections
        self._hold = hold
        self._queue = queue
        self._backend = backend
        self._steering = steering
        self._tcps = tcps
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
            "connections": len(self._connections) + len(self._tcps.sessions()),
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
            cached=len(context.resumption),
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
        entries = [c.entry() for c in sorted(self._connections, key=lambda c: c.number)]
        # Both are in order; most hosts have none of the second.
        return entries + self._tcps.sessions()

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
        return None

    def flush(self, peer: str | None) -> int:
        """Forget secrets for resumption, and what is known of paths; how many entries.

        `peer` is an address; None means all of them.  Raises `LocalError` if it is none.
        """
        resumption, paths = self._context.resumption, self._context.paths
        if peer is None:
            return resumption.flush() + paths.forget()
        try:
            address = ipaddress.ip_address(peer).packed
        except ValueError:
            raise LocalError(f"{peer!r} is no address") from None
        names = [address, *(peer_name(a, port) for a, port, _ in paths if a == address)]
        return sum(resumption.flush(name) for name in names) + paths.forget(address)
