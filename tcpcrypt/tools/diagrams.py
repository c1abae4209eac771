"""State diagrams for the docs, drawn from the very tables that the core runs on."""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterable

from tcpcrypt.core import exchange, handshake, lifecycle
from tcpcrypt.sockets import state as sockets

__all__ = ["states_document"]

_HEAD = """# State machines

Generated from the tables of `tcpcrypt.core` and `tcpcrypt.sockets` by
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


if __name__ == "__main__":
    print(states_document(), end="")
