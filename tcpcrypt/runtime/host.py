"""The daemon's work on one host, free of command lines, signals and privileges.

A `Host` owns the loop and the connections, and serves what an `Installation`
brings it: it may be in another process than that.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import ipaddress
import os
import resource
import socket
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from tcpcrypt.auth.scope import INCOMING
from tcpcrypt.auth.trust import Trust
from tcpcrypt.core.config import RandomBytes
from tcpcrypt.core.negotiation import Negotiation, Opener
from tcpcrypt.core.policy import Flow, FlowDirection, Mode, Policy, select
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.errors import LocalError, PeerError
from tcpcrypt.runtime.authentication import Authentication, Remember
from tcpcrypt.runtime.connection import (
    Connection,
    address_text,
    close_with_reset,
)
from tcpcrypt.runtime.context import Context, Report, Settings
from tcpcrypt.runtime.eno_backend import EnoBackend, Requested, Tuple4
from tcpcrypt.runtime.figures import connection_slots
from tcpcrypt.runtime.incoming import AcceptedByPeer
from tcpcrypt.runtime.loop import READ, Loop
from tcpcrypt.runtime.mixed import MixedBackend
from tcpcrypt.runtime.netlink import QueuedPacket, Verdict
from tcpcrypt.runtime.nfqueue import NfqueueBackend
from tcpcrypt.runtime.outgoing import OpenedByApplication
from tcpcrypt.runtime.overview import Overview
from tcpcrypt.runtime.path_memory import PathMemory
from tcpcrypt.runtime.privileges import Privileges
from tcpcrypt.runtime.published import PublishedCache
from tcpcrypt.runtime.pump import Pumping
from tcpcrypt.runtime.queue import PacketQueue
from tcpcrypt.runtime.rules import QUEUE_NUMBER, SYN_QUEUE
from tcpcrypt.runtime.ruleset import STRAY_QUEUE, hold_queue
from tcpcrypt.runtime.segment_divert import SegmentDivert
from tcpcrypt.runtime.segment_queue import Adding
from tcpcrypt.runtime.sockops import Maps, SockopsBackend
from tcpcrypt.runtime.steering import NotSteeredError, Steering
from tcpcrypt.runtime.synhold import HeldSyn, SynHold
from tcpcrypt.runtime.tally import Tally
from tcpcrypt.runtime.tcps import TCPS_QUEUE, TcpsDivert
from tcpcrypt.wire.eno import find_eno
from tcpcrypt.wire.profile import WireProfile

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Host", "raise_descriptor_limit"]

_ACCEPTS_A_TURN: Final = 64
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_MMAP_THRESHOLD: Final = 8 << 20
"""A relay's largest block is a read and what was left of the frame before it."""
_TRIM_THRESHOLD: Final = 32 << 20
_GARBAGE_AFTER: Final = 20_000
"""Objects made and not freed before the garbage collector looks; some 200 connections."""
_ACCEPT_PAUSE: Final = 0.1
"""Seconds without accepting when the process has run out of descriptors."""
_LOOK_AFTER: Final = 10.0
"""Seconds between two looks for connections that nobody will answer."""
_SETTLE_AFTER: Final = 1.0
"""Seconds between two looks at handshakes that end without a packet for us."""
_UNSTEERABLE_MAX: Final = 1024
_NO_ROOM: Final = "too many open files"
_NO_MEMORY: Final = "out of memory"
_OF_HANDSHAKES: Final = frozenset({QUEUE_NUMBER, SYN_QUEUE})


class Host:
    """Encrypts the connections of this host.  `start`, `run`, and in any case `close`.

    `steering`, `queue` and `maps` are those of an open installation, or stand for it.
    """

    def __init__(
        self,
        settings: Settings,
        report: Report,
        *,
        steering: Steering,
        queue: PacketQueue,
        privileges: Privileges,
        segments: tuple[PacketQueue, Adding] | None = None,
        trust: Trust | None = None,
        remember: Remember = lambda _learned: None,
        maps: Maps | None = None,
    ) -> None:
        self.settings = settings
        self.tally = Tally()
        self.loop = Loop()
        self.connections: set[Connection] = set()
        self._report = report
        self._steering = steering
        self._queue = queue
        self._hold = SynHold(queue, self._application_opens)
        self._backend: EnoBackend
        self._queued: NfqueueBackend | None = NfqueueBackend(queue, privileges)
        resumption = ResumptionCache(settings.config)
        if maps is None:
            self._backend = self._queued
        elif settings.backend == "mixed":
            self._backend = MixedBackend(SockopsBackend(maps, privileges), self._queued)
        else:
            self._backend, self._queued = SockopsBackend(maps, privileges), None
            resumption = PublishedCache(settings.config, maps.resumptions)
        self._waiting: dict[Tuple4, OpenedByApplication] = {}
        self._unsteerable: OrderedDict[Tuple4, int] = OrderedDict()
        """Connections, by the sequence number of their SYN, that cannot come to us."""
        self._generation = 0
        self._slots = connection_slots()
        self._held_by: dict[int, Policy] = {}
        self._context = Context(
            config=settings.config,
            policies=settings.policies,
            loop=self.loop,
            backend=self._backend,
            steering=steering,
            privileges=privileges,
            resumption=resumption,
            paths=PathMemory(settings.path_memory),
            tally=self.tally,
            report=report,
            authentication=Authentication(trust, remember),
            # Of those that a BPF program opens hardly any wait there.
            take_packets=self._take_packets_soon if maps is None else lambda: None,
            pump=Pumping.open(self.loop),
            key_log=settings.key_log,
        )
        self._tcps = TcpsDivert(
            queue, lambda: self._context.policies, report, self._context.next_number
        )
        self.segments = SegmentDivert(self._context, *segments) if segments is not None else None
        self.overview = Overview(
            self._context,
            connections=self.connections,
            hold=self._hold,
            queue=queue,
            backend=self._backend,
            steering=steering,
            tcps=self._tcps,
            segments=self.segments,
        )
        self._serving = False
        self._taking = False
        """Whether this turn will take what waits in the queue."""
        self._closed = False

    def start(self) -> None:
        """Be ready for connections; the rules may be installed then."""
        raise_descriptor_limit()
        self._slots = connection_slots()
        _keep_freed_memory()
        _collect_garbage_seldom()
        self.loop.failed = self._on_bug
        self._take_queues()
        self._tcps.warn()
        if self.segments is not None:
            self.segments.obey()
        self._backend.configure(self.settings.config)
        for listener in self._steering.peer_listeners:
            self._backend.adopt_listener(listener, self._request)
        self._steering.listen()
        for listener in self._steering.application_listeners:
            self._accept_from(listener, self._application_came)
        for listener in self._steering.peer_listeners:
            self._accept_from(listener, self._peer_came, self._lack)
        self.loop.call_every(_LOOK_AFTER, self._look_after)
        if self._queued is not None:
            self.loop.call_every(_SETTLE_AFTER, self._queued.look_after)
        self.loop.watch(self._queue.fileno(), READ, lambda _events: self._take_packets())
        self._serving = True

    def _look_after(self) -> None:
        # One timer for all: most connections end long before theirs would be due.
        now = time.monotonic()
        self._slots = connection_slots()
        self.loop.has_memory()  # what was used of its reserve is kept again
        for opening in tuple(self._waiting.values()):
            opening.look_after(now)
        self._tcps.expire()

    def _take_packets(self) -> None:
        self._taking = False
        if self._serving:
            self._queue.receive(self._on_packet)

    def _take_packets_soon(self) -> None:
        if not self._taking:
            self.loop.call_later(0, self._take_packets)
            self._taking = True

    def run(self) -> None:
        """Serve until `stop`."""
        self.loop.run()

    def stop(self) -> None:
        """Let `run` return; safe in a signal handler."""
        self.loop.stop()

    def reload(self, settings: Settings) -> None:
        """Serve by other policies from now on; open connections go on as they are."""
        self.settings = settings
        self._generation += 1
        self._context.policies = settings.policies
        self._context.config = settings.config
        self._context.paths.seconds = settings.path_memory
        self._backend.configure(settings.config)
        self._take_queues()
        self._tcps.warn()
        if self.segments is not None:
            self.segments.obey()
        for connection in tuple(self.connections):
            # What goes packet by packet from now on would leave as the application sends it.
            if connection.direction == "outgoing" and self._goes_by_packets(connection):
                connection.reset()

    def _goes_by_packets(self, connection: Connection) -> bool:
        (local, port), (remote, service) = connection.ends
        ends = ipaddress.ip_address(local), port, ipaddress.ip_address(remote), service
        flow = Flow(FlowDirection.OUTGOING, *ends)
        return select(self._context.policies, flow).by_packets

    def drain_segments(self) -> None:
        """Let what begins now in the segment plane go in the clear, where policy allows."""
        if self.segments is not None:
            self.segments.drain()

    def end_segments(self) -> None:
        """Reset what the segment plane has encrypted; the loop is served meanwhile."""
        if self.segments is not None:
            self.segments.close()

    def trust(self, trust: Trust | None) -> None:
        """Believe by this from now on; live connections and cached sessions, too."""
        change = self._context.authentication.replace(trust)
        self._backend.configure(self._context.config)  # SYNs are answered by it
        forgotten = self._context.resumption.flush_identity(change.concerns)
        if self.segments is not None:
            forgotten += self.segments.reconsider(change)
        if forgotten:
            self._report("forgotten", {"sessions": forgotten})
        for connection in tuple(self.connections):
            connection.reconsider(change)

    def _take_queues(self) -> None:
        # Those of the generation before stay: a SYN may still be in one of them.
        for index, policy in enumerate(self.settings.policies):
            self._held_by[hold_queue(self._generation, index)] = policy

    def retire(self) -> None:
        """Take no more connections, but go on with those that there are."""
        self._serving = False
        self.loop.forget(self._queue.fileno())
        for listener in self._listeners():
            self.loop.forget(listener.fileno())

    def close(self) -> None:
        """Reset the connections and forget all secrets.  Idempotent.

        To come before the rules are taken out: an application must see a
        reset, and its next segments must not leave in clear.
        """
        if self._closed:
            return
        self._closed = True
        self.end_segments()
        for connection in tuple(self.connections):
            connection.reset()
        self.retire()
        if self._context.pump is not None:
            self._context.pump.close()
        self._context.resumption.flush()
        self._tcps.close()
        self.loop.close()

    def _listeners(self) -> Sequence[socket.socket]:
        return (*self._steering.application_listeners, *self._steering.peer_listeners)

    def _on_bug(self, fd: int, error: Exception) -> None:
        """One connection is not to take the others down with it.

        It ends before anything is told of it, for memory may be what has run out.
        """
        self.tally.bugs += 1
        # Listeners and the queue take up the next event by themselves.
        for connection in self.connections:
            if connection.owns(fd):
                connection.reset()
                break
        self._report("bug", {"error": f"{type(error).__name__}: {error}", "at": _place(error)})

    # --- connections that come ---------------------------------------------------

    def _accept_from(
        self,
        listener: socket.socket,
        came: Callable[[socket.socket], None],
        lack: Callable[[], str | None] = lambda: None,
    ) -> None:
        def watch() -> None:
            if listener.fileno() >= 0:
                self.loop.watch(listener.fileno(), READ, on_ready)

        def pause(reason: str) -> None:
            # In this order: where there is no memory for one of them it goes on.
            self.loop.call_later(_ACCEPT_PAUSE, watch)
            self.loop.watch(listener.fileno(), 0, on_ready)
            self._report("exhausted", {"reason": reason})

        def on_ready(_events: int) -> None:
            for _ in range(_ACCEPTS_A_TURN):
                if lacking := lack():
                    pause(lacking)  # they wait in the kernel
                    return
                try:
                    sock, _address = listener.accept()
                except BlockingIOError:
                    return
                except OSError as error:
                    if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                        pause(os.strerror(error.errno or 0))
                        return
                    continue  # a connection that is gone already
                came(sock)

        watch()

    def _on_packet(self, packet: QueuedPacket) -> None:
        if packet.queue in _OF_HANDSHAKES:
            if self._queued is not None:
                self._queued.take(packet)
            else:
                self._queue.verdict(packet, Verdict.DROP)
        elif packet.queue == TCPS_QUEUE:
            self._tcps.take(packet)
        elif packet.queue == STRAY_QUEUE:
            self._hold.take_stray(packet, self._is_bound_to_device)
        else:
            self._hold.take(packet)

    def _is_bound_to_device(self, connection: Tuple4, isn: int) -> bool:
        """Such a socket cannot be steered; whether it may go on as it is."""
        opening = self._waiting.get(connection)
        if opening is None or opening.policy is None:
            return False
        self._report("unsteerable", {"service": address_text(opening.ends[1])})
        opening.reset()
        if self._context.may_be_plain(opening.policy, connection):
            return True
        self._unsteerable[connection] = isn
        if len(self._unsteerable) > _UNSTEERABLE_MAX:
            self._unsteerable.popitem(last=False)
        return False

    def _application_opens(self, held: HeldSyn) -> None:
        """The SYN of an application waits for a decision."""
        context, policy, to = self._context, self._held_by.get(held.queue), held.connection
        if policy is None or policy.mode is Mode.NEVER:
            held.drop()
            held.forget()
        elif not to.remote_port:
            # Where nothing can be known of keys, and nobody serves.
            self._report("failed", {"reason": "0 is no port of a service"})
            held.refuse()
            held.forget()
        elif self._unsteerable.pop(to, None) == held.isn:
            held.refuse()
            held.forget()
        elif context.leaves_alone(policy, to):
            self.tally.count("direct")
            held.leave_alone()
            held.forget()
        elif lacking := self._lack():
            self.tally.count("exhausted")
            if context.may_be_plain(policy, to):
                held.leave_alone()
            held.forget()  # where encryption is required the SYN comes again
            self._report("exhausted", {"reason": lacking, "service": address_text(held.service)})
        else:
            connection = OpenedByApplication(context, self._gone, held, policy)
            self._waiting[to] = connection
            self._begin(connection)

    def _lack(self) -> str | None:
        """What there is too little of for one more connection, both its sides."""
        if len(self.connections) >= self._slots:
            return _NO_ROOM
        return None if self.loop.has_memory() else _NO_MEMORY

    def _application_came(self, inner: socket.socket) -> None:
        """A connection of an application has come to the listener."""
        try:
            service = self._steering.meant_by_application(inner)
            client = inner.getpeername()
            key = Tuple4.between(client, service)
        except (OSError, NotSteeredError):
            close_with_reset(inner)
            return
        connection = self._waiting.pop(key, None)
        if connection is None:
            # Whoever opened it has been told already that it failed.
            close_with_reset(inner)
        else:
            connection.came(inner)

    def _gone(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if (
            isinstance(connection, OpenedByApplication)
            and self._waiting.get(connection.connection) is connection
        ):
            del self._waiting[connection.connection]

    def _peer_came(self, outer: socket.socket) -> None:
        self._begin(AcceptedByPeer(self._context, self._gone, outer))

    def _begin(self, connection: Connection) -> None:
        self.connections.add(connection)
        try:
            connection.start()
        except BaseException:
            connection.reset()  # a mistake of ours, or no memory; nobody is to wait for ever
            raise

    def _request(
        self,
        connection: Tuple4,
        *,
        options: ReadableBuffer = b"",
        resume: bool = True,
        random: RandomBytes = os.urandom,
    ) -> Requested:
        """A peer's SYN has come: what it is answered with, its policy says."""
        context = self._context
        policy = context.policy_of_service(connection)
        try:
            config, terms = context.authentication.configure(
                context.configured(policy, _spoken(policy, options)),
                policy,
                FlowDirection.INCOMING,
                INCOMING,
            )
        except LocalError as error:
            self._report("failed", {"reason": str(error)})
            raise
        negotiation = Negotiation(
            config,
            Opener.PASSIVE,
            resumption=context.resumption if resume else None,
            peer=connection.remote,
            random=random,
        )
        # Where it does not matter for the policy who the peer is.
        shared = not any(
            known.match.remote and known.match.direction is not FlowDirection.OUTGOING
            for known in context.policies
        )
        return Requested(negotiation, policy, config, terms, shared, context.resumption.knows)


def _spoken(policy: Policy, options: ReadableBuffer) -> WireProfile:
    """Of the dialects that a policy allows, the one in which a SYN speaks."""
    profiles = policy.profiles
    with contextlib.suppress(PeerError):
        return next((p for p in profiles if find_eno(options, p).options), profiles[0])
    return profiles[0]


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


def _collect_garbage_seldom() -> None:
    """Connections leave no circles of references behind, so there is little to find.

    Measured at 64 connections at once: with the limits that Python begins with,
    looking through live connections again and again took a sixth of the
    processor time.  What was imported is never looked through.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_AFTER, 20, 20)


def raise_descriptor_limit() -> None:
    """As many descriptors as this process may have."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _place(error: Exception) -> str:
    """The line that raised it; its text is not looked up, which would take memory."""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        place = f"{frame.f_code.co_filename}:{line}"
    return place
