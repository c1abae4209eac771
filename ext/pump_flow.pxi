# One connection in the pump, and the steps that move its bytes.  No GIL here.
# Included by _c_pump.pyx.

cdef enum:
    WHOLE_FRAME = HEADER_LEN + CIPHERTEXT_MAX
    # Wire bytes of a batch: four full frames, which are of 64 KiB each unless
    # configured otherwise, so that in bulk reads end where frames end.
    BATCH = 4 * 64 * 1024
    # Holds a batch, the frame of which a part was there before it, and what
    # sealing adds to the last frames of a batch.
    BLOCK_SIZE = 336 * 1024
    # What is kept in a block of its own rather than in a whole one.
    COPY_MAX = 64 * 1024
    SPARE_BLOCKS = 8
    # Batches of one connection before the others have their turn.
    TURN = 8

# What a direction does.
cdef enum:
    OFF = 0      # it is over, or not begun
    WATCH = 1    # whatever comes is Python's
    COPY = 2
    CRYPT = 3

# Why a flow came back.
cdef enum:
    RECALLED = 0
    INNER_ENDED = 1
    OUTER_ENDED = 2
    INNER_FAILED = 3
    OUTER_FAILED = 4
    STIRRED = 5
    KEY_SPENT = 6
    BROKEN = 7

cdef enum:
    FREE = 0
    MOVING = 1
    RETURNED = 2


cdef struct Kept:
    # Bytes that wait: for room in a socket, or for the rest of their frame.
    uint8_t *block
    size_t size
    size_t begin
    size_t end


cdef struct Side:
    Conn *conn
    int fd
    bint readable
    bint drain       # a short read does not mean that nothing is left
    bint failed
    Kept out


cdef struct Conn:
    pthread_mutex_t lock
    int state
    int reason
    int error
    volatile bint wanted  # Python waits for the lock to take it back
    bint queued      # in the thread's list of those that have more to do
    Thread *thread
    Conn *ready_after
    Conn *after      # among those that came back, or the free ones
    Conn *every
    PyObject *flow
    Side inner
    Side outer
    int outgoing
    int incoming
    void *sealer
    uint64_t seal_at
    uint64_t seal_end
    uint64_t small_end
    uint64_t frames
    uint64_t frames_left
    size_t small_frame
    size_t full_frame
    size_t overhead
    void *opener
    uint64_t open_at
    uint64_t opened
    Kept wire
    uint64_t sent
    uint64_t received


cdef struct Shared:
    pthread_mutex_t lock
    Conn *returned
    Conn *free
    Conn *every
    int bell


cdef struct Thread:
    pthread_t thread
    bint started
    int epoll
    int wake
    volatile bint stopping
    volatile long flows
    uint8_t *plain
    uint8_t *cipher
    uint8_t *spare[SPARE_BLOCKS]
    int spares
    Conn *ready
    Conn *ready_last
    Shared *shared


cdef inline void keep_nothing(Kept *kept) noexcept nogil:
    kept.block = NULL
    kept.size = kept.begin = kept.end = 0


cdef inline size_t kept_len(const Kept *kept) noexcept nogil:
    return kept.end - kept.begin


cdef uint8_t *take_block(Thread *thread) noexcept nogil:
    if thread.spares:
        thread.spares -= 1
        return thread.spare[thread.spares]
    return <uint8_t *>malloc(BLOCK_SIZE)


cdef void give_block(Thread *thread, Kept *kept) noexcept nogil:
    """Release what was kept; only the thread of the flow may."""
    if kept.size == BLOCK_SIZE and thread.spares < SPARE_BLOCKS:
        thread.spare[thread.spares] = kept.block
        thread.spares += 1
    else:
        free(kept.block)
    keep_nothing(kept)


cdef bint keep_rest(
    Thread *thread, Kept *kept, uint8_t **block, size_t begin, size_t end,
) noexcept nogil:
    """Keep what a socket did not take of `*block`: a copy of a little, else the block."""
    cdef uint8_t *other
    cdef size_t size = end - begin
    if size <= COPY_MAX:
        kept.block = <uint8_t *>malloc(size)
        if kept.block == NULL:
            return False
        memcpy(kept.block, block[0] + begin, size)
        kept.size = kept.end = size
        kept.begin = 0
        return True
    other = take_block(thread)
    if other == NULL:
        return False
    kept.block = block[0]
    kept.size = BLOCK_SIZE
    kept.begin = begin
    kept.end = end
    block[0] = other
    return True


cdef void come_back(Conn *conn, int reason, int error) noexcept nogil:
    """Hand the flow to Python: the thread leaves it alone from now on."""
    cdef Thread *thread = conn.thread
    cdef Shared *shared = thread.shared
    cdef bint first
    conn.state = RETURNED
    conn.reason = reason
    conn.error = error
    epoll_ctl(thread.epoll, EPOLL_CTL_DEL, conn.inner.fd, NULL)
    epoll_ctl(thread.epoll, EPOLL_CTL_DEL, conn.outer.fd, NULL)
    pthread_mutex_lock(&shared.lock)
    first = shared.returned == NULL
    conn.after = shared.returned
    shared.returned = conn
    pthread_mutex_unlock(&shared.lock)
    if first:
        eventfd_write(shared.bell, 1)


cdef inline int failure(const Conn *conn, const Side *side) noexcept nogil:
    return INNER_FAILED if side == &conn.inner else OUTER_FAILED


cdef inline ssize_t transmit(const Side *side, const uint8_t *data, size_t size) noexcept nogil:
    cdef ssize_t done
    while True:
        done = send(side.fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT)
        if done >= 0 or errno != EINTR:
            return done


cdef bint write_out(
    Conn *conn, Side *side, uint8_t **block, size_t size,
) noexcept nogil:
    """Send what is in `*block`; keep what does not fit.  False: the flow came back."""
    cdef ssize_t done
    if size == 0:
        return True
    done = transmit(side, block[0], size)
    if done < 0:
        if errno != EAGAIN:
            come_back(conn, failure(conn, side), errno)
            return False
        done = 0
    if <size_t>done < size and not keep_rest(conn.thread, &side.out, block, done, size):
        come_back(conn, BROKEN, ENOMEM)
        return False
    return True


cdef bint flush(Conn *conn, Side *side) noexcept nogil:
    """Send what was kept, as far as it goes.  False: the flow came back."""
    cdef ssize_t done
    while side.out.block != NULL:
        done = transmit(side, side.out.block + side.out.begin, kept_len(&side.out))
        if done < 0:
            if errno == EAGAIN:
                return True
            come_back(conn, failure(conn, side), errno)
            return False
        side.out.begin += done
        if side.out.begin == side.out.end:
            give_block(conn.thread, &side.out)
    return True


cdef inline ssize_t receive(const Side *side, uint8_t *block, size_t size) noexcept nogil:
    cdef ssize_t got
    while True:
        got = recv(side.fd, block, size, MSG_DONTWAIT)
        if got >= 0 or errno != EINTR:
            return got


cdef bint judge_read(Conn *conn, Side *side, ssize_t got, size_t wanted) noexcept nogil:
    """What a read says about its socket.  False: nothing came, or the flow went back."""
    if got > 0:
        if <size_t>got < wanted and not side.drain:
            side.readable = False
        return True
    if got == 0:
        come_back(conn, INNER_ENDED if side == &conn.inner else OUTER_ENDED, 0)
    elif errno == EAGAIN:
        side.readable = False
    else:
        come_back(conn, failure(conn, side), errno)
    return False


cdef size_t most_to_seal(const Conn *conn) noexcept nogil:
    """Data bytes of a batch, so that its frames are full; 0 if the key is near its end."""
    cdef size_t frame = conn.full_frame, frames
    if conn.seal_at < conn.small_end and conn.small_frame < frame:
        frame = conn.small_frame
    frames = max(<size_t>1, BATCH // (frame + conn.overhead))
    # Where small frames end and full ones begin there may be two more.
    if conn.frames_left < frames + 2 or conn.seal_at + BLOCK_SIZE > conn.seal_end:
        return 0
    return frames * frame


cdef bint seal_batch(Conn *conn, size_t size, size_t *written) noexcept nogil:
    """`size` bytes of the thread's plain block, as frames, into its cipher block."""
    cdef Thread *thread = conn.thread
    cdef Sealing work
    cdef size_t piece, at = 0
    written[0] = 0
    work.rekey = work.fin = False
    work.urgent = -1
    while at < size:
        piece = size - at
        work.others = conn.full_frame
        # The same rule as RecordSender._seal_some has.
        if conn.seal_at < conn.small_end:
            work.others = min(conn.small_frame, conn.full_frame)
            piece = min(piece, max(<size_t>(conn.small_end - conn.seal_at), work.others))
        work.first = work.others
        work.data = thread.plain + at
        work.data_len = piece
        work.out = thread.cipher + written[0]
        work.out_len = BLOCK_SIZE - written[0]
        if (<FrameSealer>conn.sealer).run(&work, conn.seal_at) != GO_ON:
            ERR_clear_error()
            return False
        conn.seal_at += work.written
        conn.frames += work.frames
        conn.frames_left -= work.frames
        written[0] += work.written
        at += work.consumed
        if work.consumed != piece:
            return False
    return True


cdef bint step_out(Conn *conn) noexcept nogil:
    """From the application to the peer, once.  False: nothing was to be done."""
    cdef Thread *thread = conn.thread
    cdef size_t most = BATCH, written
    cdef ssize_t got
    if conn.outgoing == CRYPT:
        most = most_to_seal(conn)
        if most == 0:
            come_back(conn, KEY_SPENT, 0)
            return False
    got = receive(&conn.inner, thread.plain, most)
    if not judge_read(conn, &conn.inner, got, most):
        return False
    conn.sent += got
    if conn.outgoing == COPY:
        return write_out(conn, &conn.outer, &thread.plain, got)
    if not seal_batch(conn, got, &written):
        come_back(conn, BROKEN, 0)
        return False
    return write_out(conn, &conn.outer, &thread.cipher, written)


cdef bint keep_wire(Conn *conn, const uint8_t *data, size_t size) noexcept nogil:
    """Keep the beginning of a frame, in as much memory as the whole frame takes."""
    cdef Kept *wire = &conn.wire
    wire.size = WHOLE_FRAME
    if size >= HEADER_LEN:
        wire.size = HEADER_LEN + ((<size_t>data[1] << 8) | data[2])
    wire.size = max(wire.size, size)
    wire.block = <uint8_t *>malloc(wire.size)
    if wire.block == NULL:
        wire.size = 0
        return False
    memcpy(wire.block, data, size)
    wire.begin = 0
    wire.end = size
    return True


cdef int open_batch(
    Conn *conn, const uint8_t *wire, size_t size, size_t *consumed, size_t *written,
) noexcept nogil:
    """Open frames behind `written` in the thread's plain block.

    NEED_MORE: all that were whole.  Anything else is for Python to see, from
    the frame on at which it stopped, which counts as not consumed: FINp, URGp,
    a new key, a fault.
    """
    cdef Opening work
    cdef int stop
    work.wire = wire
    work.wire_len = size
    work.out = conn.thread.plain + written[0]
    work.out_len = BLOCK_SIZE - written[0]
    work.accept_rekey = False
    stop = (<FrameOpener>conn.opener).run(&work, conn.open_at)
    if stop == FIN or stop == URGENT:
        work.consumed -= conn.overhead + work.last + (URGENT_LEN if work.urgent >= 0 else 0)
        OPENSSL_cleanse(work.out + work.written - work.last, work.last)
        work.written -= work.last
    elif stop == BAD_TAG or stop == EVP_FAILED:
        ERR_clear_error()
    conn.open_at += work.consumed
    conn.opened += work.written
    conn.received += work.written
    consumed[0] = work.consumed
    written[0] += work.written
    return stop


cdef bint step_in(Conn *conn) noexcept nogil:
    """From the peer to the application, once.  False: nothing was to be done."""
    cdef Thread *thread = conn.thread
    cdef Kept *wire = &conn.wire
    cdef iovec parts[2]
    cdef size_t wanted, used, at = 0, written = 0, rest
    cdef ssize_t got
    cdef int stop = NEED_MORE
    if conn.incoming == WATCH:
        come_back(conn, STIRRED, 0)
        return False
    if conn.incoming == COPY:
        got = receive(&conn.outer, thread.plain, BATCH)
        if not judge_read(conn, &conn.outer, got, BATCH):
            return False
        conn.received += got
        return write_out(conn, &conn.inner, &thread.plain, got)
    # First what completes the frame that has begun, then whatever follows it.
    # A header of which a part has come counts as following.
    if kept_len(wire) >= HEADER_LEN:
        parts[0].iov_base = wire.block + wire.end
        parts[0].iov_len = wire.size - wire.end
    else:
        rest = kept_len(wire)
        if rest:
            memcpy(thread.cipher, wire.block + wire.begin, rest)
        parts[0].iov_base = thread.cipher
        parts[0].iov_len = 0
        at = rest
    parts[1].iov_base = thread.cipher + at
    parts[1].iov_len = BATCH
    wanted = parts[0].iov_len + parts[1].iov_len
    while True:
        got = readv(conn.outer.fd, parts, 2)
        if got >= 0 or errno != EINTR:
            break
    if not judge_read(conn, &conn.outer, got, wanted):
        return False
    if parts[0].iov_len:
        used = min(<size_t>got, parts[0].iov_len)
        wire.end += used
        got -= used
        if wire.end < wire.size:
            return True
        stop = open_batch(conn, wire.block, wire.end, &used, &written)
        if stop == NEED_MORE:
            free(wire.block)
            keep_nothing(wire)
    elif wire.block != NULL:
        free(wire.block)
        keep_nothing(wire)
    at += got
    used = 0
    if stop == NEED_MORE:
        stop = open_batch(conn, thread.cipher, at, &used, &written)
    if at > used and not retain(conn, thread.cipher + used, at - used):
        come_back(conn, BROKEN, ENOMEM)
        return False
    if not write_out(conn, &conn.inner, &thread.plain, written):
        return False
    if stop != NEED_MORE:
        come_back(conn, BROKEN if stop == EVP_FAILED else STIRRED, 0)
        return False
    return True


cdef bint retain(Conn *conn, const uint8_t *data, size_t size) noexcept nogil:
    """Keep wire bytes that were not opened, behind those that are kept already."""
    cdef Kept *wire = &conn.wire
    cdef uint8_t *grown
    if wire.block == NULL:
        return keep_wire(conn, data, size)
    grown = <uint8_t *>realloc(wire.block, wire.end + size)
    if grown == NULL:
        return False
    memcpy(grown + wire.end, data, size)
    wire.block = grown
    wire.end += size
    wire.size = wire.end
    return True


cdef bint look_for_error(Conn *conn, Side *side) noexcept nogil:
    """A socket that is not read reports its death here.  False: the flow came back."""
    cdef int error = 0
    cdef uint32_t size = sizeof(error)
    side.failed = False
    if getsockopt(side.fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0:
        error = errno
    if error:
        come_back(conn, failure(conn, side), error)
        return False
    return True


cdef bint serve(Conn *conn) noexcept nogil:
    """Move what can be moved, for one turn.  True: there is more to do."""
    cdef int turn
    cdef bint out, into
    if not flush(conn, &conn.outer) or not flush(conn, &conn.inner):
        return False
    for turn in range(TURN):
        if conn.wanted:
            return False
        out = into = False
        if conn.outgoing > WATCH and conn.inner.readable and conn.outer.out.block == NULL:
            out = step_out(conn)
            if conn.state != MOVING:
                return False
        if conn.incoming and conn.outer.readable and conn.inner.out.block == NULL:
            into = step_in(conn)
            if conn.state != MOVING:
                return False
        if not out and not into:
            break
    else:
        return True
    # Whoever is not read any more, now or ever, still has to be heard.
    if conn.inner.failed and not look_for_error(conn, &conn.inner):
        return False
    if conn.outer.failed:
        look_for_error(conn, &conn.outer)
    return False
