"""`tcpcrypt decode`: the plaintext of captured connections, for who has their secrets."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from tcpcrypt.tools.decode.capture import CaptureError, Packet, read_capture
from tcpcrypt.tools.decode.decoder import Decoder
from tcpcrypt.tools.decode.files import (
    GrowingKeyLog,
    SecretFileError,
    read_key_log,
    read_secrets,
)
from tcpcrypt.tools.decode.keys import KeyStore
from tcpcrypt.tools.decode.live import LiveCapture
from tcpcrypt.tools.decode.opened import OpenedFrames
from tcpcrypt.tools.decode.pcapng import PlainCapture
from tcpcrypt.tools.decode.show import Excerpts, Followed, Raw
from tcpcrypt.tools.decode.sink import NowhereSink, Sink, Tee

__all__ = ["configure", "run"]

_LIVE_REPORTS_MAX: Final = 10_000
"""Connections of a live capture that `--json` tells of."""
_BETWEEN_LOOKS: Final = 256
"""Packets of a live capture between two looks at the key logs, if they come that fast."""
_PORT_MAX: Final = 0xFFFF


def configure(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Print the plaintext of connections in a capture file, pcap or pcapng, or on an interface"
        " while they speak, encrypted as in RFC 8548 or by the Stanford tcpcryptd.  Their"
        " beginning has to be in the capture.  What client and server said stands behind > and <;"
        " what is no text is escaped.  Exit status: 0 if everything was decoded, 1 if something"
        " was not, 2 if a file cannot be read.  Files need scapy: pip install 'tcpcrypt[decode]'."
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "capture", type=Path, metavar="CAPTURE", nargs="?", help="a file, or - for standard input"
    )
    source.add_argument(
        "--interface",
        metavar="IF",
        help="capture on this interface, as root, until Ctrl-C or one of the next two",
    )
    parser.add_argument("--packets", type=_number, metavar="N", help="of --interface: how many")
    parser.add_argument("--seconds", type=_number, metavar="N", help="of --interface: how long")
    secrets = parser.add_mutually_exclusive_group(required=True)
    secrets.add_argument(
        "--keylog",
        type=Path,
        action="append",
        metavar="FILE",
        help="key log as tcpcryptd writes it; may be given more than once; with --interface it"
        " is read while it grows",
    )
    secrets.add_argument(
        "--secrets", type=Path, metavar="FILE.json", help="secrets of another implementation"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument(
        "--port", type=_number, metavar="N", help="only connections from or to this port"
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--stream",
        type=_number,
        metavar="N",
        help="only connection N of the capture, from 0, and all of its data",
    )
    shown.add_argument(
        "--follow",
        type=_number,
        metavar="N",
        help="only connection N, and its data as they come",
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
    parser.add_argument(
        "--opened",
        type=Path,
        metavar="FILE",
        help="also write each frame with its plaintext, for the Wireshark dissector, mode 0600",
    )
    parser.set_defaults(usage_error=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Decode and print; returns the exit status."""
    _check(arguments)
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except (CaptureError, SecretFileError) as error:
        print(f"tcpcrypt: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return _unwritten()  # whoever read has seen enough
    except OSError as error:
        print(f"tcpcrypt: the output cannot be written: {error.strerror}", file=sys.stderr)
        return _unwritten()
    return status


def _unwritten() -> int:
    """The interpreter flushes once more at its end, which is not to fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _check(arguments: argparse.Namespace) -> None:
    """Usage errors that the parser cannot tell."""
    error = arguments.usage_error
    if arguments.raw and (arguments.stream is None or arguments.json):
        error("--raw goes with --stream, and not with --json")
    if arguments.follow is not None and arguments.json:
        error("--follow does not go with --json")
    if arguments.interface is None:
        for name in ("packets", "seconds"):
            if getattr(arguments, name) is not None:
                error(f"--{name} goes with --interface")
    elif arguments.stream is not None:
        error("--stream is for files; --follow for --interface")
    if arguments.port is not None and not 0 < arguments.port <= _PORT_MAX:
        error("--port: from 1 to 65535")
    written = {name: getattr(arguments, name) for name in ("write", "opened")}
    for name, out in written.items():
        if out is None:
            continue
        if arguments.capture is not None and _same(out, arguments.capture):
            error(f"--{name}: that is the capture itself")
        if any(_same(out, path) for path in _secret_files(arguments)):
            error(f"--{name}: that is the file of the secrets")
    if None not in written.values() and _alike(*written.values()):
        error("--opened: that is the file of --write")


def _run(arguments: argparse.Namespace) -> int:
    shown = _sink(arguments)
    with contextlib.ExitStack() as stack:
        source = _Source(arguments, stack)
        sink, frames = shown, None
        if arguments.write is not None:
            sink = Tee(shown, stack.enter_context(PlainCapture(arguments.write)))
        if arguments.opened is not None:
            frames = stack.enter_context(OpenedFrames(arguments.opened)).frame
        keep = _LIVE_REPORTS_MAX if arguments.interface else None
        decoder = Decoder(source.store, sink, frames=frames, port=arguments.port, keep=keep)
        faults = source.feed(decoder)
        reports = decoder.finish()
    faults += source.lost()
    if decoder.damaged:
        _tell(arguments, f"{decoder.damaged} packets contradict themselves and were left out")
    chosen = arguments.follow if arguments.stream is None else arguments.stream
    if chosen is not None:
        if chosen >= len(reports):
            raise CaptureError(
                f"{_named(arguments)}: there is no connection {chosen}, but {len(reports)} in all"
            )
        reports = reports[chosen : chosen + 1]
    if arguments.json:
        document: dict[str, Any] = {"connections": [report.as_json() for report in reports]}
        if decoder.connections > _LIVE_REPORTS_MAX and arguments.interface:
            faults.append(f"only the first {_LIVE_REPORTS_MAX} of {decoder.connections} are told")
        print(json.dumps(document | ({"errors": faults} if faults else {}), indent=2))
    elif isinstance(shown, Excerpts) and not arguments.interface:
        for report in reports:
            shown.print(report)
    elif isinstance(shown, Raw):
        faults += reports[0].errors
    if arguments.interface and not arguments.json:
        _tell(arguments, f"{source.packets} packets, {decoder.connections} connections")
    for fault in faults:
        _tell(arguments, fault)
    return 0 if not faults and all(report.ok for report in reports) else 1


def _secret_files(arguments: argparse.Namespace) -> list[Path]:
    return [*(arguments.keylog or ()), *([arguments.secrets] if arguments.secrets else ())]


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _alike(one: Path, other: Path) -> bool:
    return one.absolute() == other.absolute() or _same(one, other)


def _named(arguments: argparse.Namespace) -> str:
    return str(arguments.interface or arguments.capture)


def _tell(arguments: argparse.Namespace, what: str) -> None:
    print(f"tcpcrypt: {_named(arguments)}: {what}", file=sys.stderr)


def _sink(arguments: argparse.Namespace) -> Sink:
    if arguments.raw:
        return Raw(sys.stdout.buffer, arguments.stream, arguments.raw == "client")
    if arguments.follow is not None:
        return Followed(arguments.follow)
    if arguments.json:
        return NowhereSink()
    return Excerpts(arguments.stream, at_once=arguments.interface is not None)


class _Source:
    """Packets, and the secrets that belong to them."""

    def __init__(self, arguments: argparse.Namespace, stack: contextlib.ExitStack) -> None:
        self.store = KeyStore()
        self.packets = 0
        self._logs: list[GrowingKeyLog] = []
        self._live: LiveCapture | None = None
        self._capture: Path | None = arguments.capture
        if arguments.secrets is not None:
            read_secrets(arguments.secrets, self.store)
        keylogs = arguments.keylog or ()
        if arguments.interface is None:
            for path in keylogs:
                self._left_out(read_key_log(path, self.store))
            return
        self.store.growing = bool(keylogs)
        self._logs = [GrowingKeyLog(path, self.store) for path in keylogs]
        live = LiveCapture(
            arguments.interface, packets=arguments.packets, seconds=arguments.seconds
        )
        self._live = stack.enter_context(live)

    @staticmethod
    def _left_out(faults: list[str]) -> None:
        for fault in faults:
            print(f"tcpcrypt: {fault}; it was left out", file=sys.stderr)

    def feed(self, decoder: Decoder) -> list[str]:
        """Everything up to the end, or as far as it goes; what ended it early."""
        faults = []
        try:
            for packet in self._read():
                if packet is not None:
                    decoder.packet(packet)
                    self.packets += 1
                if packet is None or not self.packets % _BETWEEN_LOOKS:
                    self._look(decoder)
        except KeyboardInterrupt:
            faults.append("interrupted: the rest of the capture was not read")
        except CaptureError as error:
            if not self.packets:
                raise
            faults.append(str(error))
        self._look(decoder)
        while any(log.behind for log in self._logs):
            self._look(decoder)
        return faults

    def _read(self) -> Iterable[Packet | None]:
        if self._live is not None:
            return self._live
        assert self._capture is not None  # the parser asks for one of the two
        return read_capture(self._capture)

    def _look(self, decoder: Decoder) -> None:
        """At key logs that may have grown."""
        before = self.store.entries
        for log in self._logs:
            self._left_out(log.read())
        if self.store.entries != before:
            decoder.keys_came()

    def lost(self) -> list[str]:
        """What the kernel could not keep."""
        if self._live is None or not self._live.dropped:
            return []
        return [f"the kernel dropped {self._live.dropped} packets: connections may have gaps"]


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 up")
    return int(text)
