# What all streams keep: tcpcrypt/segment/memory.py, which says why.
# Included by _c_lanes.pyx.

cdef enum:
    WINDOW_MAX = 1 << 25
    WINDOW_MIN = 1 << 16


@final
@auto_pickle(False)
cdef class Memory:
    """The twin of `tcpcrypt.segment.memory.Memory`; what counts is what was allocated."""

    cdef public int64_t most
    cdef readonly int64_t taken
    cdef readonly uint64_t refused

    def __init__(self, int64_t most):
        self.most = most

    cdef inline bint is_full(self) noexcept:
        return self.taken >= self.most

    cdef inline bint is_half_full(self) noexcept:
        return self.taken >= self.most // 2

    @property
    def half_full(self):
        return self.is_half_full()

    @property
    def full(self):
        return self.is_full()

    cdef inline int64_t believed(self) noexcept:
        cdef int64_t left = max(self.most - self.taken, <int64_t>0)
        if left >= self.most - left:
            return WINDOW_MAX
        return max(<int64_t>(2.0 * left / self.most * WINDOW_MAX), <int64_t>WINDOW_MIN)

    @property
    def window(self):
        return self.believed()
