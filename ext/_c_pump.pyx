"""The pump: threads that move the bytes of connections without Python.

Python negotiates, exchanges keys and ends connections; what lies in between is
most of the bytes and none of the decisions.  For that time a connection is
lent to the pump, as a `Flow`.

Threads.  Each thread has an epoll and two blocks of memory, and serves the
flows that it was given, without the GIL, until it is told to stop.  A flow
stays with its thread; it goes to the one that has fewest.  Threads start with
the first flow, so that a process which never needs them (a parent, a test) has
none, and what a process gives up before that binds them too.

Ownership.  Descriptors stay Python's: it lends two, and closes neither before
it has them back.  Keys stay in the `FrameSealer` and `FrameOpener` that Python
made; while they are lent they are busy, so that neither a second sealing at
the same offset nor a wipe can come about.  Blocks are the pump's.  What is
kept for a flow (bytes that a socket did not take, the beginning of a frame) is
the flow's, and goes to Python with it.  A flow that is idle keeps nothing.

Directions.  Each of the two is in one of four states, for as long as it is lent:

    OFF     it is over: nothing is read, and only the death of the socket noticed
    WATCH   incoming alone: whatever arrives is for Python to look at
    COPY    bytes pass as they are; both directions of a plain connection
    CRYPT   outgoing bytes are sealed, incoming ones opened

An encrypted connection has no COPY: `lend` refuses it.  A direction reads only
when the other socket has taken all that was read before.  So one batch at most
waits on each side, and a slow receiver slows its sender down.

Edges.  Sockets are watched once, for edges, and never again.  `readable` keeps
what an edge said until a read finds nothing or less than it asked for.  Two
things make a short read no proof: urgent data, at which a read stops, and the
end, of which no further edge tells; `drain` then asks for reads up to EAGAIN.

What comes back, and when.  A flow comes back when there is something that
Python decides: a stream ended, a socket failed, a key is spent, libcrypto or
memory failed, or a frame came that is more than data (FINp, URGp, the rekey
bit) or is no frame at all.  Such a frame is handed over unopened, as it came,
with all that follows it, so that there is one place where its meaning is
decided, `tcpcrypt.core`.  Bytes of frames before it were authenticated and are
delivered.  The flow is put on a list, and the first one there rings the bell
(an eventfd); `collect` takes all of them.  Python can also `recall` a flow at
any time.

Locks.  A flow has a lock, held while its thread serves it and while Python
takes it back; `Shared` has one for the lists.  A flow's memory is used again
and never freed while the pump lives, so that an event which a thread had
fetched already, for a flow that has gone, finds a lock and a state, and at
worst a readable socket that is not.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from cython cimport final
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy

import os

from libcrypto cimport ERR_clear_error, OPENSSL_cleanse
from tcpcrypt._fast._c_frames cimport (
    BAD_TAG, CIPHERTEXT_MAX, EVP_FAILED, FIN, FLAGS_LEN, GO_ON, HEADER_LEN, NEED_MORE, URGENT,
    URGENT_LEN, FrameOpener, FrameSealer, Opening, Sealing,
)

include "pump_system.pxi"
include "pump_flow.pxi"
include "pump_steps.pxi"
include "pump_thread.pxi"

FLOW_OFF, FLOW_WATCH, FLOW_COPY, FLOW_CRYPT = OFF, WATCH, COPY, CRYPT
FLOW_RECALLED, FLOW_INNER_ENDED, FLOW_OUTER_ENDED = RECALLED, INNER_ENDED, OUTER_ENDED
FLOW_INNER_FAILED, FLOW_OUTER_FAILED = INNER_FAILED, OUTER_FAILED
FLOW_STIRRED, FLOW_KEY_SPENT, FLOW_BROKEN = STIRRED, KEY_SPENT, BROKEN

cdef enum:
    THREADS_MAX = 64


cdef bytes _take_kept(Kept *kept):
    data = PyBytes_FromStringAndSize(<char *>kept.block + kept.begin, kept_len(kept))
    free(kept.block)
    keep_nothing(kept)
    return data


@final
cdef class Flow:
    """A connection that was lent to a pump; see the stub."""

    cdef Pump pump
    cdef Conn *conn
    cdef FrameSealer sealer
    cdef FrameOpener opener
    cdef uint64_t final_sent
    cdef uint64_t final_received

    def __init__(self):
        raise TypeError("a flow is made by Pump.lend")

    @property
    def sent(self):
        return self.conn.sent if self.conn != NULL else self.final_sent

    @property
    def received(self):
        return self.conn.received if self.conn != NULL else self.final_received

    def recall(self):
        """Take the flow back; see the stub."""
        cdef Conn *conn = self.conn
        cdef Thread *thread
        cdef int epoll
        if conn == NULL:
            raise RuntimeError("flow has come back already")
        conn.wanted = True
        with nogil:
            pthread_mutex_lock(&conn.lock)
        if self.conn != conn:
            pthread_mutex_unlock(&conn.lock)
            raise RuntimeError("flow has come back already")
        if conn.state == MOVING:
            conn.state = RETURNED
            conn.reason = RECALLED
            conn.error = 0
            epoll = conn.thread.epoll
            epoll_ctl(epoll, EPOLL_CTL_DEL, conn.inner.fd, NULL)
            epoll_ctl(epoll, EPOLL_CTL_DEL, conn.outer.fd, NULL)
        else:
            self.pump.unlist(conn)
        pthread_mutex_unlock(&conn.lock)
        return self.take()

    cdef tuple take(self):
        """What the flow brings back; its memory is free from here on."""
        cdef Conn *conn = self.conn
        cdef Shared *shared = &self.pump.shared
        pthread_mutex_lock(&conn.lock)
        result = (
            conn.reason, conn.error, conn.sent, conn.received,
            conn.seal_at, conn.frames, conn.open_at, conn.opened,
            _take_kept(&conn.wire), _take_kept(&conn.inner.out), _take_kept(&conn.outer.out),
        )
        self.final_sent, self.final_received = conn.sent, conn.received
        conn.thread.flows -= 1
        conn.sealer = conn.opener = NULL
        conn.state = FREE
        # A thread that still has it in its list puts it to the free ones itself.
        if not conn.queued:
            release(shared, conn)
        pthread_mutex_unlock(&conn.lock)
        self.conn = NULL
        if self.sealer is not None:
            self.sealer.busy = False
        if self.opener is not None:
            self.opener.busy = False
        self.sealer = None
        self.opener = None
        Py_DECREF(self)
        return result


@final
cdef class Pump:
    """Threads that move bytes; see the stub."""

    cdef Shared shared
    cdef Thread threads[THREADS_MAX]
    cdef int count
    cdef int owner
    cdef bint closed

    def __cinit__(self, int threads=1):
        cdef int index
        self.shared.bell = -1
        self.closed = True
        if not 1 <= threads <= THREADS_MAX:
            raise ValueError("a pump has 1 to 64 threads")
        if pthread_mutex_init(&self.shared.lock, NULL) != 0:
            raise MemoryError
        self.count = threads
        self.owner = getpid()
        for index in range(threads):
            self.threads[index].epoll = self.threads[index].wake = -1
            self.threads[index].shared = &self.shared
        self.shared.bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.shared.bell < 0:
            raise OSError(errno, os.strerror(errno))
        self.closed = False

    def fileno(self):
        """Readable when flows came back."""
        return self.shared.bell

    def lend(
        self, int inner, int outer, *, int outgoing, int incoming,
        FrameSealer sealer=None, seal_at=0, seal_end=0, frames_left=0,
        small_end=0, size_t small_frame=0, size_t full_frame=0,
        FrameOpener opener=None, open_at=0, wire=b"",
    ):
        """Lend a connection; see the stub."""
        cdef Py_buffer begun
        cdef Conn *conn
        cdef Thread *thread
        cdef Flow flow
        cdef size_t tag_len = 0
        cdef int error
        if self.closed or getpid() != self.owner:
            raise RuntimeError("pump is closed")
        if outgoing not in (OFF, COPY, CRYPT) or incoming not in (OFF, WATCH, COPY, CRYPT):
            raise ValueError("unknown state of a direction")
        if (outgoing == CRYPT) != (sealer is not None) or (
                incoming == CRYPT) != (opener is not None):
            raise ValueError("CRYPT takes a key, and nothing else does")
        if COPY in (outgoing, incoming) and (CRYPT in (outgoing, incoming) or incoming == WATCH):
            raise ValueError("a connection is encrypted or it is not")
        if sealer is not None:
            tag_len = sealer.tag_len
            if not (0 < small_frame <= CIPHERTEXT_MAX - FLAGS_LEN - tag_len
                    and 0 < full_frame <= CIPHERTEXT_MAX - FLAGS_LEN - tag_len):
                raise ValueError("no frame can hold that many data bytes")
        if opener is not None:
            tag_len = opener.tag_len
        # Far from the end of any stream, so that no sum overflows.
        for offset in (seal_at, open_at):
            if not 0 <= offset < 1 << 62:
                raise ValueError("stream offset is out of range")
        conn = self.new_conn()
        flow = Flow.__new__(Flow)
        PyObject_GetBuffer(wire, &begun, PyBUF_SIMPLE)
        try:
            conn.seal_at, conn.seal_end = seal_at, min(seal_end, 1 << 62)
            conn.frames_left, conn.small_end = min(frames_left, 1 << 62), min(small_end, 1 << 62)
            conn.open_at = open_at
            thread = self.least()
            if not thread.started:
                error = start(thread)
                if error:
                    raise OSError(error, os.strerror(error))
            if begun.len:
                if not keep_wire(conn, <const uint8_t *>begun.buf, begun.len):
                    raise MemoryError
                if conn.wire.size == <size_t>begun.len or incoming != CRYPT:
                    raise ValueError("wire is more than the beginning of a frame")
            if sealer is not None:
                sealer.enter()
            if opener is not None:
                try:
                    opener.enter()
                except BaseException:
                    if sealer is not None:
                        sealer.busy = False
                    raise
        except BaseException:
            free(conn.wire.block)
            keep_nothing(&conn.wire)
            release(&self.shared, conn)
            raise
        finally:
            PyBuffer_Release(&begun)
        conn.sealer, conn.opener = <void *>sealer, <void *>opener
        conn.small_frame, conn.full_frame = small_frame, full_frame
        conn.overhead = HEADER_LEN + FLAGS_LEN + tag_len
        conn.outgoing, conn.incoming = outgoing, incoming
        conn.inner.fd, conn.outer.fd = inner, outer
        conn.thread = thread
        flow.pump, flow.conn, flow.sealer, flow.opener = self, conn, sealer, opener
        conn.flow = <PyObject *>flow
        Py_INCREF(flow)
        self.watch(flow)
        return flow

    cdef int watch(self, Flow flow) except -1:
        """Begin.  The lock is held, so that no edge is served between the two."""
        cdef Conn *conn = flow.conn
        cdef Thread *thread = conn.thread
        cdef int error = 0
        pthread_mutex_lock(&conn.lock)
        conn.state = MOVING
        thread.flows += 1
        if not watch_side(thread, &conn.inner) or not watch_side(thread, &conn.outer):
            error = errno
            epoll_ctl(thread.epoll, EPOLL_CTL_DEL, conn.inner.fd, NULL)
            conn.state = RETURNED
        pthread_mutex_unlock(&conn.lock)
        if error:
            flow.take()
            raise OSError(error, os.strerror(error))
        return 0

    cdef Conn *new_conn(self) except NULL:
        cdef Conn *conn
        pthread_mutex_lock(&self.shared.lock)
        conn = self.shared.free
        if conn != NULL:
            self.shared.free = conn.after
        pthread_mutex_unlock(&self.shared.lock)
        if conn == NULL:
            conn = <Conn *>calloc(1, sizeof(Conn))
            if conn == NULL:
                raise MemoryError
            if pthread_mutex_init(&conn.lock, NULL) != 0:
                free(conn)
                raise MemoryError
            conn.inner.conn = conn.outer.conn = conn
            pthread_mutex_lock(&self.shared.lock)
            conn.every = self.shared.every
            self.shared.every = conn
            pthread_mutex_unlock(&self.shared.lock)
        clear(conn)
        return conn

    cdef Thread *least(self) noexcept:
        """The thread with fewest flows."""
        cdef int index
        cdef Thread *best = &self.threads[0]
        for index in range(1, self.count):
            if self.threads[index].flows < best.flows:
                best = &self.threads[index]
        return best

    cdef void unlist(self, Conn *conn) noexcept:
        """Take it from the list of those that came back, if it is there still."""
        cdef Conn **place
        pthread_mutex_lock(&self.shared.lock)
        place = &self.shared.returned
        while place[0] != NULL:
            if place[0] == conn:
                place[0] = conn.after
                break
            place = &place[0].after
        pthread_mutex_unlock(&self.shared.lock)

    def collect(self):
        """The flows that came back; see the stub."""
        cdef Conn *conn
        cdef Conn *following
        cdef uint64_t count
        cdef Flow flow
        eventfd_read(self.shared.bell, &count)
        pthread_mutex_lock(&self.shared.lock)
        conn = self.shared.returned
        self.shared.returned = NULL
        pthread_mutex_unlock(&self.shared.lock)
        found = []
        while conn != NULL:
            following = conn.after
            flow = <Flow>conn.flow
            found.append((flow, flow.take()))
            conn = following
        return found

    @property
    def flows(self):
        """How many each thread has."""
        return tuple([self.threads[index].flows for index in range(self.count)])

    def close(self):
        """Stop the threads.  Idempotent; see the stub."""
        cdef int index
        cdef Thread *thread
        if self.closed:
            return
        self.closed = True
        for index in range(self.count):
            thread = &self.threads[index]
            # A child of a fork has the descriptors and not the threads.
            if thread.started and getpid() == self.owner:
                thread.stopping = True
                eventfd_write(thread.wake, 1)
                with nogil:
                    pthread_join(thread.thread, NULL)
            thread.started = False
            discard(thread)
        close(self.shared.bell)
        self.shared.bell = -1

    def __dealloc__(self):
        # No flow is left here: each refers to its pump.
        cdef Conn *conn = self.shared.every
        cdef Conn *following
        if not self.closed:
            self.close()
        while conn != NULL:
            following = conn.every
            pthread_mutex_destroy(&conn.lock)
            free(conn)
            conn = following


def make_pump(int threads):
    """A pump; see the stub."""
    return Pump(threads)
