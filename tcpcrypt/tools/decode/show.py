"""What connections said, for eyes: a `Sink` for each way of looking."""

from __future__ import annotations

from typing import BinaryIO, Final

from tcpcrypt.tools.decode.report import ConnectionReport, DirectionReport

__all__ = ["Excerpts", "Followed", "Raw"]

_EXCERPT: Final = 4096
"""Bytes of a connection that are shown where none was chosen."""
_ARROWS: Final = {True: "> ", False: "< "}


class Raw:
    """One side of one connection, as it is."""

    def __init__(self, out: BinaryIO, number: int, from_client: bool) -> None:
        self._out = out
        self._wanted = number, from_client

    def data(self, report: ConnectionReport, from_client: bool, data: bytes, time: float) -> None:
        """See `Sink.data`."""
        if (report.number, from_client) == self._wanted:
            self._out.write(data)

    def end(self, report: ConnectionReport, time: float) -> None:
        """It is as long as it is."""


class Followed:
    """One connection, while it speaks."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._begun = False

    def data(self, report: ConnectionReport, from_client: bool, data: bytes, time: float) -> None:
        """See `Sink.data`."""
        if report.number != self._number:
            return
        self._begin(report)
        for line in _lines(data):
            print(_ARROWS[from_client] + line, flush=True)

    def end(self, report: ConnectionReport, time: float) -> None:
        """See `Sink.end`."""
        if report.number == self._number:
            self._begin(report)
            _print_directions(report)
            print(flush=True)

    def _begin(self, report: ConnectionReport) -> None:
        if not self._begun:
            self._begun = True
            _print_head(report)


class Excerpts:
    """What both sides said, in the order in which it was captured.

    All of connection `number`, or where that is None the beginning of each.
    `at_once`: each is printed when it ends, and forgotten.
    """

    def __init__(self, number: int | None, *, at_once: bool = False) -> None:
        self._number = number
        self._at_once = at_once
        self._said: dict[int, list[tuple[bool, bytearray]]] = {}
        self._kept: dict[int, int] = {}

    def data(self, report: ConnectionReport, from_client: bool, data: bytes, time: float) -> None:
        """See `Sink.data`."""
        connection = report.number
        if self._number is None:
            kept = self._kept.get(connection, 0)
            self._kept[connection] = kept + len(data)
            data = data[: max(0, _EXCERPT - kept)]
        elif connection != self._number:
            return
        said = self._said.setdefault(connection, [])
        if not said or said[-1][0] is not from_client:
            said.append((from_client, bytearray()))
        said[-1][1].extend(data)

    def end(self, report: ConnectionReport, time: float) -> None:
        """Of a capture that was read, all are printed in order, afterwards."""
        if self._at_once:
            self.print(report)
            self._said.pop(report.number, None)
            self._kept.pop(report.number, None)

    def print(self, report: ConnectionReport) -> None:
        """The report, and what was said."""
        _print_head(report)
        _print_directions(report)
        for from_client, data in self._said.get(report.number, ()):
            for line in _lines(bytes(data)):
                print(_ARROWS[from_client] + line)
        more = self._kept.get(report.number, 0) - _EXCERPT
        if more > 0:
            how = "" if self._at_once else f": --stream {report.number}"
            print(f"   ... and {more} bytes more{how}")
        print(flush=True)


def _print_head(report: ConnectionReport) -> None:
    print(f"{report.number}: {report.client} -> {report.server}  {_what(report)}")
    if report.session_id is not None:
        print(f"   session ID {report.session_id.hex()}")
    if report.shown is not None:
        print(f"   {_shown(report.shown.as_json())}")


def _print_directions(report: ConnectionReport) -> None:
    print(f"   client to server: {_direction(report.client_to_server)}")
    print(f"   server to client: {_direction(report.server_to_client)}")
    for error in report.errors:
        print(f"   ! {error}")


def _what(report: ConnectionReport) -> str:
    words = [report.profile or "not known"]
    if report.tep is not None:
        words.append(f"TEP {report.tep:#04x}")
    if report.aead is not None:
        words.append(f"AEAD {report.aead:#06x}")
    if report.resumed:
        words.append("resumed")
    if report.in_band:
        words.append("in the streams")
    if report.fallback is not None:
        words.append(f"({report.fallback.value})")
    return " ".join(words)


def _shown(shown: dict[str, object]) -> str:
    words = [f"version {shown['version']}", f"key of A {shown['key_of_a'] or 'not shown'}"]
    words.append(f"key of B {'sealed' if shown['b_shows_key'] else 'not shown'}")
    if shown["psk_hint"] is not None:
        words.append(f"PSK {shown['psk_hint']} {'used' if shown['psk_used'] else 'not used'}")
    return ", ".join(words)


def _direction(report: DirectionReport) -> str:
    if not report.readable:
        return f"nothing to read, ended {report.ended}"
    words = f"{report.bytes} bytes"
    if report.frames is not None:
        tags = "every tag verified" if report.authenticated else "NOT authenticated as a whole"
        words += f" in {report.frames} frames, {tags}"
    return f"{words}, ended {report.ended}"


def _lines(data: bytes) -> list[str]:
    """Text as it is, all else escaped: a terminal obeys what it is told."""
    text = data.decode("utf-8", "backslashreplace")
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [_printable(line.removesuffix("\r")) for line in lines]


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in line)
