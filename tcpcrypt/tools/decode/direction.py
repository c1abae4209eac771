"""One direction of a captured connection."""

from __future__ import annotations

from typing import Final

from tcpcrypt.tools.decode.frames import FrameReader
from tcpcrypt.tools.decode.reassembly import ByteStream
from tcpcrypt.tools.decode.report import DirectionReport

__all__ = ["NOTHING", "Direction"]

NOTHING: Final = ByteStream(0)
"""The stream of a direction before its first packet, and once it is read no more."""


class Direction:
    """One direction: what was captured of it, and who reads it."""

    __slots__ = ("cut", "fin_at", "isn", "name", "reader", "region", "report", "reset", "stream")

    def __init__(self, name: str, report: DirectionReport) -> None:
        self.name = name
        self.report = report
        self.isn: int | None = None
        self.region: bytes | None = None
        """Options of its SYN or SYN-ACK."""
        self.stream = NOTHING
        self.reader: FrameReader | None = None
        self.fin_at: int | None = None
        self.reset = False
        self.cut = False

    def start(self, isn: int) -> None:
        if self.isn is None:
            self.isn = isn
            self.stream = ByteStream(isn)

    def begins(self, magic: bytes) -> bool | None:
        """Whether the stream begins so; None: not known yet."""
        head = bytes(self.stream.buffer[: len(magic)])
        if len(head) < len(magic) and magic.startswith(head):
            return None
        return head == magic

    @property
    def ended(self) -> bool:
        """Its sender has said that nothing follows, or that nobody shall listen."""
        return self.reset or self.fin_at is not None

    @property
    def complete(self) -> bool:
        """All up to its end was read; a FIN that anybody can forge is none where FINp is."""
        if self.reader is not None and not self.reader.over:
            return False
        return self.fin_at is not None and self.stream.base == self.fin_at
