"""Messages of nfnetlink_queue, in C: queued packets in, verdicts out, verdicts checked.

Layout after linux/netlink.h, linux/netfilter/nfnetlink.h and
linux/netfilter/nfnetlink_queue.h.  All reading is on C pointers, behind checks
of the length; `memcpy` because a datagram of the other process need not be aligned.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from tcpcrypt.errors import LocalError

cdef enum:
    HEADER_LEN = 16
    GENERIC_LEN = 4
    ATTRIBUTE_LEN = 4
    PACKET_HEADER_LEN = 7
    VERDICT_LEN = 12
    MARK_LEN = 8
    PAYLOAD_MAX = 0xFFFF - ATTRIBUTE_LEN
    ATTRIBUTE_TYPE = 0x3FFF
    NLMSG_ERROR = 2
    FLAG_REQUEST = 1
    MESSAGE_PACKET = 3 << 8
    MESSAGE_VERDICT = 3 << 8 | 1
    ATTR_PACKET = 1
    ATTR_VERDICT = 2
    ATTR_MARK = 3
    ATTR_PAYLOAD = 10
    DROP = 0
    ACCEPT = 1
    REPEAT = 4


cdef inline uint32_t _native_four(const uint8_t *at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return value


cdef inline uint32_t _native_two(const uint8_t *at) noexcept nogil:
    cdef uint16_t value
    memcpy(&value, at, 2)
    return value


cdef inline uint32_t _two(const uint8_t *at) noexcept nogil:
    return (<uint32_t>at[0] << 8) | at[1]


cdef inline uint32_t _four(const uint8_t *at) noexcept nogil:
    return (_two(at) << 16) | _two(at + 2)


cdef inline void _put_native_four(uint8_t *at, uint32_t value) noexcept nogil:
    memcpy(at, &value, 4)


cdef inline void _put_native_two(uint8_t *at, uint32_t value) noexcept nogil:
    cdef uint16_t half = <uint16_t>value
    memcpy(at, &half, 2)


cdef inline void _put_four(uint8_t *at, uint32_t value) noexcept nogil:
    at[0] = <uint8_t>(value >> 24)
    at[1] = <uint8_t>(value >> 16)
    at[2] = <uint8_t>(value >> 8)
    at[3] = <uint8_t>value


cdef inline Py_ssize_t _padded(Py_ssize_t length) noexcept nogil:
    return (length + 3) & ~3


def parse_queue(datagram):
    """Queued packets and answers in a datagram of the kernel; see the stub."""
    cdef Py_buffer view
    PyObject_GetBuffer(datagram, &view, PyBUF_SIMPLE)
    try:
        return _messages(<const uint8_t *>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


cdef list _messages(const uint8_t *octets, Py_ssize_t size):
    cdef Py_ssize_t at = 0, length
    cdef uint32_t kind
    cdef list found = []
    while at < size:
        if size - at < HEADER_LEN:
            raise LocalError("netlink message is shorter than its header")
        length = _native_four(octets + at)
        kind = _native_two(octets + at + 4)
        if not HEADER_LEN <= length <= size - at:
            raise LocalError("netlink message has a wrong length")
        if kind == NLMSG_ERROR:
            if length - HEADER_LEN < 4:
                raise LocalError("netlink answer is too short")
            found.append((
                _native_four(octets + at + 8),
                -<long long>(<int32_t>_native_four(octets + at + HEADER_LEN)),
            ))
        elif kind == MESSAGE_PACKET:
            found.append(_packet(octets, at + HEADER_LEN, at + length))
        at += _padded(length)
    return found


cdef tuple _packet(const uint8_t *octets, Py_ssize_t start, Py_ssize_t end):
    cdef Py_ssize_t at = start + GENERIC_LEN, length
    cdef Py_ssize_t header = 0, header_len = 0, payload = 0, payload_end = 0
    cdef uint32_t kind, mark = 0
    cdef int hook
    if end - start < GENERIC_LEN:
        raise LocalError("nfnetlink message is too short")
    while end - at >= ATTRIBUTE_LEN:
        length = _native_two(octets + at)
        kind = _native_two(octets + at + 2) & ATTRIBUTE_TYPE
        if not ATTRIBUTE_LEN <= length <= end - at:
            raise LocalError("netlink attribute has a wrong length")
        if kind == ATTR_PACKET:
            header, header_len = at + ATTRIBUTE_LEN, length - ATTRIBUTE_LEN
        elif kind == ATTR_MARK:
            if length != MARK_LEN:
                raise LocalError("netlink attribute has a wrong length")
            mark = _four(octets + at + ATTRIBUTE_LEN)
        elif kind == ATTR_PAYLOAD:
            payload, payload_end = at + ATTRIBUTE_LEN, at + length
        at += _padded(length)
    if header_len < PACKET_HEADER_LEN:
        raise LocalError("queued packet has no header")
    hook = octets[header + 6]
    if hook > 4:
        raise LocalError("queued packet comes from no hook that there is")
    return _two(octets + start + 2), _four(octets + header), hook, mark, payload, payload_end


def build_verdict(uint32_t queue, uint32_t identifier, uint32_t what, payload, mark):
    """A verdict as a message to the kernel; see the stub."""
    cdef Py_buffer data
    if queue > 0xFFFF:
        raise ValueError("no such queue")
    if payload is None:
        return _verdict(queue, identifier, what, NULL, mark)
    PyObject_GetBuffer(payload, &data, PyBUF_SIMPLE)
    try:
        if data.len > PAYLOAD_MAX:
            raise ValueError("no packet is that long")
        return _verdict(queue, identifier, what, &data, mark)
    finally:
        PyBuffer_Release(&data)


cdef bytes _verdict(uint32_t queue, uint32_t identifier, uint32_t what, Py_buffer *payload, mark):
    cdef Py_ssize_t size = HEADER_LEN + GENERIC_LEN + VERDICT_LEN, at = size
    cdef uint32_t number = 0
    cdef uint8_t *octets
    if mark is not None:
        number = mark
        size += MARK_LEN
    if payload != NULL:
        size += _padded(ATTRIBUTE_LEN + payload.len)
    made = PyBytes_FromStringAndSize(NULL, size)
    octets = <uint8_t *>PyBytes_AS_STRING(made)
    memset(octets, 0, at)
    _put_native_four(octets, <uint32_t>size)
    _put_native_two(octets + 4, MESSAGE_VERDICT)
    _put_native_two(octets + 6, FLAG_REQUEST)
    octets[18], octets[19] = <uint8_t>(queue >> 8), <uint8_t>queue
    _put_native_two(octets + 20, VERDICT_LEN)
    _put_native_two(octets + 22, ATTR_VERDICT)
    _put_four(octets + 24, what)
    _put_four(octets + 28, identifier)
    if mark is not None:
        _put_native_two(octets + at, MARK_LEN)
        _put_native_two(octets + at + 2, ATTR_MARK)
        _put_four(octets + at + 4, number)
        at += MARK_LEN
    if payload != NULL:
        _put_native_two(octets + at, <uint32_t>(ATTRIBUTE_LEN + payload.len))
        _put_native_two(octets + at + 2, ATTR_PAYLOAD)
        at += ATTRIBUTE_LEN
        if payload.len:
            memcpy(octets + at, payload.buf, payload.len)
        at += payload.len
        memset(octets + at, 0, size - at)
    return made


def check_verdicts(datagram, numbers):
    """Why these are not only verdicts of ours, or ""; see the stub."""
    cdef Py_buffer view
    PyObject_GetBuffer(datagram, &view, PyBUF_SIMPLE)
    try:
        return _check(<const uint8_t *>view.buf, view.len, numbers)
    finally:
        PyBuffer_Release(&view)


cdef str _check(const uint8_t *octets, Py_ssize_t end, numbers):
    cdef Py_ssize_t at = 0, length
    cdef str reason
    while at < end:
        if end - at < HEADER_LEN + GENERIC_LEN:
            return "a verdict is shorter than its headers"
        length = _native_four(octets + at)
        if not HEADER_LEN + GENERIC_LEN <= length <= end - at or length & 3:
            return "a verdict has a wrong length"
        if (_native_two(octets + at + 4) != MESSAGE_VERDICT
                or _native_two(octets + at + 6) != FLAG_REQUEST):
            return "a message to the kernel is no verdict"
        if octets[at + 16] or octets[at + 17] or _two(octets + at + 18) not in numbers:
            return "a verdict is not on a packet of ours"
        reason = _check_attributes(octets, at + HEADER_LEN + GENERIC_LEN, at + length)
        if reason:
            return reason
        at += length
    return ""


cdef str _check_attributes(const uint8_t *octets, Py_ssize_t at, Py_ssize_t end):
    cdef uint32_t length, kind, what, before = 0
    while at < end:
        # All lengths are multiples of four, so that a header is there.
        length = _native_two(octets + at)
        kind = _native_two(octets + at + 2)
        if length < ATTRIBUTE_LEN or _padded(length) > end - at:
            return "a verdict's attribute has a wrong length"
        if kind <= before:
            return "a verdict's attributes are not in order"
        if kind == ATTR_VERDICT:
            if length != VERDICT_LEN:
                return "a verdict is neither to drop nor to accept"
            what = _four(octets + at + ATTRIBUTE_LEN)
            if what not in (DROP, ACCEPT, REPEAT):
                return "a verdict is neither to drop nor to accept"
        elif kind != ATTR_PAYLOAD and (kind != ATTR_MARK or length != MARK_LEN):
            return "a verdict has an attribute that ours do not have"
        if before == 0 and kind != ATTR_VERDICT:
            return "a verdict does not say what it is"
        before = kind
        at += _padded(length)
    return "" if before else "a verdict does not say what it is"
