"""A TCP/S connection as one table.

    opens                     is opened
    START                     START
      | send SYN                | SYN
    SYN_SENT                  SYN_RECEIVED
      | SYN-ACK                 | send SYN-ACK
    ENCRYPTED                 ENCRYPTED
      | TI                      | TI
    AUTHENTICATED             AUTHENTICATED

TCP/S has one more state, DEAD, to which every failure, every RST sent and the
end of both streams lead, and in which all passes as it is.  Here it is three.
PLAIN is decided by the handshake alone, where policy allows it, and never
after; in REFUSED and CLOSED nothing of the application passes any more.  What
the table lacks is dropped, and changes nothing: no segment that it does not
name can make a connection less than it is.
"""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["TABLE", "Action", "Input", "State"]


class State(enum.Enum):
    """Where a connection is; see the essay above."""

    __hash__ = object.__hash__  # by identity: tables look members up at every step

    START = "start"
    SYN_SENT = "syn-sent"
    SYN_RECEIVED = "syn-received"
    ENCRYPTED = "encrypted"
    AUTHENTICATED = "authenticated"
    PLAIN = "plain"
    REFUSED = "refused"
    CLOSED = "closed"


class Input(enum.Enum):
    """A segment, by direction, flags and options."""

    __hash__ = object.__hash__

    SEND_SYN = "send SYN"
    SEND_SYN_ACK = "send SYN-ACK"
    SEND_DATA = "send data or FIN"
    SEND_ACK = "send a segment without either"
    SEND_RST = "send RST"
    SYN = "SYN with a key"
    SYN_BARE = "SYN without a key"
    SYN_BAD = "SYN without a key, which policy refuses"
    SYN_ACK = "SYN-ACK with a key"
    SYN_ACK_BARE = "SYN-ACK without a key"
    SYN_ACK_BAD = "SYN-ACK without a usable key, or without one where policy refuses that"
    DATA = "data or FIN"
    ACK = "segment without either"
    IDENTITY = "TI option on a segment that is in its place"
    IDENTITY_BAD = "such a TI option that policy refuses"
    KEY_BAD = "first segment of a peer whose key is none"
    RST = "RST"


class Action(enum.Enum):
    """What is done with the segment."""

    __hash__ = object.__hash__

    PASS = "let it go"
    DROP = "drop it"
    OFFER = "put our key in place of its options"
    NOTE = "remember the key"
    AGREE = "remember the key, and derive the keys of the connection"
    REPEATED = "let it go if it says what was said before"
    SEAL = "encrypt and tag it"
    OPEN = "verify and decrypt it"
    SHOW = "put a TI option in place of its options, if one is due"
    TRUST = "note whose connection it is"
    ABORT = "let the application see a reset in its place"


def _rows() -> dict[tuple[State, Input], tuple[Action, State]]:
    s, i, a = State, Input, Action
    rows = {
        # Opens.
        (s.START, i.SEND_SYN): (a.OFFER, s.SYN_SENT),
        (s.SYN_SENT, i.SEND_SYN): (a.OFFER, s.SYN_SENT),
        (s.SYN_SENT, i.SYN_ACK): (a.AGREE, s.ENCRYPTED),
        (s.SYN_SENT, i.SYN_ACK_BARE): (a.PASS, s.PLAIN),
        (s.SYN_SENT, i.SYN_ACK_BAD): (a.ABORT, s.REFUSED),
        # Refused by the peer; and TCP answers with RST what it did not ask for.
        (s.SYN_SENT, i.RST): (a.PASS, s.SYN_SENT),
        (s.SYN_SENT, i.ACK): (a.PASS, s.SYN_SENT),
        (s.SYN_SENT, i.SEND_RST): (a.PASS, s.SYN_SENT),
        # Is opened.
        (s.START, i.SYN): (a.NOTE, s.SYN_RECEIVED),
        (s.START, i.SYN_BARE): (a.PASS, s.PLAIN),
        (s.START, i.SYN_BAD): (a.DROP, s.REFUSED),
        (s.SYN_RECEIVED, i.SYN): (a.REPEATED, s.SYN_RECEIVED),
        (s.SYN_RECEIVED, i.RST): (a.PASS, s.SYN_RECEIVED),
        (s.SYN_RECEIVED, i.SEND_SYN_ACK): (a.OFFER, s.ENCRYPTED),
        (s.SYN_RECEIVED, i.SEND_RST): (a.PASS, s.CLOSED),
        (s.ENCRYPTED, i.SYN): (a.REPEATED, s.ENCRYPTED),
        # TCP/S repeats a lost SYN-ACK without its key; the same one belongs in each.
        (s.ENCRYPTED, i.SEND_SYN_ACK): (a.OFFER, s.ENCRYPTED),
        (s.ENCRYPTED, i.KEY_BAD): (a.ABORT, s.REFUSED),
        # Both.
        (s.ENCRYPTED, i.IDENTITY): (a.TRUST, s.AUTHENTICATED),
        (s.ENCRYPTED, i.IDENTITY_BAD): (a.ABORT, s.REFUSED),
        # It has not had ours.
        (s.AUTHENTICATED, i.IDENTITY): (a.TRUST, s.AUTHENTICATED),
        (s.AUTHENTICATED, i.IDENTITY_BAD): (a.DROP, s.AUTHENTICATED),
    }
    for state in (s.ENCRYPTED, s.AUTHENTICATED):
        rows |= {
            (state, i.SYN_ACK): (a.REPEATED, state),
            (state, i.SEND_DATA): (a.SEAL, state),
            (state, i.SEND_ACK): (a.SHOW, state),
            (state, i.SEND_RST): (a.PASS, s.CLOSED),
            (state, i.DATA): (a.OPEN, state),
            (state, i.ACK): (a.PASS, state),
        }
    for state in (s.REFUSED, s.CLOSED):
        rows[state, i.SEND_RST] = (a.PASS, state)
    # The application has to hear of it, and nobody else may tell it anything.
    for seen in (i.DATA, i.ACK, i.IDENTITY, i.IDENTITY_BAD, i.SYN_ACK, i.SYN_ACK_BARE,
                 i.SYN_ACK_BAD, i.RST):  # fmt: skip
        rows[s.REFUSED, seen] = (a.ABORT, s.REFUSED)
    return rows | {(s.PLAIN, any_): (a.PASS, s.PLAIN) for any_ in Input}


TABLE: Final = _rows()
"""`(state, input) -> (action, next state)`.  What is missing is dropped, and changes nothing."""
