/* libcrypto's own rate: the EVP calls that a frame needs, and nothing else.

   One call handles `frames` messages with the same bytes in the same places as
   frames with `size` data bytes: 3 bytes of associated data, size + 1 bytes of
   ciphertext, tag.  For each the IV is reset and the whole plaintext given to
   ONE update.  The plaintext lies in `data` at a stride of `size`, so that loads
   and stores fall on the same addresses as those of sealing and opening.

   Compiled by bench/conftest.py and called through ctypes once a batch. */

#include <openssl/evp.h>

enum { HEADER = 3, FLAGS = 1, TAG = 16, NONCE = 12 };

void *loop_new(const char *name, const unsigned char *key, int encrypt)
{
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, name, NULL);
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    if (cipher == NULL || ctx == NULL ||
        EVP_CipherInit_ex2(ctx, cipher, key, NULL, encrypt, NULL) != 1) {
        EVP_CIPHER_CTX_free(ctx);
        ctx = NULL;
    }
    EVP_CIPHER_free(cipher);
    return ctx;
}

void loop_free(void *ctx)
{
    EVP_CIPHER_CTX_free(ctx);
}

static void count_up(unsigned char *iv)
{
    for (int i = NONCE - 1; i >= 0 && ++iv[i] == 0; i--)
        ;
}

/* Seal `frames` messages from `data` (one byte longer than they are) into `wire`;
   1 if all went well. */
int loop_seal(void *ctx, const unsigned char *data, unsigned char *wire, int frames, int size)
{
    unsigned char iv[NONCE] = {0};
    int length;
    for (int frame = 0; frame < frames; frame++) {
        if (EVP_CipherInit_ex2(ctx, NULL, NULL, iv, -1, NULL) != 1 ||
            EVP_EncryptUpdate(ctx, NULL, &length, wire, HEADER) != 1 ||
            EVP_EncryptUpdate(ctx, wire + HEADER, &length, data, size + FLAGS) != 1 ||
            EVP_EncryptFinal_ex(ctx, wire + HEADER + length, &length) != 1 ||
            EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG, wire + HEADER + FLAGS + size) != 1)
            return 0;
        count_up(iv);
        data += size;
        wire += HEADER + FLAGS + size + TAG;
    }
    return 1;
}

/* The inverse of loop_seal. */
int loop_open(void *ctx, unsigned char *wire, unsigned char *data, int frames, int size)
{
    unsigned char iv[NONCE] = {0};
    unsigned char end[EVP_MAX_BLOCK_LENGTH];
    int length;
    for (int frame = 0; frame < frames; frame++) {
        if (EVP_CipherInit_ex2(ctx, NULL, NULL, iv, -1, NULL) != 1 ||
            EVP_DecryptUpdate(ctx, NULL, &length, wire, HEADER) != 1 ||
            EVP_DecryptUpdate(ctx, data, &length, wire + HEADER, size + FLAGS) != 1 ||
            EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG, wire + HEADER + FLAGS + size) != 1 ||
            EVP_DecryptFinal_ex(ctx, end, &length) != 1)
            return 0;
        count_up(iv);
        data += size;
        wire += HEADER + FLAGS + size + TAG;
    }
    return 1;
}
