"""Where plaintext goes, as soon as it is there."""

from __future__ import annotations

from typing import Protocol

from tcpcrypt.tools.decode.report import ConnectionReport

__all__ = ["NowhereSink", "Sink", "Tee"]


class Sink(Protocol):
    """Takes the data of all connections, each direction in order.

    A report says by then what was agreed on; its counts grow.
    """

    def data(self, report: ConnectionReport, from_client: bool, data: bytes, time: float) -> None:
        """`data` of a connection, opened by a packet of `time`."""
        ...

    def end(self, report: ConnectionReport, time: float) -> None:
        """Nothing more of this connection will come."""
        ...


class NowhereSink:
    """For who wants the report alone."""

    def data(self, report: ConnectionReport, from_client: bool, data: bytes, time: float) -> None:
        """Forget it."""

    def end(self, report: ConnectionReport, time: float) -> None:
        """Nothing to end."""


class Tee:
    """One sink that is several."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks

    def data(self, report: ConnectionReport, from_client: bool, data: bytes, time: float) -> None:
        """To each."""
        for sink in self._sinks:
            sink.data(report, from_client, data, time)

    def end(self, report: ConnectionReport, time: float) -> None:
        """Of each."""
        for sink in self._sinks:
            sink.end(report, time)
