"""A packet queue without a kernel: it takes verdicts."""

from __future__ import annotations

from tcpcrypt.runtime.netlink import QueuedPacket, Verdict

__all__ = ["Decided", "Verdicts"]

Decided = tuple[Verdict, bytes | None, int | None]
"""What becomes of a packet, the bytes in its place and its mark, where they were given."""


class Verdicts:
    """Stands for a `PacketQueue`, and notes each verdict."""

    def __init__(self) -> None:
        self.verdicts: list[Decided] = []

    def verdict(
        self,
        _packet: QueuedPacket,
        what: Verdict,
        payload: bytes | None = None,
        mark: int | None = None,
    ) -> None:
        self.verdicts.append((what, payload, mark))
