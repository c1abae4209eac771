"""A router that hands every segment to a program, which sends on what it likes.

client ---- veth1 ---- middle ---- veth2 ---- server       the box sits in `middle`

Each packet that is forwarded goes to a netfilter queue and is dropped there;
what its fault makes of it leaves by a raw socket.  So nothing passes that the
fault has not let pass, at the time and in the order that it wants.
"""

from __future__ import annotations

import heapq
import itertools
import os
import select
import socket
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from middlebox.fault import Fault
from middlebox.packet import Packet

from tcpcrypt.runtime.netlink import QueuedPacket, Verdict
from tcpcrypt.runtime.queue import PacketQueue
from tcpcrypt.tools.netns import Host

_QUEUE = 9
_LENGTH = 8192


class Box:
    """Carries what passes `host`; `faults` says by the client's address what happens to it.

    A context manager.  Clients are the addresses that begin with `clients`, of IPv6 if
    `family` is 6.
    `problems` are mistakes of the faults.
    """

    def __init__(self, host: Host, clients: bytes, family: int = 4) -> None:
        self.faults: dict[bytes, Fault] = {}
        self.problems: list[Exception] = []
        self._host = host
        self._clients = clients
        self._kind = socket.AF_INET if family == 4 else socket.AF_INET6
        self._destination = slice(16, 20) if family == 4 else slice(24, 40)
        self._command = "iptables" if family == 4 else "ip6tables"
        self._due: list[tuple[float, int, bytes]] = []
        self._numbers = itertools.count()
        self._stopping = False

    def __enter__(self) -> Self:
        with self._host.entered():
            self._queue = PacketQueue.open({_QUEUE: _LENGTH})
            self._raw = socket.socket(self._kind, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self._rule("-A")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping = True
        self._thread.join(10)
        self._rule("-D")
        self._queue.close()
        self._raw.close()

    def send(self, packet: bytes) -> None:
        """To the address in its header, now."""
        self._raw.sendto(packet, (socket.inet_ntop(self._kind, packet[self._destination]), 0))

    def later(self, seconds: float, packet: bytes) -> None:
        """As `send`, but then."""
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), packet))

    def _rule(self, what: str) -> None:
        self._host.run(
            *(self._command, "-t", "mangle", what, "FORWARD", "-p", "tcp"),
            *("-j", "NFQUEUE", "--queue-num", str(_QUEUE)),
        )

    def _run(self) -> None:
        # Of two processors each has a queue of its own for what a thread sends: packets
        # would overtake each other that no fault has put into another order.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        while not self._stopping:
            pause = max(0.0, self._due[0][0] - time.monotonic()) if self._due else 0.05
            if select.select([self._queue], [], [], min(pause, 0.05))[0]:
                self._queue.receive(self._decide)
            while self._due and self._due[0][0] <= time.monotonic():
                self.send(heapq.heappop(self._due)[2])

    def _decide(self, queued: QueuedPacket) -> None:
        octets = bytes(queued.payload)
        self._queue.verdict(queued, Verdict.DROP)
        try:
            for packet in self._passed(octets):
                self.send(packet)
        except Exception as problem:
            self.problems.append(problem)

    def _passed(self, octets: bytes) -> Iterable[bytes]:
        packet = Packet.parse(octets)
        forward = packet.source.startswith(self._clients)
        fault = self.faults.get(packet.source if forward else packet.destination)
        return [octets] if fault is None else fault.carry(packet, forward)
