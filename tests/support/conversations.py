"""Two ends of a secure connection in memory, with keys of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tcpcrypt.core.events import DataReceived, Role
from tcpcrypt.errors import TcpcryptError
from tcpcrypt.sockets.arrangement import arrange
from tcpcrypt.sockets.conversation import Conversation, Event, Failed
from tcpcrypt.sockets.keys import KeyDirectory
from tcpcrypt.sockets.peer import PeerSpec
from tcpcrypt.sockets.state import State, StateChanged

UNAUTHENTICATED = "insecure-unauthenticated"
SCOPE = "service.example.org:5000"
CLIENT = "192.0.2.1"

Path_ = Callable[[Role, bytes], list[bytes]]
"""What becomes of bytes that this role sends."""


@dataclass
class End:
    """A host: a directory of keys and what it asks of others."""

    keys: KeyDirectory
    peer: str = "tofu"

    @classmethod
    def at(cls, path: Path, peer: str = "tofu") -> End:
        path.mkdir(mode=0o700, exist_ok=True)
        return cls(KeyDirectory(path), peer)

    def converse(self, role: Role, **more: object) -> Conversation:
        name = SCOPE if role is Role.A else CLIENT
        arrangement = arrange(PeerSpec.parse(self.peer), role, name, self.keys)
        return Conversation(role, arrangement, **more)  # type: ignore[arg-type]


@dataclass
class Seen:
    """What an end was told, in order."""

    states: list[State] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)
    early: bytearray = field(default_factory=bytearray)
    """Data that came before AES_MODE was told of."""
    ended: bool = False
    error: TcpcryptError | None = None
    last: Event | None = None


def told(conversation: Conversation, seen: Seen | None = None) -> Seen:
    """All that has happened; added to `seen` if that is given."""
    seen = Seen() if seen is None else seen
    while (event := conversation.next_event()) is not None:
        seen.last = event
        if isinstance(event, StateChanged):
            seen.states.append(event.new)
        elif isinstance(event, DataReceived):
            seen.data += event.data
            if State.AES_MODE not in seen.states:
                seen.early += event.data
        elif isinstance(event, Failed):
            seen.error = event.error
        else:
            seen.ended = True
    return seen


def taken(conversation: Conversation) -> bytes:
    """All bytes that are to be written."""
    return b"".join(bytes(chunk) for chunk in conversation.data_to_send())


def carry(
    one: Conversation,
    other: Conversation,
    *,
    step: int | None = None,
    path: Path_ | None = None,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Carry bytes both ways until neither end has any; `step` bytes at a time.

    `after` is called when both had their turn, and may send.
    """
    for _ in range(50):
        quiet = True
        for sender, receiver in ((one, other), (other, one)):
            data = taken(sender)
            quiet = quiet and not data
            pieces: Iterable[bytes] = [data] if path is None else path(sender.role, data)
            for piece in pieces:
                for start in range(0, len(piece), step or max(len(piece), 1)):
                    receiver.receive_data(piece[start : start + (step or len(piece))])
        after()
        if quiet:
            return
    raise AssertionError("the two ends never fall silent")


def connected(client: End, server: End) -> tuple[Conversation, Conversation]:
    """Two ends in AES_MODE, with nothing left to tell."""
    a, b = client.converse(Role.A), server.converse(Role.B)
    carry(a, b)
    assert (a.state, b.state) == (State.AES_MODE, State.AES_MODE), (a.error, b.error)
    told(a)
    told(b)
    return a, b


def finished(a: Conversation, b: Conversation) -> None:
    """End both streams in order."""
    a.finish()
    b.finish()
    carry(a, b)
    assert a.over
    assert b.over
    a.close()
    b.close()
