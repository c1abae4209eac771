"""The part of libcrypto's EVP interface (OpenSSL 3.0 and later) that ext/ uses."""

cdef extern from "openssl/evp.h" nogil:
    ctypedef struct EVP_CIPHER:
        pass
    ctypedef struct EVP_CIPHER_CTX:
        pass
    ctypedef struct OSSL_LIB_CTX:
        pass
    ctypedef struct OSSL_PARAM:
        pass
    ctypedef struct EVP_MAC:
        pass
    ctypedef struct EVP_MAC_CTX:
        pass

    enum:
        EVP_MAX_BLOCK_LENGTH
    int EVP_CTRL_AEAD_SET_IVLEN
    int EVP_CTRL_AEAD_GET_TAG
    int EVP_CTRL_AEAD_SET_TAG
    int EVP_CIPH_GCM_MODE
    int EVP_CIPH_STREAM_CIPHER
    unsigned long EVP_CIPH_FLAG_AEAD_CIPHER

    EVP_CIPHER *EVP_CIPHER_fetch(OSSL_LIB_CTX *ctx, const char *name, const char *properties)
    void EVP_CIPHER_free(EVP_CIPHER *cipher)
    int EVP_CIPHER_get_key_length(const EVP_CIPHER *cipher)
    int EVP_CIPHER_get_mode(const EVP_CIPHER *cipher)
    unsigned long EVP_CIPHER_get_flags(const EVP_CIPHER *cipher)

    EVP_CIPHER_CTX *EVP_CIPHER_CTX_new()
    void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX *ctx)
    int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX *ctx, int type, int arg, void *ptr)
    int EVP_CipherInit_ex2(
        EVP_CIPHER_CTX *ctx, const EVP_CIPHER *cipher, const unsigned char *key,
        const unsigned char *iv, int enc, const OSSL_PARAM *params)
    int EVP_EncryptUpdate(
        EVP_CIPHER_CTX *ctx, unsigned char *out, int *outl, const unsigned char *data, int inl)
    int EVP_EncryptFinal_ex(EVP_CIPHER_CTX *ctx, unsigned char *out, int *outl)
    int EVP_DecryptUpdate(
        EVP_CIPHER_CTX *ctx, unsigned char *out, int *outl, const unsigned char *data, int inl)
    int EVP_DecryptFinal_ex(EVP_CIPHER_CTX *ctx, unsigned char *out, int *outl)

    EVP_MAC *EVP_MAC_fetch(OSSL_LIB_CTX *ctx, const char *name, const char *properties)
    void EVP_MAC_free(EVP_MAC *mac)
    EVP_MAC_CTX *EVP_MAC_CTX_new(EVP_MAC *mac)
    EVP_MAC_CTX *EVP_MAC_CTX_dup(const EVP_MAC_CTX *ctx)
    void EVP_MAC_CTX_free(EVP_MAC_CTX *ctx)
    int EVP_MAC_CTX_set_params(EVP_MAC_CTX *ctx, const OSSL_PARAM *params)
    int EVP_MAC_init(
        EVP_MAC_CTX *ctx, const unsigned char *key, size_t keylen, const OSSL_PARAM *params)
    int EVP_MAC_update(EVP_MAC_CTX *ctx, const unsigned char *data, size_t datalen)
    int EVP_MAC_final(EVP_MAC_CTX *ctx, unsigned char *out, size_t *outl, size_t outsize)

cdef extern from "openssl/params.h" nogil:
    OSSL_PARAM OSSL_PARAM_construct_utf8_string(const char *key, char *buf, size_t bsize)
    OSSL_PARAM OSSL_PARAM_construct_end()

cdef extern from "openssl/crypto.h" nogil:
    void OPENSSL_cleanse(void *ptr, size_t len)

cdef extern from "openssl/err.h" nogil:
    void ERR_clear_error()
