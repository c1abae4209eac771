# The memory of the session cache: where it comes from and what lies in it.
# Included by _c_cache.pyx.

cdef extern from *:
    """
    #include <sys/mman.h>

    static void *arena_map(size_t size)
    {
        void *arena = mmap(NULL, size, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return arena == MAP_FAILED ? NULL : arena;
    }

    /* Best effort in each part: a system that refuses one still has the rest.
       `secrets` bytes at the start are what matters most. */
    static void arena_protect(void *arena, size_t size, size_t secrets)
    {
    #ifdef MADV_DONTDUMP
        madvise(arena, size, MADV_DONTDUMP);
    #endif
    #ifdef MADV_WIPEONFORK
        madvise(arena, size, MADV_WIPEONFORK);
    #endif
    #ifdef MLOCK_ONFAULT
        /* Locks pages as they come into use, not all of a large empty table. */
        if (mlock2(arena, size, MLOCK_ONFAULT) != 0 &&
            mlock2(arena, secrets, MLOCK_ONFAULT) != 0)
            return;
    #else
        if (mlock(arena, size) != 0 && mlock(arena, secrets) != 0)
            return;
    #endif
    }
    """
    void *arena_map(size_t size) noexcept nogil
    void arena_protect(void *arena, size_t size, size_t secrets) noexcept nogil

cdef extern from "sys/mman.h" nogil:
    int munmap(void *start, size_t size)

cdef enum:
    CAPACITY_BITS = 20
    PEER_MAX = 255
    SECRET_MAX = 64
    META_MAX = 128
    PLACE_BITS = 4       # a place is a slot and a position in it
    IDENTIFIERS_MAX = 16
    IDENTIFIER_LEN = 10
    # Buckets for each record: with 16 identifiers a chain holds 2 on average.
    IDENTIFIER_BUCKETS = 8

cdef struct Identifier:
    Py_hash_t key
    uint32_t next_place  # in the bucket
    bint linked          # 0 once it has moved to a newer record
    uint8_t octets[IDENTIFIER_LEN]

cdef struct Record:
    uint64_t handle      # 0 if the slot is free
    uint32_t older
    uint32_t newer       # also links the free slots
    uint32_t peer
    uint32_t peer_older
    uint32_t peer_newer
    uint8_t secret_len
    uint8_t meta_len
    uint8_t identifier_count
    uint8_t meta[META_MAX]
    Identifier identifiers[IDENTIFIERS_MAX]

cdef struct Peer:
    Py_hash_t key
    uint32_t next_peer   # in the bucket, or of the free ones
    uint32_t count
    uint32_t oldest
    uint32_t newest
    uint8_t name_len
    uint8_t name[PEER_MAX]

cdef struct State:
    uint32_t count
    uint32_t oldest
    uint32_t newest
    uint32_t free_record
    uint32_t used_records  # slots 1 to this were used at some time
    uint32_t free_peer
    uint32_t used_peers


cdef size_t _aligned(size_t size) noexcept:
    return (size + 63) & ~<size_t>63


cdef size_t _power_of_two(size_t least) noexcept:
    cdef size_t size = 1
    while size < least:
        size <<= 1
    return size
