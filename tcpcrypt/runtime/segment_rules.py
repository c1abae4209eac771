"""From policies of the segment plane to the rules that bring its packets to it.

A packet of the inner side goes to one queue, one of the outer side to another.
For connections of this host these are OUTPUT and INPUT; for those that it forwards
FORWARD tells both, by the interface.  What the engine adds comes by a raw socket
with MARK_SEGMENT, and is let pass.

A SYN leaves the queue with MARK_PASSED, without which the guard
(`tcpcrypt.runtime.ruleset`) refuses it where encryption is required.  That is also
the mark of a socket which that SYN has opened here (`tcp_fwmark_accept`), so
that these rules stand before those for which it means something.

To a gateway's connections a mark of their own is given, and what of them does not
go through the queue is reset: if the daemon is killed, nobody knows any more which of
them were encrypted, and behind a reload not every host has believed the engine's reset.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from tcpcrypt.core.policy import SEGMENT, FlowDirection, Mode, Policy
from tcpcrypt.runtime.older import OlderConnection
from tcpcrypt.runtime.rules import (
    MARK_PASSED,
    MARK_SEGMENT,
    SEGMENT_INNER_QUEUE,
    SEGMENT_OUTER_QUEUE,
    Rule,
    marked,
    of_connection,
    remember,
    set_mark,
)
from tcpcrypt.runtime.ruleset import selectors

__all__ = ["forwarding_guard", "is_segment", "segment_rules"]

_TCP: Final = ("-p", "tcp")
_RESET: Final = ("-j", "REJECT", "--reject-with", "tcp-reset")
_ICMP_ERRORS: Final = {
    4: ("icmp", "--icmp-type", (3, 4, 5, 11, 12)),
    6: ("ipv6-icmp", "--icmpv6-type", (1, 2, 3, 4)),
}
"""Those that quote (RFC 792, RFC 4443): their protocol, the word for their type, types.

A redirect of IPv6 (137, RFC 4861) quotes, too, but nothing that was opened: a gateway redirects
who could have gone straight on, by the interface by which the packet came, and what
comes and goes by inner interfaces is left alone.
"""
_TOO_BIG: Final = {4: "3/4", 6: "2"}
"""RFC 1191, RFC 4443 section 3.2: the next link does not take so long a packet."""

Words = tuple[str, ...]


def is_segment(policy: Policy) -> bool:
    """Whether the segment plane has the connections of `policy` in hand."""
    return policy.plane == SEGMENT and policy.mode is not Mode.NEVER


def segment_rules(policies: Sequence[Policy], older: Iterable[OlderConnection] = ()) -> list[Rule]:
    """What brings packets to the queues; to stand before the rules of the relay.

    Connections of this host that are `older` are left alone.
    """
    named = [policy for policy in policies if policy.plane == SEGMENT]
    if not any(is_segment(policy) for policy in named):
        return []
    ours = (*_TCP, *marked(MARK_SEGMENT))
    rules = [
        Rule("mangle", "OUTPUT", (*ours, "-j", "RETURN")),
        # What the kernel may answer to it is not the engine's (`fwmark_reflect`).
        Rule("mangle", "INPUT", ("-i", "lo", *ours, *set_mark(0))),
    ]
    rules += _of_older(older)
    inner = sorted({name for policy in named for name in policy.match.inner})
    rules += [Rule("mangle", "FORWARD", (*pair, "-j", "RETURN")) for pair in _pairs(inner)]
    for policy in named:
        rules += _of_policy(policy)
    here = any(not policy.match.inner for policy in named)
    return rules + list(_of_quotations(inner, here=here))


def _of_quotations(inner: Sequence[str], *, here: bool) -> Iterator[Rule]:
    """ICMP errors of this host and of those behind it, for each quotes a packet.

    They go to the queue of the inner side, where it is known which packets are opened ones.
    To that of the outer side goes what tells a host (`here`: this one) that its packets are
    too long for the path: it quotes numbers of the wire.
    """
    ways: list[tuple[str, Words]] = [("OUTPUT", ("!", "-o", "lo"))]
    ways += [("FORWARD", ("-i", name)) for name in inner]
    target = ("-j", "NFQUEUE", "--queue-num", str(SEGMENT_INNER_QUEUE))
    for hook, device in ways:
        for family, (protocol, word, kinds) in _ICMP_ERRORS.items():
            for kind in kinds:
                words = (*device, "-p", protocol, word, str(kind), *target)
                yield Rule("mangle", hook, words, (family,))
    ways = [("FORWARD", ("-o", name)) for name in inner]
    if here:  # by way of `lo`, too: the kernel says it to itself
        ways.append(("INPUT", ()))
    target = ("-j", "NFQUEUE", "--queue-num", str(SEGMENT_OUTER_QUEUE))
    for hook, device in ways:
        for family, (protocol, word, _kinds) in _ICMP_ERRORS.items():
            words = (*device, "-p", protocol, word, _TOO_BIG[family], *target)
            yield Rule("mangle", hook, words, (family,))


def _of_older(older: Iterable[OlderConnection]) -> Iterator[Rule]:
    for old in older:
        here, there = (str(old.local), str(old.local_port)), (str(old.remote), str(old.remote_port))
        for hook, device, one, other in (
            ("OUTPUT", "-o", here, there),
            ("INPUT", "-i", there, here),
        ):
            ends = ("-s", one[0], "--sport", one[1], "-d", other[0], "--dport", other[1])
            words = ("!", device, "lo", *_TCP, *ends, "-j", "RETURN")
            rule = Rule("mangle", hook, words, (old.local.version,))
            yield rule


def _pairs(inner: Sequence[str]) -> Iterator[Words]:
    """Of what passes from one inner network to another both ends are inside."""
    for come in inner:
        for go in inner:
            yield ("-i", come, "-o", go, *_TCP)


def _of_policy(policy: Policy) -> Iterator[Rule]:
    match = policy.match
    for direction in FlowDirection:
        if match.direction not in {None, direction}:
            continue
        opens = direction is FlowDirection.OUTGOING
        ways: list[tuple[str, Words, bool, int]] = [
            ("OUTPUT", ("!", "-o", "lo"), not opens, SEGMENT_INNER_QUEUE),
            ("INPUT", ("!", "-i", "lo"), opens, SEGMENT_OUTER_QUEUE),
        ]
        if match.inner:
            ways = [
                ("FORWARD", (option, name), opens is (option == "-o"), queue)
                for name in match.inner
                for option, queue in (("-i", SEGMENT_INNER_QUEUE), ("-o", SEGMENT_OUTER_QUEUE))
            ]
        for hook, device, answers, queue in ways:
            target: Words = ("-j", "NFQUEUE", "--queue-num", str(queue))
            if policy.mode is Mode.NEVER:
                target = ("-j", "RETURN")
            for family, where in selectors(match, outgoing=opens, answers=answers):
                words = (*device, *_TCP, *where)
                if match.inner and policy.mode is not Mode.NEVER:
                    if not answers:
                        ours = (*words, "--syn", *remember(MARK_SEGMENT))
                        yield Rule("mangle", hook, ours, (family,))
                    # It goes through the queue, whatever becomes of it there.
                    yield Rule("mangle", hook, (*words, *set_mark(MARK_PASSED)), (family,))
                yield Rule("mangle", hook, (*words, *target), (family,))


def forwarding_guard(
    policies: Sequence[Policy], former: Iterable[Policy] = (), *, serving: bool
) -> list[Rule]:
    """What of forwarded connections may not pass; `serving` False: what outlives the daemon.

    A connection that the plane had in hand, by a policy that is in force or was
    (`former`), does not go on past the queue.
    """
    named = [policy for policy in policies if policy.match.inner]
    before = [policy for policy in former if policy.match.inner]
    if not any(is_segment(policy) for policy in (*named, *before)):
        return []
    inner = sorted({name for policy in named for name in policy.match.inner})
    rules = [Rule("filter", "FORWARD", (*pair, "-j", "RETURN")) for pair in _pairs(inner)]
    if serving:
        rules.append(Rule("filter", "FORWARD", (*_TCP, *marked(MARK_PASSED), "-j", "RETURN")))
    of_one = (*_TCP, "!", "--syn", *of_connection(MARK_SEGMENT))
    rules.append(Rule("filter", "FORWARD", (*of_one, *_RESET)))
    for policy in named:
        target = _RESET if policy.mode is Mode.REQUIRE else ("-j", "RETURN")
        for direction in FlowDirection:
            if policy.match.direction not in {None, direction}:
                continue
            opens = direction is FlowDirection.OUTGOING
            for name in policy.match.inner:
                device = ("-i" if opens else "-o", name)
                for family, where in selectors(policy.match, outgoing=opens):
                    words = (*device, *_TCP, *where, "--syn", *target)
                    rules.append(Rule("filter", "FORWARD", words, (family,)))
    return rules
