"""SYN segments of our own from a raw socket, and what comes back (RFC 9293 section 3.5).

No connection is made: the kernel knows of no socket that asked for a SYN-ACK
and answers it with a reset, and so do we, in case a firewall keeps the
kernel's.  The source port of each SYN is held by a bound socket, so that no
other program has it meanwhile.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from tcpcrypt.errors import LocalError, PeerError
from tcpcrypt.registry import (
    TCP_OPTION_MSS,
    TCP_OPTION_SACK_PERMITTED,
    TCP_OPTION_TIMESTAMPS,
    TCP_OPTION_WINDOW_SCALE,
)
from tcpcrypt.runtime.rules import MARK_DONE
from tcpcrypt.wire.segment import Segment, TcpFlags
from tcpcrypt.wire.tcpopt import TcpOption, build_options, insert_option

__all__ = ["Answer", "Knock", "SynSocket", "ordinary_options"]

SocketAddress = tuple[str, int] | tuple[str, int, int, int]

_IP_RECVERR: Final = 11
_IPV6_RECVERR: Final = 25
_IPV6_RECVHOPLIMIT: Final = 51
_IPV6_HOPLIMIT: Final = 52
_EXTENDED_ERROR: Final = struct.Struct("=IBBBxII")
"""linux/errqueue.h: errno, origin, type, code, info, data; the offender's address follows."""
_ORIGINS_ICMP: Final = (2, 3)
_TCP_HEADER: Final = struct.Struct("!HHIIBBHHH")
_WINDOW: Final = 64240
_IP_OVERHEAD: Final = {4: 40, 6: 60}
"""Bytes of an IP and a TCP header."""
_PACKET_MAX: Final = 2048
"""Bytes read of one packet; a SYN-ACK has 120 at most."""
_AGAIN_AFTER: Final = (1.0, 3.0, 7.0, 15.0)
"""Seconds from the first SYN to its repetitions, as of TCP itself (RFC 6298)."""
_FIRST_TTLS: Final = (64, 128, 255)
"""What systems put into the packets that they send."""


class Answer(enum.Enum):
    """What a SYN led to."""

    ACCEPTED = "SYN-ACK"
    REFUSED = "reset"
    UNREACHABLE = "ICMP error"
    NOT_SENT = "not sent"
    NOTHING = "no answer"


@dataclass(slots=True)
class Knock:
    """One SYN, repeated until it is answered, and its answer."""

    eno: bytes
    """The raw TCP-ENO option to send; empty for a SYN without."""
    answer: Answer = Answer.NOTHING
    detail: str = ""
    """Of an ICMP error or of a SYN that could not be sent: what the system says."""
    sent: int = 0
    """How often the SYN went out."""
    milliseconds: float | None = None
    """From the last SYN to the answer."""
    ttl: int | None = None
    """TTL or hop limit of the answer."""
    options: bytes = b""
    """The option region of the SYN-ACK."""
    port: int = 0
    _isn: int = 0
    _at: float = 0.0
    _holder: socket.socket | None = field(default=None, repr=False)

    @property
    def hops(self) -> int | None:
        """Routers on the way back, guessed from what the sender must have begun with."""
        if self.ttl is None:
            return None
        return min(first - self.ttl for first in _FIRST_TTLS if first >= self.ttl)


def ordinary_options(family: int, mtu: int = 1500) -> bytes:
    """The options that Linux puts into a SYN; 20 bytes are left for others."""
    stamp = int(time.monotonic() * 1000) & 0xFFFFFFFF
    return build_options(
        (
            TcpOption(TCP_OPTION_MSS, struct.pack("!H", mtu - _IP_OVERHEAD[family])),
            TcpOption(TCP_OPTION_SACK_PERMITTED, b""),
            TcpOption(TCP_OPTION_TIMESTAMPS, struct.pack("!II", stamp, 0)),
            TcpOption(TCP_OPTION_WINDOW_SCALE, b"\x07"),
        )
    )


class SynSocket:
    """Sends SYNs to one address and port.  A context manager.

    Raises `LocalError` without CAP_NET_RAW, `OSError` if there is no route.
    """

    def __init__(self, address: SocketAddress) -> None:
        self._remote = ip_address(address[0].partition("%")[0])
        self._port = address[1]
        self._scope = address[2:]
        family = socket.AF_INET if self._remote.version == 4 else socket.AF_INET6
        self._family = family
        with socket.socket(family, socket.SOCK_DGRAM) as guide:
            guide.connect(address)
            self._local = ip_address(guide.getsockname()[0].partition("%")[0])
        try:
            self._socket = socket.socket(
                family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_TCP
            )
        except PermissionError:
            raise LocalError(
                "sending a SYN of one's own takes CAP_NET_RAW: run this as root"
            ) from None
        self.marked = True
        """False where the mark could not be set that a tcpcryptd of this host heeds."""
        try:
            self._prepare()
        except BaseException:
            self._socket.close()
            raise

    def _prepare(self) -> None:
        try:
            # A tcpcryptd on this host steers SYNs; those with this mark it leaves alone.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_DONE)
        except PermissionError:
            self.marked = False
        if self._family == socket.AF_INET:
            self._socket.setsockopt(socket.SOL_IP, _IP_RECVERR, 1)
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
            self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVHOPLIMIT, 1)
        # What comes from elsewhere is not for us.
        self._socket.bind((str(self._local), 0, *self._scope))
        self._socket.connect((str(self._remote), 0, *self._scope))
        self._socket.setblocking(False)

    def __enter__(self) -> SynSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def knock(self, knocks: Sequence[Knock], timeout: float) -> None:
        """Send all at once, repeat what is not answered, return when all is or time is up."""
        try:
            for knock in knocks:
                self._reserve(knock)
            self._converse({knock.port: knock for knock in knocks}, timeout)
        finally:
            for knock in knocks:
                if knock._holder is not None:
                    knock._holder.close()
                    knock._holder = None

    def _reserve(self, knock: Knock) -> None:
        knock._holder = socket.socket(self._family, socket.SOCK_STREAM)
        knock._holder.bind((str(self._local), 0, *self._scope))
        knock.port = knock._holder.getsockname()[1]
        knock._isn = int.from_bytes(os.urandom(4), "big")

    def _converse(self, waiting: dict[int, Knock], timeout: float) -> None:
        start = time.monotonic()
        for again in (0.0, *(after for after in _AGAIN_AFTER if after < timeout), timeout):
            self._listen(waiting, start + again)
            if not waiting or again == timeout:
                return
            for knock in tuple(waiting.values()):
                self._send(knock, waiting)

    def _send(self, knock: Knock, waiting: dict[int, Knock]) -> None:
        knock._at = time.monotonic()
        try:
            self._socket.send(self._segment(knock, knock._isn, TcpFlags.SYN))
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                return  # the next repetition may have more luck
            knock.answer = Answer.NOT_SENT
            knock.detail = error.strerror or str(error)
            if error.errno == errno.EPERM:
                knock.detail = "a firewall of this host drops it"
            waiting.pop(knock.port, None)
        else:
            knock.sent += 1

    def _segment(self, knock: Knock, seq: int, flags: TcpFlags) -> bytes:
        """A TCP segment of ours; the kernel writes the IP header."""
        fixed = _TCP_HEADER.pack(
            *(knock.port, self._port, seq, 0, _TCP_HEADER.size << 2, flags),
            *(_WINDOW if flags.syn else 0, 0, 0),
        )
        header = _ip_header(self._local, self._remote, len(fixed))
        region = b""
        if flags.syn:
            region = ordinary_options(self._remote.version)
            if knock.eno:
                region = insert_option(region, knock.eno) or region
        return Segment.parse(header + fixed).with_options(region)[len(header) :]

    def _listen(self, waiting: dict[int, Knock], until: float) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while waiting and (left := until - time.monotonic()) > 0:
            if not poll.poll(left * 1000):
                return
            self._take_errors(waiting)
            with contextlib.suppress(BlockingIOError):
                self._take_packet(waiting)

    def _take_packet(self, waiting: dict[int, Knock]) -> None:
        try:
            data, extra, _flags, _address = self._socket.recvmsg(_PACKET_MAX, 64)
        except BlockingIOError:
            return
        except OSError:
            return  # an ICMP error; the error queue tells whose
        ttl = data[8] if self._family == socket.AF_INET and len(data) > 8 else None
        if self._family == socket.AF_INET6:
            data = _ip_header(self._remote, self._local, len(data)) + data
            for level, kind, value in extra:
                if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_HOPLIMIT) and len(value) == 4:
                    ttl = int.from_bytes(value, sys.byteorder)
        try:
            segment = Segment.parse(data)
        except PeerError:
            return
        # No look at the checksum: between hosts of one machine it is left to be
        # filled in.  Nobody off the path can guess the sequence number.
        knock = waiting.get(segment.destination_port)
        expected = (knock._isn + 1) & 0xFFFFFFFF if knock is not None else None
        if segment.source_port != self._port or not segment.flags.ack or segment.ack != expected:
            return
        if knock is None or not (segment.flags.rst or segment.flags.syn):
            return
        knock.answer = Answer.REFUSED if segment.flags.rst else Answer.ACCEPTED
        knock.milliseconds = (time.monotonic() - knock._at) * 1000
        knock.ttl = ttl
        del waiting[knock.port]
        if knock.answer is Answer.ACCEPTED:
            knock.options = segment.options.tobytes()
            with contextlib.suppress(OSError):
                self._socket.send(self._segment(knock, segment.ack, TcpFlags.RST))

    def _take_errors(self, waiting: dict[int, Knock]) -> None:
        while True:
            try:
                data, extra, _flags, _address = self._socket.recvmsg(
                    _PACKET_MAX, 256, socket.MSG_ERRQUEUE
                )
            except OSError:
                return
            # What came back of our packet, from its TCP header on.
            if len(data) < 8:
                continue
            source, destination, seq = struct.unpack_from("!HHI", data)
            knock = waiting.get(source)
            if knock is None or destination != self._port or seq != knock._isn:
                continue
            for _level, _kind, value in extra:
                if len(value) < _EXTENDED_ERROR.size:
                    continue
                number, origin, *_rest = _EXTENDED_ERROR.unpack_from(value)
                if number == errno.EMSGSIZE or origin not in _ORIGINS_ICMP:
                    continue
                knock.answer = Answer.UNREACHABLE
                knock.detail = os.strerror(number) + _offender(value[_EXTENDED_ERROR.size :])
                knock.milliseconds = (time.monotonic() - knock._at) * 1000
                waiting.pop(source, None)


def _ip_header(
    source: IPv4Address | IPv6Address, destination: IPv4Address | IPv6Address, length: int
) -> bytes:
    """The smallest header in front of `length` bytes of TCP; IPv4 without its checksum."""
    if source.version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0, 64, socket.IPPROTO_TCP, 0)
    else:
        head = struct.pack("!IHBB", 6 << 28, length, socket.IPPROTO_TCP, 64)
    return head + source.packed + destination.packed


def _offender(address: bytes) -> str:
    """Who sent an ICMP error, from the `sockaddr` behind a `sock_extended_err`."""
    if len(address) >= 8 and address[:2] == struct.pack("=H", socket.AF_INET):
        return f", says {IPv4Address(address[4:8])}"
    if len(address) >= 24 and address[:2] == struct.pack("=H", socket.AF_INET6):
        return f", says {IPv6Address(address[8:24])}"
    return ""
