"""RFC 8548 section 3.5: the Python twin of the session cache.

Secrets lie in bytearrays, which are zeroed; keeping them out of core dumps and
swap takes the C twin's own memory.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tcpcrypt._fast._py_buffers import readable, writable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = ["SessionCache"]

_CAPACITY_MAX = 1 << 20
_PEER_MAX = 255
_SECRET_MAX = 64
_META_MAX = 128
_IDENTIFIERS_MAX = 16
_IDENTIFIER_LEN = 10


@dataclass(slots=True)
class _Record:
    peer: bytes
    identifiers: tuple[bytes, ...]
    secret: bytearray
    meta: bytes

    def wipe(self) -> None:
        self.secret[:] = bytes(len(self.secret))


class SessionCache:
    """A bounded table of one-use secrets; see the stub for the whole contract."""

    def __init__(self, capacity: int = 4096, per_peer: int = 4) -> None:
        if not 1 <= capacity <= _CAPACITY_MAX:
            raise ValueError("capacity is out of range")
        if not 1 <= per_peer <= _CAPACITY_MAX:
            raise ValueError("per_peer is out of range")
        self._capacity = capacity
        self._per_peer = per_peer
        self._last_handle = 0
        # Oldest first; an OrderedDict, whose first item is found in O(1) even
        # after many removals at the front.
        self._records: OrderedDict[int, _Record] = OrderedDict()
        self._peers: dict[bytes, OrderedDict[int, None]] = {}
        self._places: dict[bytes, tuple[int, int]] = {}
        self._lock = threading.RLock()
        self._pid = os.getpid()
        _live.add(self)

    def insert(
        self,
        peer: bytes,
        identifiers: tuple[bytes, ...],
        secret: ReadableBuffer,
        meta: bytes,
    ) -> int:
        """Add a record; returns its handle (never reused)."""
        raw = readable(secret)
        _check(peer, identifiers, meta)
        if len(raw) > _SECRET_MAX:
            raise ValueError("secret is too long")
        with self._entered():
            of_peer = self._peers.get(peer)
            if of_peer is not None and len(of_peer) >= self._per_peer:
                self._drop(next(iter(of_peer)))
            elif len(self._records) >= self._capacity:
                self._drop(next(iter(self._records)))
            self._last_handle += 1
            handle = self._last_handle
            self._records[handle] = _Record(peer, identifiers, bytearray(raw), meta)
            self._peers.setdefault(peer, OrderedDict())[handle] = None
            for position, identifier in enumerate(identifiers):
                self._places[identifier] = (handle, position)
            return handle

    def lookup(self, identifier: ReadableBuffer) -> tuple[int, int] | None:
        """`(handle, position of the identifier in its record)`, or None."""
        key = bytes(readable(identifier))
        with self._entered():
            return self._places.get(key)

    def newest(self, peer: bytes) -> int | None:
        """Handle of the record inserted last for `peer`, or None."""
        _check_bytes(peer)
        with self._entered():
            of_peer = self._peers.get(peer)
            return next(reversed(of_peer)) if of_peer else None

    def older(self, handle: int) -> int | None:
        """Handle of the record of the same peer inserted before that, or None."""
        with self._entered():
            record = self._records.get(_index(handle))
            if record is None:
                return None
            # Handles grow, and those of a peer stand in order of insertion.
            before = (own for own in reversed(self._peers[record.peer]) if own < handle)
            return next(before, None)

    def read(
        self, handle: int, secret: WriteableBuffer
    ) -> tuple[bytes, tuple[bytes, ...], bytes] | None:
        """Copy the secret out; `(peer, identifiers, meta)`, None if it is gone."""
        target = writable(secret)
        with self._entered():
            record = self._records.get(_index(handle))
            if record is None:
                return None
            if len(target) != len(record.secret):
                raise ValueError("secret has another length")
            target[:] = record.secret
            return record.peer, record.identifiers, record.meta

    def remove(self, handle: int) -> bool:
        """Remove one record; False if it is gone already."""
        with self._entered():
            return self._drop(_index(handle))

    def remove_peer(self, peer: bytes) -> int:
        """Remove all records of `peer`; returns how many."""
        _check_bytes(peer)
        with self._entered():
            handles = list(self._peers.get(peer, ()))
            for handle in handles:
                self._drop(handle)
            return len(handles)

    def handles(self) -> list[int]:
        """Handles of all records, in order of insertion."""
        with self._entered():
            return list(self._records)

    def clear(self) -> int:
        """Remove all records; returns how many."""
        with self._entered():
            count = len(self._records)
            self._wipe()
            return count

    def __len__(self) -> int:
        with self._entered():
            return len(self._records)

    def __del__(self) -> None:
        for record in getattr(self, "_records", {}).values():
            record.wipe()

    def _entered(self) -> threading.RLock:
        """The lock, once the table is known to belong to this process."""
        if self._pid != os.getpid():
            self._forked()
        return self._lock

    def _forked(self) -> None:
        # The lock may have been held by a thread that the child does not have.
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._wipe()

    def _wipe(self) -> None:
        for record in self._records.values():
            record.wipe()
        self._records.clear()
        self._peers.clear()
        self._places.clear()

    def _drop(self, handle: int) -> bool:
        record = self._records.pop(handle, None)
        if record is None:
            return False
        record.wipe()
        of_peer = self._peers[record.peer]
        del of_peer[handle]
        if not of_peer:
            del self._peers[record.peer]
        for identifier in record.identifiers:
            # It may have moved to a newer record.
            if self._places.get(identifier, (0, 0))[0] == handle:
                del self._places[identifier]
        return True


def _index(handle: int) -> int:
    if not isinstance(handle, int):
        raise TypeError("handle is not an int")
    return handle


def _check_bytes(value: bytes) -> None:
    if not isinstance(value, bytes):
        raise TypeError("expected bytes")


def _check(peer: bytes, identifiers: tuple[bytes, ...], meta: bytes) -> None:
    if not isinstance(identifiers, tuple):
        raise TypeError("identifiers are not a tuple")
    for value in (peer, meta, *identifiers):
        _check_bytes(value)
    if len(peer) > _PEER_MAX:
        raise ValueError("peer is too long")
    if len(meta) > _META_MAX:
        raise ValueError("meta is too long")
    if len(identifiers) > _IDENTIFIERS_MAX:
        raise ValueError("too many identifiers")
    if any(len(identifier) != _IDENTIFIER_LEN for identifier in identifiers):
        raise ValueError("identifier has the wrong length")
    if len(set(identifiers)) != len(identifiers):
        raise ValueError("identifier occurs twice")


_live: weakref.WeakSet[SessionCache] = weakref.WeakSet()


def _forked() -> None:
    for cache in list(_live):
        cache._forked()


def _at_exit() -> None:
    for cache in list(_live):
        cache.clear()


with contextlib.suppress(AttributeError):  # where no process forks
    os.register_at_fork(after_in_child=_forked)
atexit.register(_at_exit)
