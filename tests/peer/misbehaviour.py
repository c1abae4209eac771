"""What one entry of the tables says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from peer.scripts import Script, honest


@dataclass(frozen=True, kw_only=True)
class Misbehaviour:
    """One thing a peer can do wrong, and how the subject has to take it.

    `a` tells how the subject ends when the host that misbehaves plays role A, `b`
    when it plays B; None where the role cannot do it:

        plain REASON    plain TCP, for that fallback reason, and no ENO from then on
        abort REASON    the connection is reset, for that fault of the peer
        works           the RFC has it tolerated: the conversation goes on
        fresh           the same, with a new key exchange where a resumption was asked for
        resumed         the same, and the session is resumed
        ended           the subject was told of an authenticated end, and of no error
    """

    name: str
    rfc: str
    """Number and section of the rule that is broken."""
    does: str
    play: Script = honest
    """How; the default is an honest connection by a host with the quirk `name`."""
    a: str | None = None
    b: str | None = None
    teps: tuple[int, ...] = (0x23,)
    """Of the host, and of the subject unless `subject` says otherwise."""
    aeads: tuple[int, ...] = (0x0001,)
    subject: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the subject."""
    resumes: int = 0
    """So many honest sessions between the same two come before, each resuming the last."""
    version: int = 0
    """Not 0: both speak that version of TEP 0x20, and no other TEP."""
    host: Mapping[str, Any] = field(default_factory=dict)
    """TEP 0x20: settings of the host (`peer.authenticating.AuthenticatingHost`)."""
    terms: Mapping[str, Any] = field(default_factory=dict)
    """TEP 0x20: what the subject shows and asks for."""
    swapped: bool = False
    """In those the roles were the other way round."""


def both(ends: str) -> dict[str, str]:
    """The same end whichever role misbehaves."""
    return {"a": ends, "b": ends}
