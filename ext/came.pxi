# A segment that came, read as far as lanes need it, and the checksums of one that is made.
# Included by _c_lanes.pyx.

cdef enum:
    INNER = 0
    OUTER = 1
    FLAG_FIN = 0x01
    FLAG_SYN = 0x02
    FLAG_RST = 0x04
    FLAG_PSH = 0x08
    FLAG_ACK = 0x10
    FLAG_URG = 0x20
    ENO_KIND = 69
    # `45 02` and its padding.
    ENO_LEN = 4


cdef struct Came:
    # A segment that came, read.
    const uint8_t *packet
    Py_ssize_t size
    int side
    int version
    Py_ssize_t tcp
    Py_ssize_t data
    Py_ssize_t end
    int flags
    bint fin
    const uint8_t *timestamps   # of its options; NULL: there are none
    const uint8_t *blocks       # of SACK
    Py_ssize_t count            # of those
    bint joined


cdef bint read_segment(
    Came *came, const uint8_t *octets, Py_ssize_t size, int side
) noexcept:
    """Whether it is a usual segment: no fragment, ACK and no SYN, RST or URG."""
    cdef Py_ssize_t tcp, at, end
    cdef int header, kind, length
    came.packet, came.size, came.side = octets, size, side
    came.timestamps, came.blocks, came.count = NULL, NULL, 0
    if size < 40:
        return False
    came.version = octets[0] >> 4
    if came.version == 4:
        tcp, end = (octets[0] & 0x0F) * 4, _two(octets + 2)
        if tcp < 20 or end > size or octets[9] != PROTOCOL_TCP or _two(octets + 6) & 0x3FFF:
            return False
    elif came.version == 6:
        tcp, end, header = 40, 40 + <Py_ssize_t>_two(octets + 4), octets[6]
        if end > size or header != PROTOCOL_TCP:
            return False  # extension headers are Python's
    else:
        return False
    if end - tcp < TCP_LEN:
        return False
    came.tcp, came.end = tcp, end
    came.data = tcp + (octets[tcp + 12] >> 4) * 4
    came.flags = octets[tcp + 13]
    if came.data < tcp + TCP_LEN or came.data > end:
        return False
    if came.flags & (FLAG_ACK | FLAG_SYN | FLAG_RST | FLAG_URG) != FLAG_ACK:
        return False
    came.fin = came.flags & FLAG_FIN != 0
    at = tcp + TCP_LEN
    while at < came.data:
        kind = octets[at]
        if kind == 1:
            at += 1
        elif kind == 8 and came.data - at >= 10 and octets[at + 1] == 10:
            came.timestamps = octets + at + 2
            at += 10
        elif kind == 5 and came.blocks == NULL and came.data - at >= 10:
            length = octets[at + 1]
            if length > came.data - at or length < 10 or length % 8 != 2:
                return False
            came.blocks, came.count = octets + at + 2, length // 8
            at += length
        elif kind == ENO_KIND and side == OUTER and came.data - at >= 2 and octets[at + 1] == 2:
            # RFC 8547 section 4.6: until its sender has heard of us; it says no more.
            at += 2
        elif kind == 0:
            break  # padding
        else:
            return False
    return True


cdef inline bint congested(const uint8_t *packet) noexcept:
    """RFC 3168 section 5: CE."""
    return (packet[1] & 3 if packet[0] >> 4 == 4 else packet[1] >> 4 & 3) == 3


cdef uint32_t pseudo_sum(const uint8_t *octets, Py_ssize_t length) noexcept:
    """The sum of the pseudo header for `length` bytes of TCP."""
    cdef uint32_t total = PROTOCOL_TCP
    if octets[0] >> 4 == 4:
        total += _sum(octets + 12, 8)
    else:
        total += _sum(octets + 8, 32)
    total += <uint32_t>(length >> 16) + <uint32_t>(length & 0xFFFF)
    return (total & 0xFFFF) + (total >> 16)


cdef bint checksums_right(const Came *came) noexcept:
    cdef uint32_t total = _sum(came.packet + came.tcp, came.end - came.tcp)
    total += pseudo_sum(came.packet, came.end - came.tcp)
    total = (total & 0xFFFF) + (total >> 16)
    return total == 0xFFFF and (came.version == 6 or _sum(came.packet, came.tcp) == 0xFFFF)


cdef void finish_packet(uint8_t *octets, Py_ssize_t tcp, Py_ssize_t size) noexcept:
    """Lengths and checksums (RFC 791 section 3.1, RFC 8200 section 8.1)."""
    cdef uint32_t total
    if octets[0] >> 4 == 4:
        _put_two(octets + 2, <uint32_t>size)
        _put_two(octets + 10, 0)
        _put_two(octets + 10, ~_sum(octets, tcp))
    else:
        _put_two(octets + 4, <uint32_t>(size - 40))
    _put_two(octets + tcp + 16, 0)
    total = _sum(octets + tcp, size - tcp) + pseudo_sum(octets, size - tcp)
    _put_two(octets + tcp + 16, ~((total & 0xFFFF) + (total >> 16)))
