"""What the daemon has put into the kernel of its host: sockets, queues, routes, rules.

All of it needs CAP_NET_ADMIN, and none of it looks at a byte that a peer sent.
`open` takes hold of the host, `install` lets connections come, `remove` lets
them go; there is one installation in a network namespace.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from tcpcrypt.core.policy import Mode, Policy
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.context import Settings
from tcpcrypt.runtime.diversion import divert_rules
from tcpcrypt.runtime.firewall import Firewall
from tcpcrypt.runtime.left_behind import end_left_behind
from tcpcrypt.runtime.liberal import LiberalTracking
from tcpcrypt.runtime.nfqueue import QUEUE_LENGTH, SYN_QUEUE_LENGTH
from tcpcrypt.runtime.older import (
    OlderConnection,
    diverted_connections,
    older_connections,
    still_there,
)
from tcpcrypt.runtime.queue import PacketQueue
from tcpcrypt.runtime.routing import Routing
from tcpcrypt.runtime.rules import MARK_DONE, MARK_HANDSHAKE, QUEUE_NUMBER, SYN_QUEUE, Rule
from tcpcrypt.runtime.ruleset import (
    HOLD_SLOTS,
    STRAY_QUEUE,
    accepting_rules,
    guard_rules,
    hold_queue,
    opening_rules,
)
from tcpcrypt.runtime.segment_queue import RawSockets, open_segment_queue
from tcpcrypt.runtime.segment_rules import forwarding_guard, is_segment, segment_rules
from tcpcrypt.runtime.sock_diag import destroy
from tcpcrypt.runtime.sockops import Attachment, Maps, pass_rules
from tcpcrypt.runtime.steering import TransparentSteering
from tcpcrypt.runtime.tcps import TCPS_QUEUE, tcps_rules

__all__ = [
    "LOCK",
    "QUEUE_NUMBERS",
    "Installation",
    "only_one",
    "remaining_rules",
    "remove_everything",
    "rules_for",
]

QUEUE_NUMBERS: Final = frozenset(
    {
        QUEUE_NUMBER,
        SYN_QUEUE,
        STRAY_QUEUE,
        TCPS_QUEUE,
        *(hold_queue(g, slot) for g in (0, 1) for slot in range(HOLD_SLOTS)),
    }
)
"""All netfilter queues that the daemon takes, but for the two of the segment plane."""
LOCK: Final = b"tcpcryptd"
"""The abstract name of a Unix socket, without its null byte, that who has the rules has."""
_FORMER_MAX: Final = 256
"""Policies of former configurations whose connections are cared for."""


class Installation:
    """Raises `LocalError` with what is missing; `remove` and `close` in any case."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.generation = 0
        """Counts the sets of policies."""
        self.older: list[OlderConnection] = []
        """What was there before, and is left alone."""
        self._former: list[Policy] = []
        self._named: Sequence[Policy] = settings.policies
        self._lock: socket.socket | None = None
        self._queue: PacketQueue | None = None
        self._steering: TransparentSteering | None = None
        self._segments: PacketQueue | None = None
        self._raw: RawSockets | None = None
        self._tracking = LiberalTracking()
        self._routing = Routing(settings.families)
        self._firewall = Firewall()
        self._installed = False
        self._attachment: Attachment | None = None

    @property
    def maps(self) -> Maps | None:
        """What sockops needs; None: netfilter queues alone carry the option."""
        return self._attachment.maps if self._attachment is not None else None

    @property
    def _queues(self) -> bool:
        """Whether handshakes go through a netfilter queue, all or some."""
        return self.settings.backend != "sockops"

    @property
    def queue(self) -> PacketQueue:
        """Where packets wait; open."""
        if self._queue is None:
            raise LocalError("the installation is not open")
        return self._queue

    @property
    def named(self) -> Sequence[Policy]:
        """The policies in force and those that were, whose connections may be open."""
        return self._named

    @property
    def segments(self) -> tuple[PacketQueue, RawSockets]:
        """Where packets of the segment plane wait, and what adds others; open."""
        if self._segments is None or self._raw is None:
            raise LocalError("the installation is not open")
        return self._segments, self._raw

    @property
    def steering(self) -> TransparentSteering:
        """The listeners; open."""
        if self._steering is None:
            raise LocalError("the installation is not open")
        return self._steering

    def open(self) -> None:
        """Take the lock, the queues and the listeners' ports; nothing comes yet."""
        self._lock = only_one()
        try:
            lengths = dict.fromkeys(sorted(QUEUE_NUMBERS), QUEUE_LENGTH)
            self._queue = PacketQueue.open({**lengths, SYN_QUEUE: SYN_QUEUE_LENGTH})
            self._segments, self._raw = open_segment_queue(), RawSockets(self.settings.families)
            if self.settings.backend in {"sockops", "mixed"}:
                # Before any socket is made: the program knows none that is older.
                self._attachment = Attachment()
            self._steering = TransparentSteering(self.settings.families)
            for listener in self._steering.peer_listeners:
                # Requests and accepted sockets inherit the mark.
                listener.setsockopt(
                    socket.SOL_SOCKET, socket.SO_MARK, MARK_HANDSHAKE if self._queues else MARK_DONE
                )
        except OSError as error:
            self.close()
            raise LocalError(f"cannot set up sockets: {error}") from error
        except BaseException:
            self.close()
            raise

    def install(self) -> None:
        """Let connections come; the listeners and the queues have to be served by now."""
        self._installed = True
        end_left_behind(self._firewall)
        self.older = older_connections(self.settings.policies)
        self._routing.install()
        self._track()
        self._firewall.install(self.rules())

    def _track(self) -> None:
        if any(is_segment(policy) for policy in self.settings.policies):
            self._tracking.install()

    def rehearse(self, policies: Sequence[Policy]) -> None:
        """See whether these policies can be put in force; nothing changes."""
        rules = rules_for(policies, self.generation + 1, self.steering, queue=self._seen_in)
        self._firewall.rehearse(rules)

    def update(self, policies: Sequence[Policy]) -> None:
        """Put other policies in force; for connections that are open nothing changes.

        `Host.reload` comes first, for it has to know the next queues.
        """
        before, self.settings = self.settings, replace(self.settings, policies=tuple(policies))
        self.generation += 1
        # What was left alone goes on to be; what only now is named is older than that.
        self.older = [
            *still_there(self.older),
            *older_connections(self.settings.policies, before.policies),
        ]
        now = self.settings.policies
        self._end_diverted([p for p in before.policies if p not in now], now)
        self._remember(before.policies)
        self._track()
        self._firewall.install(self.rules())

    def _end_diverted(self, policies: Sequence[Policy], staying: Sequence[Policy] = ()) -> None:
        """Without the rules of what goes by packets its connections would go on in the clear."""
        if not any(policy.by_packets for policy in policies):
            return
        # What another policy of the segment plane has in hand from now on goes on by that.
        segment = [policy for policy in staying if is_segment(policy)]
        go_on = set(diverted_connections(segment, self.older))
        ending = [c for c in diverted_connections(policies, self.older) if c not in go_on]
        if ending:
            destroy(ending)

    def _remember(self, policies: Iterable[Policy]) -> None:
        """Their connections may be open, and are steered by them should marks be lost."""
        known = dict.fromkeys((*self._former, *policies))
        self._former = [p for p in known if p not in self.settings.policies][-_FORMER_MAX:]
        self._named = (*self.settings.policies, *self._former)

    def drain(self) -> None:
        """Let new connections pass by, but for those that `require` refuses.

        Those that are open go on through the daemon.
        """
        policies = [
            replace(policy, mode=Mode.NEVER) if policy.mode is Mode.OPPORTUNISTIC else policy
            for policy in self.settings.policies
        ]
        self._firewall.install(
            [
                *tcps_rules(self.settings.policies, self.older),
                *segment_rules(self.settings.policies, self.older),
                *guard_rules(policies, serving=True),
                *forwarding_guard(policies, self._former, serving=True),
                *_carrying(self._seen_in),
                *opening_rules(
                    policies,
                    None,
                    self.older,
                    (*self._former, *self.settings.policies),
                ),
                *self.steering.rules(),
                *accepting_rules((), self.steering.peer_ports(), queue=self._seen_in),
            ]
        )

    def rules(self) -> list[Rule]:
        """All rules, as they stand while the daemon serves."""
        return rules_for(
            self.settings.policies,
            self.generation,
            self.steering,
            self.older,
            self._former,
            queue=self._seen_in,
        )

    @property
    def _seen_in(self) -> int | None:
        """The queue of handshakes; None: nobody needs to see them."""
        return QUEUE_NUMBER if self._queues else None

    def missing(self) -> int:
        """How many rules are not as they were installed: somebody has changed them."""
        if not self._installed:
            return 0
        return self._firewall.missing() + self._routing.missing() + self._tracking.missing()

    def restore(self) -> None:
        """Put all rules in again."""
        self._track()
        self._routing.repair()
        self._firewall.install(self.rules())

    def remove(self, *, guard: bool = False) -> None:
        """Take the rules out; `guard`: but for those that refuse what `require` names.

        Nobody may serve connections any more: an application must have seen a
        reset before its next segments can leave.  Idempotent.
        """
        if self._installed:
            for listener in self.steering.application_listeners:
                # Resets those in its queue that nobody has taken up, whoever else holds it.
                with contextlib.suppress(OSError):
                    listener.shutdown(socket.SHUT_RDWR)
            self._end_diverted(self.settings.policies)
            try:
                self._firewall.remove(remaining_rules(self.settings.policies) if guard else ())
            finally:
                self._tracking.remove()
                self._routing.remove()
            self._installed = False  # now: had it failed, the janitor would try again

    def close(self) -> None:
        """Give sockets, queues and lock back.  Idempotent."""
        parts = (self._queue, self._segments, self._raw, self._steering, self._attachment)
        for part in (*parts, self._lock):
            if part is not None:
                part.close()
        self._queue = self._segments = self._raw = self._steering = None
        self._attachment = self._lock = None


def rules_for(
    policies: Sequence[Policy],
    generation: int,
    steering: TransparentSteering,
    older: Iterable[OlderConnection] = (),
    former: Iterable[Policy] = (),
    *,
    queue: int | None = QUEUE_NUMBER,
) -> list[Rule]:
    """All rules for `policies`, as they stand while the daemon serves.

    `queue`: where the option is carried; None if the kernel does that.
    Of an IP version that it does not serve, what `require` names is refused.
    """
    listeners = steering.peer_ports()
    older = list(older)
    rules = [
        *tcps_rules(policies, older),
        *segment_rules(policies, older),
        *guard_rules(policies, serving=True),
        *forwarding_guard(policies, former, serving=True),
        *_carrying(queue),
        *opening_rules(policies, generation, older, former),
        *steering.rules(),
        *accepting_rules(policies, listeners, queue=queue),
    ]
    others = [family for family in (4, 6) if family not in listeners]
    return [
        *_limited(rules, listeners),
        *_limited(remaining_rules(policies), others),
    ]


def remaining_rules(policies: Sequence[Policy]) -> list[Rule]:
    """What outlives the daemon."""
    return [*guard_rules(policies, serving=False), *forwarding_guard(policies, serving=False)]


def _carrying(queue: int | None) -> list[Rule]:
    """The rules of what carries the option."""
    return divert_rules() if queue is not None else pass_rules()


def _limited(rules: Iterable[Rule], families: Collection[int]) -> Iterator[Rule]:
    """Those that concern these IP versions, and for these alone."""
    for rule in rules:
        kept = tuple(family for family in rule.families if family in families)
        if kept:
            yield replace(rule, families=kept)


def remove_everything(families: Sequence[int] = (4, 6)) -> int:
    """Take out whatever a daemon that is gone has left, its guard too; how many rules.

    Raises `LocalError` if a daemon is running, whose rules these are.
    """
    lock = only_one()
    try:
        PacketQueue.open({QUEUE_NUMBER: 1}).close()  # nobody but a daemon has it
        firewall = Firewall(families)
        end_left_behind(firewall)
        count = firewall.remove()
        return count + Routing(families).remove()
    finally:
        if lock is not None:
            lock.close()


def only_one() -> socket.socket | None:
    """Be the only one whose rules are in the kernel of this network namespace.

    An abstract socket name is taken once in a namespace, and never left behind.

    Anybody may take such a name.  None: it is not a daemon who has it; that
    there is one only then shows by the netfilter queue, which nobody without
    CAP_NET_ADMIN can take.
    """
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        lock.bind(b"\0" + LOCK)
        lock.listen(1)
    except OSError as error:
        lock.close()
        if error.errno != errno.EADDRINUSE:
            raise LocalError(f"cannot take the lock: {error.strerror}") from error
        if _is_ours():
            raise LocalError("another tcpcryptd serves this network namespace") from error
        return None
    return lock


def _is_ours() -> bool:
    """Whether it is root, or this user, who has the lock."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        try:
            asking.connect(b"\0" + LOCK)
        except OSError:
            return False
        _pid, uid, _gid = struct.unpack(
            "iII", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        )
        return uid in {0, os.geteuid()}
