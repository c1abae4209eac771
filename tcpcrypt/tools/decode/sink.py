"""Where plaintext goes, as soon as it is there."""

from __future__ import annotations

from typing import Protocol

__all__ = ["NowhereSink", "Sink"]


class Sink(Protocol):
    """Takes the data of all connections, each direction in order."""

    def data(self, connection: int, from_client: bool, data: bytes, time: float) -> None:
        """`data` of the connection with this number, opened by a packet of `time`."""
        ...


class NowhereSink:
    """For who wants the report alone."""

    def data(self, connection: int, from_client: bool, data: bytes, time: float) -> None:
        """Forget it."""
