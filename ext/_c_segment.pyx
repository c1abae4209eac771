"""RFC 9293 section 3.1 over RFC 791 and RFC 8200: a TCP segment in its IP packet, in C.

All reading is on C pointers, behind checks of the length; no directives are set
beyond the defaults.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from tcpcrypt.errors import LocalError, PeerError, PeerReason

include "checksum.pxi"

cdef enum:
    PROTOCOL_TCP = 6
    TCP_LEN = 20
    OPTIONS_MAX = 40
    LENGTH_MAX = 0xFFFF
    IPV4_LEN = 20
    IPV4_MORE_FRAGMENTS_AND_OFFSET = 0x3FFF
    IPV6_LEN = 40
    IPV6_HOP_BY_HOP = 0
    IPV6_ROUTING = 43
    IPV6_FRAGMENT = 44
    IPV6_DESTINATION = 60


cdef inline uint32_t _two(const uint8_t *at) noexcept nogil:
    return (<uint32_t>at[0] << 8) | at[1]


cdef inline uint32_t _four(const uint8_t *at) noexcept nogil:
    return (_two(at) << 16) | _two(at + 2)


cdef inline void _put_two(uint8_t *at, uint32_t value) noexcept nogil:
    at[0] = <uint8_t>(value >> 8)
    at[1] = <uint8_t>value


def parse_segment(packet):
    """Find the TCP segment in an IP packet; see the stub."""
    cdef Py_buffer view
    PyObject_GetBuffer(packet, &view, PyBUF_SIMPLE)
    try:
        return _parse(<const uint8_t *>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


cdef tuple _parse(const uint8_t *octets, Py_ssize_t size):
    cdef Py_ssize_t tcp, end
    cdef int data_offset
    cdef const uint8_t *header
    if size == 0:
        raise PeerError(PeerReason.SEGMENT_TRUNCATED, "no bytes")
    cdef int version = octets[0] >> 4
    if version == 4:
        tcp = _find_in_ipv4(octets, size, &end)
    elif version == 6:
        tcp = _find_in_ipv6(octets, size, &end)
    else:
        raise PeerError(PeerReason.SEGMENT_MALFORMED, f"IP version {version}")
    if end - tcp < TCP_LEN:
        raise PeerError(PeerReason.SEGMENT_TRUNCATED, "TCP header")
    header = octets + tcp
    data_offset = (header[12] >> 4) * 4
    if data_offset < TCP_LEN:
        raise PeerError(PeerReason.SEGMENT_MALFORMED, "TCP data offset")
    if data_offset > end - tcp:
        raise PeerError(PeerReason.SEGMENT_TRUNCATED, "TCP options")
    cdef Py_ssize_t addresses = 12 if version == 4 else 8
    cdef Py_ssize_t width = 4 if version == 4 else 16
    return (
        version, tcp, end, data_offset,
        PyBytes_FromStringAndSize(<const char *>octets + addresses, width),
        _two(header),
        PyBytes_FromStringAndSize(<const char *>octets + addresses + width, width),
        _two(header + 2),
        _four(header + 4), _four(header + 8), header[13],
    )


cdef Py_ssize_t _find_in_ipv4(const uint8_t *octets, Py_ssize_t size,
                              Py_ssize_t *end) except -1:
    """Where TCP begins and the packet ends (RFC 791 section 3.1)."""
    if size < IPV4_LEN:
        raise PeerError(PeerReason.SEGMENT_TRUNCATED, "IPv4 header")
    cdef Py_ssize_t tcp = (octets[0] & 0x0F) * 4
    end[0] = _two(octets + 2)
    if not IPV4_LEN <= tcp <= end[0]:
        raise PeerError(PeerReason.SEGMENT_MALFORMED, "IPv4 lengths")
    if end[0] > size:
        raise PeerError(PeerReason.SEGMENT_TRUNCATED, f"{size} of {end[0]} bytes")
    if _two(octets + 6) & IPV4_MORE_FRAGMENTS_AND_OFFSET:
        raise PeerError(PeerReason.SEGMENT_FRAGMENT)
    if octets[9] != PROTOCOL_TCP:
        raise PeerError(PeerReason.SEGMENT_NOT_TCP, f"IPv4 protocol {octets[9]}")
    return tcp


cdef Py_ssize_t _find_in_ipv6(const uint8_t *octets, Py_ssize_t size,
                              Py_ssize_t *end) except -1:
    """Where TCP begins and the packet ends (RFC 8200 sections 3 and 4)."""
    if size < IPV6_LEN:
        raise PeerError(PeerReason.SEGMENT_TRUNCATED, "IPv6 header")
    end[0] = IPV6_LEN + _two(octets + 4)
    if end[0] > size:
        raise PeerError(PeerReason.SEGMENT_TRUNCATED, f"{size} of {end[0]} bytes")
    cdef int header = octets[6]
    cdef Py_ssize_t at = IPV6_LEN
    while header in (IPV6_HOP_BY_HOP, IPV6_ROUTING, IPV6_DESTINATION):
        # No extension header is shorter than 8 bytes.
        if end[0] - at < 8:
            raise PeerError(PeerReason.SEGMENT_TRUNCATED, "IPv6 extension header")
        # With segments left the destination is a way point, while the TCP
        # checksum covers the final one (RFC 8200 section 8.1).
        if header == IPV6_ROUTING and octets[at + 3]:
            raise PeerError(PeerReason.SEGMENT_MALFORMED, "routing segments left")
        # May step past `end`; whatever comes next then finds too few bytes.
        header = octets[at]
        at += (octets[at + 1] + 1) * 8
    if header == IPV6_FRAGMENT:
        raise PeerError(PeerReason.SEGMENT_FRAGMENT)
    if header != PROTOCOL_TCP:
        raise PeerError(PeerReason.SEGMENT_NOT_TCP, f"IPv6 next header {header}")
    return at


def rebuild_segment(packet, Py_ssize_t tcp, region, payload):
    """The packet with other options and another payload; see the stub."""
    cdef Py_buffer old, options, data
    PyObject_GetBuffer(packet, &old, PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(region, &options, PyBUF_SIMPLE)
        try:
            PyObject_GetBuffer(payload, &data, PyBUF_SIMPLE)
            try:
                return _rebuild(&old, tcp, &options, &data)
            finally:
                PyBuffer_Release(&data)
        finally:
            PyBuffer_Release(&options)
    finally:
        PyBuffer_Release(&old)


cdef bytes _rebuild(Py_buffer *old, Py_ssize_t tcp, Py_buffer *region, Py_buffer *payload):
    cdef const uint8_t *before = <const uint8_t *>old.buf
    cdef Py_ssize_t size, length, addresses, width
    cdef uint8_t *octets
    cdef uint8_t pseudo[40]
    cdef uint32_t total
    cdef int version = before[0] >> 4 if old.len else 0
    if version not in (4, 6) or tcp < (20 if version == 4 else 40) or old.len - tcp < TCP_LEN:
        raise ValueError("no TCP header is there")
    if region.len > OPTIONS_MAX or region.len & 3:
        raise LocalError(f"{region.len} bytes of TCP options are no whole region")
    size = tcp + TCP_LEN + region.len + payload.len
    length = size if version == 4 else size - IPV6_LEN
    if length > LENGTH_MAX:
        raise LocalError(f"IP length field cannot hold {length}")
    made = PyBytes_FromStringAndSize(NULL, size)
    octets = <uint8_t *>PyBytes_AS_STRING(made)
    memcpy(octets, before, tcp + TCP_LEN)
    if region.len:
        memcpy(octets + tcp + TCP_LEN, region.buf, region.len)
    if payload.len:
        memcpy(octets + tcp + TCP_LEN + region.len, payload.buf, payload.len)
    if version == 4:
        addresses, width = 12, 8
        _put_two(octets + 2, <uint32_t>length)
        _put_two(octets + 10, 0)
        _put_two(octets + 10, ~_sum(octets, tcp))
    else:
        addresses, width = 8, 32
        _put_two(octets + 4, <uint32_t>length)
    # The low half of the byte is not the data offset's.
    octets[tcp + 12] = <uint8_t>((octets[tcp + 12] & 0x0F) | (TCP_LEN + region.len) << 2)
    _put_two(octets + tcp + 16, 0)
    # One form of the pseudo header serves both (RFC 9293 section 3.1, RFC 8200
    # section 8.1): the fields differ in width, not in their 16-bit sum.
    memcpy(pseudo, octets + addresses, width)
    pseudo[width] = pseudo[width + 1] = 0
    _put_two(pseudo + width + 2, <uint32_t>(size - tcp))
    pseudo[width + 4] = pseudo[width + 5] = pseudo[width + 6] = 0
    pseudo[width + 7] = PROTOCOL_TCP
    total = _sum(octets + tcp, size - tcp) + _sum(pseudo, width + 8)
    _put_two(octets + tcp + 16, ~((total & 0xFFFF) + (total >> 16)))
    return made
