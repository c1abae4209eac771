"""Which packets of handshakes come to the daemon's queue (`tcpcrypt.runtime.nfqueue`).

What follows the SYN of a peer stands in `tcpcrypt.runtime.following`.
"""

from __future__ import annotations

from tcpcrypt.runtime.rules import (
    MARK_ACCEPTED,
    MARK_ANSWERED,
    MARK_DIRECT,
    MARK_DONE,
    MARK_HANDSHAKE,
    MARK_MADE,
    MARK_PASSED,
    QUEUE_NUMBER,
    SYN_QUEUE,
    Rule,
    marked,
    of_connection,
    remember,
)

__all__ = ["divert_rules"]


def divert_rules() -> list[Rule]:
    """What diverts handshakes; to stand before the rules that steer."""
    divert = ("-j", "NFQUEUE", "--queue-num", str(QUEUE_NUMBER))
    to_syns = ("--queue-num", str(SYN_QUEUE))
    handshake, done = (("-p", "tcp", *marked(mark)) for mark in (MARK_HANDSHAKE, MARK_DONE))
    syn_ack = ("--tcp-flags", "SYN,ACK", "SYN,ACK")
    begun = (MARK_HANDSHAKE, MARK_ANSWERED, MARK_PASSED)
    over = (MARK_DONE, MARK_MADE, MARK_ACCEPTED)
    opening, agreed, answered, opened, made, accepted = map(of_connection, (*begun, *over))
    opens, agrees, answers, has_opened, makes, has_accepted = map(remember, (*begun, *over))
    forgotten = remember(0)
    unknown = ("!", "-i", "lo", "-p", "tcp", "-m", "conntrack", "--ctstate", "INVALID,UNTRACKED")
    of_socket = ("-m", "socket", "--nowildcard", "--restore-skmark")
    from_peer = ("!", "-i", "lo", "-p", "tcp")
    return [
        # Here, not in POSTROUTING: others may translate the address afterwards.
        Rule("mangle", "OUTPUT", (*handshake, "--syn", *opens)),
        # Where the kernel puts the option into what leaves (`mixed`): see `pass_rules`.
        Rule("mangle", "OUTPUT", (*done, "--syn", *forgotten)),
        # The service has answered, not our listener.
        Rule("mangle", "OUTPUT", ("-p", "tcp", *marked(MARK_DIRECT), *syn_ack, *forgotten)),
        # The socket has kept its mark a little longer than the connection.
        Rule("mangle", "OUTPUT", (*handshake, *opened, "-j", "RETURN")),
        Rule("mangle", "OUTPUT", (*handshake, *made, "-j", "RETURN")),
        Rule("mangle", "OUTPUT", (*handshake, *accepted, "-j", "RETURN")),
        Rule("mangle", "OUTPUT", (*handshake, *divert)),
        Rule("mangle", "OUTPUT", (*done, *opening, *forgotten)),
        Rule("mangle", "OUTPUT", (*done, *answered, *has_accepted)),
        # Comes by a second time (`NfqueueBackend.take`), and is for our listener: what
        # has a socket of a service does not come here.  Where SYNs cross it is for who
        # opens.  What a former connection of the same addresses left behind does not count.
        Rule(
            "mangle", "INPUT", ("-p", "tcp", "--syn", *marked(MARK_PASSED), *_no(opening), *answers)
        ),
        Rule("mangle", "INPUT", ("-p", "tcp", "--syn", *marked(MARK_PASSED), *opening, *forgotten)),
        Rule("mangle", "INPUT", ("-p", "tcp", *marked(MARK_PASSED), "-j", "RETURN")),
        # The peer's SYN-ACK has settled it.  What follows, and is of the connection as the
        # kernel tracks it, is the peer's first segment without SYN: what leaves from now on
        # has no option any more (RFC 8547 section 4.6), and nobody need be woken for that.
        # Connection tracking asks little of numbers, and takes what others forge as well; but
        # the first ACK waits in the queue by then, and leaves it with the option.
        Rule("mangle", "INPUT", (*from_peer, *marked(MARK_ANSWERED), *opening, *agrees)),
        Rule("mangle", "INPUT", ("-p", "tcp", *marked(MARK_ANSWERED), "-j", "RETURN")),
        Rule(
            "mangle", "INPUT", (*from_peer, "--tcp-flags", "SYN,RST", "NONE", *agreed, *has_opened)
        ),
        # The negotiation needs to see no more of this connection.
        Rule("mangle", "INPUT", (*done, *opening, *has_opened)),
        Rule("mangle", "INPUT", (*done, *opened, "-j", "RETURN")),
        # The first segment for which that holds makes the connection, also where its SYN is
        # forgotten, as behind a cookie; another has found it, or the request.  In this order,
        # for both would hold for the first.
        Rule("mangle", "INPUT", (*done, *made, *has_accepted)),
        Rule("mangle", "INPUT", (*done, *_no(accepted), *makes)),
        Rule("mangle", "INPUT", (*done, "-j", "RETURN")),
        # With option 69 and for the listener: the steering gave it the mark.
        Rule("mangle", "INPUT", (*handshake, "--syn", "-j", "NFQUEUE", *to_syns)),
        Rule("mangle", "INPUT", (*handshake, *divert)),
        Rule("mangle", "INPUT", (*from_peer, *opening, *divert)),
        # What connection tracking does not know, as when an old connection of the same
        # addresses confuses it, or when it is told not to look.
        Rule("mangle", "INPUT", (*unknown, *of_socket, *marked(MARK_HANDSHAKE), *divert)),
    ]


def _no(connection: tuple[str, ...]) -> tuple[str, ...]:
    return (*connection[:2], "!", *connection[2:])
