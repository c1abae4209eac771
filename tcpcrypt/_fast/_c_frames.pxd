"""RFC 8548 section 4.2: what ext/_c_frames.pyx declares, for ext/_c_pump.pyx too."""

from libc.stdint cimport uint8_t, uint64_t

from libcrypto cimport EVP_CIPHER_CTX

cdef enum:
    HEADER_LEN = 3
    FLAGS_LEN = 1
    URGENT_LEN = 2
    CIPHERTEXT_MAX = 0xFFFF
    HEAD_MAX = 128
    CONTROL_REKEY = 0x01
    FLAG_FINP = 0x01
    FLAG_URGP = 0x02
    # EVP_MAX_KEY_LENGTH, EVP_MAX_IV_LENGTH, a tag of one block; the stream
    # offset fills 8 bytes of the nonce.
    KEY_MAX = 64
    NONCE_MIN = 8
    NONCE_MAX = 16
    TAG_MAX = 16

cdef enum:
    NEED_MORE = 0
    OUT_FULL = 1
    REKEY = 2
    FIN = 3
    URGENT = 4
    BAD_TAG = 5
    TOO_SHORT = 6
    URGENT_TRUNCATED = 7
    # Not for callers: go on, and libcrypto itself failed.
    GO_ON = -1
    EVP_FAILED = -2

cdef struct Sealing:
    const uint8_t *data
    size_t data_len
    uint8_t *out
    size_t out_len
    size_t first
    size_t others
    bint rekey
    bint fin
    int urgent
    size_t consumed
    size_t written
    size_t frames

cdef struct Opening:
    const uint8_t *wire
    size_t wire_len
    uint8_t *out
    size_t out_len
    bint accept_rekey
    size_t consumed
    size_t written
    size_t frames
    int urgent
    size_t last


cdef class _TrafficKey:
    cdef EVP_CIPHER_CTX *ctx
    cdef uint8_t randomizer[NONCE_MAX]
    cdef size_t nonce_len
    cdef size_t tag_len
    cdef bint little_endian
    cdef bint gcm
    cdef bint busy

    cdef int load(self, object aead, object traffic_key, object nonce_form, int enc) except -1
    cdef int enter(self) except -1
    cdef void forget(self) noexcept
    cdef size_t head_size(self, size_t plain_len) noexcept nogil
    cdef int reset(self, uint64_t offset, uint8_t *iv) noexcept nogil


cdef class FrameSealer(_TrafficKey):
    cdef bint passes_end(self, const Sealing *work, uint64_t start) noexcept nogil
    cdef int run(self, Sealing *work, uint64_t start) noexcept nogil
    cdef bint seal_one(
        self, uint8_t *frame, const uint8_t *head, size_t head_len,
        const uint8_t *rest, size_t rest_len,
    ) noexcept nogil


cdef class FrameOpener(_TrafficKey):
    cdef int run(self, Opening *work, uint64_t start) noexcept nogil
    cdef int open_one(
        self, Opening *work, const uint8_t *frame, size_t plain_len, uint8_t *head,
    ) noexcept nogil
