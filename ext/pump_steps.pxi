# The steps that move the bytes of a connection, and the order in which they come.
# No GIL here.  Included by _c_pump.pyx.


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
