"""From policies to firewall rules: which connections come to the daemon, and which may not pass.

The kernel walks the policies in their order, as `tcpcrypt.core.policy.select`
does, and the first that matches decides.

*What an application opens* (mangle OUTPUT).  Its SYN is held in a netfilter
queue until the daemon has decided what becomes of it; which queue says which
policy matched, for only the kernel knows the owner of a socket for certain.
The verdict gives the SYN a mark: steered to the daemon, to leave as it is, or
to be refused.  The first two are kept as connection marks, and what follows
goes the same way.  Where the connection mark is lost (somebody flushed the
table, or it forgot an idle connection) what follows is steered by the policy's
addresses and ports, so that at worst a plain connection is reset or hangs, and
never an encrypted one continues in clear.  Nobody outside can bring about that
a connection is left alone.

*What a peer opens* (mangle PREROUTING).  A SYN with option 69, to a port on
which somebody listens, goes to the daemon's listener.  All others go on
untouched, and where nobody listens the kernel refuses as ever.  (Where policy
allows the Stanford profile its option, of kind 253, does the same.)  What comes from
outside for a connection within this host is dropped (mangle INPUT).

*The guard* (filter).  A SYN that a policy names and that nobody decided on
does not leave; one that `require` names is refused, on both sides.  The part
of it that serves `require` can outlive the daemon.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from tcpcrypt.core.policy import FlowDirection, Match, Mode, Policy
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.following import (
    asked_of_the_dead,
    following_rules,
    kept_from_services,
    looked_up,
    never_begun,
)
from tcpcrypt.runtime.older import OlderConnection
from tcpcrypt.runtime.option_match import option_matches
from tcpcrypt.runtime.rules import (
    MARK_ACCEPTED,
    MARK_DIRECT,
    MARK_DONE,
    MARK_HANDSHAKE,
    MARK_INNER,
    MARK_MASK,
    MARK_PASSED,
    MARK_REFUSED,
    MARK_STEERED,
    MARK_UNREACHABLE,
    Rule,
    go_to,
    marked,
    of_connection,
    remember,
    set_mark,
    tproxy,
)

__all__ = [
    "HOLD_SLOTS",
    "STRAY_QUEUE",
    "accepting_rules",
    "guard_rules",
    "hold_queue",
    "opening_rules",
    "selectors",
]

HOLD_SLOTS: Final = 64
"""Policies at most: each has a queue, and two sets of them take turns."""
_HOLD_QUEUES: Final = 29824
STRAY_QUEUE: Final = 29796
"""Where SYNs wait that were steered and do not come."""
_PORTS_A_RULE: Final = 15
"""What `-m multiport` takes; a range counts twice."""
_STEER: Final = "STEER"
_DIRECT: Final = "DIRECT"
_MASK: Final = f"{MARK_MASK:#x}"
_FAMILIES: Final = (4, 6)
_TCP: Final = ("-p", "tcp")

Words = tuple[str, ...]


def hold_queue(generation: int, index: int) -> int:
    """The queue in which SYNs wait that the policy at `index` matched.

    `generation` counts the sets of policies; a SYN of the set before may
    still be waiting when the next comes.
    """
    if not 0 <= index < HOLD_SLOTS:
        raise LocalError(f"more than {HOLD_SLOTS} policies")
    return _HOLD_QUEUES + generation % 2 * HOLD_SLOTS + index


def opening_rules(
    policies: Sequence[Policy],
    generation: int | None,
    older: Iterable[OlderConnection],
    former: Iterable[Policy] = (),
) -> list[Rule]:
    """Hold and steer what applications of this host open.

    `generation` None: nobody decides on SYNs any more, and they are left to the
    guard.  `former` are policies that were in force, whose connections may be open.
    """
    concerned = list(_for(policies, FlowDirection.OUTGOING))
    rules = _of_our_own()
    for decided in (MARK_STEERED, MARK_DIRECT, MARK_REFUSED, MARK_UNREACHABLE):
        # A held SYN comes by a second time, for the sake of others' rules behind ours.
        # And what services here answer has MARK_DIRECT.
        syn = () if decided == MARK_DIRECT else ("--syn",)
        words = (*_TCP, *syn, *marked(decided), "-j", "RETURN")
        rules.append(Rule("mangle", "OUTPUT", words))
    zoned = ("-d", "fe80::/10", "-j", "RETURN")
    if not _requires(policies):
        # A link-local address without its zone, which is lost on `lo`, means nothing.
        rules.append(Rule("mangle", "OUTPUT", zoned, (6,)))
    for mark, target in ((MARK_STEERED, go_to(_STEER)), (MARK_DIRECT, ("-j", "RETURN"))):
        follows = (*_TCP, "!", "--syn", *of_connection(mark), *target)
        rules.append(Rule("mangle", "OUTPUT", follows))
    for old in older:
        of_old = (
            *(*_TCP, "!", "--syn", "-s", str(old.local), "--sport", str(old.local_port)),
            *("-d", str(old.remote), "--dport", str(old.remote_port), "-j", "RETURN"),
        )
        rules.append(Rule("mangle", "OUTPUT", of_old, (old.local.version,)))
    for policy in former:
        rules += _steering_what_follows(policy)
    for index, policy in concerned:
        queue = None if generation is None else hold_queue(generation, index)
        rules += _opening_rules_of(policy, queue)
    for _index, policy in concerned:
        rules += _of_others(policy)
    rules += [
        Rule("mangle", _STEER, set_mark(MARK_STEERED)),
        Rule("mangle", _DIRECT, remember(MARK_DIRECT)),
        Rule("mangle", _DIRECT, set_mark(MARK_DIRECT)),
    ]
    from_outside = ("!", "-i", "lo", *_TCP)
    for mark in (MARK_STEERED, MARK_INNER):
        # These connections are within this host.
        rules.append(Rule("mangle", "INPUT", (*from_outside, *of_connection(mark), "-j", "DROP")))
    # The answers of services here are not what an application opens, whatever the
    # port of their client.  A mark of the socket, which nobody outside can give to
    # another connection, as one could by a forged SYN if it were the connection's.
    came = (*from_outside, "--syn", *marked(0), *set_mark(MARK_DIRECT))
    rules.append(Rule("mangle", "INPUT", came))
    for policy in (*former, *(policy for _index, policy in concerned)):
        rules += _resets_of(policy)
    # A SYN that is steered and leaves all the same is of a socket bound to a device.
    bound = (*_TCP, "--syn", *marked(MARK_STEERED), "-j", "NFQUEUE", "--queue-num")
    rules.append(Rule("mangle", "POSTROUTING", ("!", "-o", "lo", *bound, str(STRAY_QUEUE))))
    for mark in (MARK_STEERED, MARK_INNER):
        rules.append(Rule("mangle", "POSTROUTING", ("!", "-o", "lo", *marked(mark), "-j", "DROP")))
    save = ("-j", "CONNMARK", "--save-mark", "--nfmask", _MASK, "--ctmask", _MASK)
    for mark in (MARK_STEERED, MARK_DIRECT):
        rules.append(Rule("mangle", "POSTROUTING", (*_TCP, "--syn", *marked(mark), *save)))
    rules.append(Rule("mangle", "POSTROUTING", (*marked(MARK_DIRECT), *set_mark(0))))
    # Its way is decided; what others translate is the daemon's connection to the peer.
    rules.append(Rule("nat", "OUTPUT", (*_TCP, *marked(MARK_STEERED), "-j", "ACCEPT")))
    return rules


def _of_our_own() -> list[Rule]:
    """The daemon's own connections: to services, to peers, and those of applications."""
    inner = ("-o", "lo", *_TCP, "--syn", *marked(MARK_INNER), *remember(MARK_INNER))
    rules = [
        Rule("mangle", "OUTPUT", inner),
        Rule("mangle", "OUTPUT", ("-o", "lo", "-j", "RETURN")),
        # What a service answers stays here whatever mark it has given to its socket.
        Rule("mangle", "OUTPUT", (*_TCP, *of_connection(MARK_INNER), *set_mark(MARK_INNER))),
    ]
    for own in (MARK_PASSED, MARK_DONE, MARK_INNER):
        rules.append(Rule("mangle", "OUTPUT", (*marked(own), "-j", "RETURN")))
    # MARK_ACCEPTED is not among them: they talk over `lo`, and what leaves with
    # their mark is a reset of the application's kernel that reflects it
    # (`fwmark_reflect`), which has to come to us.
    rules.append(Rule("mangle", "OUTPUT", (*_TCP, *marked(MARK_ACCEPTED), *go_to(_STEER))))
    return rules


def _steering_what_follows(policy: Policy) -> list[Rule]:
    """For packets whose connection has lost its mark."""
    if policy.mode is Mode.NEVER or policy.match.direction is FlowDirection.INCOMING:
        return []
    if policy.by_packets:
        return []
    return [
        Rule("mangle", "OUTPUT", (*_TCP, *where, "!", "--syn", *go_to(_STEER)), (family,))
        for family, where in selectors(policy.match, outgoing=True)
    ]


def _resets_of(policy: Policy) -> list[Rule]:
    """The kernel's resets for connections that are gone have to reach the peer.

    To its port, and with no socket whose mark they had: they would be steered, and
    the peer would never learn that there is nobody any more.  They reflect the mark
    of what they answer.
    """
    if policy.mode is Mode.NEVER or policy.by_packets:
        return []
    return [
        Rule(
            *("mangle", "INPUT"),
            ("!", "-i", "lo", *_TCP, *where, "!", "--syn", *marked(0), *set_mark(MARK_DIRECT)),
            (family,),
        )
        for family, where in selectors(policy.match, outgoing=True, answers=True)
    ]


def _opening_rules_of(policy: Policy, queue: int | None) -> list[Rule]:
    rules = []
    owned = tuple(_owners(policy.match))
    for family, where in selectors(policy.match, outgoing=True):
        to = (*_TCP, *where)
        if policy.by_packets:
            # What is diverted packet by packet does not come here.
            rules.append(Rule("mangle", "OUTPUT", (*to, "-j", "RETURN"), (family,)))
            continue
        if policy.mode is not Mode.NEVER:
            # Owners are known of SYNs alone: a socket that its process has closed has none.
            hold_or_leave: Words = ("-j", "RETURN")
            if queue is not None:
                hold_or_leave = ("-j", "NFQUEUE", "--queue-num", str(queue))
            for owner in owned:
                hold = (*to, "--syn", *owner, *hold_or_leave)
                rules.append(Rule("mangle", "OUTPUT", hold, (family,)))
            rules.append(Rule("mangle", "OUTPUT", (*to, "!", "--syn", *go_to(_STEER)), (family,)))
            continue
        for owner in owned:
            leave = (*to, "--syn", *owner, *go_to(_DIRECT))
            rules.append(Rule("mangle", "OUTPUT", leave, (family,)))
        if owned == ((),):
            rules.append(Rule("mangle", "OUTPUT", (*to, "!", "--syn", "-j", "RETURN"), (family,)))
    return rules


def _of_others(policy: Policy) -> list[Rule]:
    """What nobody that a policy names has opened: its owner is not to be asked again."""
    if policy.mode is Mode.NEVER or not (policy.match.uids or policy.match.cgroups):
        return []
    return [
        Rule("mangle", "OUTPUT", (*_TCP, *where, "--syn", *go_to(_DIRECT)), (family,))
        for family, where in selectors(policy.match, outgoing=True)
    ]


def accepting_rules(
    policies: Sequence[Policy], listeners: Mapping[int, int], *, queue: int | None = None
) -> list[Rule]:
    """Bring what peers open with ENO to the listener (its port, by family).

    `queue`: where the daemon sees what follows a SYN; None if it need not.
    """
    # From a link-local address the service could be reached over its own link
    # alone, not over `lo`.
    zoned = ("-s", "fe80::/10", "-j", "RETURN")
    rules = [Rule("mangle", "PREROUTING", ("!", "-i", "lo", *zoned), (6,))]
    # Nor may it be translated: it has come to its end.  Connection tracking may have
    # forgotten the SYN when the next one comes.
    for ours in (MARK_HANDSHAKE, MARK_PASSED, MARK_DONE):
        rules.append(Rule("nat", "PREROUTING", (*_TCP, *marked(ours), "-j", "ACCEPT")))
    if queue is not None:
        rules += looked_up(listeners, queue)
    for _index, policy in _for(policies, FlowDirection.INCOMING):
        if policy.match.uids or policy.match.cgroups:
            continue  # nobody here opened it
        for family, where in selectors(policy.match, outgoing=False):
            if family not in listeners:
                continue
            from_outside = ("!", "-i", "lo", *_TCP, *where)
            if policy.mode is Mode.NEVER or policy.by_packets:
                leave = (*from_outside, "--syn", "-j", "RETURN")
                rules.append(Rule("mangle", "PREROUTING", leave, (family,)))
                continue
            listened = ("-m", "addrtype", "--dst-type", "LOCAL", "-m", "socket", "--nowildcard")
            port = listeners[family]
            target = tproxy(family, port, MARK_HANDSHAKE)
            options = [eno for p in policy.profiles for eno in option_matches(p, family)]
            for eno in options:
                words = (*from_outside, "--syn", *eno, *listened, *target)
                rules.append(Rule("mangle", "PREROUTING", words, (family,)))
            rules += following_rules(family, port, where, options, queue)
    return rules


def guard_rules(policies: Sequence[Policy], *, serving: bool) -> list[Rule]:
    """What may not pass; `serving` False: the part of it that outlives the daemon.

    That is empty where no policy requires encryption.
    """
    if not serving and not _requires(policies):
        return []
    reset: Words = ("-j", "REJECT", "--reject-with", "tcp-reset")
    rules = [Rule("filter", "OUTPUT", ("-o", "lo", "-j", "RETURN"))]
    if serving:
        rules.append(Rule("filter", "OUTPUT", (*_TCP, *marked(MARK_REFUSED), *reset)))
        for family, name in ((4, "icmp-host-unreachable"), (6, "icmp6-addr-unreachable")):
            unreachable = (*marked(MARK_UNREACHABLE), "-j", "REJECT", "--reject-with", name)
            rules.append(Rule("filter", "OUTPUT", unreachable, (family,)))
        # Should somebody take out the rules that steer: it has a mark and is not marked.
        lost = (*_TCP, *of_connection(MARK_STEERED), *marked(0), *reset)
        rules.append(Rule("filter", "OUTPUT", lost))
        for decided in (MARK_STEERED, MARK_DIRECT, MARK_PASSED, MARK_DONE, MARK_INNER):
            rules.append(Rule("filter", "OUTPUT", (*marked(decided), "-j", "RETURN")))
    if not _requires(policies):
        rules.append(Rule("filter", "OUTPUT", ("-d", "fe80::/10", "-j", "RETURN"), (6,)))
    for _index, policy in _for(policies, FlowDirection.OUTGOING):
        target: Words = ("-j", "RETURN")
        if policy.mode is Mode.REQUIRE:
            target = reset
        elif policy.mode is Mode.OPPORTUNISTIC and serving and not policy.by_packets:
            target = ("-j", "DROP")
        for family, where in selectors(policy.match, outgoing=True):
            for owner in _owners(policy.match):
                words = ("!", "-o", "lo", *_TCP, *where, "--syn", *owner, *target)
                rules.append(Rule("filter", "OUTPUT", words, (family,)))
    if _requires(policies):
        rules += _guard_of_services(policies, serving, reset)
    return rules


def _guard_of_services(policies: Sequence[Policy], serving: bool, reset: Words) -> list[Rule]:
    rules = []
    if serving:
        # Those are the daemon's, as their way through its queue has shown.
        rules.append(Rule("filter", "INPUT", (*_TCP, *marked(MARK_PASSED), "-j", "RETURN")))
        rules += kept_from_services()
    for _index, policy in _for(policies, FlowDirection.INCOMING):
        if policy.match.uids or policy.match.cgroups:
            continue
        target = reset if policy.mode is Mode.REQUIRE else ("-j", "RETURN")
        for family, where in selectors(policy.match, outgoing=False):
            words = ("!", "-i", "lo", *_TCP, "--syn", *where, *target)
            rules.append(Rule("filter", "INPUT", words, (family,)))
            if policy.mode is Mode.REQUIRE and not serving:
                rules += asked_of_the_dead(family, where)
            rules += never_begun(family, where, refused=policy.mode is Mode.REQUIRE)
    return rules


def selectors(
    match: Match, *, outgoing: bool, answers: bool = False
) -> Iterator[tuple[int, Words]]:
    """The conditions on addresses and ports, as many as it takes to say "or".

    `answers`: for packets in the other direction than the SYN.
    """
    from_here = outgoing is not answers
    local, remote = ("-s", "-d") if from_here else ("-d", "-s")
    for family in _FAMILIES:
        for here in _networks(match.local, family):
            for there in _networks(match.remote, family):
                for ports in _ports(match.ports, "--sport" if answers else "--dport"):
                    where = (*_with(local, here), *_with(remote, there), *ports)
                    yield family, where


def _networks(
    networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network], family: int
) -> Iterator[str]:
    """Those of the family; one empty text if any address will do."""
    if not networks:
        yield ""
    yield from (str(network) for network in networks if network.version == family)


def _with(option: str, network: str) -> Words:
    return (option, network) if network else ()


def _ports(ports: Sequence[range], option: str) -> Iterator[Words]:
    if not ports:
        yield ()
        return
    texts = [f"{p.start}:{p.stop - 1}" if len(p) > 1 else str(p.start) for p in ports]
    if len(texts) == 1:
        yield (option, texts[0])
        return
    several: list[str] = []
    taken = 0
    for text in texts:
        size = 2 if ":" in text else 1
        if taken + size > _PORTS_A_RULE:
            yield ("-m", "multiport", option + "s", ",".join(several))
            several, taken = [], 0
        several.append(text)
        taken += size
    yield ("-m", "multiport", option + "s", ",".join(several))


def _owners(match: Match) -> Iterator[Words]:
    """The conditions on the owner of a socket; one that always holds if there is none."""
    users: list[Words] = [
        ("-m", "owner", "--uid-owner", f"{u.start}-{u.stop - 1}") for u in match.uids
    ] or [()]
    groups: list[Words] = [
        ("-m", "cgroup", "--path", path.strip("/") or "/") for path in match.cgroups
    ] or [()]
    for user in users:
        for group in groups:
            yield (*user, *group)


def _for(policies: Sequence[Policy], direction: FlowDirection) -> Iterator[tuple[int, Policy]]:
    """The policies that can match connections of this host, with their places."""
    for index, policy in enumerate(policies):
        if not policy.match.inner and policy.match.direction in {None, direction}:
            yield index, policy


def _requires(policies: Sequence[Policy]) -> bool:
    return any(policy.mode is Mode.REQUIRE and not policy.match.inner for policy in policies)
