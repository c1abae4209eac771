"""The segment plane on Linux: netfilter queues, and raw sockets for what is added.

A packet of the inner side waits in queue INNER_QUEUE, one of the outer side in
OUTER_QUEUE; they have one socket, so that they come in their order.  What takes
a packet's place leaves with its verdict; the rest leaves by a raw socket, with
MARK_PASSED, for which the rules do not ask the queue.  Towards an application
of this host that is by way of `lo`.

Never fail-open: there is no bypass, and packets that come while nobody listens
are dropped.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from tcpcrypt import _fast
from tcpcrypt.core.key_log import KeyLog
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.runtime.loop import READ, Loop
from tcpcrypt.runtime.netlink import Hook, QueuedPacket, Verdict
from tcpcrypt.runtime.nfqueue import QUEUE_NUMBER
from tcpcrypt.runtime.queue import PacketQueue
from tcpcrypt.runtime.rules import MARK_PASSED, SEGMENT_INNER_QUEUE, Rule, marked
from tcpcrypt.segment.flow import Flow, Outcome
from tcpcrypt.segment.opening import Side
from tcpcrypt.segment.table import Configure, Key, Table

__all__ = ["INNER_QUEUE", "OUTER_QUEUE", "SegmentPlane", "segment_rules"]

INNER_QUEUE: Final = SEGMENT_INNER_QUEUE
OUTER_QUEUE: Final = 29791
_SIDES: Final = {INNER_QUEUE: Side.INNER, OUTER_QUEUE: Side.OUTER}
_QUEUE_LENGTH: Final = 4096
_SWEEP_EVERY: Final = 10.0
_HELD_MAX: Final = 16
"""Packets of one connection that wait for its keys: more than an initial window."""
_HELD_IN_ALL: Final = _QUEUE_LENGTH // 4
"""They have their places in the queue, of which enough must be left for others."""
_ONE_SEGMENT: Final = 1600
"""A packet up to this size is no joined one any more, and the kernel would not know
what to do with one of which it still believes so."""
_SEND_BUFFER: Final = 1 << 20
_IPV6_HDRINCL: Final = 36
_CLOSING: Final = 0.5
"""Seconds for hosts to say that they do not believe a reset (RFC 5961 section 3.2):
without the rules what they send would go in clear."""
_LIBERAL: Final = Path("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal")


def segment_rules(ports: Iterable[range], inner: str | None = None) -> list[Rule]:
    """What brings the packets to and from these ports of services to the queues.

    Without `inner` those of this host; else those that it forwards from and to
    the interface of that name.
    """
    passed = ("-p", "tcp", *marked(MARK_PASSED), "-j", "RETURN")
    queues = {
        number: ("-j", "NFQUEUE", "--queue-num", str(number))
        for number in (INNER_QUEUE, OUTER_QUEUE)
    }
    ways: tuple[tuple[str, tuple[str, ...], int], ...]
    if inner is None:
        ways = (
            ("OUTPUT", ("!", "-o", "lo"), INNER_QUEUE),
            ("INPUT", ("!", "-i", "lo"), OUTER_QUEUE),
        )
    else:
        ways = (("FORWARD", ("-i", inner), INNER_QUEUE), ("FORWARD", ("-o", inner), OUTER_QUEUE))
    rules = [Rule("mangle", hook, passed) for hook in dict.fromkeys(way[0] for way in ways)]
    for port in ports:
        words = str(port[0]) if len(port) == 1 else f"{port[0]}:{port[-1]}"
        for hook, where, number in ways:
            rules += [
                Rule("mangle", hook, (*where, "-p", "tcp", end, words, *queues[number]))
                for end in ("--dport", "--sport")
            ]
    return rules


class SegmentPlane:
    """Serves the queues.  To be closed after the rules are gone, or dropped packets remain."""

    def __init__(
        self,
        loop: Loop,
        configure: Configure,
        *,
        resumption: ResumptionCache | None = None,
        key_log: KeyLog | None = None,
        forwards: bool = False,
        report: Callable[[Key, str, dict[str, object]], None] = lambda _key, _event, _fields: None,
    ) -> None:
        """Raises `LocalError` or `OSError` where CAP_NET_ADMIN or CAP_NET_RAW is missing."""
        self._loop = loop
        self._clock = time.monotonic
        self._lanes = _fast.make_lanes()
        self.table = Table(
            configure,
            resumption=resumption,
            key_log=key_log,
            forwards=forwards,
            lanes=self._lanes,
            report=report,
        )
        self._held: dict[Key, tuple[Flow, list[tuple[QueuedPacket, bytes]]]] = {}
        """They are for the keys of that flow, and not of a later one in its place."""
        self._held_count = 0
        self._timed: set[Key] = set()
        self.injected = 0
        """Packets that were added."""
        self._raw: dict[int, socket.socket] = {}
        self._liberal_before = ""
        # The daemon's queue too, empty: whoever finds it free may take the rules away.
        queues = {**dict.fromkeys(_SIDES, _QUEUE_LENGTH), QUEUE_NUMBER: 1}
        self._queue = PacketQueue.open(queues, joined=True)
        try:
            self._raw = {4: _raw(socket.AF_INET), 6: _raw(socket.AF_INET6)}
        except BaseException:
            self._queue.close()
            raise
        self._be_liberal()
        if self._lanes is not None:
            raw4, raw6 = self._raw[4].fileno(), self._raw[6].fileno()
            self._lanes.serve(self._queue.fileno(), raw4, raw6, INNER_QUEUE, OUTER_QUEUE)
            self._queue.receive_by(self._lanes.receive)
        loop.watch(self._queue.fileno(), READ, lambda _events: self._receive())
        loop.call_later(_SWEEP_EVERY, self._sweep)

    def _be_liberal(self) -> None:
        """Let connection tracking believe sequence numbers.

        It sees those of one side in one direction and those of the other in the
        other, and would call segments invalid that firewalls drop then.
        """
        # Where there is no connection tracking there is no such file.
        with contextlib.suppress(OSError):
            before = _LIBERAL.read_text()
            _LIBERAL.write_text("1")
            self._liberal_before = before

    def _receive(self) -> None:
        self._queue.receive(self._on_packet)
        if self._lanes is None:
            return
        for key, error in self._lanes.take_failed():
            self._inject(packet for _, packet in self.table.fail(key, error).packets)
        for key, due in self._lanes.take_armed():
            self._wake_at(key, due)

    def _on_packet(self, queued: QueuedPacket) -> None:
        side = _SIDES.get(queued.queue)
        if side is None:  # of rules that a daemon has left
            self._queue.verdict(queued, Verdict.DROP)
            return
        decided = False
        try:
            # What the kernel has joined it has verified, and filled in no checksum.
            whole = queued.hook is Hook.OUTPUT or len(queued.payload) > _ONE_SEGMENT
            key, outcome = self.table.take(side, queued.payload, verified=whole)
            decided = True
            self._decide(queued, side, key, outcome)
        finally:
            if not decided:  # a mistake of ours: nothing passes unseen
                self._queue.verdict(queued, Verdict.DROP)

    def _decide(self, queued: QueuedPacket, side: Side, key: Key | None, outcome: Outcome) -> None:
        added = outcome.packets
        if outcome.passed:
            self._queue.verdict(queued, Verdict.ACCEPT)
        elif outcome.held and key is not None:
            self._hold(queued, key)
        elif added and added[0][0] is not side and _keeps_its_kind(queued.payload, added[0][1]):
            self._queue.verdict(queued, Verdict.ACCEPT, added[0][1])
            added = added[1:]
        else:
            self._queue.verdict(queued, Verdict.DROP)
        self._inject(packet for _, packet in added)
        if key is not None:
            self._follow(key)

    def _hold(self, queued: QueuedPacket, key: Key) -> None:
        flow = self.table.flows[key]
        owner, waiting = self._held.setdefault(key, (flow, []))
        if owner is not flow or len(waiting) >= _HELD_MAX or self._held_count >= _HELD_IN_ALL:
            self._queue.verdict(queued, Verdict.DROP)
        else:
            self._held_count += 1
            waiting.append((queued, bytes(queued.payload)))

    def _follow(self, key: Key) -> None:
        """Release what was held, and see to the timer."""
        flow = self.table.flows.get(key)
        held = self._held.get(key)
        if held is not None and held[0] is not flow:
            self._discard(key)
        elif held is not None and flow is not None and flow.ready:
            waiting = self._held.pop(key)[1]
            self._held_count -= len(waiting)
            for queued, packet in waiting:
                again = queued._replace(payload=memoryview(packet))
                self._on_packet(again)
        if flow is not None and flow.due is not None:
            self._wake_at(key, flow.due)

    def _wake_at(self, key: Key, due: float) -> None:
        if key not in self._timed:
            self._timed.add(key)
            self._loop.call_later(max(due - self._clock(), 0.0), lambda: self._wake(key))

    def _discard(self, key: Key) -> None:
        """Drop what was held for a connection that is gone."""
        waiting = self._held.pop(key)[1]
        self._held_count -= len(waiting)
        for queued, _ in waiting:
            self._queue.verdict(queued, Verdict.DROP)

    def _wake(self, key: Key) -> None:
        self._timed.discard(key)
        self._inject(packet for _, packet in self.table.handle_timeout(key).packets)
        self._follow(key)

    def _inject(self, packets: Iterable[bytes]) -> None:
        for packet in packets:
            self._queue.flush()  # what was decided before leaves before
            version = packet[0] >> 4
            if version == 4:
                address: tuple[object, ...] = (socket.inet_ntop(socket.AF_INET, packet[16:20]), 0)
            else:
                address = (socket.inet_ntop(socket.AF_INET6, packet[24:40]), 0, 0, 0)
            self.injected += 1
            # Lost like any packet that finds no room; it comes again.
            with contextlib.suppress(OSError):
                self._raw[version].sendto(packet, address)

    def _sweep(self) -> None:
        self.table.sweep()
        flows = self.table.flows
        for key in [key for key, held in self._held.items() if flows.get(key) is not held[0]]:
            self._discard(key)
        self._loop.call_later(_SWEEP_EVERY, self._sweep)

    def close(self) -> None:
        """Reset what is encrypted, and give the queues back.  Idempotent."""
        if not self._raw:
            return
        self._inject(packet for _, packet in self.table.close())
        until = self._clock() + _CLOSING
        while (left := until - self._clock()) > 0:
            self._loop.step(left)
        if self._liberal_before:
            with contextlib.suppress(OSError):
                _LIBERAL.write_text(self._liberal_before)
        self._loop.forget(self._queue.fileno())
        self._queue.close()
        for raw in self._raw.values():
            raw.close()
        self._raw = {}


def _keeps_its_kind(before: memoryview, after: bytes) -> bool:
    """Whether the kernel can cut what replaces a joined packet, if it was one."""
    return len(before) <= _ONE_SEGMENT or len(after) > _ONE_SEGMENT


def _raw(family: int) -> socket.socket:
    """A socket that sends packets as they are, headers and all."""
    sock = socket.socket(
        family, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW
    )
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_PASSED)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    except BaseException:
        sock.close()
        raise
    return sock
