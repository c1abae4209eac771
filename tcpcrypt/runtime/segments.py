"""The segment plane on Linux: packets from the queues to the engine, and back.

A packet of the inner side waits in queue INNER_QUEUE, one of the outer side in
OUTER_QUEUE (`tcpcrypt.runtime.segment_queue`).  What the engine makes of it takes
its place, or is added.  Whoever holds the queue may have privileges, and decide
itself (`tcpcrypt segment`), or none, and have the daemon's parent do so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Final

from tcpcrypt import _fast
from tcpcrypt.core.key_log import KeyLog
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.runtime.loop import READ, Loop
from tcpcrypt.runtime.netlink import Hook, QueuedPacket, Verdict
from tcpcrypt.runtime.queue import PacketQueue
from tcpcrypt.runtime.rules import MARK_MASK, MARK_PASSED
from tcpcrypt.runtime.segment_queue import INNER_QUEUE, OUTER_QUEUE, QUEUE_LENGTH, Adding
from tcpcrypt.segment.flow import Flow, Outcome
from tcpcrypt.segment.opening import Side
from tcpcrypt.segment.table import Configure, Key, Table

__all__ = ["SegmentPlane"]

_SIDES: Final = {INNER_QUEUE: Side.INNER, OUTER_QUEUE: Side.OUTER}
_SWEEP_EVERY: Final = 10.0
_AGAIN: Final = 1.0
"""Seconds after which what there was no memory for is tried again."""
_HELD_MAX: Final = 16
"""Packets of one connection that wait for its keys: more than an initial window."""
_HELD_IN_ALL: Final = QUEUE_LENGTH // 4
"""They have their places in the queue, of which enough must be left for others."""
_ONE_SEGMENT: Final = 1600
"""A packet up to this size is no joined one any more, and the kernel would not know
what to do with one of which it still believes so."""
_CLOSING: Final = 0.5
"""Seconds for hosts to say that they do not believe a reset (RFC 5961 section 3.2):
without the rules what they send would go in clear."""


class SegmentPlane:
    """Serves the queues.

    `swept` is called now and then, when what is over was forgotten; `exhausted` then if
    segments were dropped since, as there was no memory to keep them: how many.
    """

    def __init__(
        self,
        loop: Loop,
        queue: PacketQueue,
        adding: Adding,
        configure: Configure,
        *,
        resumption: ResumptionCache | None = None,
        key_log: KeyLog | None = None,
        report: Callable[[Key, str, dict[str, object]], None] = lambda _key, _event, _fields: None,
        swept: Callable[[], None] = lambda: None,
        exhausted: Callable[[int], None] = lambda _segments: None,
    ) -> None:
        self._loop = loop
        self._queue = queue
        self._adding = adding
        self._clock = time.monotonic
        self._lanes = _fast.make_lanes()
        self.table = Table(
            configure,
            resumption=resumption,
            key_log=key_log,
            lanes=self._lanes,
            report=report,
        )
        self._held: dict[Key, tuple[Flow, list[tuple[QueuedPacket, bytes]]]] = {}
        """They are for the keys of that flow, and not of a later one in its place."""
        self._held_count = 0
        self._failed: list[tuple[Key, Exception]] = []
        self._ended: list[Key] = []
        self._armed: list[tuple[Key, float]] = []
        """What lanes have told of: mistakes, ends, and what is to be repeated when."""
        self._timed: dict[Key, float] = {}
        """When the next call for a connection comes."""
        self._swept = swept
        self._exhausted = exhausted
        self._refused = 0
        self._closed = False
        if self._lanes is not None:
            verdicts, raw4, raw6 = adding.descriptors
            self._lanes.serve(queue.fileno(), verdicts, raw4, raw6, INNER_QUEUE, OUTER_QUEUE)
            queue.receive_by(self._lanes.receive)
        loop.watch(queue.fileno(), READ, lambda _events: self._receive())
        loop.call_every(_SWEEP_EVERY, self._sweep)

    def _receive(self) -> None:
        self._queue.receive(self._on_packet)
        self._follow_lanes()

    def _follow_lanes(self) -> None:
        """See to what lanes have told.

        One by one: where memory runs out at one of them, the others are for the next time.
        """
        if self._lanes is not None:
            self._failed += self._lanes.take_failed()
            self._ended += self._lanes.take_ended()
            self._armed += self._lanes.take_armed()
        while self._failed:
            key, error = self._failed.pop()
            self._inject(packet for _, packet in self.table.fail(key, error).packets)
        while self._ended:
            key = self._ended.pop()
            self._inject(packet for _, packet in self.table.ended(key).packets)
        while self._armed:
            self._wake_at(*self._armed.pop())

    def _on_packet(self, queued: QueuedPacket) -> None:
        side = _SIDES.get(queued.queue)
        if side is None:  # of rules that another has left
            self._queue.verdict(queued, Verdict.DROP)
            return
        decided = False
        try:
            # What the kernel has joined it has verified, and filled in no checksum.
            whole = queued.hook is Hook.OUTPUT or len(queued.payload) > _ONE_SEGMENT
            key, outcome = self.table.take(
                side, queued.payload, verified=whole, forwarded=queued.hook is Hook.FORWARD
            )
            decided = True
            self._decide(queued, side, key, outcome)
        finally:
            if not decided:  # a mistake of ours: nothing passes unseen
                self._queue.verdict(queued, Verdict.DROP)

    def _decide(self, queued: QueuedPacket, side: Side, key: Key | None, outcome: Outcome) -> None:
        added = outcome.packets
        # By which the guard lets a SYN pass (`tcpcrypt.runtime.segment_rules`).
        mark = MARK_PASSED | queued.mark & ~MARK_MASK
        if outcome.passed:
            self._queue.verdict(queued, Verdict.ACCEPT, None, mark)
        elif outcome.held and key is not None:
            self._hold(queued, key)
        elif added and added[0][0] is not side and _keeps_its_kind(queued.payload, added[0][1]):
            self._queue.verdict(queued, Verdict.ACCEPT, added[0][1], mark)
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
        # The one that is set may be later, of a repetition that was put off again and again.
        if due < self._timed.get(key, math.inf):
            self._loop.call_later(max(due - self._clock(), 0.0), lambda: self._wake(key, due))
            self._timed[key] = due

    def _discard(self, key: Key) -> None:
        """Drop what was held for a connection that is gone."""
        waiting = self._held.pop(key)[1]
        self._held_count -= len(waiting)
        for queued, _ in waiting:
            self._queue.verdict(queued, Verdict.DROP)

    def _wake(self, key: Key, due: float) -> None:
        if self._timed.get(key) != due:
            return  # there was an earlier one
        del self._timed[key]
        try:
            self._inject(packet for _, packet in self.table.handle_timeout(key).packets)
        except MemoryError:
            self._wake_at(key, self._clock() + _AGAIN)
            raise
        self._follow(key)

    def _inject(self, packets: Iterable[bytes]) -> None:
        for packet in packets:
            self._queue.flush()  # what was decided before leaves before
            self._adding.send(packet)

    def abort(self, unwanted: Callable[[Key], bool]) -> None:
        """Reset the connections that are encrypted, or to be, and `unwanted`."""
        flows = self.table.flows
        for key in [key for key in flows if unwanted(key)]:
            self._inject(packet for _, packet in flows[key].abort().packets)
            self._follow(key)

    def _sweep(self) -> None:
        if self._closed:
            return
        self._follow_lanes()
        self.table.sweep()
        flows = self.table.flows
        for key in [key for key, held in self._held.items() if flows.get(key) is not held[0]]:
            self._discard(key)
        self._swept()
        before, self._refused = self._refused, self.table.memory.refused
        if before != self._refused:
            self._exhausted(self._refused - before)

    def close(self) -> None:
        """Reset what is encrypted; nothing begins any more.  Idempotent.

        The rules have to be there until this returns, or what the hosts still say
        goes in clear.
        """
        if self._closed:
            return
        self._closed = True
        packets = self.table.close()
        self._inject(packet for _, packet in packets)
        until = self._clock() + _CLOSING if packets else 0.0
        while (left := until - self._clock()) > 0:
            self._loop.step(left)
        self._queue.flush()
        self._loop.forget(self._queue.fileno())


def _keeps_its_kind(before: memoryview, after: bytes) -> bool:
    """Whether the kernel can cut what replaces a joined packet, if it was one."""
    return len(before) <= _ONE_SEGMENT or len(after) > _ONE_SEGMENT
