"""Firewall rules as data: marks, chains, and the words of iptables.

All our rules of one table and hook stand in one chain `TCPCRYPT-<hook>`, to
which one jump leads from the head of the built-in chain; a few chains beside
them are only gone to.  Of the packet mark we use the four bits MARK_MASK and
leave 28 to others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = [
    "CHAIN_PREFIX",
    "HOOKS",
    "LISTENER_ADDRESS",
    "MARK_ACCEPTED",
    "MARK_ANSWERED",
    "MARK_DIRECT",
    "MARK_DONE",
    "MARK_HANDSHAKE",
    "MARK_INNER",
    "MARK_MADE",
    "MARK_MASK",
    "MARK_PASSED",
    "MARK_REFUSED",
    "MARK_SEGMENT",
    "MARK_STEERED",
    "MARK_UNREACHABLE",
    "QUEUE_NUMBER",
    "SEGMENT_INNER_QUEUE",
    "SEGMENT_OUTER_QUEUE",
    "SYN_QUEUE",
    "Rule",
    "go_to",
    "marked",
    "of_connection",
    "remember",
    "set_mark",
    "tproxy",
]

MARK_MASK: Final = 0x00F00000
MARK_STEERED: Final = 0x00100000
"""Packets of an application that are to reach the daemon instead of the wire."""
MARK_HANDSHAKE: Final = 0x00200000
"""Sockets to the peer whose TCP-ENO handshake is under way; their listener too."""
MARK_DONE: Final = 0x00300000
"""Sockets to the peer whose handshake is over: their packets are left alone.  An
incoming packet that has it, from the queue's verdict or because it has found its
connection, settles what the connection's is."""
MARK_INNER: Final = 0x00400000
"""Sockets that the daemon opens to a service on this host, and what that answers."""
MARK_ACCEPTED: Final = 0x00500000
"""Sockets on which the daemon accepted an application's connection.  Without a
mark of their own they would take that of the packets (`tcp_fwmark_accept`).  As a
connection mark: a peer opened it, and the negotiation needs to see no more."""
MARK_DIRECT: Final = 0x00600000
"""An application's SYN that may leave as it is, and (as a connection mark) what
follows; the SYN of a peer that comes to a service as it is, and (as the mark of
the service's socket, `tcp_fwmark_accept`) what the service answers."""
MARK_REFUSED: Final = 0x00700000
"""An application's SYN that is to be answered with a reset."""
MARK_UNREACHABLE: Final = 0x00800000
"""An application's SYN that is to be answered with `host unreachable`."""
MARK_PASSED: Final = 0x00900000
"""A packet of a handshake that has been through the daemon's queue.  As a connection
mark: a peer opens it, and its SYN went to the daemon's listener."""
MARK_SEGMENT: Final = 0x00A00000
"""A packet that the segment plane has added.  As a connection mark: a gateway's
connection that the plane has in hand."""
MARK_ANSWERED: Final = 0x00B00000
"""The SYN-ACK of a peer, from the queue's verdict, when it settled that the connection
is encrypted; as a connection mark: this host opens it, and of what comes in nothing
needs to be seen any more.  What leaves has the option until the first of that comes."""
MARK_MADE: Final = 0x00C00000
"""As a connection mark: a peer opens it, the negotiation needs to see no more, and the
segment that makes the connection is on its way to TCP; none behind it has found it yet."""

QUEUE_NUMBER: Final = 29795
"""Where the packets of handshakes wait that TCP-ENO has to see or to write in."""
SYN_QUEUE: Final = 29799
"""Where the SYNs of peers wait: a flood of them takes no room from what has been answered."""
SEGMENT_INNER_QUEUE: Final = 29790
"""To which the segment plane's rules send what comes from this host, or from those behind it."""
SEGMENT_OUTER_QUEUE: Final = 29791
"""What comes to them from others."""

CHAIN_PREFIX: Final = "TCPCRYPT-"
HOOKS: Final = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")


def marked(mark: int) -> tuple[str, ...]:
    """The match for packets with `mark`."""
    return ("-m", "mark", "--mark", f"{mark:#x}/{MARK_MASK:#x}")


def set_mark(mark: int) -> tuple[str, ...]:
    """The target that gives a packet `mark` and keeps the bits of others."""
    return ("-j", "MARK", "--set-xmark", f"{mark:#x}/{MARK_MASK:#x}")


def of_connection(mark: int) -> tuple[str, ...]:
    """The match for packets whose connection has `mark`, as connection tracking knows it."""
    return ("-m", "connmark", "--mark", f"{mark:#x}/{MARK_MASK:#x}")


def remember(mark: int) -> tuple[str, ...]:
    """The target that gives a packet's connection `mark` and keeps the bits of others."""
    return ("-j", "CONNMARK", "--set-xmark", f"{mark:#x}/{MARK_MASK:#x}")


LISTENER_ADDRESS: Final = {4: "127.0.0.1", 6: "::1"}
"""Where the daemon's listeners are bound: from outside nobody but TPROXY gets there."""


def tproxy(family: int, port: int, mark: int) -> tuple[str, ...]:
    """The target that hands packets to the listener with this port and gives them `mark`."""
    return (
        *("-j", "TPROXY", "--on-ip", LISTENER_ADDRESS[family], "--on-port", str(port)),
        *("--tproxy-mark", f"{mark:#x}/{MARK_MASK:#x}"),
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of iptables; rules of a chain stand in their order."""

    table: str
    hook: str
    """One of HOOKS, or the name of a chain that other rules go to."""
    words: tuple[str, ...]
    """Matches and target as `iptables` takes them."""
    families: tuple[int, ...] = (4, 6)

    @property
    def chain(self) -> str:
        return CHAIN_PREFIX + self.hook


def go_to(hook: str) -> tuple[str, ...]:
    """The target that goes on in our chain `hook`, and does not come back."""
    return ("-g", CHAIN_PREFIX + hook)
