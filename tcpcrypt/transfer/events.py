"""What connections tell their programs about files."""

from __future__ import annotations

from dataclasses import dataclass

from tcpcrypt.transfer.codes import Code
from tcpcrypt.transfer.digest import Digest
from tcpcrypt.transfer.names import Path
from tcpcrypt.transfer.source import Entry

__all__ = [
    "Accepted",
    "Completed",
    "Delivered",
    "Event",
    "Failed",
    "NotDelivered",
    "Progress",
    "SenderEvent",
    "Started",
]


@dataclass(frozen=True, slots=True)
class Started:
    """A file is coming."""

    path: Path
    offset: int
    """Bytes that are there from an earlier connection; the sender may want none of them."""
    size: int | None
    """None: it has none before it ends."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A file, or folder, is there, and durable."""

    path: Path
    """Below the directory of the receiver."""
    size: int
    digest: Digest
    """Of nothing for a folder."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A file is not there; a part of it may be kept."""

    path: Path
    code: Code
    detail: str


Event = Started | Completed | Failed


@dataclass(frozen=True, slots=True)
class Accepted:
    """The receiver takes it."""

    entry: Entry
    offset: int
    """Bytes that are there already, and proven to be the same."""
    size: int | None
    """None: it has none before it ends."""


@dataclass(frozen=True, slots=True)
class Progress:
    """More of it is durable at the receiver."""

    entry: Entry
    sent: int
    durable: int
    size: int | None


@dataclass(frozen=True, slots=True)
class Delivered:
    """It is there, durable and verified."""

    entry: Entry
    path: Path
    """Where: in the directory of the receiver, or the client's own there."""
    size: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class NotDelivered:
    """It is not there."""

    entry: Entry
    code: Code
    detail: str


SenderEvent = Accepted | Progress | Delivered | NotDelivered
