"""RFC 8548 section 3.5: the session cache, a bounded hash table in its own memory.

Everything that a record holds lies in one anonymous mapping: kept out of core
dumps, out of swap where RLIMIT_MEMLOCK allows, and zeroed by the kernel in a
forked child.  All zero bytes are a valid empty table, so that a child needs no
more than that.  Slots and peers are numbered from 1; 0 ends a list.

Peers and, through them, identifiers are chosen by others, so buckets are picked
by CPython's keyed hash of bytes: nobody can aim at one bucket.

No compiler directives are set beyond the defaults: there are no memoryviews
and no divisions in here, so boundscheck, wraparound and cdivision have nothing
to act on.
"""

import atexit
import os
import weakref

from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from posix.unistd cimport getpid

from libcrypto cimport OPENSSL_cleanse

include "arena.pxi"


cdef class SessionCache:
    """A bounded table of one-use secrets; see the stub for the whole contract."""

    cdef object __weakref__
    cdef uint8_t *arena
    cdef size_t arena_len
    cdef size_t secrets_len
    cdef uint8_t *secrets
    cdef State *state
    cdef Record *records
    cdef Peer *peers
    cdef uint32_t *identifier_buckets
    cdef uint32_t *peer_buckets
    cdef size_t identifier_mask
    cdef size_t peer_mask
    cdef uint32_t capacity
    cdef uint32_t per_peer
    # Outside the arena: a child that starts empty still gives no handle twice.
    cdef uint64_t serial
    cdef int pid

    def __cinit__(self, capacity=4096, per_peer=4):
        cdef size_t identifier_buckets, peer_buckets, at
        if not 1 <= capacity <= 1 << CAPACITY_BITS:
            raise ValueError("capacity is out of range")
        if not 1 <= per_peer <= 1 << CAPACITY_BITS:
            raise ValueError("per_peer is out of range")
        self.capacity = capacity
        self.per_peer = per_peer
        identifier_buckets = _power_of_two(<size_t>self.capacity * IDENTIFIER_BUCKETS)
        peer_buckets = _power_of_two(self.capacity)
        self.identifier_mask = identifier_buckets - 1
        self.peer_mask = peer_buckets - 1
        self.secrets_len = _aligned(<size_t>self.capacity * SECRET_MAX)
        self.arena_len = (
            self.secrets_len
            + _aligned(sizeof(State))
            + _aligned((<size_t>self.capacity + 1) * sizeof(Record))
            + _aligned((<size_t>self.capacity + 1) * sizeof(Peer))
            + _aligned(identifier_buckets * sizeof(uint32_t))
            + _aligned(peer_buckets * sizeof(uint32_t)))
        self.arena = <uint8_t *>arena_map(self.arena_len)
        if self.arena == NULL:
            raise MemoryError("no memory for the session cache")
        at = 0
        self.secrets = self.arena
        at += self.secrets_len
        self.state = <State *>(self.arena + at)
        at += _aligned(sizeof(State))
        self.records = <Record *>(self.arena + at)
        at += _aligned((<size_t>self.capacity + 1) * sizeof(Record))
        self.peers = <Peer *>(self.arena + at)
        at += _aligned((<size_t>self.capacity + 1) * sizeof(Peer))
        self.identifier_buckets = <uint32_t *>(self.arena + at)
        at += _aligned(identifier_buckets * sizeof(uint32_t))
        self.peer_buckets = <uint32_t *>(self.arena + at)
        self.own()
        _live.add(self)

    def __dealloc__(self):
        if self.arena != NULL:
            self.wipe()
            munmap(self.arena, self.arena_len)

    def insert(self, bytes peer not None, tuple identifiers not None, secret,
               bytes meta not None):
        """Add a record; returns its handle (never reused)."""
        cdef Py_buffer raw
        for identifier in identifiers:
            if not isinstance(identifier, bytes):
                raise TypeError("expected bytes")
        if len(peer) > PEER_MAX:
            raise ValueError("peer is too long")
        if len(meta) > META_MAX:
            raise ValueError("meta is too long")
        if len(identifiers) > IDENTIFIERS_MAX:
            raise ValueError("too many identifiers")
        for identifier in identifiers:
            if PyBytes_GET_SIZE(identifier) != IDENTIFIER_LEN:
                raise ValueError("identifier has the wrong length")
        if len(set(identifiers)) != len(identifiers):
            raise ValueError("identifier occurs twice")
        PyObject_GetBuffer(secret, &raw, PyBUF_SIMPLE)
        try:
            if raw.len > SECRET_MAX:
                raise ValueError("secret is too long")
            self.check_process()
            return self.add(peer, identifiers, &raw, meta)
        finally:
            PyBuffer_Release(&raw)

    def lookup(self, identifier):
        """`(handle, position of the identifier in its record)`, or None."""
        cdef Py_buffer raw
        cdef bytes key
        cdef uint32_t place
        if type(identifier) is bytes:
            key = identifier
        else:
            PyObject_GetBuffer(identifier, &raw, PyBUF_SIMPLE)
            try:
                if raw.len != IDENTIFIER_LEN:
                    return None
                key = PyBytes_FromStringAndSize(<char *>raw.buf, IDENTIFIER_LEN)
            finally:
                PyBuffer_Release(&raw)
        if PyBytes_GET_SIZE(key) != IDENTIFIER_LEN:
            return None
        self.check_process()
        place = self.find_identifier(hash(key), <const uint8_t *>PyBytes_AS_STRING(key))
        if place == 0:
            return None
        return (self.records[place >> PLACE_BITS].handle, place & (IDENTIFIERS_MAX - 1))

    def newest(self, bytes peer not None):
        """Handle of the record inserted last for `peer`, or None."""
        self.check_process()
        cdef uint32_t index = self.find_peer(peer)
        return self.records[self.peers[index].newest].handle if index else None

    def older(self, handle):
        """Handle of the record of the same peer inserted before that, or None."""
        self.check_process()
        cdef uint32_t slot = self.find_handle(handle)
        if slot == 0 or self.records[slot].peer_older == 0:
            return None
        return self.records[self.records[slot].peer_older].handle

    def read(self, handle, secret):
        """Copy the secret out; `(peer, identifiers, meta)`, None if it is gone."""
        cdef Py_buffer target
        cdef Record record
        cdef Peer peer
        cdef uint32_t slot, position
        PyObject_GetBuffer(secret, &target, PyBUF_WRITABLE)
        try:
            self.check_process()
            slot = self.find_handle(handle)
            if slot == 0:
                return None
            # Copies, because making the list can run a finalizer, and that can
            # do anything, also remove this record.
            record = self.records[slot]
            peer = self.peers[record.peer]
            if target.len != record.secret_len:
                raise ValueError("secret has another length")
            if target.len:
                memcpy(target.buf, self.secret_of(slot), target.len)
            identifiers = []
            for position in range(record.identifier_count):
                identifiers.append(PyBytes_FromStringAndSize(
                    <char *>record.identifiers[position].octets, IDENTIFIER_LEN))
            return (
                PyBytes_FromStringAndSize(<char *>peer.name, peer.name_len),
                tuple(identifiers),
                PyBytes_FromStringAndSize(<char *>record.meta, record.meta_len),
            )
        finally:
            PyBuffer_Release(&target)

    def remove(self, handle):
        """Remove one record; False if it is gone already."""
        self.check_process()
        cdef uint32_t slot = self.find_handle(handle)
        if slot == 0:
            return False
        self.drop(slot)
        return True

    def remove_peer(self, bytes peer not None):
        """Remove all records of `peer`; returns how many."""
        cdef uint32_t index, left
        self.check_process()
        index = self.find_peer(peer)
        if index == 0:
            return 0
        count = left = self.peers[index].count
        while left:
            # The last one takes the peer with it.
            self.drop(self.peers[index].oldest)
            left -= 1
        return count

    def handles(self):
        """Handles of all records, in order of insertion."""
        cdef uint32_t slot
        cdef list found = []
        self.check_process()
        # By slot, not by links: growing the list can run a finalizer, and that
        # can remove records, but the slots stay where they are.
        for slot in range(1, self.state.used_records + 1):
            if self.records[slot].handle:
                found.append(self.records[slot].handle)
        found.sort()
        return found

    def clear(self):
        """Remove all records; returns how many."""
        self.check_process()
        count = self.state.count
        self.wipe()
        return count

    def __len__(self):
        self.check_process()
        return self.state.count

    # -- what follows never runs Python code between its steps, so that under
    # -- the GIL each operation is whole

    cdef inline void check_process(self) noexcept:
        if self.pid != getpid():
            self.wipe()
            self.own()

    cdef void own(self) noexcept:
        """Take the arena for this process; a child inherits no memory locks."""
        self.pid = getpid()
        arena_protect(self.arena, self.arena_len, self.secrets_len)

    cdef void wipe(self) noexcept:
        """Make the table empty.  What was never used is zero and is left so."""
        cdef State *state = self.state
        OPENSSL_cleanse(self.secrets, <size_t>state.used_records * SECRET_MAX)
        OPENSSL_cleanse(self.records, (<size_t>state.used_records + 1) * sizeof(Record))
        OPENSSL_cleanse(self.peers, (<size_t>state.used_peers + 1) * sizeof(Peer))
        if state.used_records:
            memset(self.identifier_buckets, 0, (self.identifier_mask + 1) * sizeof(uint32_t))
            memset(self.peer_buckets, 0, (self.peer_mask + 1) * sizeof(uint32_t))
        memset(state, 0, sizeof(State))

    cdef inline uint8_t *secret_of(self, uint32_t slot) noexcept:
        return self.secrets + <size_t>(slot - 1) * SECRET_MAX

    cdef object add(self, bytes peer, tuple identifiers, Py_buffer *secret, bytes meta):
        cdef State *state = self.state
        cdef Py_hash_t hashes[IDENTIFIERS_MAX]
        cdef Py_hash_t peer_key = hash(peer)
        cdef uint32_t index, slot, position, place
        cdef uint32_t count = <uint32_t>len(identifiers)
        cdef Record *record
        cdef Identifier *entry
        cdef uint32_t *bucket
        for position in range(count):
            hashes[position] = hash(<object>identifiers[position])
        index = self.find_peer(peer)
        if index and self.peers[index].count >= self.per_peer:
            self.drop(self.peers[index].oldest)
        elif state.count >= self.capacity:
            self.drop(state.oldest)
        index = self.find_peer(peer)  # it may have gone with its last record
        if index == 0:
            index = self.new_peer(peer, peer_key)
        slot = state.free_record
        if slot:
            state.free_record = self.records[slot].newer
        else:
            state.used_records += 1
            slot = state.used_records
        record = &self.records[slot]
        memset(record, 0, sizeof(Record))
        self.serial += 1
        record.handle = (self.serial << CAPACITY_BITS) | (slot - 1)
        record.secret_len = <uint8_t>secret.len
        if secret.len:
            memcpy(self.secret_of(slot), secret.buf, secret.len)
        record.meta_len = <uint8_t>PyBytes_GET_SIZE(meta)
        memcpy(record.meta, PyBytes_AS_STRING(meta), record.meta_len)
        record.older = state.newest
        if state.newest:
            self.records[state.newest].newer = slot
        else:
            state.oldest = slot
        state.newest = slot
        state.count += 1
        self.join_peer(slot, index)
        record.identifier_count = <uint8_t>count
        for position in range(count):
            entry = &record.identifiers[position]
            memcpy(entry.octets, PyBytes_AS_STRING(identifiers[position]), IDENTIFIER_LEN)
            entry.key = hashes[position]
            place = self.find_identifier(entry.key, entry.octets)
            if place:
                self.unlink_identifier(place)
            bucket = &self.identifier_buckets[<size_t>entry.key & self.identifier_mask]
            entry.next_place = bucket[0]
            entry.linked = True
            bucket[0] = (slot << PLACE_BITS) | position
        return record.handle

    cdef void drop(self, uint32_t slot) noexcept:
        cdef State *state = self.state
        cdef Record *record = &self.records[slot]
        cdef uint32_t position
        for position in range(record.identifier_count):
            if record.identifiers[position].linked:
                self.unlink_identifier((slot << PLACE_BITS) | position)
        self.leave_peer(slot)
        if record.older:
            self.records[record.older].newer = record.newer
        else:
            state.oldest = record.newer
        if record.newer:
            self.records[record.newer].older = record.older
        else:
            state.newest = record.older
        state.count -= 1
        OPENSSL_cleanse(self.secret_of(slot), SECRET_MAX)
        OPENSSL_cleanse(record, sizeof(Record))
        record.newer = state.free_record
        state.free_record = slot

    cdef uint32_t find_handle(self, object handle) except? 0xFFFFFFFF:
        cdef uint64_t value
        cdef uint32_t slot
        if not isinstance(handle, int):
            raise TypeError("handle is not an int")
        if not 0 < handle <= 0xFFFFFFFFFFFFFFFF:
            return 0
        value = handle
        slot = <uint32_t>(value & ((1 << CAPACITY_BITS) - 1)) + 1
        if slot > self.state.used_records or self.records[slot].handle != value:
            return 0
        return slot

    cdef uint32_t find_identifier(self, Py_hash_t key, const uint8_t *octets) noexcept:
        cdef uint32_t place = self.identifier_buckets[<size_t>key & self.identifier_mask]
        cdef Identifier *entry
        while place:
            entry = self.identifier_at(place)
            if entry.key == key and memcmp(entry.octets, octets, IDENTIFIER_LEN) == 0:
                break
            place = entry.next_place
        return place

    cdef inline Identifier *identifier_at(self, uint32_t place) noexcept:
        return &self.records[place >> PLACE_BITS].identifiers[place & (IDENTIFIERS_MAX - 1)]

    cdef void unlink_identifier(self, uint32_t place) noexcept:
        cdef Identifier *entry = self.identifier_at(place)
        cdef uint32_t *link = &self.identifier_buckets[<size_t>entry.key & self.identifier_mask]
        while link[0] != place:
            link = &self.identifier_at(link[0]).next_place
        link[0] = entry.next_place
        entry.linked = False

    cdef uint32_t find_peer(self, bytes name) except? 0xFFFFFFFF:
        cdef Py_hash_t key = hash(name)
        cdef Py_ssize_t name_len = PyBytes_GET_SIZE(name)
        cdef uint32_t index = self.peer_buckets[<size_t>key & self.peer_mask]
        cdef Peer *peer
        while index:
            peer = &self.peers[index]
            if (peer.key == key and peer.name_len == name_len
                    and memcmp(peer.name, PyBytes_AS_STRING(name), name_len) == 0):
                break
            index = peer.next_peer
        return index

    cdef uint32_t new_peer(self, bytes name, Py_hash_t key) noexcept:
        cdef uint32_t index = self.state.free_peer
        cdef uint32_t *bucket = &self.peer_buckets[<size_t>key & self.peer_mask]
        cdef Peer *peer
        if index:
            self.state.free_peer = self.peers[index].next_peer
        else:
            self.state.used_peers += 1
            index = self.state.used_peers
        peer = &self.peers[index]
        memset(peer, 0, sizeof(Peer))
        peer.key = key
        peer.name_len = <uint8_t>PyBytes_GET_SIZE(name)
        memcpy(peer.name, PyBytes_AS_STRING(name), peer.name_len)
        peer.next_peer = bucket[0]
        bucket[0] = index
        return index

    cdef void join_peer(self, uint32_t slot, uint32_t index) noexcept:
        cdef Peer *peer = &self.peers[index]
        cdef Record *record = &self.records[slot]
        record.peer = index
        record.peer_older = peer.newest
        if peer.newest:
            self.records[peer.newest].peer_newer = slot
        else:
            peer.oldest = slot
        peer.newest = slot
        peer.count += 1

    cdef void leave_peer(self, uint32_t slot) noexcept:
        cdef Record *record = &self.records[slot]
        cdef uint32_t index = record.peer
        cdef Peer *peer = &self.peers[index]
        cdef uint32_t *link
        if record.peer_older:
            self.records[record.peer_older].peer_newer = record.peer_newer
        else:
            peer.oldest = record.peer_newer
        if record.peer_newer:
            self.records[record.peer_newer].peer_older = record.peer_older
        else:
            peer.newest = record.peer_older
        peer.count -= 1
        if peer.count:
            return
        link = &self.peer_buckets[<size_t>peer.key & self.peer_mask]
        while link[0] != index:
            link = &self.peers[link[0]].next_peer
        link[0] = peer.next_peer
        OPENSSL_cleanse(peer, sizeof(Peer))
        peer.next_peer = self.state.free_peer
        self.state.free_peer = index


_live = weakref.WeakSet()


def _forked():
    for cache in list(_live):
        len(cache)  # which notices the new process and wipes


def _at_exit():
    for cache in list(_live):
        cache.clear()


os.register_at_fork(after_in_child=_forked)
atexit.register(_at_exit)
