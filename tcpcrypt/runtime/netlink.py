"""The messages of nfnetlink_queue, as bytes <-> values; no socket here.

Layout after linux/netlink.h, linux/netfilter/nfnetlink.h and
linux/netfilter/nfnetlink_queue.h: `nlmsghdr` in host byte order, then
`nfgenmsg`, then attributes of 4-byte headers, values in network byte order.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from socket import htonl, htons
from typing import Final

from tcpcrypt.errors import LocalError

__all__ = [
    "Answer",
    "Hook",
    "QueuedPacket",
    "Verdict",
    "bind_request",
    "copy_request",
    "length_request",
    "parse_messages",
    "verdict",
]

_HEADER: Final = struct.Struct("=IHHII")
_GENERIC: Final = struct.Struct("!BBH")
_ATTRIBUTE: Final = struct.Struct("=HH")
_VERDICT: Final = struct.Struct("=IHHIIHHHHII")
"""A verdict up to its first attribute, which is whole; six messages a connection
make it worth one call."""
_VERDICT_LEN: Final = 12
_MARK: Final = struct.Struct("=HHI")
_PACKET_HEADER: Final = struct.Struct("!IHB")
_ATTRIBUTE_TYPE: Final = 0x3FFF
_SUBSYSTEM: Final = 3 << 8
_MESSAGE_PACKET: Final = _SUBSYSTEM | 0
_MESSAGE_VERDICT: Final = _SUBSYSTEM | 1
_MESSAGE_CONFIG: Final = _SUBSYSTEM | 2
_NLMSG_ERROR: Final = 2
_FLAG_REQUEST: Final = 1
_FLAG_ACK: Final = 4

_ATTR_PACKET: Final = 1
_ATTR_VERDICT: Final = 2
_ATTR_MARK: Final = 3
_ATTR_PAYLOAD: Final = 10
_CONFIG_COMMAND: Final = 1
_CONFIG_COPY: Final = 2
_CONFIG_LENGTH: Final = 3
_COMMAND_BIND: Final = 1
_COPY_PACKET: Final = 2


class Hook(enum.IntEnum):
    """Netfilter hooks at which packets are queued (linux/netfilter.h)."""

    PREROUTING = 0
    INPUT = 1
    FORWARD = 2
    OUTPUT = 3
    POSTROUTING = 4


_HOOKS: Final = {hook.value: hook for hook in Hook}


class Verdict(enum.IntEnum):
    """What becomes of a packet (linux/netfilter.h)."""

    DROP = 0
    ACCEPT = 1
    REPEAT = 4
    """Through the same table once more, so that the rules of others behind ours see it."""


@dataclass(frozen=True, slots=True)
class QueuedPacket:
    """A packet that waits for its verdict."""

    queue: int
    identifier: int
    hook: Hook
    mark: int
    payload: memoryview
    """From the IP header on."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The kernel's acknowledgement of a request."""

    sequence: int
    error: int
    """0, or an errno."""


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _message(kind: int, queue: int, attributes: bytes, sequence: int, *, ack: bool) -> bytes:
    body = _GENERIC.pack(0, 0, queue) + attributes
    flags = _FLAG_REQUEST | (_FLAG_ACK if ack else 0)
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


def bind_request(queue: int, sequence: int) -> bytes:
    """Take `queue`; the kernel refuses with EPERM or EBUSY one that is taken."""
    command = struct.pack("!BxH", _COMMAND_BIND, 0)
    return _message(
        _MESSAGE_CONFIG, queue, _attribute(_CONFIG_COMMAND, command), sequence, ack=True
    )


def copy_request(queue: int, sequence: int, size: int = 0xFFFF) -> bytes:
    """Have up to `size` bytes of each packet sent along."""
    parameters = struct.pack("!IB", size, _COPY_PACKET)
    return _message(
        _MESSAGE_CONFIG, queue, _attribute(_CONFIG_COPY, parameters), sequence, ack=True
    )


def length_request(queue: int, sequence: int, packets: int) -> bytes:
    """Let `packets` wait at most; what comes on top is dropped."""
    length = struct.pack("!I", packets)
    return _message(_MESSAGE_CONFIG, queue, _attribute(_CONFIG_LENGTH, length), sequence, ack=True)


def verdict(
    packet: QueuedPacket, what: Verdict, payload: bytes | None = None, mark: int | None = None
) -> bytes:
    """Decide on `packet`; put `payload` in its place and `mark` on it if they are given."""
    tail = b""
    if mark is not None:
        tail = _MARK.pack(_MARK.size, _ATTR_MARK, htonl(mark))
    if payload is not None:
        tail += _attribute(_ATTR_PAYLOAD, payload)
    return (
        _VERDICT.pack(
            *(_VERDICT.size + len(tail), _MESSAGE_VERDICT, _FLAG_REQUEST, 0, 0),
            *(0, htons(packet.queue)),
            *(_VERDICT_LEN, _ATTR_VERDICT, htonl(what), htonl(packet.identifier)),
        )
        + tail
    )


def parse_messages(datagram: memoryview) -> Iterator[QueuedPacket | Answer]:
    """The packets and answers in a datagram of the kernel; other messages are left out.

    Raises `LocalError` for lengths that contradict each other, which no kernel
    sends.
    """
    at = 0
    while at < len(datagram):
        if len(datagram) - at < _HEADER.size:
            raise LocalError("netlink message is shorter than its header")
        length, kind, _flags, sequence, _port = _HEADER.unpack_from(datagram, at)
        if not _HEADER.size <= length <= len(datagram) - at:
            raise LocalError("netlink message has a wrong length")
        body = datagram[at + _HEADER.size : at + length]
        at += length + -length % 4
        if kind == _NLMSG_ERROR:
            if len(body) < 4:
                raise LocalError("netlink answer is too short")
            yield Answer(sequence, -struct.unpack_from("=i", body)[0])
        elif kind == _MESSAGE_PACKET:
            yield _packet(body)


def _packet(body: memoryview) -> QueuedPacket:
    end = len(body)
    if end < _GENERIC.size:
        raise LocalError("nfnetlink message is too short")
    header = mark = payload = None
    at = _GENERIC.size
    while end - at >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if not _ATTRIBUTE.size <= length <= end - at:
            raise LocalError("netlink attribute has a wrong length")
        kind &= _ATTRIBUTE_TYPE
        if kind == _ATTR_PACKET:
            header = body[at + _ATTRIBUTE.size : at + length]
        elif kind == _ATTR_MARK:
            mark = body[at + _ATTRIBUTE.size : at + length]
        elif kind == _ATTR_PAYLOAD:
            payload = body[at + _ATTRIBUTE.size : at + length]
        at += length + -length % 4
    if header is None or len(header) < _PACKET_HEADER.size:
        raise LocalError("queued packet has no header")
    identifier, _protocol, number = _PACKET_HEADER.unpack_from(header)
    hook = _HOOKS.get(number)
    if hook is None:
        raise LocalError("queued packet comes from no hook that there is")
    return QueuedPacket(
        _GENERIC.unpack_from(body)[2],
        identifier,
        hook,
        int.from_bytes(mark, "big") if mark is not None else 0,
        payload if payload is not None else memoryview(b""),
    )
