"""RFC 8548 section 8: key material in one place, which libcrypto cleanses.

The bytes lie outside of every Python object, so that none of them is left in
what the interpreter frees, and never move.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.memoryview cimport PyMemoryView_FromObject
from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset

from libcrypto cimport OPENSSL_cleanse


cdef enum _Lent:
    NOT_LENT
    READ_ONLY
    WRITABLE


# Cython would make `__reduce__`, which reads as a string what has no end, and
# `__setstate__`, which takes a string's address for that of the bytes.
@cython.auto_pickle(False)
cdef class Octets:
    """Bytes that are overwritten when they are no longer needed; see the stub."""

    cdef uint8_t *_octets
    cdef Py_ssize_t _size
    cdef _Lent _lent
    cdef readonly bint wiped

    def __init__(self, octets):
        cdef Py_buffer source
        PyObject_GetBuffer(octets, &source, PyBUF_SIMPLE)
        try:
            self._allocate(source.len)
            memcpy(self._octets, source.buf, source.len)
        finally:
            PyBuffer_Release(&source)

    cdef int _allocate(self, Py_ssize_t size) except -1:
        if self._octets != NULL:
            raise RuntimeError("secret is there already")
        if self.wiped:
            raise RuntimeError("secret was wiped")
        if size < 0:
            raise ValueError("a secret has no negative length")
        self._octets = <uint8_t *>PyMem_Malloc(size if size else 1)
        if self._octets == NULL:
            raise MemoryError
        self._size = size
        return 0

    def fill(self, Py_ssize_t length, write, tuple arguments not None):
        """Take the bytes that `write(*arguments, buffer)` writes in place; see the stub."""
        self._allocate(length)
        memset(self._octets, 0, length)
        write(*arguments, self._lend(WRITABLE))

    cdef object _lend(self, _Lent how):
        if self.wiped or self._octets == NULL:
            raise RuntimeError("secret was wiped")
        self._lent = how
        try:
            return PyMemoryView_FromObject(self)
        finally:
            self._lent = NOT_LENT

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        # Not to whoever asks: `bytes` would copy it, and a `bytearray` on the left of `==`
        # compare it, byte by byte up to the first that differs.
        if self._lent == NOT_LENT:
            raise TypeError("a secret is no buffer: take its view")
        PyBuffer_FillInfo(
            buffer, self, self._octets, self._size, self._lent == READ_ONLY, flags)

    def view(self):
        """The bytes, read-only; see the stub."""
        return self._lend(READ_ONLY)

    def wipe(self):
        """Overwrite the bytes with zeros; see the stub."""
        self._overwrite()

    cdef void _overwrite(self) noexcept:
        if self._octets != NULL and not self.wiped:
            OPENSSL_cleanse(self._octets, self._size)
        self.wiped = True

    def __len__(self):
        return self._size

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self._overwrite()

    def __dealloc__(self):
        # Views refer to this object, so that there is none left.  Also what was wiped: who
        # fills it may have written since.
        if self._octets != NULL:
            OPENSSL_cleanse(self._octets, self._size)
            PyMem_Free(self._octets)
