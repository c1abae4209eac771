# Bytes of a stream put in order: tcpcrypt/segment/reassembly.py, which says why.
# Included by _c_lanes.pyx.

cdef enum:
    PIECES_MAX = 4096
    # What malloc takes at least.
    PIECE_MIN = 32
    BLOCKS_MAX = 4


cdef struct Piece:
    int64_t start
    Py_ssize_t size
    Py_ssize_t room
    uint8_t *data


# Not cleared by the garbage collector, which would leave `__dealloc__` no memory to give back to.
@final
@no_gc_clear
@auto_pickle(False)
cdef class Reassembly:
    """The twin of `tcpcrypt.segment.reassembly.Reassembly`."""

    cdef Memory memory
    cdef public int64_t end
    cdef Piece *_pieces
    cdef Py_ssize_t _count, _room
    cdef int64_t _recent[BLOCKS_MAX]
    cdef Py_ssize_t _recent_count

    def __init__(self, Memory memory not None):
        self.memory = memory

    def __dealloc__(self):
        self.drop_all()

    cdef void drop_all(self) noexcept:
        """Nothing waits any more."""
        self._recent_count = 0
        if self._pieces != NULL:
            self.drop(0, self._count)

    @property
    def gaps(self):
        return self._count > 0

    @property
    def waiting(self):
        cdef Py_ssize_t index, found = 0
        for index in range(self._count):
            found += self._pieces[index].size
        return found

    def put(self, int64_t offset, data, int64_t limit):
        cdef Py_buffer view
        cdef const uint8_t *octets
        cdef int64_t size, skip, stop
        cdef bytes found
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            octets, size = <const uint8_t *>view.buf, view.len
            size = min(size, limit - offset)
            skip = max(self.end - offset, <int64_t>0)
            if size <= skip:
                return b""
            octets, size, offset = octets + skip, size - skip, offset + skip
            if offset > self.end:
                self.insert(offset, octets, size)
                return b""
            stop = self.reach(offset, size)
            found = PyBytes_FromStringAndSize(NULL, stop - offset)
            memcpy(<char *>found, octets, size)
            self.overlay(<uint8_t *><char *>found, offset + size)
            self.advance(stop)
            return found
        finally:
            PyBuffer_Release(&view)

    def blocks(self, Py_ssize_t most=BLOCKS_MAX):
        cdef int64_t found[2 * BLOCKS_MAX]
        cdef Py_ssize_t count = self.ranges(found, min(most, BLOCKS_MAX)), index
        return [(found[2 * index], found[2 * index + 1]) for index in range(count)]

    cdef int enlarge(self, Piece *piece, Py_ssize_t size) except -1:
        """Room for `size` bytes in all."""
        cdef Py_ssize_t room
        cdef uint8_t *longer
        if size <= piece.room:
            return 0
        room = max(size, 2 * piece.room, <Py_ssize_t>PIECE_MIN)
        longer = <uint8_t *>realloc(piece.data, room)
        if longer == NULL:
            raise MemoryError
        self.memory.taken += room - piece.room
        piece.data, piece.room = longer, room
        return 0

    # --- what waits ----------------------------------------------------------------------

    cdef Py_ssize_t after(self, int64_t offset) noexcept:
        """How many pieces begin at `offset` or before it."""
        cdef Py_ssize_t low = 0, high = self._count, middle
        while low < high:
            middle = (low + high) // 2
            if self._pieces[middle].start <= offset:
                low = middle + 1
            else:
                high = middle
        return low

    cdef int insert(self, int64_t offset, const uint8_t *data, Py_ssize_t size) except -1:
        """Data beyond `end` waits; not if it would be a piece too many."""
        cdef Py_ssize_t index = self.after(offset), known
        cdef Piece *piece
        cdef Piece made
        if index and self.stop(index - 1) >= offset:
            index -= 1
            piece = self._pieces + index
            known = self.stop(index) - offset
            if known < size:
                self.enlarge(piece, piece.size + size - known)
                memcpy(piece.data + piece.size, data + known, size - known)
                piece.size += size - known
        elif self._count < PIECES_MAX:
            self.more()
            memset(&made, 0, sizeof(made))
            made.start = offset
            self.enlarge(&made, size)
            memcpy(made.data, data, size)
            made.size = size
            piece = self._pieces + index
            memmove(piece + 1, piece, (self._count - index) * sizeof(Piece))
            piece[0] = made
            self._count += 1
        else:
            return 0
        self.join(index)
        self.note(offset, index)
        return 0

    cdef void note(self, int64_t offset, Py_ssize_t index) noexcept:
        """The piece that `offset` is in has grown last."""
        cdef int64_t recent[BLOCKS_MAX]
        cdef int64_t other
        cdef Py_ssize_t at, count = 1
        recent[0] = offset
        for at in range(self._recent_count):
            other = self._recent[at]
            if count < BLOCKS_MAX and not self._pieces[index].start <= other < self.stop(index):
                recent[count] = other
                count += 1
        memcpy(self._recent, recent, count * sizeof(int64_t))
        self._recent_count = count

    cdef inline int64_t stop(self, Py_ssize_t index) noexcept:
        return self._pieces[index].start + self._pieces[index].size

    cdef int more(self) except -1:
        """Room for one more piece."""
        cdef Py_ssize_t room
        cdef Piece *pieces
        if self._count < self._room:
            return 0
        room = max(2 * self._room, <Py_ssize_t>8)
        pieces = <Piece *>realloc(self._pieces, room * sizeof(Piece))
        if pieces == NULL:
            raise MemoryError
        self.memory.taken += (room - self._room) * <int64_t>sizeof(Piece)
        self._pieces, self._room = pieces, room
        return 0

    cdef int join(self, Py_ssize_t index) except -1:
        """A piece that has grown, with those that it touches now; what came first stays."""
        cdef Piece *piece = self._pieces + index
        cdef Piece *other
        cdef Py_ssize_t following = index + 1
        cdef int64_t stop = self.stop(index)
        while following < self._count and self._pieces[following].start <= stop:
            stop = max(stop, self.stop(following))
            following += 1
        if following == index + 1:
            return 0
        self.enlarge(piece, stop - piece.start)  # before anything is changed
        piece.size = stop - piece.start
        for other in self._pieces[index + 1:following]:
            memcpy(piece.data + (other.start - piece.start), other.data, other.size)
        self.drop(index + 1, following)
        return 0

    cdef void drop(self, Py_ssize_t begin, Py_ssize_t end) noexcept:
        cdef Py_ssize_t index
        for index in range(begin, end):
            self.memory.taken -= self._pieces[index].room
            free(self._pieces[index].data)
        self._count -= end - begin
        memmove(self._pieces + begin, self._pieces + end,
                (self._count - begin) * sizeof(Piece))
        if not self._count:
            # Nobody is to pay for what a connection needed once.
            self.memory.taken -= self._room * <int64_t>sizeof(Piece)
            free(self._pieces)
            self._pieces = NULL
            self._room = 0

    # --- what is in order ------------------------------------------------------------------

    cdef int64_t reach(self, int64_t offset, Py_ssize_t size) noexcept:
        """Up to where everything is there once `size` bytes at `offset`, not beyond `end`, are."""
        cdef Py_ssize_t index = 0
        cdef int64_t stop = offset + size
        while index < self._count and self._pieces[index].start <= stop:
            stop = max(stop, self.stop(index))
            index += 1
        return stop

    cdef void overlay(self, uint8_t *out, int64_t stop) noexcept:
        """What waited, over and behind that which is in `out` from `end` up to `stop`."""
        cdef Py_ssize_t index = 0
        cdef Piece *piece
        while index < self._count and self._pieces[index].start <= stop:
            piece = self._pieces + index
            memcpy(out + (piece.start - self.end), piece.data, piece.size)
            stop = max(stop, self.stop(index))
            index += 1

    cdef void advance(self, int64_t stop) noexcept:
        """Everything before `stop`, which `reach` has found, is given out."""
        cdef Py_ssize_t index = 0
        if self._count:
            while index < self._count and self._pieces[index].start < stop:
                index += 1
            if index:
                self.drop(0, index)
        self.end = stop

    cdef Py_ssize_t ranges(self, int64_t *found, Py_ssize_t most) noexcept:
        """`blocks`, into memory for `most` of them; how many there are."""
        cdef Py_ssize_t order[2 * BLOCKS_MAX]
        cdef Py_ssize_t at, index, count = 0
        for at in range(self._recent_count):
            index = self.after(self._recent[at]) - 1
            if index >= 0 and self._recent[at] < self.stop(index):
                count = self.told(order, count, index)
        for index in range(min(self._count, most)):
            count = self.told(order, count, index)
        count = min(count, max(most, <Py_ssize_t>0))
        for at in range(count):
            found[2 * at] = self._pieces[order[at]].start
            found[2 * at + 1] = self.stop(order[at])
        return count

    cdef Py_ssize_t told(self, Py_ssize_t *order, Py_ssize_t count, Py_ssize_t index) noexcept:
        """Put a piece behind others, once."""
        cdef Py_ssize_t at
        for at in range(count):
            if order[at] == index:
                return count
        order[count] = index
        return count + 1
