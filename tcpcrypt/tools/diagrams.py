"""State diagrams for the docs, drawn from the very tables that the core runs on."""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterable

from tcpcrypt.core import exchange, handshake, lifecycle
from tcpcrypt.core.config import Config
from tcpcrypt.core.events import DataReceived
from tcpcrypt.core.negotiation import Fallback, Negotiation, Opener
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.core.session import Session
from tcpcrypt.errors import LocalError
from tcpcrypt.sockets import state as sockets
from tcpcrypt.tcps import states

__all__ = ["connection_diagrams", "states_document"]

_HEAD = """# State machines

Generated from the tables of `tcpcrypt.core`, `tcpcrypt.tcps` and `tcpcrypt.sockets` by
`python -m tcpcrypt.tools.diagrams`; a test compares this file with them.
"""


def _mermaid(start: enum.Enum, edges: Iterable[tuple[enum.Enum, str, enum.Enum]]) -> str:
    """One diagram; inputs that lead from one state to the same other share an arrow."""
    arrows: dict[tuple[str, str], list[str]] = defaultdict(list)
    for origin, label, target in edges:
        if origin is not target:
            arrows[origin.name, target.name].append(label)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {start.name}"]
    for (origin_name, target_name), labels in arrows.items():
        lines.append(f"    {origin_name} --> {target_name}: {', '.join(labels)}")
    return "\n".join([*lines, "```", ""])


def states_document() -> str:
    """The whole of `docs/states.md`."""
    parts = [
        _HEAD,
        "## TCP-ENO handshake (RFC 8547 section 4.6)\n",
        "What a peer sends and the table lacks leads to PLAIN.\n",
        _mermaid(
            handshake.State.START,
            ((s, i.value, following) for (s, i), (_, following) in handshake.TABLE.items()),
        ),
        "## Key exchange (RFC 8548 section 3.3)\n",
        "FAILED resets the connection.\n",
        _mermaid(
            exchange.ExchangeState.IDLE,
            ((s, i.value, following) for (s, i), (_, following) in exchange.TABLE.items()),
        ),
        "## Encrypted connection (RFC 8548 section 3.7)\n",
        "Whatever the table lacks leads to ABORTED, and the connection is reset.\n",
        _mermaid(
            lifecycle.SessionState.EXCHANGING,
            ((s, i.value, following) for (s, i), (_, following) in lifecycle.TABLE.items()),
        ),
        "## TCP/S (docs/tcps.md)\n",
        "What the table lacks is dropped, and changes nothing.  Nothing leads to PLAIN but the"
        " handshake.\n",
        _mermaid(
            states.State.START,
            ((s, i.value, following) for (s, i), (_, following) in states.TABLE.items()),
        ),
        "## Secure socket ([sockets.md](sockets.md))\n",
        "Bytes of the program flow in AES_MODE alone. Whatever the table lacks leads to FAIL: the"
        " keys are wiped, the connection is reset.\n",
        _mermaid(
            sockets.State.INIT,
            [
                *((s, step.value, following) for (s, step), following in sockets.TABLE.items()),
                *((s, sockets.Step.FAULT.value, sockets.State.FAIL) for s in sockets.State),
            ],
        ),
    ]
    return "\n".join(parts)


_ROOM = 40
_PEER = b"peer"


def connection_diagrams() -> tuple[str, str]:
    """What two hosts say to each other, in a fresh connection and in one that resumes it.

    The messages are made by the core for it; only what is random is left out.
    """
    config = Config()
    caches = ResumptionCache(config), ResumptionCache(config)
    return _connection(config, caches), _connection(config, caches)


def _connection(config: Config, caches: tuple[ResumptionCache, ResumptionCache]) -> str:
    opener, listener = (
        Negotiation(config, role, resumption=cache, peer=_PEER)
        for role, cache in zip((Opener.ACTIVE, Opener.PASSIVE), caches, strict=True)
    )
    lines = ["```mermaid", "sequenceDiagram"]
    lines += ["    participant A as opens (host A)", "    participant B as accepts (host B)"]
    syn = opener.option_to_send(syn=True, ack=False, room=_ROOM)
    listener.segment_received(syn=True, ack=False, options=syn)
    lines.append(f"    A->>B: SYN, ENO option {_option(syn)}")
    answer = listener.option_to_send(syn=True, ack=True, room=_ROOM)
    opener.segment_received(syn=True, ack=True, options=answer)
    lines.append(f"    B->>A: SYN-ACK, ENO option {_option(answer)}")
    ack = opener.option_to_send(syn=False, ack=True, room=_ROOM)
    listener.segment_received(syn=False, ack=True, options=ack)
    lines.append(f"    A->>B: ACK, ENO option {_option(ack)}: encryption is on")
    if isinstance(opener.outcome, Fallback) or isinstance(listener.outcome, Fallback):
        raise LocalError("a connection of the core with itself is not encrypted")
    sessions = [
        Session(config, outcome, resumption=cache, peer=_PEER)
        for outcome, cache in zip((opener.outcome, listener.outcome), caches, strict=True)
        if outcome is not None
    ]
    one, other = sessions
    ends = (("A", one, "B", other), ("B", other, "A", one))
    for name in () if one.resumed else ("Init1", "Init2"):
        sender, session, receiver, peer = ends[name == "Init2"]
        message = bytes(session.bytes_to_send())
        peer.receive_data(message)
        lines.append(f"    {sender}->>{receiver}: {name}, {len(message)} bytes")
    lines.append("    Note over A,B: the session ID is the same at both ends")
    for sender, session, receiver, peer in ends:
        session.send_data(bytes(100))
        session.finish()
        while message := bytes(session.bytes_to_send()):
            peer.receive_data(message)
            lines.append(f"    {sender}->>{receiver}: frame, {len(message)} bytes")
        while event := peer.next_event():
            if isinstance(event, DataReceived):
                lines.append(f"    Note over A,B: {len(memoryview(event.data))} bytes, authentic")
        lines[-1] += ", and FINp ends the stream"
    for session in sessions:
        session.wipe()
    return "\n".join([*lines, "```", ""])


def _option(option: bytes) -> str:
    """The first bytes are the same each time; identifiers and nonces are not."""
    shown = option if len(option) <= 8 else option[:3]
    return shown.hex(" ") + ("" if shown is option else f" ... ({len(option)} bytes)")


if __name__ == "__main__":
    print(states_document(), end="")
