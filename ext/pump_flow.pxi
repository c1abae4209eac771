# One connection in the pump: what is known of it, what is kept for it, its sockets.
# No GIL here.  Included by _c_pump.pyx.

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
    atomic_int wanted  # Python waits for the lock to take it back
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
    atomic_ullong sent
    atomic_ullong received


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
    atomic_int stopping
    int flows
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
