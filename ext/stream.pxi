# One direction of a connection: tcpcrypt/segment/{cells,stream}.py, which say why.
# Included by _c_lanes.pyx.

cdef struct Cell:
    int64_t app
    int64_t wire
    int64_t size
    int64_t header
    int64_t length


# Not cleared by the garbage collector, as `Reassembly`.
@final
@no_gc_clear
@auto_pickle(False)
cdef class Cells:
    """The twin of `tcpcrypt.segment.cells.Cells`."""

    cdef Memory memory
    cdef Cell *_cells
    cdef Py_ssize_t _first, _count, _room
    cdef readonly int64_t app_end
    cdef readonly int64_t wire_end

    def __init__(self, Memory memory not None):
        self.memory = memory

    def __dealloc__(self):
        self.release()

    cdef inline void release(self) noexcept:
        if self._cells != NULL:
            self.memory.taken -= self._room * <int64_t>sizeof(Cell)
            free(self._cells)
        self._cells = NULL
        self._first = self._count = self._room = 0

    def __len__(self):
        return self._count - self._first

    def add(self, int64_t size, int64_t header, int64_t length):
        self.more(1)
        self.put(size, header, length)

    cdef int more(self, Py_ssize_t number) except -1:
        """Make room for as many cells."""
        cdef Py_ssize_t room = self._room
        cdef Cell *cells
        if self._first and (self._first == self._count or 2 * self._first > self._count > 64):
            self._count -= self._first
            memmove(self._cells, self._cells + self._first, self._count * sizeof(Cell))
            self._first = 0
        if self._count + number <= room:
            return 0
        room = max(2 * room, self._count + number, 8)
        cells = <Cell *>realloc(self._cells, room * sizeof(Cell))
        if cells == NULL:
            raise MemoryError
        self.memory.taken += (room - self._room) * <int64_t>sizeof(Cell)
        self._cells, self._room = cells, room
        return 0

    cdef void put(self, int64_t size, int64_t header, int64_t length) noexcept:
        """A cell for which there is room."""
        cdef Cell *cell = self._cells + self._count
        cell.app, cell.wire = self.app_end, self.wire_end
        cell.size, cell.header, cell.length = size, header, length
        self._count += 1
        self.app_end += size
        self.wire_end += length

    cdef Py_ssize_t by_app(self, int64_t app) noexcept:
        """The last cell that begins at `app` or before it, or the one before the first."""
        cdef Py_ssize_t low = self._first, high = self._count, middle
        while low < high:
            middle = (low + high) // 2
            if self._cells[middle].app <= app:
                low = middle + 1
            else:
                high = middle
        return low - 1

    cdef Py_ssize_t by_wire(self, int64_t wire) noexcept:
        cdef Py_ssize_t low = self._first, high = self._count, middle
        while low < high:
            middle = (low + high) // 2
            if self._cells[middle].wire <= wire:
                low = middle + 1
            else:
                high = middle
        return low - 1

    cpdef int64_t wire_from(self, int64_t app) noexcept:
        cdef Py_ssize_t index
        cdef Cell *cell
        if app >= self.app_end or self._first == self._count:
            return self.wire_end + app - self.app_end
        index = self.by_app(app)
        if index < self._first:
            cell = self._cells + self._first
            return cell.wire - (cell.app - app)
        cell = self._cells + index
        return cell.wire + (cell.header + app - cell.app if app > cell.app else 0)

    cpdef int64_t wire_to(self, int64_t app) noexcept:
        cdef Py_ssize_t index
        cdef Cell *cell
        if app >= self.app_end or self._first == self._count:
            return self.wire_end + app - self.app_end
        index = self.by_app(app - 1)
        if index < self._first:
            cell = self._cells + self._first
            return cell.wire - (cell.app - app)
        cell = self._cells + index
        if app - cell.app == cell.size:
            return cell.wire + cell.length
        return cell.wire + cell.header + app - cell.app

    cpdef int64_t app_to(self, int64_t wire) noexcept:
        cdef Py_ssize_t index
        cdef Cell *cell
        if wire >= self.wire_end or self._first == self._count:
            return self.app_end + wire - self.wire_end
        index = self.by_wire(wire)
        if index < self._first:
            cell = self._cells + self._first
            return cell.app - (cell.wire - wire)
        cell = self._cells + index
        return cell.app + max(min(wire - cell.wire - cell.header, cell.size - 1), 0)

    cpdef int64_t app_from(self, int64_t wire) noexcept:
        cdef Py_ssize_t index
        cdef int64_t inside
        cdef Cell *cell
        if wire >= self.wire_end or self._first == self._count:
            return self.app_end + wire - self.wire_end
        index = self.by_wire(wire)
        if index < self._first:
            cell = self._cells + self._first
            return cell.app - (cell.wire - wire)
        cell = self._cells + index
        inside = wire - cell.wire
        if inside == 0 or not cell.size:
            return cell.app
        return cell.app + min(max(inside - cell.header, 1), cell.size)

    cpdef void forget(self, int64_t app, int64_t wire) noexcept:
        cdef Cell *cell
        while self._first < self._count:
            cell = self._cells + self._first
            if cell.app + cell.size > app or cell.wire + cell.length > wire:
                return
            self._first += 1
        # Nobody is to pay for what a connection needed once.
        self.release()


cdef enum:
    SLACK = 1 << 17
    FIRST_WINDOW = 1 << 16
    FIELD_MAX = 0xFFFF
    OVERHEAD = 20
    TAG_LEN = 16


# Not cleared by the garbage collector, as `Reassembly`.
@final
@no_gc_clear
@auto_pickle(False)
cdef class Stream:
    """The twin of `tcpcrypt.segment.stream.Stream`."""

    cdef Memory memory
    cdef readonly bint seals
    cdef readonly Reassembly input
    cdef readonly Cells cells
    cdef public int64_t largest, una, emitted, edge, widest, dataless, responsible, under_way
    cdef int64_t _fin           # negative: the source has not sent it
    cdef int64_t _sacked[2 * BLOCKS_MAX]
    cdef Py_ssize_t _sacked_count
    cdef uint8_t *_block
    cdef Py_ssize_t _size, _begin, _end
    cdef int64_t _kept_at, _told, _told_edge, _limit
    cdef bint lent

    def __init__(self, Memory memory not None, *, bint seals):
        self.memory = memory
        self.seals = seals
        self.input = Reassembly(memory)
        self.cells = Cells(memory)
        self.largest = 1400
        self.edge = FIRST_WINDOW
        self.widest = self._limit = FIRST_WINDOW + SLACK
        self._fin = -1

    @property
    def fin(self):
        return self._fin if self._fin >= 0 else None

    def __dealloc__(self):
        self.release()

    cdef inline void release(self) noexcept:
        """Nothing is kept."""
        if self._block != NULL:
            self.memory.taken -= self._size
            free(self._block)
        self._block = NULL
        self._size = self._begin = self._end = 0

    # --- what is kept ----------------------------------------------------------------

    cdef uint8_t *room(self, Py_ssize_t size) except NULL:
        """Memory for `size` bytes behind what is kept; they are kept by `keep`."""
        cdef Py_ssize_t live = self._end - self._begin, wanted
        cdef uint8_t *block
        if self._block != NULL and self._end + size <= self._size:
            return self._block + self._end
        if live + size <= self._size and 2 * live <= self._size:
            memmove(self._block, self._block + self._begin, live)
        else:
            wanted = 2 * (live + size) if live else max(size, 512)
            block = <uint8_t *>malloc(wanted)
            if block == NULL:
                raise MemoryError
            if live:
                memcpy(block, self._block + self._begin, live)
            self.release()
            self._block, self._size = block, wanted
            self.memory.taken += wanted
        self._begin, self._end = 0, live
        return self._block + live

    cdef inline void keep(self, Py_ssize_t size) noexcept:
        self._end += size

    cdef int _add(self, data) except -1:
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if view.len:
                memcpy(self.room(view.len), view.buf, view.len)
                self.keep(view.len)
        finally:
            PyBuffer_Release(&view)
        return 0

    # --- offsets -----------------------------------------------------------------------

    cdef inline int64_t _last(self) noexcept:
        return self._kept_at + self._end - self._begin

    @property
    def end(self):
        return self._last()

    cpdef int64_t output_from(self, int64_t offset) noexcept:
        return self.cells.wire_from(offset) if self.seals else self.cells.app_from(offset)

    cpdef int64_t output_to(self, int64_t offset) noexcept:
        return self.cells.wire_to(offset) if self.seals else self.cells.app_to(offset)

    cpdef int64_t input_to(self, int64_t offset) noexcept:
        return self.cells.app_to(offset) if self.seals else self.cells.wire_to(offset)

    @property
    def limit(self):
        return self._limit

    # --- input and output ----------------------------------------------------------------

    cdef inline bint takes_none(self, int64_t offset, int64_t stop) noexcept:
        """Whether there is no memory for what is new from `offset` to `stop`."""
        if offset > self.input.end and self.memory.is_half_full():
            return True
        return (self.memory.is_full() and self._end > self._begin and stop > self.input.end)

    def take(self, int64_t offset, data):
        if self.takes_none(offset, offset + len(memoryview(data))):
            self.memory.refused += 1
            return self.input.put(offset, data, self.input.end)
        return self.input.put(offset, data, self._limit)

    def sealed(self, int64_t data_len, frame):
        cdef int64_t length = len(memoryview(frame))
        self.cells.add(data_len, 0 if data_len else length, length)
        self._add(frame)
        if not data_len:
            self.responsible = self._last()
            self.dataless += 1

    def opened(self, pieces, int64_t length, *, int64_t tag_len=TAG_LEN):
        cdef int64_t data_len = 0, begun = self.cells.wire_end
        for piece in pieces:
            data_len += len(memoryview(piece))
        self.cells.add(data_len, length - tag_len - data_len if data_len else length, length)
        for piece in pieces:
            self._add(piece)
        if data_len and self._told > begun:
            self.responsible = self._last()
        if not data_len:
            self.cells.forget(self.una, self.cells.wire_end)

    def drop(self):
        self._kept_at = self._last()
        self.release()
        self.cells.release()
        self.input.drop_all()

    def finish(self, finp=b""):
        cdef int64_t length = len(memoryview(finp))
        self.cells.add(1, length, length + 1)
        self._add(finp)
        self.room(1)
        self.keep_fin()

    cdef inline void keep_fin(self) noexcept:
        """FIN behind what is kept, where there is room for it."""
        self._fin = self._last()
        self._block[self._end] = 0
        self.keep(1)
        self.input.end += 1

    cdef inline bint fin_arrived(self) noexcept:
        return self._fin >= 0 and self.una > self._fin

    cdef const uint8_t *kept(self, int64_t start) noexcept:
        return self._block + self._begin + (start - self._kept_at)

    def cut(self, int64_t start, int64_t stop):
        cdef bint fin = self._fin >= 0 and stop > self._fin
        cdef int64_t last = min(stop - 1 if fin else stop, self._last())
        if start < self._kept_at or last <= start:
            return b"", fin
        return PyBytes_FromStringAndSize(<const char *>self.kept(start), last - start), fin

    @property
    def sacked(self):
        cdef Py_ssize_t index
        return [(self._sacked[2 * index], self._sacked[2 * index + 1])
                for index in range(self._sacked_count)]

    def acknowledged(self, int64_t offset, int64_t edge, list blocks):
        cdef int64_t ranges[2 * BLOCKS_MAX]
        cdef Py_ssize_t count = 0
        if offset > self.emitted:
            return False
        for start, stop in blocks[:BLOCKS_MAX]:
            ranges[2 * count], ranges[2 * count + 1] = start, stop
            count += 1
        return self.hear(offset, edge, ranges, count)

    cdef bint hear(
        self, int64_t offset, int64_t edge, const int64_t *blocks, Py_ssize_t count
    ) noexcept:
        """An acknowledgement of what was sent, and SACK blocks; whether it is news."""
        cdef bint news
        cdef Py_ssize_t done, index
        edge = min(edge, max(offset + self.memory.believed(),
                             min(self.edge, offset + WINDOW_MAX)))
        news = offset > self.una or edge > self.edge or count > 0
        if offset >= self.una:
            self.edge = edge
            self.widest = max(self.widest, edge - offset + SLACK)
            if offset >= self.responsible:
                self.dataless = 0
            self._sacked_count = 0
            for index in range(count):
                if offset < blocks[2 * index] < blocks[2 * index + 1] <= self._last():
                    memcpy(self._sacked + 2 * self._sacked_count, blocks + 2 * index,
                           2 * sizeof(int64_t))
                    self._sacked_count += 1
        if offset > self.una:
            self.una = offset
            done = <Py_ssize_t>min(offset - self._kept_at, <int64_t>(self._end - self._begin))
            self._begin += done
            self._kept_at = offset
            if self._begin == self._end:
                self.release()
            if self.seals:
                self.cells.forget(self.cells.app_to(offset), offset)
            else:
                self.cells.forget(offset, self.cells.wire_end)
        return news

    cdef inline int64_t sendable_to(self) noexcept:
        cdef int64_t end = self._last()
        return end if self.seals else min(end, max(self.edge, self.emitted))

    @property
    def sendable(self):
        return self.sendable_to()

    cdef inline bint is_overdue(self) noexcept:
        return self.una < min(self.responsible, self.emitted)

    @property
    def overdue(self):
        return self.is_overdue()

    # --- what the source is told -----------------------------------------------------------

    cdef int64_t tell(self) except? -1:
        cdef int64_t done
        if self.una == self._last() and (self.seals or self.una == self.cells.app_end):
            if self.seals:
                done = self.cells.app_end
            else:
                done = self.input.end
        elif (self.input._count and not self.seals and self._fin < 0
                and self.emitted == self._last()):
            done = self.input.end
            self.responsible = self._last()
        else:
            done = self.input_to(self.una)
        self._told = max(self._told, done)
        return self._told

    @property
    def arrived(self):
        return self.tell()

    cpdef int window(self, int scale) except -1:
        cdef int64_t arrived = self.tell(), room, rest, fits, edge, field
        if self.seals:
            room = max(self.edge - self._last(), 0)
            rest = room % (self.largest + OVERHEAD) - OVERHEAD
            fits = room // (self.largest + OVERHEAD) * self.largest + max(rest, 0)
            edge = max(self._told_edge, self.cells.app_end + fits)
        else:
            room = self.edge - self.una
            edge = arrived
            if room > 0:
                edge = max(self.input_to(self.una) + room, arrived, self.under_way)
        self._told_edge = edge
        self._limit = max(self._limit, edge + SLACK)
        field = min((edge - arrived) >> scale, <int64_t>FIELD_MAX)
        if not field and edge > arrived and self.under_way > arrived:
            field = 1
        return <int>field

    def blocks(self):
        cdef int64_t found[4 * BLOCKS_MAX]
        cdef Py_ssize_t count = self.told_blocks(found), index
        return [(found[2 * index], found[2 * index + 1]) for index in range(count)]

    cdef Py_ssize_t told_blocks(self, int64_t *out) noexcept:
        """`blocks`, into memory for twice as many as an option has; how many there are."""
        cdef int64_t found[4 * BLOCKS_MAX]
        cdef int64_t begin, end
        cdef Py_ssize_t index, count = self.input.ranges(found, BLOCKS_MAX), told = 0
        for index in range(self._sacked_count):
            begin, end = self._sacked[2 * index], self._sacked[2 * index + 1]
            if self.seals:
                begin, end = self.cells.app_from(begin), self.cells.app_to(end)
            else:
                begin, end = self.cells.wire_from(begin), self.cells.wire_to(end)
            if begin < end:
                found[2 * count], found[2 * count + 1] = begin, end
                count += 1
        for index in range(count):
            if found[2 * index] > self._told:
                out[2 * told], out[2 * told + 1] = found[2 * index], found[2 * index + 1]
                told += 1
        return told
