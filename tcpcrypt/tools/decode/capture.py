"""Capture files, pcap and pcapng, as IP packets.

scapy reads the files (the extra `decode`); what is in the packets is read by
this package's own parsers.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tcpcrypt.errors import LocalError
from tcpcrypt.tools.decode.link import ip_packet

__all__ = ["STDIN", "CaptureError", "Packet", "read_capture", "scapy_utils"]

STDIN: Final = Path("-")
_PACKET_MAX: Final = 1 << 18
"""Bytes of one packet that are read; offloads make packets of 64 KiB, and headers."""
_BETWEEN_MAX: Final = 1 << 24
"""Bytes of a packet and of what stands before it: descriptions, names, secrets."""
_INTERFACES_MAX: Final = 1 << 16


class CaptureError(LocalError):
    """A file that cannot be read, or is no capture."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One IP packet as it was captured."""

    number: int
    """Number of the frame in the capture, from 1 as Wireshark counts."""
    time: float
    """Seconds since the epoch."""
    data: memoryview
    """From the IP header on."""
    cut: bool = False
    """The capture does not hold all of it (`tcpdump -s`)."""


def read_capture(path: Path) -> Iterator[Packet]:
    """The IP packets of a capture file, in the order in which they stand there.

    `-` is the standard input.  Raises `CaptureError` for a file that is none, that
    cannot be read, or whose link type is not known.
    """
    utils = scapy_utils()
    try:
        source = sys.stdin.buffer if path == STDIN else str(path)
        reader = utils.RawPcapReader(source)
    except (OSError, EOFError, utils.Scapy_Exception) as error:
        # What gzip cannot unpack is an OSError, too, but not the system's.
        number = getattr(error, "errno", None)
        if number:
            raise CaptureError(f"{path}: {os.strerror(number)}") from error
        raise CaptureError(f"{path}: neither a pcap nor a pcapng file: {error}") from error
    reader.f = bounded = _Bounded(reader.f)
    with reader:
        yield from _packets(path, reader, bounded)


class _Bounded:
    """A file of which little is read before the next packet: it may have been packed."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.left = _BETWEEN_MAX

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= self.left:
            raise ValueError(f"more than {_BETWEEN_MAX} bytes without a packet")
        self.left -= count
        octets: bytes = self._file.read(count)
        return octets

    def close(self) -> None:
        self._file.close()


def _packets(path: Path, reader: Any, file: _Bounded) -> Iterator[Packet]:
    number = 0
    while True:
        file.left = _BETWEEN_MAX
        try:
            if len(getattr(reader, "interfaces", ())) > _INTERFACES_MAX:
                raise ValueError(f"more than {_INTERFACES_MAX} interfaces")
            frame, about = reader._read_packet(size=_PACKET_MAX)
        except EOFError:
            return
        except Exception as error:  # scapy lets errors of struct and zlib pass
            raise CaptureError(f"{path}: damaged behind frame {number}: {error}") from error
        number += 1
        link_type = getattr(about, "linktype", None)
        if link_type is None:
            link_type = reader.linktype
        try:
            packet = ip_packet(link_type, memoryview(frame))
        except KeyError:
            raise CaptureError(
                f"{path}: frame {number} is of link type {link_type}, which is not known"
            ) from None
        if packet:
            cut = len(frame) < (about.wirelen or 0)
            yield Packet(number, _time(reader, about), packet, cut)


def _time(reader: Any, about: Any) -> float:
    if hasattr(about, "sec"):
        seconds: float = about.sec + about.usec / (1e9 if reader.nano else 1e6)
        return seconds
    if about.tshigh is None:
        return 0.0  # a simple packet block has no time
    time: float = ((about.tshigh << 32) + about.tslow) / about.tsresol
    return time


def scapy_utils() -> Any:
    """`scapy.utils`.  Raises `CaptureError` where scapy is not installed."""
    # scapy warns of broken files by its logger; errors say it here.
    logging.getLogger("scapy").setLevel(logging.ERROR)
    try:
        from scapy import utils  # noqa: PLC0415 (takes long, and is not always there)
    except ImportError as error:
        raise CaptureError("captures are read by scapy: pip install 'tcpcrypt[decode]'") from error
    return utils
