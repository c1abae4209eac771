# The sum of RFC 1071.  Included by the modules that need it.

cdef extern from "arpa/inet.h" nogil:
    uint32_t ntohs(uint32_t value)


cdef uint32_t _sum(const uint8_t *octets, Py_ssize_t total) noexcept nogil:
    """One's-complement sum, folded to 16 bits, not inverted.

    The sum is the same in either byte order but for a swap at the end (RFC
    1071 section 2 B), so it runs over words of the machine's own order.
    """
    cdef uint64_t accumulated = 0
    cdef uint32_t word
    cdef Py_ssize_t index = 0
    cdef uint8_t tail[4]
    # 2**32 words of 32 bits are needed to overflow 64.
    while index + 4 <= total:
        memcpy(&word, octets + index, 4)
        accumulated += word
        index += 4
    if index < total:
        tail[0] = tail[1] = tail[2] = tail[3] = 0
        memcpy(tail, octets + index, total - index)
        memcpy(&word, tail, 4)
        accumulated += word
    while accumulated >> 16:
        accumulated = (accumulated & 0xFFFF) + (accumulated >> 16)
    return ntohs(<uint32_t>accumulated)
