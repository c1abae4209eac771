"""What is known of captured connections, for `tcpcrypt decode --json`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Final

from tcpcrypt.errors import FallbackReason

__all__ = ["ConnectionReport", "DirectionReport", "endpoint"]

_NOTES_MAX: Final = 20


@dataclass(slots=True)
class DirectionReport:
    """One direction of a connection."""

    ended: str = "open"
    """`finp`, `fin`, `rst` or `open`."""
    bytes: int = 0
    """Of plaintext."""
    frames: int | None = None
    authenticated: bool | None = None
    """Every tag verified, and nothing is missing; None in plain TCP."""
    readable: bool = False
    """There is plaintext: the sum is of it."""
    sum: Any = field(default_factory=hashlib.sha256)

    def as_json(self) -> dict[str, Any]:
        """As docs/decode.md has it."""
        return {
            "bytes": self.bytes,
            "frames": self.frames,
            "sha256": self.sum.hexdigest() if self.readable else None,
            "authenticated": self.authenticated,
            "ended": self.ended,
        }


@dataclass(slots=True)
class ConnectionReport:
    """One connection."""

    number: int
    client: str
    server: str
    profile: str | None = None
    """None: its beginning is not in the capture."""
    tep: int | None = None
    aead: int | None = None
    resumed: bool | None = None
    session_id: bytes | None = None
    application_aware: tuple[bool, bool] | None = None
    """Bit `a` of client and server."""
    fallback: FallbackReason | None = None
    client_to_server: DirectionReport = field(default_factory=DirectionReport)
    server_to_client: DirectionReport = field(default_factory=DirectionReport)
    errors: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """All that the connection carried was read."""
        return not self.errors

    def note(self, text: str) -> None:
        """Add an error, once, and not without end."""
        if text not in self.errors and len(self.errors) < _NOTES_MAX:
            self.errors.append(text)

    def as_json(self) -> dict[str, Any]:
        """As docs/decode.md has it."""
        aware = self.application_aware
        return {
            "number": self.number,
            "client": self.client,
            "server": self.server,
            "profile": self.profile,
            "tep": self.tep,
            "aead": self.aead,
            "resumed": self.resumed,
            "session_id": None if self.session_id is None else self.session_id.hex(),
            "application_aware": None
            if aware is None
            else {"client": aware[0], "server": aware[1]},
            "fallback": None if self.fallback is None else self.fallback.value,
            "client_to_server": self.client_to_server.as_json(),
            "server_to_client": self.server_to_client.as_json(),
            "errors": self.errors,
        }


def endpoint(address: object, port: int) -> str:
    """`192.0.2.1:80` or `[2001:db8::1]:80`."""
    text = str(address)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"
