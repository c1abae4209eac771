"""Plaintext as a capture file: the connections as if they had never been encrypted.

Any tool that follows TCP streams reads it.  Addresses, ports, order and times are
those of the capture; sequence numbers count the plaintext, and whatever is
about encryption stands in a comment of the first packet.  Written by scapy.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tcpcrypt.errors import LocalError
from tcpcrypt.tools.decode.capture import scapy_utils
from tcpcrypt.tools.decode.private import open_private
from tcpcrypt.tools.decode.report import ConnectionReport
from tcpcrypt.wire.segment import Segment, TcpFlags

__all__ = ["PlainCapture"]

_LINKTYPE_RAW: Final = 101
_TIME_MAX: Final = 1e13
_PIECE: Final = 16384
"""Data bytes of a packet."""
_WINDOW: Final = 0xFFFF
_TTL: Final = 64
_TCP: Final = 6
_TCP_LEN: Final = 20
_ACK: Final = TcpFlags.ACK
_SEQ_MOD: Final = 1 << 32
_IPV4_LEN: Final = 4
_ENDINGS: Final = {
    "finp": TcpFlags.FIN | _ACK,
    "fin": TcpFlags.FIN | _ACK,
    "rst": TcpFlags.RST | _ACK,
}


Endpoint = tuple[bytes, int]


class _Commented(bytes):
    """A packet with what scapy looks for beside it, under the names of all its versions."""

    comment: bytes | None = None
    comments: list[bytes] | None = None

    @classmethod
    def made(cls, packet: bytes, comment: str) -> _Commented:
        made = cls(packet)
        if comment:
            made.comment, made.comments = comment.encode(), [comment.encode()]
        return made


@dataclass(slots=True)
class _Stream:
    """A connection in the file: its ends, and their next sequence numbers."""

    client: Endpoint
    server: Endpoint
    next: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})

    def packet(self, from_client: bool, flags: TcpFlags, data: bytes = b"") -> bytes:
        """The next segment of one side, in its IP packet, with every checksum."""
        ends = self.client, self.server
        (source, port), (destination, other_port) = ends if from_client else ends[::-1]
        seq = self.next[from_client]
        ack = self.next[not from_client] if flags.ack else 0
        step = len(data) + bool(flags & (TcpFlags.SYN | TcpFlags.FIN))
        self.next[from_client] = (seq + step) % _SEQ_MOD
        words = (port, other_port, seq, ack, _TCP_LEN // 4 << 4, int(flags), _WINDOW, 0, 0)
        tcp = struct.pack("!HHIIBBHHH", *words) + data
        if len(source) == _IPV4_LEN:
            head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0x4000, _TTL, _TCP, 0)
        else:
            head = struct.pack("!IHBB", 6 << 28, len(tcp), _TCP, _TTL)
        return Segment.parse(head + source + destination + tcp).with_options(b"")


class PlainCapture:
    """A `Sink` that writes a pcapng file.  A context manager.

    The file is the owner's alone (mode 0600), for what was encrypted is in it.
    `data`, `end` and the exit raise `LocalError` where the disk takes no more.
    """

    def __init__(self, path: Path) -> None:
        """Raises `LocalError` if the file cannot be written, or others could read it."""
        utils = scapy_utils()
        self._path = path
        descriptor = open_private(path)
        # By its number: what the name means may change at any time.
        self._writer: Any = utils.RawPcapNgWriter(descriptor)
        self._writer.linktype = _LINKTYPE_RAW
        self._writer.write_header(b"")
        self._streams: dict[int, _Stream] = {}

    def __enter__(self) -> PlainCapture:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._writer.close()
        except OSError as error:
            if kind is None:  # otherwise it was told
                raise self._failed(error) from error

    def _failed(self, error: OSError) -> LocalError:
        return LocalError(f"{self._path}: {error.strerror}; what is in it is not all")

    def data(self, report: ConnectionReport, from_client: bool, data: bytes, time: float) -> None:
        """See `Sink.data`."""
        stream = self._streams.get(report.number)
        if stream is None:
            stream = self._begin(report, time)
        for at in range(0, len(data), _PIECE):
            self._write(stream.packet(from_client, _ACK, data[at : at + _PIECE]), time)

    def end(self, report: ConnectionReport, time: float) -> None:
        """See `Sink.end`."""
        stream = self._streams.pop(report.number, None)
        if stream is None:
            return
        for from_client, direction in (
            (True, report.client_to_server),
            (False, report.server_to_client),
        ):
            flags = _ENDINGS.get(direction.ended)
            if flags is not None:
                self._write(stream.packet(from_client, flags), time)

    def _begin(self, report: ConnectionReport, time: float) -> _Stream:
        stream = _Stream(_end(report.client), _end(report.server))
        self._streams[report.number] = stream
        comment = f"tcpcrypt decode: connection {report.number}, profile {report.profile}"
        if report.session_id is not None:
            comment += f", TEP {report.tep:#04x}, AEAD {report.aead:#06x}"
            comment += f", {'resumed' if report.resumed else 'fresh'}"
            comment += f", session ID {report.session_id.hex()}"
        self._write(stream.packet(True, TcpFlags.SYN), time, comment)
        self._write(stream.packet(False, TcpFlags.SYN | _ACK), time)
        self._write(stream.packet(True, _ACK), time)
        return stream

    def _write(self, packet: bytes, time: float, comment: str = "") -> None:
        # The format has 64 bits of microseconds; a capture may say more.
        made, time = _Commented.made(packet, comment), min(time, _TIME_MAX)
        try:
            self._writer.write_packet(made, sec=time)
        except OSError as error:
            raise self._failed(error) from error


def _end(endpoint: str) -> Endpoint:
    """From `192.0.2.1:80` or `[2001:db8::1]:80`."""
    host, _, port = endpoint.rpartition(":")
    return ipaddress.ip_address(host.strip("[]")).packed, int(port)
