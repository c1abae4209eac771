"""`tcpcrypt decode`: the plaintext of captured connections, for who has their secrets."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Final

from tcpcrypt.tools.decode.capture import CaptureError, Packet, read_capture
from tcpcrypt.tools.decode.decoder import Decoder
from tcpcrypt.tools.decode.files import SecretFileError, read_key_log, read_secrets
from tcpcrypt.tools.decode.keys import KeyStore
from tcpcrypt.tools.decode.pcapng import PlainCapture
from tcpcrypt.tools.decode.report import ConnectionReport, DirectionReport
from tcpcrypt.tools.decode.sink import NowhereSink, Sink, Tee

__all__ = ["configure", "run"]

_EXCERPT: Final = 4096
"""Bytes of a connection that are shown where none was chosen."""
_ARROWS: Final = {True: "> ", False: "< "}


def configure(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Print the plaintext of connections in a capture file, pcap or pcapng, encrypted as in RFC"
        " 8548 or by the Stanford tcpcryptd.  Their beginning has to be in the capture.  What"
        " client and server said stands behind > and <; what is no text is escaped.  Exit status:"
        " 0 if everything was decoded, 1 if something was not, 2 if a file cannot be read.  Needs"
        " scapy: pip install 'tcpcrypt[decode]'."
    )
    parser.add_argument(
        "capture", type=Path, metavar="CAPTURE", help="a file, or - for the standard input"
    )
    secrets = parser.add_mutually_exclusive_group(required=True)
    secrets.add_argument(
        "--keylog",
        type=Path,
        action="append",
        metavar="FILE",
        help="key log as tcpcryptd writes it; may be given more than once",
    )
    secrets.add_argument(
        "--secrets", type=Path, metavar="FILE.json", help="secrets of another implementation"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument(
        "--stream",
        type=_number,
        metavar="N",
        help="only connection N of the capture, from 0, and all of its data",
    )
    parser.add_argument(
        "--raw",
        choices=("client", "server"),
        help="with --stream: write what this side sent, byte for byte, and nothing else",
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE.pcapng",
        help="also write all that was decoded as a capture of plain TCP, mode 0600",
    )
    parser.set_defaults(usage_error=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Decode and print; returns the exit status."""
    if arguments.raw and (arguments.stream is None or arguments.json):
        arguments.usage_error("--raw goes with --stream, and not with --json")
    out = arguments.write
    capture = arguments.capture
    if out is not None and out.exists() and capture.exists() and out.samefile(capture):
        arguments.usage_error("--write: that is the capture itself")
    if out is not None and any(_same(out, path) for path in _secret_files(arguments)):
        arguments.usage_error("--write: that is the file of the secrets")
    try:
        return _run(arguments)
    except (CaptureError, SecretFileError) as error:
        print(f"tcpcrypt: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read has seen enough; the interpreter flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(arguments: argparse.Namespace) -> int:
    shown = _sink(arguments)
    store = _secrets(arguments)
    with contextlib.ExitStack() as stack:
        sink = shown
        if arguments.write is not None:
            sink = Tee(shown, stack.enter_context(PlainCapture(arguments.write)))
        decoder = Decoder(store, sink)
        faults = _feed(decoder, read_capture(arguments.capture))
        reports = decoder.finish()
    if decoder.damaged:
        _tell(arguments, f"{decoder.damaged} packets contradict themselves and were left out")
    if arguments.stream is not None:
        if arguments.stream >= len(reports):
            raise CaptureError(
                f"{arguments.capture}: there is no connection {arguments.stream}, but"
                f" {len(reports)} in all"
            )
        reports = reports[arguments.stream : arguments.stream + 1]
    if arguments.json:
        document: dict[str, Any] = {"connections": [report.as_json() for report in reports]}
        print(json.dumps(document | ({"errors": faults} if faults else {}), indent=2))
    elif isinstance(shown, _Shown):
        for report in reports:
            shown.print(report)
    else:
        faults += reports[0].errors
    for fault in faults:
        _tell(arguments, fault)
    return 0 if not faults and all(report.ok for report in reports) else 1


def _secret_files(arguments: argparse.Namespace) -> list[Path]:
    return [*(arguments.keylog or ()), *([arguments.secrets] if arguments.secrets else ())]


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _tell(arguments: argparse.Namespace, what: str) -> None:
    print(f"tcpcrypt: {arguments.capture}: {what}", file=sys.stderr)


def _secrets(arguments: argparse.Namespace) -> KeyStore:
    store = KeyStore()
    for path in arguments.keylog or ():
        for fault in read_key_log(path, store):
            print(f"tcpcrypt: {fault}; it was left out", file=sys.stderr)
    if arguments.secrets is not None:
        read_secrets(arguments.secrets, store)
    return store


def _sink(arguments: argparse.Namespace) -> Sink:
    if arguments.raw:
        return _Raw(sys.stdout.buffer, arguments.stream, arguments.raw == "client")
    return NowhereSink() if arguments.json else _Shown(arguments.stream)


def _feed(decoder: Decoder, packets: Iterable[Packet]) -> list[str]:
    """Everything up to the end, or as far as it goes; what ended it early."""
    read = 0
    try:
        for packet in packets:
            decoder.packet(packet)
            read += 1
    except KeyboardInterrupt:
        return ["interrupted: the rest of the capture was not read"]
    except CaptureError as error:
        if not read:
            raise
        return [str(error)]
    return []


class _Raw:
    """One side of one connection, as it is."""

    def __init__(self, out: BinaryIO, number: int, from_client: bool) -> None:
        self._out = out
        self._wanted = number, from_client

    def data(self, report: ConnectionReport, from_client: bool, data: bytes, time: float) -> None:
        if (report.number, from_client) == self._wanted:
            self._out.write(data)

    def end(self, report: ConnectionReport, time: float) -> None:
        """It is as long as it is."""


class _Shown:
    """What both sides said, in the order in which it was captured.

    All of a chosen connection, and of others the beginning.
    """

    def __init__(self, number: int | None) -> None:
        self._number = number
        self._said: dict[int, list[tuple[bool, bytearray]]] = {}
        self._kept: dict[int, int] = {}

    def data(self, report: ConnectionReport, from_client: bool, data: bytes, time: float) -> None:
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
        """All are printed in order, when the capture has been read."""

    def print(self, report: ConnectionReport) -> None:
        print(f"{report.number}: {report.client} -> {report.server}  {_what(report)}")
        if report.session_id is not None:
            print(f"   session ID {report.session_id.hex()}")
        print(f"   client to server: {_direction(report.client_to_server)}")
        print(f"   server to client: {_direction(report.server_to_client)}")
        for error in report.errors:
            print(f"   ! {error}")
        for from_client, data in self._said.get(report.number, ()):
            for line in _lines(bytes(data)):
                print(_ARROWS[from_client] + line)
        more = self._kept.get(report.number, 0) - _EXCERPT
        if more > 0:
            print(f"   ... and {more} bytes more: --stream {report.number}")
        print()


def _what(report: ConnectionReport) -> str:
    words = [report.profile or "not known"]
    if report.tep is not None:
        words.append(f"TEP {report.tep:#04x}")
    if report.aead is not None:
        words.append(f"AEAD {report.aead:#06x}")
    if report.resumed:
        words.append("resumed")
    if report.fallback is not None:
        words.append(f"({report.fallback.value})")
    return " ".join(words)


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


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 up")
    return int(text)
