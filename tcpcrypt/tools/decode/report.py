"""What is known of captured connections, for `tcpcrypt decode --json`."""

from __future__ import annotations

import builtins
import hashlib
from dataclasses import dataclass, field
from typing import Any, Final

from tcpcrypt.auth.fingerprint import fingerprint
from tcpcrypt.errors import FallbackReason

__all__ = ["ConnectionReport", "DirectionReport", "Shown", "endpoint"]

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
    _sum: Any = None
    """An object of hashlib where there are data, and once all is there its digest."""

    def update(self, data: builtins.bytes) -> None:
        """More plaintext."""
        if self._sum is None:
            self._sum = hashlib.sha256()
        self.bytes += len(data)
        self._sum.update(data)

    def seal(self) -> None:
        """Nothing more comes: what is kept is small.  Idempotent."""
        if self._sum is not None and not isinstance(self._sum, builtins.bytes):
            self._sum = self._sum.digest()

    @property
    def sha256(self) -> str:
        """Of the plaintext, in hex."""
        self.seal()
        return (self._sum or hashlib.sha256().digest()).hex()

    def as_json(self) -> dict[str, Any]:
        """As docs/decode.md has it."""
        return {
            "bytes": self.bytes,
            "frames": self.frames,
            "sha256": self.sha256 if self.readable else None,
            "authenticated": self.authenticated,
            "ended": self.ended,
        }


@dataclass(frozen=True, slots=True)
class Shown:
    """What Init1 and Init2 of the TEP that authenticates show to everybody."""

    version: int
    key_of_a: bytes | None
    """A's static key, 32 bytes; it goes in the clear."""
    b_shows_key: bool
    """B shows one to A alone: it is sealed, and no key log opens it."""
    psk_hint: bytes | None
    """Names the pre-shared key that A offers."""
    psk_used: bool

    def as_json(self) -> dict[str, Any]:
        """As docs/decode.md has it."""
        return {
            "version": self.version,
            "key_of_a": None if self.key_of_a is None else fingerprint(self.key_of_a),
            "b_shows_key": self.b_shows_key,
            "psk_hint": None if self.psk_hint is None else self.psk_hint.hex(),
            "psk_used": self.psk_used,
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
    in_band: bool | None = None
    """Negotiated within the streams, not by TCP options."""
    application_aware: tuple[bool, bool] | None = None
    """Bit `a` of client and server."""
    fallback: FallbackReason | None = None
    shown: Shown | None = None
    """Of a fresh exchange of TEP 0x20."""
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
            "in_band": self.in_band,
            "application_aware": None
            if aware is None
            else {"client": aware[0], "server": aware[1]},
            "fallback": None if self.fallback is None else self.fallback.value,
            "authentication": None if self.shown is None else self.shown.as_json(),
            "client_to_server": self.client_to_server.as_json(),
            "server_to_client": self.server_to_client.as_json(),
            "errors": self.errors,
        }


def endpoint(address: object, port: int) -> str:
    """`192.0.2.1:80` or `[2001:db8::1]:80`."""
    text = str(address)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"
