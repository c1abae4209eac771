"""RFC 8548 sections 3.1 and 3.5: key derivation, by HMAC of libcrypto.

Everything between key and output lies in libcrypto's context, which it
cleanses, and in arrays on the stack, which are cleansed here.
"""

from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from libcrypto cimport (
    ERR_clear_error, EVP_MAC, EVP_MAC_CTX, EVP_MAC_CTX_dup, EVP_MAC_CTX_free, EVP_MAC_CTX_new,
    EVP_MAC_CTX_set_params, EVP_MAC_fetch, EVP_MAC_final, EVP_MAC_free, EVP_MAC_init,
    EVP_MAC_update, OPENSSL_cleanse, OSSL_PARAM, OSSL_PARAM_construct_end,
    OSSL_PARAM_construct_utf8_string,
)

from tcpcrypt._fast._c_octets import Octets

cdef enum:
    HASH_LEN = 32
    EXPAND_MAX = 255 * HASH_LEN
    PREFIX_MAX = 8
    # Constants and lengths of RFC 8548 section 5, as in tcpcrypt.registry.
    CONST_NEXTK = 1
    CONST_RESUME = 6
    K_LEN = 32
    RESUME_LEN = 18
    RESUME_ID_LEN = 9

# HMAC with SHA-256 and no key yet: what each use begins as a copy of.
cdef EVP_MAC_CTX *_template = _make_template()


cdef EVP_MAC_CTX *_make_template() except NULL:
    cdef OSSL_PARAM parameters[2]
    cdef EVP_MAC_CTX *made = NULL
    cdef EVP_MAC *mac = EVP_MAC_fetch(NULL, b"HMAC", NULL)
    parameters[0] = OSSL_PARAM_construct_utf8_string(b"digest", <char *>b"SHA256", 0)
    parameters[1] = OSSL_PARAM_construct_end()
    if mac != NULL:
        made = EVP_MAC_CTX_new(mac)
        EVP_MAC_free(mac)
    if made == NULL or EVP_MAC_CTX_set_params(made, parameters) != 1:
        EVP_MAC_CTX_free(made)
        ERR_clear_error()
        raise ImportError("libcrypto has no HMAC with SHA-256")
    return made


cdef object _readable(given):
    # Key material is a buffer for nobody else.
    return given.view() if isinstance(given, Octets) else given


cdef EVP_MAC_CTX *_begin() except NULL:
    cdef EVP_MAC_CTX *ctx = EVP_MAC_CTX_dup(_template)
    if ctx == NULL:
        ERR_clear_error()
        raise MemoryError
    return ctx


cdef int _expand(EVP_MAC_CTX *ctx, const uint8_t *key, size_t key_len, const uint8_t *info,
                 size_t info_len, uint8_t *out, size_t length) noexcept nogil:
    """RFC 5869 section 2.3; 1, or 0 if libcrypto fails."""
    cdef uint8_t block[HASH_LEN]
    cdef uint8_t number = 0
    cdef size_t at = 0, size = 0, piece
    cdef int good = 1
    while good and at < length:
        number += 1
        # From the second block on the key is that of the context.
        good = EVP_MAC_init(ctx, key if number == 1 else NULL, key_len if number == 1 else 0, NULL)
        if good and number > 1:
            good = EVP_MAC_update(ctx, block, HASH_LEN)
        if good and info_len:
            good = EVP_MAC_update(ctx, info, info_len)
        if good:
            good = EVP_MAC_update(ctx, &number, 1)
        if good:
            good = EVP_MAC_final(ctx, block, &size, HASH_LEN)
        if good:
            piece = HASH_LEN if length - at > HASH_LEN else length - at
            memcpy(out + at, block, piece)
            at += piece
    OPENSSL_cleanse(block, HASH_LEN)
    return good


def expand(key, bytes info not None, out):
    """HKDF-Expand with SHA-256 into all of `out`; see the stub."""
    cdef Py_buffer secret, target
    cdef EVP_MAC_CTX *ctx
    cdef int good
    PyObject_GetBuffer(_readable(key), &secret, PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(out, &target, PyBUF_WRITABLE)
        try:
            if not 1 <= target.len <= EXPAND_MAX:
                raise ValueError("HKDF-Expand yields 1 to 8160 bytes")
            ctx = _begin()
            good = _expand(
                ctx, <const uint8_t *>secret.buf, secret.len,
                <const uint8_t *>PyBytes_AS_STRING(info), len(info),
                <uint8_t *>target.buf, target.len)
            EVP_MAC_CTX_free(ctx)
        finally:
            PyBuffer_Release(&target)
    finally:
        PyBuffer_Release(&secret)
    if not good:
        ERR_clear_error()
        raise RuntimeError("libcrypto's HMAC failed")


def extract(salt, parts, out):
    """HKDF-Extract with SHA-256 of `parts`, one behind the other; see the stub."""
    cdef Py_buffer piece, target
    cdef EVP_MAC_CTX *ctx = NULL
    cdef uint8_t nothing = 0
    cdef size_t size = 0
    cdef int good = 1
    PyObject_GetBuffer(out, &target, PyBUF_WRITABLE)
    try:
        if target.len != HASH_LEN:
            raise ValueError("HKDF-Extract yields 32 bytes")
        ctx = _begin()
        PyObject_GetBuffer(_readable(salt), &piece, PyBUF_SIMPLE)
        # An empty key is given as one, not as none: its pointer must not be NULL.
        good = EVP_MAC_init(
            ctx, <const uint8_t *>piece.buf if piece.len else &nothing, piece.len, NULL)
        PyBuffer_Release(&piece)
        for part in parts:
            PyObject_GetBuffer(_readable(part), &piece, PyBUF_SIMPLE)
            if good and piece.len:
                good = EVP_MAC_update(ctx, <const uint8_t *>piece.buf, piece.len)
            PyBuffer_Release(&piece)
        if not (good and EVP_MAC_final(ctx, <uint8_t *>target.buf, &size, HASH_LEN)):
            ERR_clear_error()
            raise RuntimeError("libcrypto's HMAC failed")
    finally:
        EVP_MAC_CTX_free(ctx)
        PyBuffer_Release(&target)


def resume_identifiers(secret, int steps, int half, bytes prefix not None):
    """What names ss[i], ss[i+1], ... on the wire; see the stub."""
    cdef Py_buffer first
    cdef EVP_MAC_CTX *ctx
    cdef uint8_t ss[K_LEN]
    cdef uint8_t following[K_LEN]
    cdef uint8_t resume[RESUME_LEN]
    cdef uint8_t name[PREFIX_MAX + RESUME_ID_LEN]
    cdef uint8_t constant_next = CONST_NEXTK, constant_resume = CONST_RESUME
    cdef size_t prefix_len = len(prefix)
    cdef int position, good = 1
    if steps < 1 or half not in (0, 1) or prefix_len > PREFIX_MAX:
        raise ValueError("steps, half or prefix is out of range")
    memcpy(name, PyBytes_AS_STRING(prefix), prefix_len)
    PyObject_GetBuffer(_readable(secret), &first, PyBUF_SIMPLE)
    try:
        if first.len != K_LEN:
            raise ValueError("ss[i] has 32 bytes")
        memcpy(ss, first.buf, K_LEN)
    finally:
        PyBuffer_Release(&first)
    names = []
    ctx = _begin()
    try:
        for position in range(steps):
            if position:
                good = _expand(ctx, ss, K_LEN, &constant_next, 1, following, K_LEN)
                memcpy(ss, following, K_LEN)
            good = good and _expand(ctx, ss, K_LEN, &constant_resume, 1, resume, RESUME_LEN)
            if not good:
                ERR_clear_error()
                raise RuntimeError("libcrypto's HMAC failed")
            memcpy(name + prefix_len, resume + half * RESUME_ID_LEN, RESUME_ID_LEN)
            names.append(PyBytes_FromStringAndSize(<char *>name, prefix_len + RESUME_ID_LEN))
    finally:
        EVP_MAC_CTX_free(ctx)
        OPENSSL_cleanse(ss, K_LEN)
        OPENSSL_cleanse(following, K_LEN)
    return tuple(names)
