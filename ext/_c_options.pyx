"""RFC 8547 section 4.1, RFC 9293 section 3.1, RFC 1071: option parsing in C.

The results of the walks are Python tuples, which is where their time goes:
boundscheck or wraparound have no part in it, since all reading is on C
pointers, and the defaults stay.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from tcpcrypt.errors import PeerError, PeerReason

include "checksum.pxi"

cdef enum:
    OPTION_END = 0
    OPTION_NOP = 1
    OPTIONS_MAX = 40
    TEP_FIRST = 0x20
    SUBOPTION_V = 0x80


def parse_eno(contents):
    """Parse the contents of a SYN-form ENO option; see the stub."""
    cdef Py_buffer view
    PyObject_GetBuffer(contents, &view, PyBUF_SIMPLE)
    try:
        return _parse_eno(<const uint8_t *>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


cdef tuple _parse_eno(const uint8_t *octets, Py_ssize_t total):
    cdef Py_ssize_t index = 0
    cdef Py_ssize_t end
    cdef int first_global = -1
    cdef uint8_t octet, tep
    cdef list suboptions = []
    while index < total:
        octet = octets[index]
        index += 1
        if octet < TEP_FIRST:
            # Section 4.2: only the first global suboption counts.
            if first_global < 0:
                first_global = octet
        elif octet < SUBOPTION_V:
            suboptions.append((octet, False, b""))
        elif octet < SUBOPTION_V + TEP_FIRST:
            if index == total:
                raise PeerError(PeerReason.ENO_DATA_PAST_END)
            tep = octets[index]
            # A length byte governs a TEP suboption with data; what a length
            # byte before anything else means is left to the future (section 7).
            if tep < SUBOPTION_V + TEP_FIRST:
                raise PeerError(PeerReason.ENO_RESERVED_LENGTH)
            end = index + 2 + (octet & (TEP_FIRST - 1))
            if end > total:
                raise PeerError(PeerReason.ENO_DATA_PAST_END)
            suboptions.append(
                (tep & (SUBOPTION_V - 1), True, octets[index + 1:end]))
            index = end
        else:
            suboptions.append((octet & (SUBOPTION_V - 1), True, octets[index:total]))
            break
    return (first_global if first_global > 0 else 0), tuple(suboptions)


def walk_options(options):
    """List the TCP options of a header as `(kind, start, end)`; see the stub."""
    cdef Py_buffer view
    PyObject_GetBuffer(options, &view, PyBUF_SIMPLE)
    try:
        if view.len > OPTIONS_MAX:
            raise PeerError(PeerReason.OPTION_LENGTH)
        return _walk_options(<const uint8_t *>view.buf, <int>view.len)
    finally:
        PyBuffer_Release(&view)


cdef tuple _walk_options(const uint8_t *octets, int total):
    cdef int index = 0
    cdef int end
    cdef uint8_t kind, length
    cdef list found = []
    while index < total:
        kind = octets[index]
        if kind == OPTION_NOP:
            index += 1
            continue
        if kind == OPTION_END:
            break
        if index + 1 == total:
            raise PeerError(PeerReason.OPTION_LENGTH)
        length = octets[index + 1]
        end = index + length
        if length < 2 or end > total:
            raise PeerError(PeerReason.OPTION_LENGTH)
        found.append((kind, index, end))
        index = end
    return tuple(found)


def checksum(data, initial=0):
    """One's-complement sum of `data`, folded, not inverted; see the stub."""
    cdef Py_buffer view
    cdef uint32_t folded
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        folded = _sum(<const uint8_t *>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
    total = folded + initial
    return total % 0xFFFF or (0xFFFF if total else 0)
