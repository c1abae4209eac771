"""The TCP-ENO handshake as one table (RFC 8547 section 4.6).

    active opener           passive opener          simultaneous open
    START                   START                   START
      | send SYN              | SYN                   | send SYN
    SYN_SENT                SYN_RECEIVED            SYN_SENT
      | SYN-ACK               | send SYN-ACK          | SYN
    ACK_DUE                 SYN_ANSWERED            CROSSED
      | send ACK              | first ACK             | send SYN-ACK, SYN-ACK in any order
    ENABLED                 ENABLED                 ENABLED

Section 4.6: encryption is on once a host has both sent and received an ACK
segment with ENO.  Before that, whatever the peer does wrong ends in PLAIN;
what the table lacks does too.  After it, nothing a segment says matters.
"""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["TABLE", "Action", "Input", "State"]


class State(enum.Enum):
    """Where the handshake is; see the essay above."""

    __hash__ = object.__hash__  # by identity: tables look members up at every step

    START = "start"
    SYN_SENT = "syn-sent"
    SYN_RECEIVED = "syn-received"
    SYN_ANSWERED = "syn-answered"
    CROSSED = "crossed"
    CROSSED_ANSWERED = "crossed-answered"
    ACK_DUE = "ack-due"
    ENABLED = "enabled"
    PLAIN = "plain"


class Input(enum.Enum):
    """A segment, by direction, flags, and whether its ENO option will do."""

    __hash__ = object.__hash__  # by identity: tables look members up at every step

    SEND_SYN = "send SYN"
    SEND_SYN_ACK = "send SYN-ACK"
    SEND_ACK = "send a segment without SYN"
    SYN = "SYN with usable ENO"
    SYN_BAD = "SYN without usable ENO"
    SYN_ACK = "SYN-ACK with usable ENO"
    SYN_ACK_BAD = "SYN-ACK without usable ENO"
    ACK = "segment without SYN, with ENO"
    ACK_BAD = "segment without SYN, without ENO"


class Action(enum.Enum):
    """What an input makes the host do."""

    __hash__ = object.__hash__  # by identity: tables look members up at every step

    NOTHING = "nothing"
    SYN_FORM = "attach the SYN-form option, the same each time"
    ACK_FORM = "attach the non-SYN form until the peer's first segment without SYN"
    ENABLE = "enable encryption"
    ENABLE_SYN_FORM = "attach the SYN-form option and enable encryption"
    ENABLE_ACK_FORM = "attach the non-SYN form and enable encryption"
    FALL_BACK = "go on in plain TCP"


def _rows() -> dict[tuple[State, Input], tuple[Action, State]]:
    s, i, a = State, Input, Action
    return {
        (s.START, i.SEND_SYN): (a.SYN_FORM, s.SYN_SENT),
        (s.START, i.SYN): (a.NOTHING, s.SYN_RECEIVED),
        (s.START, i.SYN_BAD): (a.FALL_BACK, s.PLAIN),
        # Active opener.
        (s.SYN_SENT, i.SEND_SYN): (a.SYN_FORM, s.SYN_SENT),
        (s.SYN_SENT, i.SYN_ACK): (a.NOTHING, s.ACK_DUE),
        (s.SYN_SENT, i.SYN_ACK_BAD): (a.FALL_BACK, s.PLAIN),
        (s.SYN_SENT, i.SYN): (a.NOTHING, s.CROSSED),
        (s.SYN_SENT, i.SYN_BAD): (a.FALL_BACK, s.PLAIN),
        # TCP takes no segment without SYN here (RFC 9293 section 3.10.7.3): a
        # challenge ACK of an older connection, or a forgery, decides nothing.
        (s.SYN_SENT, i.ACK): (a.NOTHING, s.SYN_SENT),
        (s.SYN_SENT, i.ACK_BAD): (a.NOTHING, s.SYN_SENT),
        (s.ACK_DUE, i.SEND_ACK): (a.ENABLE_ACK_FORM, s.ENABLED),
        (s.ACK_DUE, i.SEND_SYN): (a.SYN_FORM, s.ACK_DUE),
        (s.ACK_DUE, i.SEND_SYN_ACK): (a.ENABLE_SYN_FORM, s.ENABLED),
        # The first ACK segment received has settled it; repetitions do not.
        (s.ACK_DUE, i.SYN_ACK): (a.NOTHING, s.ACK_DUE),
        (s.ACK_DUE, i.SYN_ACK_BAD): (a.NOTHING, s.ACK_DUE),
        (s.ACK_DUE, i.SYN): (a.NOTHING, s.ACK_DUE),
        (s.ACK_DUE, i.SYN_BAD): (a.NOTHING, s.ACK_DUE),
        (s.ACK_DUE, i.ACK): (a.NOTHING, s.ACK_DUE),
        (s.ACK_DUE, i.ACK_BAD): (a.NOTHING, s.ACK_DUE),
        # Passive opener.
        (s.SYN_RECEIVED, i.SEND_SYN_ACK): (a.SYN_FORM, s.SYN_ANSWERED),
        (s.SYN_RECEIVED, i.SYN): (a.NOTHING, s.SYN_RECEIVED),
        (s.SYN_ANSWERED, i.SEND_SYN_ACK): (a.SYN_FORM, s.SYN_ANSWERED),
        (s.SYN_ANSWERED, i.SEND_ACK): (a.NOTHING, s.SYN_ANSWERED),
        (s.SYN_ANSWERED, i.SYN): (a.NOTHING, s.SYN_ANSWERED),
        (s.SYN_ANSWERED, i.ACK): (a.ENABLE, s.ENABLED),
        (s.SYN_ANSWERED, i.ACK_BAD): (a.FALL_BACK, s.PLAIN),
        # Simultaneous open.
        (s.CROSSED, i.SEND_SYN): (a.SYN_FORM, s.CROSSED),
        (s.CROSSED, i.SEND_SYN_ACK): (a.SYN_FORM, s.CROSSED_ANSWERED),
        (s.CROSSED, i.SYN): (a.NOTHING, s.CROSSED),
        (s.CROSSED, i.SYN_ACK): (a.NOTHING, s.ACK_DUE),
        (s.CROSSED, i.ACK): (a.NOTHING, s.ACK_DUE),
        (s.CROSSED_ANSWERED, i.SEND_SYN): (a.SYN_FORM, s.CROSSED_ANSWERED),
        (s.CROSSED_ANSWERED, i.SEND_SYN_ACK): (a.SYN_FORM, s.CROSSED_ANSWERED),
        (s.CROSSED_ANSWERED, i.SEND_ACK): (a.ACK_FORM, s.CROSSED_ANSWERED),
        (s.CROSSED_ANSWERED, i.SYN): (a.NOTHING, s.CROSSED_ANSWERED),
        (s.CROSSED_ANSWERED, i.SYN_ACK): (a.ENABLE, s.ENABLED),
        (s.CROSSED_ANSWERED, i.ACK): (a.ENABLE, s.ENABLED),
        # For ever.
        (s.ENABLED, i.SEND_SYN): (a.SYN_FORM, s.ENABLED),
        (s.ENABLED, i.SEND_SYN_ACK): (a.SYN_FORM, s.ENABLED),
        (s.ENABLED, i.SEND_ACK): (a.ACK_FORM, s.ENABLED),
        **{(s.ENABLED, seen): (a.NOTHING, s.ENABLED) for seen in _RECEIVED},
        **{(s.PLAIN, any_): (a.NOTHING, s.PLAIN) for any_ in Input},
    }


_SENT: Final = frozenset({Input.SEND_SYN, Input.SEND_SYN_ACK, Input.SEND_ACK})
_RECEIVED: Final = frozenset(Input) - _SENT

TABLE: Final = _rows()
"""`(state, input) -> (action, next state)`.  What is missing falls back (an input
from the peer) or is a `LocalError` (an input from this host)."""
