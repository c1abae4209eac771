"""The life of an encrypted connection as one table.

    EXCHANGING --keys--> OPEN --finish--> FINISHED ------FINp-----> CLOSED
                          |                                           ^
                          +----FINp----> PEER_FINISHED ----finish-----+

Anything that a peer or the path does wrong leads to ABORTED: the events before
it stand (their data was authenticated), the last one is `Aborted`, and the
owner has to reset the TCP connection.
"""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["TABLE", "SessionInput", "SessionState", "Verdict"]


class SessionState(enum.Enum):
    """Which halves of the connection are open."""

    __hash__ = object.__hash__  # by identity: tables look members up at every step

    EXCHANGING = "exchanging keys"
    OPEN = "open"
    FINISHED = "own stream finished"
    PEER_FINISHED = "peer's stream finished"
    CLOSED = "closed"
    ABORTED = "aborted"


class SessionInput(enum.Enum):
    """What can happen to a session as a whole."""

    __hash__ = object.__hash__  # by identity: tables look members up at every step

    KEYS = "keys in place"
    FINISH = "own FINp sealed"
    PEER_FINISH = "peer's FINp authenticated"
    TCP_EOF = "TCP FIN received"
    TCP_RESET = "TCP RST received"
    TIMEOUT = "deadline passed"
    FAULT = "protocol fault"


class Verdict(enum.Enum):
    """What an input means for the owner."""

    GO_ON = "go on"
    END = "report the end of the peer's stream"
    ABORT = "report an abort"


_S, _I, _V = SessionState, SessionInput, Verdict

TABLE: Final[dict[tuple[SessionState, SessionInput], tuple[Verdict, SessionState]]] = {
    (_S.EXCHANGING, _I.KEYS): (_V.GO_ON, _S.OPEN),
    (_S.OPEN, _I.FINISH): (_V.GO_ON, _S.FINISHED),
    (_S.OPEN, _I.PEER_FINISH): (_V.END, _S.PEER_FINISHED),
    (_S.FINISHED, _I.PEER_FINISH): (_V.END, _S.CLOSED),
    (_S.PEER_FINISHED, _I.FINISH): (_V.GO_ON, _S.CLOSED),
    # RFC 8548 section 3.7: TCP FIN means the end only behind an authenticated FINp.
    (_S.PEER_FINISHED, _I.TCP_EOF): (_V.GO_ON, _S.PEER_FINISHED),
    (_S.CLOSED, _I.TCP_EOF): (_V.GO_ON, _S.CLOSED),
    # Both streams ended with authentication; what TCP does now can hurt neither.
    (_S.CLOSED, _I.TCP_RESET): (_V.GO_ON, _S.CLOSED),
    # The deadline is for the key exchange alone.
    **{(s, _I.TIMEOUT): (_V.GO_ON, s) for s in _S if s is not _S.EXCHANGING},
    **{(_S.ABORTED, i): (_V.GO_ON, _S.ABORTED) for i in _I},
}
"""`(state, input) -> (verdict, next state)`; what is missing aborts."""
