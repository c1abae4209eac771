"""What becomes of a file at the receiver, as one table.

    OFFERED --DATA--> TAKING --END--> ENDED --RECEIPT--> (forgotten)

Whatever goes wrong leads to SPOILT: A is told why by a RECEIPT at once, and
what it had sent before it reads that is ignored.
"""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["TABLE", "Action", "Heard", "Stage"]


class Stage(enum.Enum):
    """How far a file has come."""

    __hash__ = object.__hash__  # by identity: looked up for every piece of a file

    OFFERED = "HAVE sent"
    TAKING = "bytes arrive"
    ENDED = "to be made durable"
    SPOILT = "given up; what is on its way is ignored"
    OVER = "forgotten"


class Heard(enum.Enum):
    """What the sender says of a file."""

    __hash__ = object.__hash__

    DATA = "DATA"
    END = "END, with OK"
    GIVEN_UP = "END, with another code"


class Action(enum.Enum):
    """What comes of it."""

    __hash__ = object.__hash__

    BEGIN = "go on at the offset, and write"
    WRITE = "write"
    FINISH = "compare digests, and queue for the next sync"
    DROP = "remove what is there"
    IGNORE = "nothing"


_S, _H, _A = Stage, Heard, Action

TABLE: Final[dict[tuple[Stage, Heard], tuple[Action, Stage]]] = {
    (_S.OFFERED, _H.DATA): (_A.BEGIN, _S.TAKING),
    (_S.OFFERED, _H.END): (_A.FINISH, _S.ENDED),
    (_S.OFFERED, _H.GIVEN_UP): (_A.DROP, _S.OVER),
    (_S.TAKING, _H.DATA): (_A.WRITE, _S.TAKING),
    (_S.TAKING, _H.END): (_A.FINISH, _S.ENDED),
    (_S.TAKING, _H.GIVEN_UP): (_A.DROP, _S.OVER),
    (_S.SPOILT, _H.DATA): (_A.IGNORE, _S.SPOILT),
    (_S.SPOILT, _H.END): (_A.IGNORE, _S.OVER),
    (_S.SPOILT, _H.GIVEN_UP): (_A.IGNORE, _S.OVER),
}
"""`(stage, heard) -> (action, next)`; what is missing breaks the protocol."""
