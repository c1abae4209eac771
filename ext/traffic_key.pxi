# RFC 8548 section 4.2.3: what sealers and openers of frames share, the key.
# Included by _c_frames.pyx; what it declares stands in tcpcrypt/_fast/_c_frames.pxd.

from cython cimport final
from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from libc.stdint cimport uint8_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

from libcrypto cimport (
    ERR_clear_error, EVP_CIPH_FLAG_AEAD_CIPHER, EVP_CIPH_GCM_MODE, EVP_CIPH_STREAM_CIPHER,
    EVP_CIPHER, EVP_CIPHER_CTX, EVP_CIPHER_CTX_ctrl,
    EVP_CIPHER_CTX_free, EVP_CIPHER_CTX_new, EVP_CIPHER_fetch, EVP_CIPHER_free,
    EVP_CIPHER_get_flags, EVP_CIPHER_get_key_length, EVP_CIPHER_get_mode,
    EVP_CipherInit_ex2, EVP_CTRL_AEAD_GET_TAG, EVP_CTRL_AEAD_SET_IVLEN,
    EVP_CTRL_AEAD_SET_TAG, EVP_DecryptFinal_ex, EVP_DecryptUpdate,
    EVP_EncryptFinal_ex, EVP_EncryptUpdate, EVP_MAX_BLOCK_LENGTH, OPENSSL_cleanse,
)

STOP_NEED_MORE = NEED_MORE
STOP_OUT_FULL = OUT_FULL
STOP_REKEY = REKEY
STOP_FIN = FIN
STOP_URGENT = URGENT
STOP_BAD_TAG = BAD_TAG
STOP_TOO_SHORT = TOO_SHORT
STOP_URGENT_TRUNCATED = URGENT_TRUNCATED

cdef uint64_t STREAM_LAST = 0xFFFFFFFFFFFFFFFFu


cdef uint64_t _checked_offset(object offset) except? 0xFFFFFFFFFFFFFFFFu:
    if not 0 <= offset <= 0xFFFFFFFFFFFFFFFF:
        raise ValueError("stream offset is not a 64-bit number")
    return offset


cdef bint _overlap(const Py_buffer *one, const Py_buffer *other) noexcept nogil:
    cdef uintptr_t first = <uintptr_t>one.buf
    cdef uintptr_t second = <uintptr_t>other.buf
    if one.len == 0 or other.len == 0:
        return False
    return first < second + <uintptr_t>other.len and second < first + <uintptr_t>one.len


cdef class _TrafficKey:
    """One traffic key: an EVP context that holds the AEAD key, and the nonce
    randomizer (RFC 8548 section 4.2.3)."""

    cdef int load(self, object aead, object traffic_key, object nonce_form, int enc) except -1:
        cdef Py_buffer raw
        cdef EVP_CIPHER *cipher
        cdef int mode
        key_len, nonce_len, tag_len = aead.key_len, aead.nonce_len, aead.tag_len
        if not (0 < key_len <= KEY_MAX and NONCE_MIN <= nonce_len <= NONCE_MAX
                and 0 < tag_len <= TAG_MAX):
            raise ValueError("AEAD has lengths that frames cannot carry")
        if nonce_form not in (0, 1):
            raise ValueError("unknown nonce form")
        self.little_endian = nonce_form == 1
        self.nonce_len = 8 if self.little_endian else nonce_len
        self.tag_len = tag_len
        cdef int key_octets = key_len
        cdef size_t randomizer_len = 0 if self.little_endian else self.nonce_len
        name = aead.evp_name.encode("ascii")
        PyObject_GetBuffer(traffic_key, &raw, PyBUF_SIMPLE)
        cipher = NULL
        try:
            if <size_t>raw.len != <size_t>key_octets + randomizer_len:
                raise ValueError("traffic key has the wrong length")
            cipher = EVP_CIPHER_fetch(NULL, name, NULL)
            if cipher == NULL:
                ERR_clear_error()
                raise ValueError(f"libcrypto has no cipher {aead.evp_name!r}")
            mode = EVP_CIPHER_get_mode(cipher)
            # The loops below need output byte for byte: CCM and SIV want the
            # whole message first, OCB holds back unfinished blocks.
            if (not EVP_CIPHER_get_flags(cipher) & EVP_CIPH_FLAG_AEAD_CIPHER
                    or mode not in (EVP_CIPH_GCM_MODE, EVP_CIPH_STREAM_CIPHER)
                    or EVP_CIPHER_get_key_length(cipher) != key_octets):
                raise ValueError(f"{aead.evp_name!r} is not an AEAD that frames can use")
            self.gcm = mode == EVP_CIPH_GCM_MODE
            # Only GCM defines a nonce of 8 bytes.
            if self.little_endian and not self.gcm:
                raise ValueError("nonce must be of another length")
            self.ctx = EVP_CIPHER_CTX_new()
            if self.ctx == NULL:
                raise MemoryError
            if (EVP_CipherInit_ex2(self.ctx, cipher, NULL, NULL, enc, NULL) != 1
                    or EVP_CIPHER_CTX_ctrl(self.ctx, EVP_CTRL_AEAD_SET_IVLEN,
                                           <int>self.nonce_len, NULL) != 1
                    or EVP_CipherInit_ex2(self.ctx, NULL, <const unsigned char *>raw.buf,
                                          NULL, enc, NULL) != 1):
                ERR_clear_error()
                self.forget()
                raise ValueError(f"libcrypto refuses the parameters of {aead.evp_name!r}")
            memset(self.randomizer, 0, NONCE_MAX)
            memcpy(self.randomizer, <const unsigned char *>raw.buf + key_octets, randomizer_len)
        finally:
            EVP_CIPHER_free(cipher)
            PyBuffer_Release(&raw)
        return 0

    cdef int enter(self) except -1:
        if self.busy:
            raise RuntimeError("object is in use by another call")
        if self.ctx == NULL:
            raise RuntimeError("key was wiped")
        self.busy = True
        return 0

    cdef void forget(self) noexcept:
        EVP_CIPHER_CTX_free(self.ctx)  # which cleanses the key schedule
        self.ctx = NULL
        OPENSSL_cleanse(self.randomizer, NONCE_MAX)

    cdef inline size_t head_size(self, size_t plain_len) noexcept nogil:
        """Bytes of plaintext that go through the stack.

        GCM needs no more than one block: sealing 1400 bytes ran at 0.93 to 0.98
        of plain EVP calls with 16, at 0.91 to 0.93 with 64, at 0.90 with 256.

        ChaCha20 has blocks of 64 bytes.  Behind it comes Poly1305, whose code
        for AVX-512 IFMA takes 8 blocks of 16 bytes at a time only if their
        number has bit 2 clear (it looks once, at the start), otherwise 4: 4.2
        against 3.2 GB/s at 16 KiB.  64 more bytes of head clear that bit, which
        pays from 1 KiB on; other machines do not notice.

        Measured with OpenSSL 3.0.22 on Zen 5.
        """
        if self.gcm:
            return 16
        return 64 if plain_len & 64 or plain_len < 1024 else HEAD_MAX

    cdef inline int reset(self, uint64_t offset, uint8_t *iv) noexcept nogil:
        """Start a message whose first byte is at `offset` of the stream."""
        cdef size_t i
        if self.little_endian:
            for i in range(8):
                iv[i] = <uint8_t>(offset >> (8 * i))
        else:
            memcpy(iv, self.randomizer, self.nonce_len)
            for i in range(8):
                iv[self.nonce_len - 1 - i] ^= <uint8_t>(offset >> (8 * i))
        return EVP_CipherInit_ex2(self.ctx, NULL, NULL, iv, -1, NULL)

    def wipe(self):
        """Forget the key.  Idempotent."""
        if self.busy:
            raise RuntimeError("object is in use by another call")
        self.forget()

    def __dealloc__(self):
        self.forget()
