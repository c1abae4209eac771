"""Packet queues without a kernel: they take verdicts."""

from __future__ import annotations

from tcpcrypt.runtime.netlink import QueuedPacket, Verdict

__all__ = ["Decided", "VerdictOnEach", "Verdicts"]

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


class VerdictOnEach:
    """Stands for a `PacketQueue` of what goes on as it came: verdict and mark by identifier."""

    def __init__(self) -> None:
        self.decided: dict[int, tuple[Verdict, int | None]] = {}

    def verdict(
        self,
        packet: QueuedPacket,
        what: Verdict,
        payload: bytes | None = None,
        mark: int | None = None,
    ) -> None:
        assert packet.identifier not in self.decided, "two verdicts on one packet"
        assert payload is None
        self.decided[packet.identifier] = (what, mark)
