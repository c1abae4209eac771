# One established connection: the segments in which nothing happens but the usual.
# `tcpcrypt.segment.flow` and `composer` say why; this does what they do, byte for byte,
# or leaves a segment to them before it has changed anything.  Included by _c_lanes.pyx.

cdef enum:
    FRAME_MIN = HEADER_LEN + FLAGS_LEN + TAG_LEN
    # tcpcrypt.segment.composer says why.
    PACKET_MAX = 65400
    ROOM = PACKET_MAX + 60
    PASSING = 0x08 | 0x40 | 0x80
    TIMESTAMPS_LEN = 12
    OPTIONS_MAX = 40
    LIFE = 64


cdef struct End:
    # What is known of the host on one side, and how packets to it look.
    uint32_t isn
    int scale
    uint8_t timestamp[4]
    bint congestion
    Py_ssize_t most
    Py_ssize_t largest
    uint8_t address[16]
    uint32_t port


# Not cleared by the garbage collector, which would leave `__dealloc__` no sealer
# and opener to let go of; Lanes are, so that no cycle stays.
@final
@no_gc_clear
@auto_pickle(False)
cdef class Lane:
    """One connection that is lent to `lanes`."""

    cdef Lanes lanes
    cdef readonly tuple key
    cdef tuple keys
    cdef Stream inner, outer
    cdef End ends[2]
    cdef int version
    cdef bint timestamps, blocks
    cdef FrameSealer sealer
    cdef FrameOpener opener
    cdef uint64_t seal_at, seal_end, frames, frames_left, frame_data, open_at, opened
    cdef uint8_t *begun
    cdef Py_ssize_t begun_len, begun_size
    cdef double rto
    cdef int tries
    cdef bint live
    cdef bint greeting
    """ENO is due in each segment to the wire, until one has come from there."""
    cdef bint sealed_fin, opened_fin, ends_now
    cdef readonly bint over
    """Both sides have ended it, and heard that the other has."""
    cdef readonly double due
    """When the engine's own repetition is due; 0: not at all."""
    cdef readonly double last_heard

    def __dealloc__(self):
        if self.begun != NULL:
            self.have_begun(NULL, 0)
        if self.live:
            self.let_go()

    cdef inline void have_begun(self, uint8_t *block, Py_ssize_t size) noexcept:
        """What has begun of a frame is there now; one that was elsewhere is gone."""
        if block == NULL:
            free(self.begun)
        self.outer.memory.taken += size - self.begun_size
        self.begun, self.begun_size = block, size

    cdef inline void let_go(self) noexcept:
        self.sealer.busy = False
        if self.opener is not None:
            self.opener.busy = False

    cdef inline Stream from_side(self, int side):
        """The stream whose source is on that side."""
        return self.inner if side == INNER else self.outer

    def recall(self):
        """Take the connection back; see the stub."""
        cdef Stream stream
        cdef int side
        if not self.live:
            raise RuntimeError("connection was taken back before")
        self.live = False
        self.lanes.forget(self)
        self.let_go()
        for stream in (self.inner, self.outer):
            stream.lent = False
        return (
            self.seal_at, self.frames, self.open_at, self.opened,
            PyBytes_FromStringAndSize(<const char *>self.begun, self.begun_len),
            self.due, self.tries, self.last_heard, self.greeting, self.sealed_fin, self.opened_fin,
            tuple([(self.ends[side].timestamp[:4], bool(self.ends[side].congestion))
                   for side in range(2)]),
        )

    def take(self, int side, packet, double now):
        """What becomes of a packet: a list of `(side, packet)`, or None; see the stub."""
        cdef Py_buffer view
        cdef Came came
        cdef list found = []
        if not self.live:
            raise RuntimeError("connection was taken back")
        PyObject_GetBuffer(packet, &view, PyBUF_SIMPLE)
        try:
            if not read_segment(&came, <const uint8_t *>view.buf, view.len, side):
                return None
            self.lanes.found = found
            try:
                if not self.step(&came, now):
                    return None
            finally:
                self.lanes.found = None
            return found
        finally:
            PyBuffer_Release(&view)

    # --- one segment ---------------------------------------------------------------------

    cdef inline int64_t offset(self, int side, uint32_t number, int64_t near) noexcept:
        """The offset, near `near`, of a sequence number of `side`."""
        return near + <int32_t>(number - self.ends[side].isn - 1 - <uint32_t>near)

    cdef bint step(self, Came *came, double now) except -1:
        """Do what is to be done for a segment; False, and nothing done, if it is no usual one."""
        cdef Stream source = self.from_side(came.side), sink = self.from_side(1 - came.side)
        cdef const uint8_t *tcp = came.packet + came.tcp
        cdef Py_ssize_t size = came.end - came.data, fresh
        cdef int64_t offset, acknowledged, before = source.input.end
        cdef uint8_t *joined
        if self.over:
            return False  # neither host is to be asked again
        if (came.timestamps != NULL) != self.timestamps:
            return False
        offset = self.offset(came.side, _four(tcp + 4), before)
        acknowledged = self.offset(1 - came.side, _four(tcp + 8), sink.una)
        if acknowledged > sink.emitted:
            return False
        if came.side == OUTER and not (
                sink.una - sink.widest <= acknowledged
                and before - source.widest <= offset <= source._limit):
            return False
        if size and offset + size > source._limit:
            return False
        if size and source.takes_none(offset, offset + size):
            return False
        came.joined = size > self.ends[came.side].largest
        fresh = offset + size - before
        if source._fin >= 0 and (came.fin or (size and fresh >= 0)):
            return False
        if came.fin:
            if offset > before or fresh < 0 or source.input._count:
                return False  # not the end of what is there
            return self.change(came, offset, acknowledged, before,
                               came.packet + came.end - fresh, fresh, now)
        if not size or offset > before or fresh <= 0:
            if size and offset > before:
                source.input.insert(offset, came.packet + came.data, size)
            self.hear(came, offset, acknowledged, before, NULL, 0, 0, now)
            return True
        if source.input.reach(before, fresh) == before + fresh:
            return self.change(came, offset, acknowledged, before,
                               came.packet + came.end - fresh, fresh, now)
        # What waited for it goes with it.
        size = source.input.reach(before, fresh) - before
        joined = <uint8_t *>malloc(size)
        if joined == NULL:
            raise MemoryError
        try:
            memcpy(joined, came.packet + came.end - fresh, fresh)
            source.input.overlay(joined, before + fresh)
            return self.change(came, offset, acknowledged, before, joined, size, now)
        finally:
            free(joined)

    cdef bint change(
        self, Came *came, int64_t offset, int64_t acknowledged, int64_t before,
        const uint8_t *data, Py_ssize_t size, double now
    ) except -1:
        """A segment that brings new data, together with what waited for it, or FIN."""
        cdef Py_ssize_t added
        if came.side == INNER:
            added = self.seal(data, size, came.fin)
        else:
            added = self.open(data, size, came.fin)
        if added < 0:
            return False
        self.hear(came, offset, acknowledged, before, data, size, added, now)
        return True

    cdef int hear(
        self, Came *came, int64_t offset, int64_t acknowledged, int64_t before,
        const uint8_t *data, Py_ssize_t fresh, Py_ssize_t added, double now
    ) except -1:
        """What else there is to a segment: nothing is left to others from here on."""
        cdef int side = came.side, other = 1 - side
        cdef Stream source = self.from_side(side), sink = self.from_side(other)
        cdef const uint8_t *tcp = came.packet + came.tcp
        cdef int64_t una = sink.una
        cdef int64_t blocks[2 * BLOCKS_MAX]
        cdef Py_ssize_t index
        cdef bint news
        self.last_heard = now
        if side == OUTER and self.greeting:
            self.greeting = False
            self.ends[OUTER].most += ENO_LEN
        for index in range(2 * came.count):
            blocks[index] = self.offset(other, _four(came.blocks + 4 * index), una)
        news = sink.hear(acknowledged, acknowledged + (
            <int64_t>_two(tcp + 14) << self.ends[side].scale), blocks, came.count)
        if sink.una > una:
            self.due = 0
        if self.timestamps:
            memcpy(self.ends[side].timestamp, came.timestamps, 4)
        if congested(came.packet):
            self.ends[side].congestion = True
        if came.end == came.data and not came.fin:
            if offset < source.tell():
                self.bare(other, came, source.una - 1)
            else:
                self.bare(other, came, source.emitted)
        else:
            if fresh:
                source.input.advance(before + fresh)
            if side == INNER and (fresh or came.fin):
                self.have_sealed(fresh, added, came.fin)
            elif fresh or came.fin:
                self.have_opened(data, fresh, added, came.fin)
            self.forward(came, offset, before, news)
        self.flush()
        self.schedule(now)
        if not self.over and self.inner.fin_arrived() and self.outer.fin_arrived():
            self.over = True
            self.lanes.ended.append(self.key)
        return 0

    cdef int forward(self, Came *came, int64_t offset, int64_t before, bint news) except -1:
        cdef int other = 1 - came.side
        cdef Stream source = self.from_side(came.side), sink = self.from_side(other)
        cdef int64_t start = source.emitted, stop = source.sendable_to(), again, until
        cdef int64_t reach = offset + came.end - came.data + came.fin
        cdef int64_t last = min(reach, before)
        if offset < before:
            # A repetition: cut from what is kept, byte for byte.
            again = max(source.output_from(offset), source.una)
            until = min(source.output_to(last), source.emitted)
            if again < until:
                if until < start or start == stop:
                    return self.emit(other, again, until, came)
                start = again
        if start < stop:
            return self.emit(other, start, stop, came)
        if reach <= min(before, source.input_to(source.una)):
            return self.bare(other, came, source.una - 1)
        if news:
            self.bare(other, came, source.emitted)
        if sink.emitted == sink.sendable_to():
            self.bare(came.side, NULL, sink.emitted)
        return 0

    cdef int flush(self) except -1:
        cdef int to
        cdef Stream stream
        for to in range(2):
            stream = self.from_side(1 - to)
            if stream.emitted < stream.sendable_to():
                self.emit(to, stream.emitted, stream.sendable_to(), NULL)
        return 0

    cdef int schedule(self, double now) except -1:
        if not (self.inner.is_overdue() or self.outer.is_overdue()):
            self.due = 0
        elif not self.due:
            self.tries = 0
            self.due = now + self.rto
            self.lanes.armed.append((self.key, self.due))
        return 0

    # --- frames ----------------------------------------------------------------------------

    cdef Py_ssize_t seal(self, const uint8_t *data, Py_ssize_t size, bint fin) except -2:
        """Frames of `data`, behind what is kept but not kept yet; their bytes, or -1.

        With `fin` another one, which has FINp and no data.
        """
        cdef Sealing work
        cdef uint64_t count = (size + self.frame_data - 1) // self.frame_data + fin
        cdef uint64_t total = size + count * FRAME_MIN, done = 0
        if count > self.frames_left - self.frames or self.seal_at + total > self.seal_end:
            return -1
        # Before anything is sealed: after that nothing may fail.
        self.inner.cells.more(count)
        # FIN has a byte behind them.
        work.data, work.data_len = data, size
        work.out, work.out_len = self.inner.room(total + fin), total - fin * FRAME_MIN
        work.first = work.others = self.frame_data
        work.rekey = work.fin = False
        work.urgent = -1
        if size:
            if (self.sealer.run(&work, self.seal_at) != GO_ON
                    or work.written != work.out_len):
                ERR_clear_error()
                raise RuntimeError("libcrypto failed to seal a frame")
            done = work.written
        if fin:
            work.data_len, work.out_len, work.fin = 0, FRAME_MIN, True
            work.out += done
            if self.sealer.run(&work, self.seal_at + done) != GO_ON or work.written != FRAME_MIN:
                ERR_clear_error()
                raise RuntimeError("libcrypto failed to seal the last frame")
        return total

    cdef void have_sealed(self, Py_ssize_t size, Py_ssize_t total, bint fin) noexcept:
        cdef Stream stream = self.inner
        cdef int64_t length
        stream.keep(total)
        self.seal_at += total
        while size:
            length = min(<uint64_t>size, self.frame_data)
            stream.cells.put(length, 0, length + FRAME_MIN)
            size -= length
            self.frames += 1
        if fin:
            stream.cells.put(1, FRAME_MIN, FRAME_MIN + 1)
            stream.keep_fin()
            self.frames += 1
            self.sealed_fin = True
            self.sealer.forget()  # no frame may follow

    cdef Py_ssize_t open(self, const uint8_t *data, Py_ssize_t size, bint fin) except -2:
        """Open the frames that are whole now, behind what is kept but not kept yet.

        Returns the bytes of data, or -1 if there is another frame than one of data
        or the last, or one is not to be opened here; and if FIN came and FINp did not.
        """
        cdef Opening work
        cdef const uint8_t *wire
        cdef Py_ssize_t left = self.begun_len + size, length, found = 0, count = 0
        cdef uint64_t at = self.open_at
        cdef uint8_t *out = NULL
        cdef int stop
        cdef bint ends = self.opened_fin
        if self.opener is None or (ends and left):
            return -1
        if ends:
            self.outer.room(1)
            self.outer.cells.more(1)
            return 0
        wire = self.wire(data, size)
        while left >= HEADER_LEN:
            length = HEADER_LEN + <Py_ssize_t>_two(wire + 1)
            if length < FRAME_MIN or ends:
                OPENSSL_cleanse(out, found)
                return -1
            if length > left:
                break
            if out == NULL:  # for what has begun nothing is needed yet
                out = self.outer.room(left)
            work.wire, work.wire_len = wire, length
            work.out, work.out_len = out + found, length - FRAME_MIN
            work.accept_rekey = False
            stop = self.opener.run(&work, at)
            ends = stop == FRAME_FIN and work.urgent < 0
            if (not ends and (stop != NEED_MORE or length == FRAME_MIN)) or work.frames != 1:
                ERR_clear_error()
                OPENSSL_cleanse(out, found)
                return -1
            found += work.last
            wire, left, at = wire + length, left - length, at + length
            count += 1
        if (ends and left) or (fin and not ends):
            # What follows FINp, or a FIN without it, is for Python to say something about.
            OPENSSL_cleanse(out, found)
            return -1
        self.outer.cells.more(count)
        self.ends_now = ends
        return found

    cdef const uint8_t *wire(self, const uint8_t *data, Py_ssize_t size) except NULL:
        """What is there of frames, in one piece."""
        cdef uint8_t *longer
        cdef Py_ssize_t wanted = self.begun_len + size
        if not self.begun_len:
            return data
        if wanted > self.begun_size:
            wanted = max(wanted, 2 * self.begun_size)
            longer = <uint8_t *>realloc(self.begun, wanted)
            if longer == NULL:
                raise MemoryError
            self.have_begun(longer, wanted)
        memcpy(self.begun + self.begun_len, data, size)
        return self.begun

    cdef int have_opened(
        self, const uint8_t *data, Py_ssize_t size, Py_ssize_t found, bint fin
    ) except -1:
        cdef Stream stream = self.outer
        cdef const uint8_t *wire = data
        cdef Py_ssize_t left = self.begun_len + size, length
        cdef int64_t begun
        if self.begun_len:
            wire = self.begun
        while left >= HEADER_LEN:
            length = HEADER_LEN + <Py_ssize_t>_two(wire + 1)
            if length > left:
                break
            begun = stream.cells.wire_end
            if length > FRAME_MIN:
                stream.cells.put(length - FRAME_MIN, HEADER_LEN + FLAGS_LEN, length)
                stream.keep(length - FRAME_MIN)
                if stream._told > begun:
                    stream.responsible = stream._last()
            else:
                stream.cells.put(0, length, length)
                stream.cells.forget(stream.una, stream.cells.wire_end)
            wire, left = wire + length, left - length
            self.open_at += length
        self.opened += found
        self.leave(wire, left)
        stream.under_way = 0
        if left >= HEADER_LEN:
            stream.under_way = stream.input.end - left + HEADER_LEN + _two(self.begun + 1)
        if self.ends_now:
            self.opened_fin = True
            self.opener.forget()
        if fin:
            stream.room(1)
            stream.cells.more(1)
            stream.cells.put(1, 0, 1)
            stream.keep_fin()
        return 0

    cdef int leave(self, const uint8_t *wire, Py_ssize_t left) except -1:
        """The beginning of a frame stays."""
        cdef uint8_t *block
        if not left:
            self.have_begun(NULL, 0)
        elif self.begun_len:
            if wire != self.begun:
                memmove(self.begun, wire, left)
        else:
            block = <uint8_t *>malloc(left)
            if block == NULL:
                raise MemoryError
            memcpy(block, wire, left)
            free(self.begun)
            self.have_begun(block, left)
        self.begun_len = left
        return 0

    # --- packets -----------------------------------------------------------------------------

    cdef int emit(self, int to, int64_t start, int64_t stop, const Came *came) except -1:
        cdef Stream stream = self.from_side(1 - to)
        cdef int64_t most = self.ends[to].most, room = PACKET_MAX, until
        cdef bint fin
        if came != NULL:
            room = ROOM - came.tcp
            if came.joined:
                most = PACKET_MAX
            elif came.side != to and self.blocks and came.count:
                most -= 4 + 8 * min(came.count, BLOCKS_MAX - 1 if self.timestamps else BLOCKS_MAX)
        while True:
            until = min(stop, start + max(min(most, room), <int64_t>1))
            fin = stream._fin >= 0 and until > stream._fin
            self.packet(to, start, until - start - fin, came, fin, came == NULL and until == stop)
            stream.emitted = max(stream.emitted, until)
            start, most = until, self.ends[to].most
            if start >= stop:
                return 0

    cdef int bare(self, int to, const Came *came, int64_t at) except -1:
        return self.packet(to, at, 0, came, False, False)

    cdef int packet(
        self, int to, int64_t at, Py_ssize_t size, const Came *came, bint fin, bint push
    ) except -1:
        """A packet with `size` bytes of output from `at` on, handed to the lanes."""
        cdef bint greeting = False
        cdef Stream source = self.from_side(to)
        cdef End *sender = &self.ends[1 - to]
        cdef End *receiver = &self.ends[to]
        cdef const Came *like = NULL
        cdef uint8_t *octets = self.lanes.place()
        cdef uint8_t *tcp
        cdef Py_ssize_t beneath = 20 if self.version == 4 else 40, length, region = 0
        cdef Py_ssize_t most = BLOCKS_MAX, index, count = 0
        cdef int64_t blocks[4 * BLOCKS_MAX]
        cdef uint32_t flags = FLAG_ACK
        cdef int life = 8 if self.version == 4 else 7
        cdef int64_t arrived = source.tell()
        if came != NULL and came.side != to:
            like = came
            beneath = like.tcp
            memcpy(octets, like.packet, beneath)
            flags |= like.flags & PASSING
        else:
            memset(octets, 0, beneath)
            octets[0] = 0x45 if self.version == 4 else 0x60
            octets[life] = LIFE
            if self.version == 4:
                octets[6], octets[9] = 0x40, PROTOCOL_TCP
                memcpy(octets + 12, sender.address, 4)
                memcpy(octets + 16, receiver.address, 4)
            else:
                octets[6] = PROTOCOL_TCP
                memcpy(octets + 8, sender.address, 16)
                memcpy(octets + 24, receiver.address, 16)
        if to == INNER:
            octets[life] = max(octets[life], LIFE)
        if fin:
            flags |= FLAG_FIN
        if size and push:
            flags |= FLAG_PSH
        if size and sender.congestion:
            octets[1] |= 3 if self.version == 4 else 3 << 4
            sender.congestion = False
        if self.timestamps:
            region = TIMESTAMPS_LEN
            most -= 1
        if size:
            most = min(most, like.count) if like != NULL else 0
        if self.blocks and most:
            count = min(source.told_blocks(blocks), most)
        if count:
            region += 4 + 8 * count
        if to == OUTER and self.greeting and region + ENO_LEN <= OPTIONS_MAX:
            greeting = True
            region += ENO_LEN
        length = beneath + TCP_LEN + region + size
        if length - (0 if self.version == 4 else 40) > 0xFFFF:
            raise LocalError("IP length field cannot hold the packet")
        tcp = octets + beneath
        memset(tcp, 0, TCP_LEN)
        _put_two(tcp, sender.port)
        _put_two(tcp + 2, receiver.port)
        _put_four(tcp + 4, sender.isn + 1 + <uint32_t>at)
        _put_four(tcp + 8, receiver.isn + 1 + <uint32_t>arrived)
        tcp[12] = <uint8_t>((length - size - beneath) << 2)
        tcp[13] = <uint8_t>flags
        _put_two(tcp + 14, source.window(sender.scale))
        if self.timestamps:
            memcpy(tcp + TCP_LEN, b"\1\1\x08\x0a", 4)
            if like != NULL:
                memcpy(tcp + TCP_LEN + 4, like.timestamps, 8)
            else:
                memcpy(tcp + TCP_LEN + 4, sender.timestamp, 4)
                memcpy(tcp + TCP_LEN + 8, receiver.timestamp, 4)
        if greeting:
            region -= ENO_LEN
            memcpy(tcp + TCP_LEN + region, b"\x45\x02\0\0", ENO_LEN)
        if count:
            tcp += TCP_LEN + region - 4 - 8 * count
            memcpy(tcp, b"\1\1\x05", 3)
            tcp[3] = <uint8_t>(2 + 8 * count)
            for index in range(2 * count):
                _put_four(tcp + 4 + 4 * index, receiver.isn + 1 + <uint32_t>blocks[index])
        if size:
            memcpy(octets + length - size, self.from_side(1 - to).kept(at), size)
        finish_packet(octets, beneath, length)
        return self.lanes.leaves(to, octets, length)
