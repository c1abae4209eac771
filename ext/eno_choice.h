/* RFC 8547 sections 4.1 to 4.5 and RFC 8548 section 3.5: what a host can judge of
 * an ENO option without knowing any secret.
 *
 * For the BPF program, which has to decide at once what leaves; it is held against
 * tcpcrypt.core by tests/runtime/test_eno_choice.py.  Of TEPs it knows those of RFC
 * 8548 alone.  Every buffer has ENO_BUFFER bytes, so that a masked index is within
 * it whatever the verifier believes.
 */
#ifndef TCPCRYPT_ENO_CHOICE_H
#define TCPCRYPT_ENO_CHOICE_H

#define ENO_KIND 69
#define ENO_OPTIONS_MAX 40
#define ENO_BUFFER 64
#define ENO_TEP_FIRST 0x20
#define ENO_TEP_PLAIN 0x21 /* ... to 0x24: RFC 8548's */
#define ENO_TEPS 4
#define ENO_V 0x80
#define ENO_GLOBAL_B 0x01
#define ENO_ID 9
#define ENO_NONCE 8
#define ENO_EXPERIMENT 253

/* `body(step, state)` up to `times`, until it returns 1. */
#ifdef __bpf__
#define ENO_LOOP(times, body, state) bpf_loop(times, body, state, 0)
#else
#define ENO_LOOP(times, body, state)                         \
	for (__u32 step = 0; step < (times); step++)         \
		if (body(step, state))                       \
			break;
#endif

#define ENO_INLINE static inline __attribute__((always_inline))

/* The bytes of a header's options, and what stands in them. */
struct eno_said {
	__u8 options[ENO_BUFFER];
	__u32 size;
	__u32 at;
	__u32 start;	/* of the one ENO option */
	__u32 end;
	__u32 count;	/* of ENO options */
	__u32 unusable; /* ill-formed, or beside the form of old drafts */
	__u32 named;	/* the global suboption has come */
	__u32 global;
	/* Bit i: TEP i is there; is there twice; has data. */
	__u32 once;
	__u32 twice;
	__u32 data;
	/* Byte i: where the data of TEP i begin, and how many they are. */
	__u32 starts;
	__u32 lengths;
};

/* `said->options[at]`.  The compiler must not know that the mask changes nothing, or
 * it leaves it out, and the verifier does not follow. */
ENO_INLINE __u32 eno_octet(const struct eno_said *said, __u64 at)
{
	__asm__ volatile("" : "+r"(at));
	at &= ENO_BUFFER - 1;
	return said->options[at];
}

/* One option of the header; 1 at the end. */
static long eno_walk(__u32 step __attribute__((unused)), struct eno_said *said)
{
	__u32 at = said->at, kind, length;

	if (at >= said->size || at >= ENO_OPTIONS_MAX)
		return 1;
	kind = eno_octet(said, at);
	if (kind == 1) {
		said->at = at + 1;
		return 0;
	}
	if (kind == 0)
		return 1;
	length = eno_octet(said, at + 1);
	if (at + 1 >= said->size || length < 2 || at + length > said->size) {
		said->unusable = 1;
		return 1;
	}
	if (kind == ENO_KIND) {
		said->count++;
		said->start = at;
		said->end = at + length;
	} else if (kind == ENO_EXPERIMENT && length >= 4 && eno_octet(said, at + 2) == 0x45 &&
		   eno_octet(said, at + 3) == 0x4e) {
		said->unusable = 1;
	}
	said->at = at + length;
	return 0;
}

ENO_INLINE void eno_note(struct eno_said *said, __u32 tep, __u32 data, __u32 start, __u32 length)
{
	__u32 index = tep - ENO_TEP_PLAIN, bit, shift;

	if (index >= ENO_TEPS)
		return;
	bit = 1u << index;
	shift = 8 * index;
	said->twice |= said->once & bit;
	said->once |= bit;
	said->data |= data << index;
	said->starts = (said->starts & ~(0xffu << shift)) | (start & 0xff) << shift;
	said->lengths = (said->lengths & ~(0xffu << shift)) | (length & 0xff) << shift;
}

/* One suboption; 1 at the end. */
static long eno_suboption(__u32 step __attribute__((unused)), struct eno_said *said)
{
	__u32 at = said->at, end = said->end, octet, length;

	if (at >= end || at >= ENO_OPTIONS_MAX)
		return 1;
	octet = eno_octet(said, at);
	at++;
	if (octet < ENO_TEP_FIRST) {
		if (!said->named)
			said->global = octet;
		said->named = 1;
	} else if (octet < ENO_V) {
		eno_note(said, octet, 0, 0, 0);
	} else if (octet < ENO_V + ENO_TEP_FIRST) {
		length = (octet & (ENO_TEP_FIRST - 1)) + 1;
		octet = eno_octet(said, at);
		if (at >= end || octet < ENO_V + ENO_TEP_FIRST || at + 1 + length > end) {
			said->unusable = 1;
			return 1;
		}
		eno_note(said, octet & 0x7f, 1, at + 1, length);
		at += 1 + length;
	} else {
		eno_note(said, octet & 0x7f, 1, at, end - at);
		return 1;
	}
	said->at = at;
	return 0;
}

/* Read the options; 0 unless there is one ENO option, and that is well-formed. */
ENO_INLINE int eno_read(struct eno_said *said)
{
	ENO_LOOP(ENO_OPTIONS_MAX, eno_walk, said);
	if (said->unusable || said->count != 1)
		return 0;
	said->at = said->start + 2;
	ENO_LOOP(ENO_OPTIONS_MAX, eno_suboption, said);
	return !said->unusable;
}

/* Whether TEP `index` (0 to 3) is valid, as far as its number goes. */
ENO_INLINE int eno_has(const struct eno_said *said, __u32 index)
{
	return (said->once & ~said->twice) >> index & 1;
}

/* Where the resumption of TEP `index` begins, 0 if it offers none. */
ENO_INLINE __u32 eno_resumption(const struct eno_said *said, __u32 index)
{
	__u32 length = said->lengths >> 8 * index & 0xff;

	if (!(said->data >> index & 1) || length < ENO_ID || length > ENO_ID + ENO_NONCE)
		return 0;
	return said->starts >> 8 * index & 0xff;
}

/* Whether an active opener may acknowledge a SYN-ACK with these options.
 * `offered` has a bit for each TEP of its SYN; `ticket` is the TEP that it offers
 * to resume (0: none) and the peer's identifier. */
ENO_INLINE int eno_acceptable(struct eno_said *said, __u32 offered, const __u8 *ticket)
{
	if (!eno_read(said) || !(said->global & ENO_GLOBAL_B))
		return 0;
	for (__u32 index = 0; index < ENO_TEPS; index++) {
		__u32 start, other = 0;

		if (!(offered >> index & 1) || !eno_has(said, index))
			continue;
		if (!(said->data >> index & 1))
			return 1;
		start = eno_resumption(said, index);
		if (!start || ticket[0] != ENO_TEP_PLAIN + index)
			continue;
		for (__u32 i = 0; i < ENO_ID; i++)
			other |= eno_octet(said, start + i) ^ ticket[1 + i];
		if (!other)
			return 1;
	}
	return 0;
}

#endif
