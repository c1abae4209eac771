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
from typing import Final, NamedTuple

from tcpcrypt import _fast

__all__ = [
    "Answer",
    "Hook",
    "QueuedPacket",
    "Verdict",
    "bind_request",
    "copy_request",
    "joined_request",
    "length_request",
    "parse_messages",
    "verdict",
]

_HEADER: Final = struct.Struct("=IHHII")
_GENERIC: Final = struct.Struct("!BBH")
_ATTRIBUTE: Final = struct.Struct("=HH")
_SUBSYSTEM: Final = 3 << 8
_MESSAGE_CONFIG: Final = _SUBSYSTEM | 2
_FLAG_REQUEST: Final = 1
_FLAG_ACK: Final = 4

_CONFIG_COMMAND: Final = 1
_CONFIG_COPY: Final = 2
_CONFIG_LENGTH: Final = 3
_CONFIG_MASK: Final = 4
_CONFIG_FLAGS: Final = 5
_FLAG_GSO: Final = 1 << 2
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


class QueuedPacket(NamedTuple):
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


def joined_request(queue: int, sequence: int) -> bytes:
    """Queue segments that the kernel has joined, or not yet cut, as one packet (NFQA_CFG_F_GSO)."""
    flag = struct.pack("!I", _FLAG_GSO)
    attributes = _attribute(_CONFIG_MASK, flag) + _attribute(_CONFIG_FLAGS, flag)
    return _message(_MESSAGE_CONFIG, queue, attributes, sequence, ack=True)


def verdict(
    packet: QueuedPacket, what: Verdict, payload: bytes | None = None, mark: int | None = None
) -> bytes:
    """Decide on `packet`; put `payload` in its place and `mark` on it if they are given."""
    return _fast.build_verdict(packet.queue, packet.identifier, what, payload, mark)


def parse_messages(datagram: memoryview) -> Iterator[QueuedPacket | Answer]:
    """The packets and answers in a datagram of the kernel; other messages are left out.

    Raises `LocalError` for lengths that contradict each other, which no kernel
    sends.
    """
    for found in _fast.parse_queue(datagram):
        if len(found) == 2:
            yield Answer(*found)
        else:
            queue, identifier, hook, mark, start, end = found
            yield QueuedPacket(queue, identifier, _HOOKS[hook], mark, datagram[start:end])
