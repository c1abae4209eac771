"""Callers' buffers as flat memoryviews, with the faults that the C twin has."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from tcpcrypt._fast._py_octets import Octets

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = ["overlap", "readable", "writable"]


def readable(buffer: ReadableBuffer | Octets) -> memoryview:
    """`buffer` as bytes; `BufferError` if it is not contiguous."""
    view = buffer.view() if isinstance(buffer, Octets) else memoryview(buffer)
    if not view.c_contiguous:
        raise BufferError("buffer is not C-contiguous")
    return view.cast("B")


def writable(buffer: WriteableBuffer) -> memoryview:
    """`buffer` as bytes that can be written; `BufferError` if it is read-only."""
    view = readable(buffer)
    if view.readonly:
        raise BufferError("buffer is not writable")
    return view


class _PyBuffer(ctypes.Structure):
    """`Py_buffer` of the C API."""

    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


def _address(view: memoryview) -> int:
    # Two views can share memory through different exporters (two arrays on one
    # mapping), so only the address tells.
    buffer = _PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(buffer), 0)
    address = buffer.buf or 0
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))
    return address


def overlap(one: memoryview, other: memoryview) -> bool:
    """Whether two views share a byte of memory."""
    if not len(one) or not len(other):
        return False
    first, second = _address(one), _address(other)
    return first < second + len(other) and second < first + len(one)
