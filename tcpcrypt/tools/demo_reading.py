"""The part of the demo that reads what was captured, with the key log of one host."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tcpcrypt.errors import LocalError
from tcpcrypt.tools.decode.capture import Packet, scapy_utils
from tcpcrypt.tools.decode.decoder import Decoder
from tcpcrypt.tools.decode.files import read_key_log
from tcpcrypt.tools.decode.keys import KeyStore
from tcpcrypt.tools.decode.report import ConnectionReport
from tcpcrypt.tools.demo_text import Printer
from tcpcrypt.tools.netns import Capture

__all__ = ["Asked", "keep", "read_capture"]

_BLANK: Final = b"\r\n\r\n"
_HEADS_MAX: Final = 1 << 16
_LINKTYPE_RAW: Final = 101
_IP_VERSIONS: Final = (4, 6)


@dataclass(frozen=True, slots=True)
class Asked:
    """What curl fetched over one connection: a page, then a file."""

    server: str
    session_id: str
    page: bytes
    file_sha256: str


@dataclass
class _Heard:
    """One connection, as its plaintext comes."""

    requests: bytearray = field(default_factory=bytearray)
    heads: bytearray = field(default_factory=bytearray)
    """Both heads, and the page between them."""
    file: Any = field(default_factory=hashlib.sha256)
    whole: bool = False

    def answer(self, data: bytes) -> None:
        if self.whole:
            self.file.update(data)
        elif len(self.heads) < _HEADS_MAX:
            self.heads += data
            end = self.heads.find(_BLANK, self.heads.find(_BLANK) + 1)
            if self.heads.count(_BLANK) > 1:
                self.whole = True
                self.file.update(self.heads[end + len(_BLANK) :])
                del self.heads[end + len(_BLANK) :]


class _Listener:
    """A `Sink`."""

    def __init__(self) -> None:
        self.heard: dict[int, _Heard] = {}

    def data(self, report: ConnectionReport, from_client: bool, data: bytes, time: float) -> None:
        heard = self.heard.setdefault(report.number, _Heard())
        if from_client:
            heard.requests += data[: _HEADS_MAX - len(heard.requests)]
        else:
            heard.answer(data)

    def end(self, report: ConnectionReport, time: float) -> None:
        """What was heard stays."""


def read_capture(
    capture: Capture,
    key_log: Path,
    asked: list[Asked],
    check: Callable[[str, bool], None],
    printer: Printer,
) -> None:
    """Decode what the eavesdropper has by the key log: the very requests, page and file."""
    printer.title("What the key log of the client opens")
    store = KeyStore()
    faults = read_key_log(key_log, store)
    listener = _Listener()
    decoder = Decoder(store, listener)
    for number, (time, packet) in enumerate(zip(capture.times, capture.packets, strict=True), 1):
        decoder.packet(Packet(number, time, memoryview(packet)))
    reports = {report.session_id.hex(): report for report in decoder.finish() if report.session_id}
    printer.line(f"{store.entries} lines, {decoder.connections} connections")
    for each in asked:
        report = reports.get(each.session_id)
        heard = listener.heard.get(-1 if report is None else report.number, _Heard())
        start = "resumed" if report is not None and report.resumed else "fresh"
        for line in heard.requests.split(b"\r\n"):
            if line.startswith(b"GET "):
                printer.line(f"{start}: {line.decode('ascii', 'backslashreplace')}")
        right = (
            not faults
            and report is not None
            and not report.errors
            and report.server == each.server
            and report.client_to_server.authenticated is True
            and report.server_to_client.authenticated is True
            and heard.requests.startswith(b"GET / HTTP/1.1\r\n")
            and b"\r\n\r\nGET /file HTTP/1.1\r\n" in heard.requests
            and each.page in heard.heads
            and heard.file.hexdigest() == each.file_sha256
        )
        check(f"{start}: the key log opens the very requests, the page and the file", right)


def keep(capture: Capture, key_log: Path, directory: Path) -> tuple[Path, Path]:
    """Put the capture and the key log into `directory`; returns both paths.

    Raises `LocalError` where it cannot.
    """
    utils = scapy_utils()
    kept, keys = directory / "capture.pcap", directory / "keys.log"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (kept, keys):
            path.unlink(missing_ok=True)
        descriptor = os.open(keys, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as target, key_log.open("rb") as source:
            shutil.copyfileobj(source, target)
        with utils.RawPcapWriter(str(kept), linktype=_LINKTYPE_RAW) as writer:
            writer.write_header(None)
            for time, packet in zip(capture.times, capture.packets, strict=True):
                if packet[0] >> 4 not in _IP_VERSIONS:
                    continue  # ARP, which a file of IP packets does not have
                seconds, rest = divmod(time, 1)
                size = len(packet)
                writer.write_packet(
                    packet, sec=int(seconds), usec=int(rest * 1e6), caplen=size, wirelen=size
                )
    except OSError as error:
        raise LocalError(f"{error.filename or directory}: {error.strerror}") from error
    return kept, keys
