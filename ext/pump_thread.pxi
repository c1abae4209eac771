# A thread of the pump: what it waits for and in which order it serves.
# Included by _c_pump.pyx.

cdef enum:
    EVENTS_MAX = 128


cdef void clear(Conn *conn) noexcept nogil:
    """All but the lock and the place in the list of every one.

    Under the lock, for a thread may still have an event of the flow before.
    """
    pthread_mutex_lock(&conn.lock)
    conn.state = conn.reason = conn.error = FREE
    conn.wanted = 0
    conn.queued = False
    conn.thread = NULL
    conn.ready_after = conn.after = NULL
    conn.flow = NULL
    clear_side(&conn.inner)
    clear_side(&conn.outer)
    conn.outgoing = conn.incoming = OFF
    conn.sealer = conn.opener = NULL
    conn.seal_at = conn.seal_end = conn.small_end = conn.frames = conn.frames_left = 0
    conn.open_at = conn.opened = 0
    conn.sent = 0
    conn.received = 0
    keep_nothing(&conn.wire)
    pthread_mutex_unlock(&conn.lock)


cdef void clear_side(Side *side) noexcept nogil:
    side.fd = -1
    side.readable = side.drain = side.failed = False
    keep_nothing(&side.out)


cdef void release(Shared *shared, Conn *conn) noexcept nogil:
    """Put it to the free ones."""
    pthread_mutex_lock(&shared.lock)
    conn.after = shared.free
    shared.free = conn
    pthread_mutex_unlock(&shared.lock)


cdef bint watch_side(Thread *thread, Side *side) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLET
    event.data.ptr = side
    return epoll_ctl(thread.epoll, EPOLL_CTL_ADD, side.fd, &event) == 0


cdef int start(Thread *thread) noexcept nogil:
    """Make what the thread works with, and start it; 0 or an errno."""
    cdef epoll_event event
    cdef int error = ENOMEM
    thread.stopping = False
    thread.ready = thread.ready_last = NULL
    thread.epoll = epoll_create1(EPOLL_CLOEXEC)
    thread.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    thread.plain = <uint8_t *>malloc(BLOCK_SIZE)
    thread.cipher = <uint8_t *>malloc(BLOCK_SIZE)
    event.events = EPOLLIN
    event.data.ptr = NULL
    if thread.plain != NULL and thread.cipher != NULL:
        if (thread.epoll < 0 or thread.wake < 0
                or epoll_ctl(thread.epoll, EPOLL_CTL_ADD, thread.wake, &event) != 0):
            error = errno
        else:
            error = start_thread(&thread.thread, run, thread)
            if error == 0:
                thread.started = True
                return 0
    discard(thread)
    return error


cdef void discard(Thread *thread) noexcept nogil:
    """Give back what `start` made.  The thread does not run."""
    if thread.epoll >= 0:
        close(thread.epoll)
    if thread.wake >= 0:
        close(thread.wake)
    thread.epoll = thread.wake = -1
    free(thread.plain)
    free(thread.cipher)
    thread.plain = thread.cipher = NULL
    while thread.spares:
        thread.spares -= 1
        free(thread.spare[thread.spares])


cdef void queue(Thread *thread, Conn *conn) noexcept nogil:
    """Serve it again once all others had their turn."""
    conn.queued = True
    conn.ready_after = NULL
    if thread.ready == NULL:
        thread.ready = conn
    else:
        thread.ready_last.ready_after = conn
    thread.ready_last = conn


cdef void notice(Thread *thread, Side *side, uint32_t events) noexcept nogil:
    """An edge of one socket."""
    cdef Conn *conn = side.conn
    pthread_mutex_lock(&conn.lock)
    if conn.state == MOVING and conn.thread == thread:
        if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            side.readable = True
        if events & (EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            side.drain = True
        if events & (EPOLLHUP | EPOLLERR):
            side.failed = True
        # Those in the list have their turn soon, and not before their turn.
        if not conn.queued and serve(conn) and conn.state == MOVING:
            queue(thread, conn)
    pthread_mutex_unlock(&conn.lock)


cdef void serve_next(Thread *thread) noexcept nogil:
    """The first of the list."""
    cdef Conn *conn = thread.ready
    thread.ready = conn.ready_after
    pthread_mutex_lock(&conn.lock)
    conn.queued = False
    if conn.state == FREE:
        release(thread.shared, conn)
    elif conn.state == MOVING and serve(conn) and conn.state == MOVING:
        queue(thread, conn)
    pthread_mutex_unlock(&conn.lock)


cdef void *run(void *argument) noexcept nogil:
    cdef Thread *thread = <Thread *>argument
    cdef Conn *last
    cdef epoll_event events[EVENTS_MAX]
    cdef int count, index
    while not thread.stopping:
        count = epoll_wait(thread.epoll, events, EVENTS_MAX, -1 if thread.ready == NULL else 0)
        for index in range(count):
            if events[index].data.ptr != NULL:
                notice(thread, <Side *>events[index].data.ptr, events[index].events)
        # Each that was there before, once.
        last = thread.ready_last
        while thread.ready != NULL:
            if thread.ready == last:
                serve_next(thread)
                break
            serve_next(thread)
    return NULL
