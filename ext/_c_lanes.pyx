"""The segment plane's usual segments, in C: read, sealed or opened, made anew, decided.

`tcpcrypt.segment` is the engine, and stays it.  A connection that is
established and in order is lent to a lane; whatever is not usual about a
segment (`ext/lane.pxi` says what is) leaves it to Python, which takes the connection back first.
The streams themselves are objects of both, so that little changes hands.
"""

from cython cimport auto_pickle, final, no_gc_clear
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR, ENOBUFS, errno
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset

from libcrypto cimport ERR_clear_error, OPENSSL_cleanse

from tcpcrypt._fast._c_frames cimport (
    CIPHERTEXT_MAX, FIN as FRAME_FIN, FLAGS_LEN, GO_ON, HEADER_LEN, NEED_MORE, FrameOpener,
    FrameSealer, Opening, Sealing,
)

from tcpcrypt.errors import LocalError

include "checksum.pxi"

cdef enum:
    PROTOCOL_TCP = 6
    TCP_LEN = 20
    WHOLE_FRAME = HEADER_LEN + CIPHERTEXT_MAX


cdef inline uint32_t _two(const uint8_t *at) noexcept nogil:
    return (<uint32_t>at[0] << 8) | at[1]


cdef inline uint32_t _four(const uint8_t *at) noexcept nogil:
    return (_two(at) << 16) | _two(at + 2)


cdef inline void _put_two(uint8_t *at, uint32_t value) noexcept nogil:
    at[0] = <uint8_t>(value >> 8)
    at[1] = <uint8_t>value


cdef inline void _put_four(uint8_t *at, uint32_t value) noexcept nogil:
    _put_two(at, value >> 16)
    _put_two(at + 2, value)


include "memory.pxi"
include "reassembly.pxi"
include "stream.pxi"
include "came.pxi"
include "lane.pxi"
include "lanes.pxi"


def make_lanes():
    """Lanes; see the stub."""
    return Lanes()
