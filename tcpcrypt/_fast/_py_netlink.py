"""Messages of nfnetlink_queue: the Python twin of queued packets and verdicts.

Layout after linux/netlink.h, linux/netfilter/nfnetlink.h and
linux/netfilter/nfnetlink_queue.h.
"""

from __future__ import annotations

import struct
from socket import htonl, htons
from typing import TYPE_CHECKING, Final

from tcpcrypt._fast._py_buffers import readable
from tcpcrypt.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Container

    from _typeshed import ReadableBuffer

__all__ = ["build_verdict", "check_verdicts", "parse_queue"]

_HEADER: Final = struct.Struct("=IHHII")
_GENERIC: Final = struct.Struct("!BBH")
_ATTRIBUTE: Final = struct.Struct("=HH")
_PACKET_HEADER: Final = struct.Struct("!IHB")
_HEADS: Final = _HEADER.size + _GENERIC.size
_VERDICT: Final = struct.Struct("=IHHIIHHHHII")
"""A verdict up to its first attribute, which is whole."""
_VERDICT_LEN: Final = 12
_MARK: Final = struct.Struct("=HHI")
_PAYLOAD_MAX: Final = 0xFFFF - _ATTRIBUTE.size
_ATTRIBUTE_TYPE: Final = 0x3FFF
_NLMSG_ERROR: Final = 2
_FLAG_REQUEST: Final = 1
_MESSAGE_PACKET: Final = 3 << 8
_MESSAGE_VERDICT: Final = 3 << 8 | 1
_ATTR_PACKET: Final = 1
_ATTR_VERDICT: Final = 2
_ATTR_MARK: Final = 3
_ATTR_PAYLOAD: Final = 10
_HOOK_LAST: Final = 4
_WHATS: Final = frozenset(struct.pack("!I", what) for what in (0, 1, 4))
"""NF_DROP, NF_ACCEPT, NF_REPEAT."""


def parse_queue(
    datagram: ReadableBuffer,
) -> list[tuple[int, int] | tuple[int, int, int, int, int, int]]:
    """Queued packets and answers in a datagram of the kernel; see the stub."""
    view = readable(datagram)
    found: list[tuple[int, int] | tuple[int, int, int, int, int, int]] = []
    at = 0
    while at < len(view):
        if len(view) - at < _HEADER.size:
            raise LocalError("netlink message is shorter than its header")
        length, kind, _flags, sequence, _port = _HEADER.unpack_from(view, at)
        if not _HEADER.size <= length <= len(view) - at:
            raise LocalError("netlink message has a wrong length")
        if kind == _NLMSG_ERROR:
            if length - _HEADER.size < 4:
                raise LocalError("netlink answer is too short")
            found.append((sequence, -struct.unpack_from("=i", view, at + _HEADER.size)[0]))
        elif kind == _MESSAGE_PACKET:
            found.append(_packet(view, at + _HEADER.size, at + length))
        at += length + -length % 4
    return found


def _packet(view: memoryview, start: int, end: int) -> tuple[int, int, int, int, int, int]:
    if end - start < _GENERIC.size:
        raise LocalError("nfnetlink message is too short")
    header_len = header = mark = payload = payload_end = 0
    at = start + _GENERIC.size
    while end - at >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(view, at)
        if not _ATTRIBUTE.size <= length <= end - at:
            raise LocalError("netlink attribute has a wrong length")
        kind &= _ATTRIBUTE_TYPE
        if kind == _ATTR_PACKET:
            header, header_len = at + _ATTRIBUTE.size, length - _ATTRIBUTE.size
        elif kind == _ATTR_MARK:
            if length != _MARK.size:
                raise LocalError("netlink attribute has a wrong length")
            mark = int.from_bytes(view[at + _ATTRIBUTE.size : at + length], "big")
        elif kind == _ATTR_PAYLOAD:
            payload, payload_end = at + _ATTRIBUTE.size, at + length
        at += length + -length % 4
    if header_len < _PACKET_HEADER.size:
        raise LocalError("queued packet has no header")
    identifier, _protocol, hook = _PACKET_HEADER.unpack_from(view, header)
    if hook > _HOOK_LAST:
        raise LocalError("queued packet comes from no hook that there is")
    return _GENERIC.unpack_from(view, start)[2], identifier, hook, mark, payload, payload_end


def build_verdict(
    queue: int, identifier: int, what: int, payload: ReadableBuffer | None, mark: int | None
) -> bytes:
    """A verdict as a message to the kernel; see the stub."""
    if queue > 0xFFFF:
        raise ValueError("no such queue")
    tail = b"" if mark is None else _MARK.pack(_MARK.size, _ATTR_MARK, htonl(mark))
    if payload is not None:
        data = readable(payload)
        if len(data) > _PAYLOAD_MAX:
            raise ValueError("no packet is that long")
        length = _ATTRIBUTE.size + len(data)
        tail += _ATTRIBUTE.pack(length, _ATTR_PAYLOAD) + data + bytes(-length % 4)
    return (
        _VERDICT.pack(
            *(_VERDICT.size + len(tail), _MESSAGE_VERDICT, _FLAG_REQUEST, 0, 0),
            *(0, htons(queue)),
            *(_VERDICT_LEN, _ATTR_VERDICT, htonl(what), htonl(identifier)),
        )
        + tail
    )


def check_verdicts(datagram: ReadableBuffer, numbers: Container[int]) -> str:
    """Why these are not only verdicts of ours, or ""; see the stub."""
    view = readable(datagram)
    at, end = 0, len(view)
    while at < end:
        if end - at < _HEADS:
            return "a verdict is shorter than its headers"
        length, kind, flags, _sequence, _port = _HEADER.unpack_from(view, at)
        if not _HEADS <= length <= end - at or length % 4:
            return "a verdict has a wrong length"
        if kind != _MESSAGE_VERDICT or flags != _FLAG_REQUEST:
            return "a message to the kernel is no verdict"
        family, version, number = _GENERIC.unpack_from(view, at + _HEADER.size)
        if family or version or number not in numbers:
            return "a verdict is not on a packet of ours"
        reason = _check_attributes(view, at + _HEADS, at + length)
        if reason:
            return reason
        at += length
    return ""


def _check_attributes(view: memoryview, at: int, end: int) -> str:
    before = 0
    while at < end:
        # All lengths are multiples of four, so that a header is there.
        length, kind = _ATTRIBUTE.unpack_from(view, at)
        padded = length + -length % 4
        if length < _ATTRIBUTE.size or padded > end - at:
            return "a verdict's attribute has a wrong length"
        if kind <= before:
            return "a verdict's attributes are not in order"
        if kind == _ATTR_VERDICT:
            if length != _VERDICT_LEN or bytes(view[at + 4 : at + 8]) not in _WHATS:
                return "a verdict is neither to drop nor to accept"
        elif kind != _ATTR_PAYLOAD and (kind != _ATTR_MARK or length != _MARK.size):
            return "a verdict has an attribute that ours do not have"
        if before == 0 and kind != _ATTR_VERDICT:
            return "a verdict does not say what it is"
        before = kind
        at += padded
    return "" if before else "a verdict does not say what it is"
