"""What becomes of a file at the sender, as one table.

ANNOUNCED --HAVE--> PROVING --found--> SENDING --END--> ENDED --RECEIPT--> OVER
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final

from tcpcrypt.transfer.codes import Code
from tcpcrypt.transfer.digest import Digest
from tcpcrypt.transfer.source import Entry, Prefixes, Source

__all__ = ["TABLE", "Action", "Happened", "Outgoing", "Stage"]


class Stage(enum.Enum):
    """How far a file has come."""

    __hash__ = object.__hash__

    ANNOUNCED = "PUT sent"
    PROVING = "what the receiver has is compared"
    SENDING = "bytes are sent"
    ENDED = "END sent"
    OVER = "delivered, or not"


class Happened(enum.Enum):
    """What the receiver says of it, or the file itself."""

    __hash__ = object.__hash__

    HAVE = "HAVE"
    REFUSE = "REFUSE"
    ACK = "ACK"
    DELIVERED = "RECEIPT, with OK"
    NOT_DELIVERED = "RECEIPT, with another code"
    PROVED = "the offset is found"
    EXHAUSTED = "all is read"
    BROKEN = "it cannot be read, or changed"


class Action(enum.Enum):
    """What comes of it."""

    __hash__ = object.__hash__

    QUEUE = "compare in its turn"
    SLIDE = "move the window"
    DELIVER = "tell that it is delivered"
    FAIL = "tell why not"
    SEND = "send from the offset"
    END = "send END with the digest"
    GIVE_UP = "send END with the reason"


_S, _H, _A = Stage, Happened, Action

TABLE: Final[dict[tuple[Stage, Happened], tuple[Action, Stage]]] = {
    (_S.ANNOUNCED, _H.HAVE): (_A.QUEUE, _S.PROVING),
    (_S.ANNOUNCED, _H.REFUSE): (_A.FAIL, _S.OVER),
    (_S.PROVING, _H.PROVED): (_A.SEND, _S.SENDING),
    (_S.PROVING, _H.BROKEN): (_A.GIVE_UP, _S.ENDED),
    (_S.SENDING, _H.ACK): (_A.SLIDE, _S.SENDING),
    (_S.SENDING, _H.NOT_DELIVERED): (_A.FAIL, _S.OVER),
    (_S.SENDING, _H.EXHAUSTED): (_A.END, _S.ENDED),
    (_S.SENDING, _H.BROKEN): (_A.GIVE_UP, _S.ENDED),
    (_S.ENDED, _H.ACK): (_A.SLIDE, _S.ENDED),
    (_S.ENDED, _H.DELIVERED): (_A.DELIVER, _S.OVER),
    (_S.ENDED, _H.NOT_DELIVERED): (_A.FAIL, _S.OVER),
    (_S.ENDED, _H.REFUSE): (_A.FAIL, _S.OVER),
}
"""`(stage, happened) -> (action, next)`; what is missing breaks the protocol.

A folder is ENDED with its PUT: there is nothing to say of it.
"""


class Outgoing:
    """One file of one connection."""

    __slots__ = (
        "broken",
        "digest",
        "durable",
        "entry",
        "number",
        "prefixes",
        "proof",
        "sent",
        "source",
        "stage",
        "transfer_id",
    )

    def __init__(self, number: int, entry: Entry, source: Source, transfer_id: bytes) -> None:
        self.number = number
        self.entry = entry
        self.source = source
        self.transfer_id = transfer_id
        self.stage = Stage.ANNOUNCED if entry.is_file else Stage.ENDED
        self.prefixes: Prefixes = ()
        self.proof: Iterator[None] | None = None
        self.sent = 0
        self.durable = 0
        self.digest: Digest | None = None
        self.broken: tuple[Code, str] | None = None
