"""What follows the SYN of a peer and has to find the daemon's listener, or what came of it.

Most of it finds its socket by itself.  Not so what answers a SYN cookie: Linux
keeps nothing of a SYN while a flood has filled the listener's queue of requests
(or always, with `net.ipv4.tcp_syncookies = 2`), and the ACK has the addresses
of the service, not of our listener.  So the rules look for a socket of ours and
hand over to the listener what has none; the cookie says whether it is true.

Packets that the negotiation has to see wait in the queue *here*, in PREROUTING,
and are handed over when they come back from it (their mark is the verdict's),
one behind the other.  Were they handed over first and queued afterwards, the
second of two that wait would miss the connection that the first one makes.

What the negotiation has to see carries the option, or belongs to a connection
whose SYN our listener was given (which has marked it: MARK_PASSED).  The
service has no part in those, whatever it takes for a cookie of its own.  Once
the negotiation is over nothing is queued any more.

The next segment may come to another processor, while the one that makes the connection
is still on its way from the queue into TCP.  And Linux has a moment in which neither
the request nor the connection that becomes of it is to be found (`inet_ehash_insert`,
up to 6.18 at least): TCP would answer with a reset, of one connection in some thousands.
So until a segment has found either of them (MARK_MADE), one that does not goes to the queue:
when it comes back, what was before it there has been all the way through TCP.  Then
(MARK_ACCEPTED) only what still carries the option is looked up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from tcpcrypt.runtime.rules import (
    MARK_ACCEPTED,
    MARK_DIRECT,
    MARK_DONE,
    MARK_HANDSHAKE,
    MARK_MADE,
    MARK_PASSED,
    SYN_QUEUE,
    Rule,
    marked,
    of_connection,
    tproxy,
)

__all__ = [
    "FOLLOWS",
    "asked_of_the_dead",
    "following_rules",
    "kept_from_services",
    "looked_up",
    "never_begun",
]

FOLLOWS: Final = ("--tcp-flags", "SYN", "NONE")
_LOCAL: Final = ("-m", "addrtype", "--dst-type", "LOCAL")
_TCP: Final = ("!", "-i", "lo", "-p", "tcp", *FOLLOWS)
_OF_US: Final = ("-m", "socket", "--nowildcard", "--transparent")
_RESET: Final = ("-j", "REJECT", "--reject-with", "tcp-reset")
_ASKED_OF_US: Final = (MARK_PASSED, MARK_MADE, MARK_ACCEPTED)
_NOBODY: Final = 1
"""A port of LISTENER_ADDRESS at which nobody listens who takes what TPROXY brings."""

Words = tuple[str, ...]


def looked_up(listeners: Mapping[int, int], queue: int) -> list[Rule]:
    """For what the daemon has seen, and what it has to see of connections that it was asked for."""
    rules = []
    for family, port in listeners.items():
        for mark, of in (
            (MARK_PASSED, ()),
            (MARK_DONE, ()),
            # Nothing is known of it (any more), but it is not for the service.
            (MARK_DIRECT, of_connection(MARK_PASSED)),
            (MARK_DIRECT, of_connection(MARK_MADE)),
        ):
            words = (*_TCP, *marked(mark), *of, *tproxy(family, port, mark))
            rules.append(Rule("mangle", "PREROUTING", words, (family,)))
    rules.append(Rule("mangle", "PREROUTING", (*_TCP, *marked(MARK_DIRECT), "-j", "RETURN")))
    made = (*_TCP, *of_connection(MARK_MADE))
    for family in listeners:
        # The moment may come between the two: then it is dropped, and comes again.
        found = (*made, *_OF_US, *tproxy(family, _NOBODY, MARK_DONE))
        rules.append(Rule("mangle", "PREROUTING", found, (family,)))
    for mark in (MARK_MADE, MARK_PASSED):
        queued = (*_TCP, *of_connection(mark), "-j", "NFQUEUE", "--queue-num", str(queue))
        rules.append(Rule("mangle", "PREROUTING", queued))
    return rules


def kept_from_services() -> list[Rule]:
    """What our listener was given is refused when nobody of ours is there (any more).

    A cookie of our listener is true for the service's as well, if that has sent some
    lately: who has been refused could go on with the service.  So could who was asked
    for, in the moment in which the rules that hand over are gone and these still stand.
    """
    return [
        Rule("filter", "INPUT", (*_TCP, *of_connection(mark), *target))
        for mark in _ASKED_OF_US
        for target in ((*_OF_US, "-j", "RETURN"), _RESET)
    ]


def asked_of_the_dead(family: int, where: Words) -> list[Rule]:
    """So is what our listener was given where it is gone, and the service's may take over."""
    return [
        Rule("filter", "INPUT", (*_TCP, *where, *of_connection(mark), *_RESET), (family,))
        for mark in _ASKED_OF_US
    ]


def never_begun(family: int, where: Words, *, refused: bool) -> list[Rule]:
    """So is what connection tracking does not know and begins with no SYN, if it has no socket.

    It forgets a SYN sooner than the cookie ends, and begins no connection with a FIN; TCP
    does.  A listener that is bound to one address cannot be told from a connection, and is
    let through.
    """
    unknown = (*_TCP, *where, "-m", "conntrack", "--ctstate", "NEW,INVALID,UNTRACKED")
    if not refused:
        return [Rule("filter", "INPUT", (*unknown, "-j", "RETURN"), (family,))]
    return [
        Rule("filter", "INPUT", (*unknown, *socket, *target), (family,))
        for socket, target in (
            (_OF_US, ("-j", "RETURN")),
            (("-m", "socket"), ("-j", "RETURN")),
            ((), _RESET),
        )
    ]


def following_rules(
    family: int, port: int, where: Words, options: Iterable[Words], queue: int | None
) -> list[Rule]:
    """For what carries one of the `options` to addresses and ports of a policy.

    That is of no connection that is known; where there are floods, of one whose SYN
    was forgotten (`looked_up` has the others).
    `port`: that of the listener.  `queue` None: nobody has to see it.
    """
    rules = []
    for option in options:
        carries = (*_TCP, *where, *option, *_LOCAL)
        if queue is None:
            chosen = [(*carries, *tproxy(family, port, MARK_HANDSHAKE))]
        else:
            chosen = [
                (*carries, *of_connection(MARK_ACCEPTED), *tproxy(family, port, MARK_DONE)),
                # A flood of them takes no more room than one of SYNs.
                (*carries, "-j", "NFQUEUE", "--queue-num", str(SYN_QUEUE)),
            ]
        rules += [Rule("mangle", "PREROUTING", words, (family,)) for words in chosen]
    return rules
