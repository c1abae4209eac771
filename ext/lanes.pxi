# All lent connections of a plane, and the queue that their packets come from.
# Layout of messages after linux/netfilter/nfnetlink_queue.h.  Included by _c_lanes.pyx.

cdef extern from "sys/socket.h":
    ctypedef unsigned int socklen_t
    cdef struct sockaddr:
        pass
    ssize_t recv(int fd, void *data, size_t size, int flags)
    ssize_t send(int fd, const void *data, size_t size, int flags)
    ssize_t sendto(int fd, const void *data, size_t size, int flags,
                   const sockaddr *to, socklen_t length)
    int AF_INET, AF_INET6, MSG_DONTWAIT, MSG_NOSIGNAL

cdef extern from "poll.h":
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *which, unsigned long count, int milliseconds) nogil
    short POLLOUT

cdef extern from "netinet/in.h":
    cdef struct in_addr:
        pass
    cdef struct in6_addr:
        pass
    cdef struct sockaddr_in:
        unsigned short sin_family
        in_addr sin_addr
    cdef struct sockaddr_in6:
        unsigned short sin6_family
        in6_addr sin6_addr

cdef extern from "time.h":
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)
    int CLOCK_MONOTONIC

cdef enum:
    NETLINK_LEN = 16
    GENERIC_LEN = 4
    ATTRIBUTE_LEN = 4
    VERDICT_LEN = 12
    # What stands before a packet in a message that lets it go.
    BEFORE = NETLINK_LEN + GENERIC_LEN + VERDICT_LEN + ATTRIBUTE_LEN
    MESSAGE_PACKET = 3 << 8
    MESSAGE_VERDICT = 3 << 8 | 1
    ATTR_PACKET = 1
    ATTR_VERDICT = 2
    ATTR_PAYLOAD = 10
    HOOK_OUTPUT = 3
    FLAG_REQUEST = 1
    DROP = 0
    ACCEPT = 1
    # tcpcrypt.segment.service: up to this size a packet is no joined one.
    ONE_SEGMENT = 1600
    # Verdicts collected at most; one more, with a packet of 64 KiB, fits a send buffer.
    BATCH = 1 << 15
    SCRATCH = BATCH + BEFORE + (1 << 16) + 128
    # What stands before a packet to be added, where another process adds it.
    ADDED = 4
    # Milliseconds for which that process may not read, in short turns: a machine that
    # stands still (it is paused, or moved) uses up one of them, and not all.
    TURN = 500
    TURNS = 20


cdef inline uint32_t _native(const uint8_t *at, size_t size) noexcept:
    cdef uint32_t four = 0
    cdef uint16_t two = 0
    if size == 4:
        memcpy(&four, at, 4)
        return four
    memcpy(&two, at, 2)
    return two


cdef inline void _put_native(uint8_t *at, uint32_t value, size_t size) noexcept:
    cdef uint16_t two = <uint16_t>value
    if size == 4:
        memcpy(at, &value, 4)
    else:
        memcpy(at, &two, 2)


cdef struct Queued:
    # A packet that waits in the kernel.
    uint32_t queue
    uint32_t identifier
    int hook
    const uint8_t *packet
    Py_ssize_t size


@final
cdef class Lanes:
    """See the stub."""

    cdef dict _lanes
    cdef list found
    """Where packets go if they are not for the kernel."""
    cdef list armed
    cdef list ended
    cdef list failed
    cdef uint8_t *_scratch
    cdef Py_ssize_t _fill
    cdef int _queue, _verdicts, _raw4, _raw6, _inner, _outer
    cdef Queued _queued
    cdef bint _decided
    cdef readonly uint64_t taken
    """Packets of queues that Python has not seen."""
    cdef readonly uint64_t injected
    cdef readonly Memory memory
    """That of all its streams."""

    def __cinit__(self):
        self.memory = Memory(INT64_MAX)
        self._lanes = {}
        self.armed = []
        self.ended = []
        self.failed = []
        self._queue = self._verdicts = -1
        self._scratch = <uint8_t *>malloc(SCRATCH)
        if self._scratch == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self._scratch)

    def __len__(self):
        return len(self._lanes) // 2

    def stream(self, *, bint seals):
        return Stream(self.memory, seals=seals)

    def take_armed(self):
        """`(key, due)` of connections that have something to repeat since the last call."""
        armed, self.armed = self.armed, []
        return armed

    def take_ended(self):
        """Keys of connections that both sides have ended since the last call."""
        ended, self.ended = self.ended, []
        return ended

    def take_failed(self):
        """`(key, error)` of connections at which a lane failed since the last call."""
        failed, self.failed = self.failed, []
        return failed

    def lend(
        self, tuple key, Stream sealing, Stream opening, ends, bint timestamps,
        bint blocks, *,
        FrameSealer sealer not None, seal_at, seal_end, frames_left, frame_data,
        FrameOpener opener, open_at, bytes begun, double rto, double due, int tries,
        double last_heard, bint greeting=False,
    ):
        """Lend a connection; see the stub."""
        cdef Lane lane = Lane.__new__(Lane)
        cdef End *end
        cdef int side
        cdef bytes address, timestamp
        if sealing is None or opening is None or not sealing.seals or opening.seals:
            raise ValueError("streams of a connection are a sealing and an opening one")
        if sealing.lent or opening.lent:
            raise RuntimeError("stream is lent")
        if sealer.tag_len != TAG_LEN or (opener is not None and opener.tag_len != TAG_LEN):
            raise ValueError("tags have another length")
        if not 0 < frame_data <= CIPHERTEXT_MAX - FLAGS_LEN - TAG_LEN:
            raise ValueError("no frame can hold that many data bytes")
        if len(begun) > WHOLE_FRAME:
            raise ValueError("no frame is that long")
        lane.lanes, lane.key = self, key
        lane.inner, lane.outer = sealing, opening
        lane.version = 4 if len(key[0]) == 4 else 6
        lane.timestamps, lane.blocks = timestamps, blocks
        for side in range(2):
            end = &lane.ends[side]
            isn, scale, timestamp, congestion, most, largest = ends[side]
            end.isn, end.scale, end.congestion = isn, scale, congestion
            end.most, end.largest = most, largest
            address, end.port = key[2 * side], key[2 * side + 1]
            if len(address) != (4 if lane.version == 4 else 16) or not 0 <= scale <= 14:
                raise ValueError("no such end of a connection")
            memcpy(end.address, <const uint8_t *>address, len(address))
            if timestamps:
                if len(timestamp) != 4:
                    raise ValueError("a timestamp has four bytes")
                memcpy(end.timestamp, <const uint8_t *>timestamp, 4)
        lane.seal_at, lane.seal_end, lane.frames_left = seal_at, seal_end, frames_left
        lane.frame_data, lane.open_at = frame_data, open_at
        lane.rto, lane.due, lane.tries, lane.last_heard = rto, due, tries, last_heard
        lane.keys = (self.name(lane, INNER), self.name(lane, OUTER))
        if lane.keys[0] in self._lanes:
            raise RuntimeError("connection is lent")
        if begun:
            lane.leave(<const uint8_t *>begun, len(begun))
        sealer.enter()
        try:
            if opener is not None:
                opener.enter()
        except BaseException:
            sealer.busy = False
            raise
        lane.sealer, lane.opener = sealer, opener
        lane.greeting = greeting
        lane.live = sealing.lent = opening.lent = True
        self._lanes[lane.keys[0]] = self._lanes[lane.keys[1]] = lane
        return lane

    cdef bytes name(self, Lane lane, int side):
        """The key of packets that come from `side`: the side, addresses and ports as they have them."""
        cdef uint8_t name[37]
        cdef Py_ssize_t width = 4 if lane.version == 4 else 16
        cdef End *sender = &lane.ends[side]
        cdef End *receiver = &lane.ends[1 - side]
        name[0] = <uint8_t>side
        memcpy(name + 1, sender.address, width)
        memcpy(name + 1 + width, receiver.address, width)
        _put_two(name + 1 + 2 * width, sender.port)
        _put_two(name + 3 + 2 * width, receiver.port)
        return PyBytes_FromStringAndSize(<const char *>name, 5 + 2 * width)

    cdef Lane find(self, const Came *came):
        cdef uint8_t name[37]
        cdef Py_ssize_t width = 4 if came.version == 4 else 16
        name[0] = <uint8_t>came.side
        memcpy(name + 1, came.packet + (12 if came.version == 4 else 8), 2 * width)
        memcpy(name + 1 + 2 * width, came.packet + came.tcp, 4)
        return self._lanes.get(PyBytes_FromStringAndSize(<const char *>name, 5 + 2 * width))

    cdef int forget(self, Lane lane) except -1:
        for name in lane.keys:
            del self._lanes[name]
        return 0

    # --- packets that leave ----------------------------------------------------------------

    cdef uint8_t *place(self) noexcept:
        """Where the next packet is made."""
        return self._scratch + self._fill + BEFORE

    cdef int leaves(self, int to, uint8_t *octets, Py_ssize_t size) except -1:
        """A packet is made in its place."""
        cdef Queued *queued = &self._queued
        cdef int side
        if self.found is not None:
            self.found.append((to, PyBytes_FromStringAndSize(<const char *>octets, size)))
            return 0
        side = INNER if queued.queue == <uint32_t>self._inner else OUTER
        if not self._decided and to != side and (
                queued.size <= ONE_SEGMENT or size > ONE_SEGMENT):
            self._decided = True
            self.verdict(ACCEPT, size)
            return 0
        if not self._decided:
            self._decided = True
            self.refuse()
        self.inject(octets, size)
        return 0

    cdef int verdict(self, uint32_t what, Py_ssize_t size) except -1:
        """A verdict; with the packet that stands in its place if `size` tells of one."""
        cdef uint8_t *at = self._scratch + self._fill
        cdef Py_ssize_t length = NETLINK_LEN + GENERIC_LEN + VERDICT_LEN
        cdef Py_ssize_t whole = length
        memset(at, 0, length)
        if size:
            _put_native(at + length, <uint32_t>(ATTRIBUTE_LEN + size), 2)
            _put_native(at + length + 2, ATTR_PAYLOAD, 2)
            memset(at + BEFORE + size, 0, -size & 3)
            whole = BEFORE + size + (-size & 3)
        _put_native(at, <uint32_t>whole, 4)
        _put_native(at + 4, MESSAGE_VERDICT, 2)
        _put_native(at + 6, FLAG_REQUEST, 2)
        _put_two(at + 18, self._queued.queue)
        _put_native(at + 20, VERDICT_LEN, 2)
        _put_native(at + 22, ATTR_VERDICT, 2)
        _put_four(at + 24, what)
        _put_four(at + 28, self._queued.identifier)
        self._fill += whole
        if self._fill > BATCH:
            self.flush()
        return 0

    cdef int refuse(self) except -1:
        """The queued packet does not leave; the one that is made next to it does, after this."""
        # The verdict is shorter than what is left in front of a packet.
        self.verdict(DROP, 0)
        return self.flush()

    cdef int flush(self) except -1:
        """Send the verdicts that were kept."""
        cdef Py_ssize_t size = self._fill
        self._fill = 0
        return self.tell(self._scratch, size) if size else 0

    cdef int tell(self, const uint8_t *verdicts, Py_ssize_t size) except -1:
        if self._verdicts >= 0:
            return self.hand_over(verdicts, size)
        # Netlink hands verdicts over within the call; ENOBUFS there reports a
        # lost packet of the other direction, which receiving will hear of, too.
        if send(self._queue, verdicts, size, MSG_DONTWAIT) < 0:
            if errno not in (EAGAIN, ENOBUFS, EINTR):
                raise OSError(errno, "netlink takes no verdicts")
        return 0

    cdef int hand_over(self, const uint8_t *message, Py_ssize_t size) except -1:
        """To the process that may decide.  Nothing is lost: its packets would wait for ever."""
        cdef pollfd room
        cdef int turns = 0
        room.fd, room.events = self._verdicts, POLLOUT
        while send(self._verdicts, message, size, MSG_DONTWAIT | MSG_NOSIGNAL) < 0:
            if errno == EAGAIN:
                if poll(&room, 1, TURN) == 0:
                    turns += 1
                    if turns >= TURNS:
                        raise SystemExit("tcpcryptd: the parent process does not read")
            elif errno != EINTR:
                raise SystemExit(1)
        return 0

    cdef int inject(self, uint8_t *octets, Py_ssize_t size) except -1:
        """By a raw socket; what was decided before leaves before."""
        cdef sockaddr_in to4
        cdef sockaddr_in6 to6
        self.flush()
        self.injected += 1
        if self._verdicts >= 0:
            # In the place of a verdict's header, that of a message without a length.
            memset(octets - ADDED, 0, ADDED)
            return self.hand_over(octets - ADDED, size + ADDED)
        # Lost like any packet that finds no room; it comes again.
        if octets[0] >> 4 == 4:
            memset(&to4, 0, sizeof(to4))
            to4.sin_family = AF_INET
            memcpy(&to4.sin_addr, octets + 16, 4)
            sendto(self._raw4, octets, size, MSG_DONTWAIT, <sockaddr *>&to4, sizeof(to4))
        else:
            memset(&to6, 0, sizeof(to6))
            to6.sin6_family = AF_INET6
            memcpy(&to6.sin6_addr, octets + 24, 16)
            sendto(self._raw6, octets, size, MSG_DONTWAIT, <sockaddr *>&to6, sizeof(to6))
        return 0

    # --- packets that come -----------------------------------------------------------------

    def serve(self, int queue, int verdicts, int raw4, int raw6, int inner, int outer):
        """Where packets come from and go to; see the stub."""
        self._queue, self._verdicts, self._raw4, self._raw6 = queue, verdicts, raw4, raw6
        self._inner, self._outer = inner, outer

    def receive(self, buffer, int most, bytearray before not None):
        """Packets of the queues, up to the first that is not for a lane; see the stub."""
        cdef Py_buffer view
        cdef int count
        if self._queue < 0:
            raise RuntimeError("there is no queue to receive from")
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            for count in range(most):
                size = self.one(<uint8_t *>view.buf, view.len, before)
                if size > 0 and self._fill:
                    # What is decided on that one leaves with these, by one call.
                    before += self._scratch[:self._fill]
                    self._fill = 0
                if size:
                    return count + 1, size
            return most, 0
        finally:
            PyBuffer_Release(&view)
            self.flush()

    cdef int join(self, bytearray before) except -1:
        """Verdicts that were decided elsewhere leave with those of lanes, and before them."""
        cdef Py_ssize_t size = len(before)
        if self._fill + size > BATCH:
            self.flush()
        if size > BATCH:
            self.tell(<const uint8_t *><char *>before, size)
        else:
            memcpy(self._scratch + self._fill, <const uint8_t *><char *>before, size)
            self._fill += size
        before.clear()
        return 0

    cdef Py_ssize_t one(self, uint8_t *octets, Py_ssize_t room, bytearray before) except -2:
        """Receive; 0 if that is done with, the length of what is not, -1 if nothing was there."""
        cdef Py_ssize_t size
        cdef Came came
        cdef Lane lane
        cdef timespec now
        cdef int side
        size = recv(self._queue, octets, room, MSG_DONTWAIT)
        if size < 0:
            if errno == EAGAIN:
                return -1
            raise OSError(errno, "netlink gives no packets")
        if not read_queued(&self._queued, octets, size):
            return size
        if self._queued.queue == <uint32_t>self._inner:
            side = INNER
        elif self._queued.queue == <uint32_t>self._outer:
            side = OUTER
        else:
            return size
        if not read_segment(&came, self._queued.packet, self._queued.size, side):
            return size
        lane = self.find(&came)
        if lane is None:
            return size
        # What the kernel has joined it has verified, and filled in no checksum.
        if (self._queued.hook != HOOK_OUTPUT and self._queued.size <= ONE_SEGMENT
                and not checksums_right(&came)):
            return size
        if before:
            self.join(before)
        clock_gettime(CLOCK_MONOTONIC, &now)
        self._decided = False
        try:
            if not lane.step(&came, <double>now.tv_sec + now.tv_nsec * 1e-9):
                return size
        except Exception as error:  # a mistake of ours ends one connection, and not all
            self.failed.append((lane.key, error))
        if not self._decided:
            self.verdict(DROP, 0)
        self.taken += 1
        return 0


cdef bint read_queued(Queued *queued, const uint8_t *octets, Py_ssize_t size) noexcept:
    """Whether a datagram is one packet of a queue, and sound."""
    cdef Py_ssize_t at = NETLINK_LEN + GENERIC_LEN, length
    cdef uint32_t kind
    cdef bint named = False
    queued.packet = NULL
    if size < at or _native(octets, 4) != <uint32_t>size or _native(octets + 4, 2) != MESSAGE_PACKET:
        return False
    queued.queue = _two(octets + 18)
    while size - at >= ATTRIBUTE_LEN:
        length = _native(octets + at, 2)
        kind = _native(octets + at + 2, 2) & 0x3FFF
        if not ATTRIBUTE_LEN <= length <= size - at:
            return False
        if kind == ATTR_PACKET and length >= ATTRIBUTE_LEN + 7:
            queued.identifier = _four(octets + at + ATTRIBUTE_LEN)
            queued.hook = octets[at + ATTRIBUTE_LEN + 6]
            named = True
        elif kind == ATTR_PAYLOAD:
            queued.packet = octets + at + ATTRIBUTE_LEN
            queued.size = length - ATTRIBUTE_LEN
        at += (length + 3) & ~3
    return named and queued.packet != NULL
