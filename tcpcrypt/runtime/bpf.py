"""Programs and maps of eBPF, by way of libbpf.

What is loaded belongs to the descriptors that this process has of it, and is
gone with the last of them: nothing is pinned.  Loading and attaching take
CAP_BPF and CAP_NET_ADMIN; maps can be used by whoever has their descriptors
(since Linux 5.19, whatever `kernel.unprivileged_bpf_disabled` says).
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from typing import Any, Final

from tcpcrypt.errors import LocalError

__all__ = ["BpfObject", "delete", "library", "lookup", "update"]

_LIBRARY: Final = "libbpf.so.1"
_HANDLES: Final = (
    "bpf_object__open_mem",
    "bpf_object__find_program_by_name",
    "bpf_program__attach_cgroup",
)
"""Functions that return a pointer, None with errno where they fail."""


class BpfObject:
    """What one object file holds, loaded into the kernel.  Raises `LocalError`."""

    def __init__(self, image: bytes) -> None:
        self._lib = library()
        self._link: int | None = None
        self._object: int | None = self._lib.bpf_object__open_mem(
            image, ctypes.c_size_t(len(image)), None
        )
        if not self._object:
            raise LocalError(f"BPF object cannot be read: {_reason()}")
        result = self._lib.bpf_object__load(ctypes.c_void_p(self._object))
        if result:
            self.close()
            raise LocalError(f"the kernel does not take the BPF program: {os.strerror(-result)}")

    def map(self, name: str) -> int:
        """The descriptor of a map; it lives as long as this object."""
        number: int = self._lib.bpf_object__find_map_fd_by_name(
            ctypes.c_void_p(self._object), name.encode()
        )
        if number < 0:
            raise LocalError(f"BPF object has no map {name}")
        return number

    def attach(self, name: str, cgroup: int) -> None:
        """Have a program run for the sockets of a control group, until `close`."""
        program = self._lib.bpf_object__find_program_by_name(
            ctypes.c_void_p(self._object), name.encode()
        )
        if not program:
            raise LocalError(f"BPF object has no program {name}")
        self._link = self._lib.bpf_program__attach_cgroup(ctypes.c_void_p(program), cgroup)
        if not self._link:
            raise LocalError(f"BPF program cannot be attached to the control group: {_reason()}")

    def close(self) -> None:
        """Idempotent."""
        link, self._link = self._link, None
        if link:
            self._lib.bpf_link__destroy(ctypes.c_void_p(link))
        loaded, self._object = self._object, None
        if loaded:
            self._lib.bpf_object__close(ctypes.c_void_p(loaded))


def update(table: int, key: bytes, value: bytes) -> None:
    """Put an entry into a map.  Raises `OSError`."""
    _check(library().bpf_map_update_elem(table, key, value, ctypes.c_uint64(0)))


def lookup(table: int, key: bytes, size: int) -> bytes | None:
    """The value of `size` bytes that a map has for `key`; None if there is none.

    Raises `OSError`.
    """
    value = ctypes.create_string_buffer(size)
    result = library().bpf_map_lookup_elem(table, key, value)
    if result == -errno.ENOENT:
        return None
    _check(result)
    return value.raw


def delete(table: int, key: bytes) -> None:
    """Take an entry out of a map, if it is there.  Raises `OSError`."""
    result = library().bpf_map_delete_elem(table, key)
    if result != -errno.ENOENT:
        _check(result)


@functools.cache
def library() -> Any:
    """Libbpf.  Raises `LocalError` if it is not there."""
    try:
        found = ctypes.CDLL(_LIBRARY, use_errno=True)
    except OSError:
        raise LocalError(f"{_LIBRARY} is not installed (Debian: libbpf1)") from None
    for name in _HANDLES:
        getattr(found, name).restype = ctypes.c_void_p
    found.libbpf_set_print(None)  # what goes wrong is told by us
    return found


def _check(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result))


def _reason() -> str:
    return os.strerror(ctypes.get_errno())
