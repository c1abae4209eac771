"""RFC 8548 sections 3.6 and 4.2: frames sealed and opened over libcrypto's EVP.

One call handles as many frames as fit, without the GIL, straight between the
caller's buffers.  The key is loaded once; a frame only resets the IV.

A frame's plaintext is a flags byte (and perhaps an urgent field) before the
data.  Given to EVP as two updates, the first would leave GCM inside a block
and push all the rest off its fast path.  So the first whole blocks of plaintext
go through a small buffer on the stack, and the rest straight from and to the
caller.

No compiler directives are set beyond the defaults: all inner work is on C
pointers, which bounds checks and wraparound do not touch.
"""

include "traffic_key.pxi"


@final
cdef class FrameSealer(_TrafficKey):
    """Seals frames under one traffic key (RFC 8548 sections 3.6 and 4.2)."""

    def __cinit__(self, aead, traffic_key, nonce_form=0):
        self.load(aead, traffic_key, nonce_form, 1)

    def seal(self, data, out, offset, frame_data, bint rekey=False, bint fin=False, urgent=-1):
        """Seal `data` as frames into `out`; see the stub for the whole contract."""
        cdef Py_buffer source
        cdef Py_buffer target
        cdef Sealing work
        cdef uint64_t start
        cdef size_t room_in_frame
        cdef int result
        PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
        try:
            PyObject_GetBuffer(out, &target, PyBUF_WRITABLE)
            try:
                start = _checked_offset(offset)
                room_in_frame = CIPHERTEXT_MAX - FLAGS_LEN - self.tag_len
                if not 0 < frame_data <= room_in_frame:
                    raise ValueError("no frame can hold that many data bytes")
                if not -1 <= urgent <= 0xFFFF:
                    raise ValueError("urgent is not a 16-bit number")
                if _overlap(&source, &target):
                    raise ValueError("data and out overlap")
                work.data = <const uint8_t *>source.buf
                work.data_len = source.len
                work.out = <uint8_t *>target.buf
                work.out_len = target.len
                work.others = frame_data
                work.rekey = rekey
                work.fin = fin
                work.urgent = urgent
                # The urgent field takes its room from the data of the first frame.
                work.first = work.others
                if work.urgent >= 0:
                    work.first = min(work.first, room_in_frame - URGENT_LEN)
                self.enter()
                try:
                    # Before the first frame: a caller who catches the error and
                    # seals other data at the same offset would use a nonce twice.
                    if self.passes_end(&work, start):
                        raise ValueError("stream offset passes 64 bits")
                    with nogil:
                        result = self.run(&work, start)
                    if result != GO_ON:
                        ERR_clear_error()
                        raise RuntimeError("libcrypto failed to seal a frame")
                finally:
                    self.busy = False
                return work.consumed, work.written, work.frames
            finally:
                PyBuffer_Release(&target)
        finally:
            PyBuffer_Release(&source)

    cdef bint passes_end(self, const Sealing *work, uint64_t start) noexcept nogil:
        """Whether the frames that fit `out` would reach past 2**64."""
        cdef size_t overhead = HEADER_LEN + FLAGS_LEN + self.tag_len
        cdef size_t left = work.data_len
        cdef size_t size = 0
        cdef size_t length, frame
        cdef size_t limit = work.first
        # Far from the end, which is always, nothing needs counting.
        if start <= STREAM_LAST - work.out_len:
            return False
        frame = overhead + (URGENT_LEN if work.urgent >= 0 else 0)
        while True:
            length = min(left, limit)
            if frame + length > work.out_len - size:
                break
            size += frame + length
            left -= length
            limit = work.others
            frame = overhead
            if left == 0:
                break
        # start + size <= 2**64, in words that hold only 2**64 - 1
        return size > 0 and size - 1 > STREAM_LAST - start

    cdef int run(self, Sealing *work, uint64_t start) noexcept nogil:
        cdef uint8_t head[HEAD_MAX]
        cdef uint8_t iv[NONCE_MAX]
        cdef uint8_t control, flags
        cdef uint8_t *frame
        cdef size_t prefix, length, plain_len, taken
        cdef size_t limit = work.first
        cdef int result = GO_ON
        work.consumed = work.written = work.frames = 0
        while True:
            length = min(work.data_len - work.consumed, limit)
            control = flags = 0
            prefix = FLAGS_LEN
            if work.frames == 0:
                if work.rekey:
                    control = CONTROL_REKEY
                if work.urgent >= 0:
                    flags = FLAG_URGP
                    prefix = FLAGS_LEN + URGENT_LEN
                    head[1] = <uint8_t>(work.urgent >> 8)
                    head[2] = <uint8_t>work.urgent
            plain_len = prefix + length
            if HEADER_LEN + plain_len + self.tag_len > work.out_len - work.written:
                break
            if work.fin and work.consumed + length == work.data_len:
                flags |= FLAG_FINP
            head[0] = flags
            taken = min(plain_len, self.head_size(plain_len)) - prefix
            if taken:
                memcpy(head + prefix, work.data + work.consumed, taken)
            frame = work.out + work.written
            frame[0] = control
            frame[1] = <uint8_t>((plain_len + self.tag_len) >> 8)
            frame[2] = <uint8_t>(plain_len + self.tag_len)
            if self.reset(start + work.written, iv) != 1 or not self.seal_one(
                    frame, head, prefix + taken,
                    work.data + work.consumed + taken, length - taken):
                result = EVP_FAILED
                break
            work.consumed += length
            work.written += HEADER_LEN + plain_len + self.tag_len
            work.frames += 1
            limit = work.others
            if work.consumed == work.data_len:
                break
        OPENSSL_cleanse(head, sizeof(head))
        OPENSSL_cleanse(iv, sizeof(iv))
        return result

    cdef inline bint seal_one(
        self, uint8_t *frame, const uint8_t *head, size_t head_len,
        const uint8_t *rest, size_t rest_len,
    ) noexcept nogil:
        """Encrypt `head` and `rest` behind the header in `frame`, and the tag."""
        cdef int done
        cdef uint8_t nothing[EVP_MAX_BLOCK_LENGTH]
        cdef uint8_t *out = frame + HEADER_LEN
        cdef uint8_t *end = out + head_len + rest_len
        if EVP_EncryptUpdate(self.ctx, NULL, &done, frame, HEADER_LEN) != 1:
            return False
        if EVP_EncryptUpdate(self.ctx, out, &done, head, <int>head_len) != 1:
            return False
        out += done
        if rest_len:
            if EVP_EncryptUpdate(self.ctx, out, &done, rest, <int>rest_len) != 1:
                return False
            out += done
        # Stream modes hold nothing back, so the last call has nothing to write.
        if out != end or EVP_EncryptFinal_ex(self.ctx, nothing, &done) != 1 or done != 0:
            return False
        return EVP_CIPHER_CTX_ctrl(
            self.ctx, EVP_CTRL_AEAD_GET_TAG, <int>self.tag_len, end) == 1


@final
cdef class FrameOpener(_TrafficKey):
    """Opens frames under one traffic key (RFC 8548 sections 3.6 and 4.2)."""

    def __cinit__(self, aead, traffic_key, nonce_form=0):
        self.load(aead, traffic_key, nonce_form, 0)

    def open(self, wire, out, offset, bint accept_rekey=False):
        """Open whole frames of `wire` into `out`; see the stub for the contract."""
        cdef Py_buffer source
        cdef Py_buffer target
        cdef Opening work
        cdef uint64_t start
        cdef int stop
        PyObject_GetBuffer(wire, &source, PyBUF_SIMPLE)
        try:
            PyObject_GetBuffer(out, &target, PyBUF_WRITABLE)
            try:
                start = _checked_offset(offset)
                # offset + len(wire) <= 2**64, in words that hold only 2**64 - 1
                if source.len > 0 and <uint64_t>source.len - 1 > STREAM_LAST - start:
                    raise ValueError("stream offset passes 64 bits")
                if _overlap(&source, &target):
                    raise ValueError("wire and out overlap")
                work.wire = <const uint8_t *>source.buf
                work.wire_len = source.len
                work.out = <uint8_t *>target.buf
                work.out_len = target.len
                work.accept_rekey = accept_rekey
                self.enter()
                try:
                    with nogil:
                        stop = self.run(&work, start)
                    if stop == BAD_TAG or stop == EVP_FAILED:
                        ERR_clear_error()
                    if stop == EVP_FAILED:
                        raise RuntimeError("libcrypto failed to open a frame")
                finally:
                    self.busy = False
                return (work.consumed, work.written, work.frames, stop, work.urgent, work.last)
            finally:
                PyBuffer_Release(&target)
        finally:
            PyBuffer_Release(&source)

    cdef int run(self, Opening *work, uint64_t start) noexcept nogil:
        cdef uint8_t head[HEAD_MAX]
        cdef uint8_t iv[NONCE_MAX]
        cdef const uint8_t *frame
        cdef size_t rest, clen
        cdef int stop
        work.consumed = work.written = work.frames = work.last = 0
        work.urgent = -1
        while True:
            frame = work.wire + work.consumed
            rest = work.wire_len - work.consumed
            if rest < HEADER_LEN:
                stop = NEED_MORE
                break
            clen = (<size_t>frame[1] << 8) | frame[2]
            if clen < FLAGS_LEN + self.tag_len:
                stop = TOO_SHORT
                break
            if rest - HEADER_LEN < clen:
                stop = NEED_MORE
                break
            # Only once the frame is whole, so that a caller derives the next
            # keys once and can commit to them or drop them at once.
            if frame[0] & CONTROL_REKEY and not (work.accept_rekey and work.frames == 0):
                stop = REKEY
                break
            # Room for the most data that it can hold; whether URGp takes 2
            # bytes of it is not known before it is opened.
            if clen - FLAGS_LEN - self.tag_len > work.out_len - work.written:
                stop = OUT_FULL
                break
            if self.reset(start + work.consumed, iv) != 1:
                stop = EVP_FAILED
                break
            stop = self.open_one(work, frame, clen - self.tag_len, head)
            if stop == EVP_FAILED or stop == BAD_TAG or stop == URGENT_TRUNCATED:
                # Nothing of it may be seen, and EVP wrote before it verified.
                OPENSSL_cleanse(work.out + work.written, clen - FLAGS_LEN - self.tag_len)
                break
            work.consumed += HEADER_LEN + clen
            work.written += work.last
            work.frames += 1
            if stop != GO_ON:
                break
        OPENSSL_cleanse(head, sizeof(head))
        OPENSSL_cleanse(iv, sizeof(iv))
        return stop

    cdef inline int open_one(
        self, Opening *work, const uint8_t *frame, size_t plain_len, uint8_t *head,
    ) noexcept nogil:
        """Decrypt one frame to the end of what is written; GO_ON, a stop or EVP_FAILED."""
        cdef const uint8_t *wire = frame + HEADER_LEN
        cdef uint8_t *out = work.out + work.written
        cdef uint8_t nothing[EVP_MAX_BLOCK_LENGTH]
        cdef size_t head_len = min(plain_len, self.head_size(plain_len))
        cdef size_t prefix
        cdef int done
        if EVP_DecryptUpdate(self.ctx, NULL, &done, frame, HEADER_LEN) != 1:
            return EVP_FAILED
        if EVP_DecryptUpdate(self.ctx, head, &done, wire, <int>head_len) != 1:
            return EVP_FAILED
        if <size_t>done != head_len:
            return EVP_FAILED
        # Not authenticated yet, so it decides no more than where bytes go.
        prefix = FLAGS_LEN + (URGENT_LEN if head[0] & FLAG_URGP else 0)
        if head_len > prefix:
            memcpy(out, head + prefix, head_len - prefix)
            out += head_len - prefix
        if plain_len > head_len:
            if EVP_DecryptUpdate(
                    self.ctx, out, &done, wire + head_len, <int>(plain_len - head_len)) != 1:
                return EVP_FAILED
            if <size_t>done != plain_len - head_len:
                return EVP_FAILED
        if EVP_CIPHER_CTX_ctrl(
                self.ctx, EVP_CTRL_AEAD_SET_TAG, <int>self.tag_len, <void *>(wire + plain_len)) != 1:
            return EVP_FAILED
        if EVP_DecryptFinal_ex(self.ctx, nothing, &done) != 1:
            return BAD_TAG
        if plain_len < prefix:
            return URGENT_TRUNCATED
        work.last = plain_len - prefix
        work.urgent = ((<int>head[1] << 8) | head[2]) if head[0] & FLAG_URGP else -1
        if head[0] & FLAG_FINP:
            return FIN
        return URGENT if head[0] & FLAG_URGP else GO_ON
