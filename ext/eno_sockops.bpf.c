// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* RFC 8547 section 4.6 in the kernel: puts ENO options into the segments of the
 * daemon's sockets and keeps what their handshakes said for it.
 *
 * Attached to the control group in which the daemon makes its sockets.  Whatever
 * is not the daemon's is left alone: an opener or a listener is known by storage
 * that the daemon has given to it, a request by the options of its listener and
 * by the network namespace.  The kernel calls only for segments that TCP accepts:
 * a SYN-ACK that acknowledges our SYN, an ACK that acknowledges our SYN-ACK.
 *
 * The state machine is tcpcrypt.core.negotiation, which replays what is kept here
 * and has the last word; what had to be decided at once is compared with it, and
 * a connection about which the two disagree is reset.
 */
#include <linux/bpf.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "eno_choice.h"

#define AF_INET 2
#define SOL_TCP 6
#define HEADER 20
#define FLAG_SYN 0x02
#define FLAG_RST 0x04
#define FLAG_ACK 0x10
#define PENDING_MAX 16384
#define RESUMPTIONS_MAX 65536
#define ACK_LENGTH 2

/* As tcpcrypt/runtime/sockops.py has it. */
enum { OPENER = 1, LISTENER = 2, ACCEPTED = 3 };
enum {
	SYN_LEFT = 1,	/* a SYN has left with the option */
	GAVE_UP = 2,	/* one has left without */
	CROSSED = 4,	/* simultaneous open: a SYN-ACK of ours has left, without the option */
	UP = 8,
	ACKED = 16,	/* the SYN-ACK is acknowledged with the option */
	PEER_SPOKE = 32 /* the peer's first segment without SYN has come */
};

struct transcript {
	__u8 kind;
	__u8 seen;
	__u8 syns;	   /* SYNs that have left with the option */
	__u8 syns_max;	   /* after which one leaves without; 0: none does */
	__u8 offered;	   /* a bit for each TEP of the SYN */
	__u8 own_length;
	__u8 theirs_length;
	__u8 ack_length;
	__u8 ticket[1 + ENO_ID];
	__u8 padding[6];
	__u8 own[ENO_OPTIONS_MAX];    /* the option that was sent */
	__u8 theirs[ENO_OPTIONS_MAX]; /* all options of the peer's SYN or SYN-ACK */
	__u8 ack[ENO_OPTIONS_MAX];    /* all options of its first ACK */
};

struct flow {
	__u32 family;
	__u32 local_port;
	__u32 remote_port;
	__u32 local[4];
	__u32 remote[4];
};

/* A SYN that is answered. */
struct pending {
	__u32 isn;
	__u8 own_length;
	__u8 theirs_length;
	__u8 padding[2];
	__u8 own[ENO_OPTIONS_MAX];
	__u8 theirs[ENO_OPTIONS_MAX];
};

struct settings {
	__u64 namespace;
	__u8 teps[ENO_TEPS]; /* most preferred first; 0 ends them */
	__u8 global;	     /* first suboption of an answer */
	__u8 padding[3];
};

struct resumption_key {
	__u8 tep; /* with bit v */
	__u8 identifier[ENO_ID];
};

struct resumption {
	__u8 identifier[ENO_ID];
	__u8 nonce_length;
	__u8 nonce[ENO_NONCE];
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct transcript);
} transcripts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, PENDING_MAX);
	__type(key, struct flow);
	__type(value, struct pending);
} pendings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, RESUMPTIONS_MAX);
	__type(key, struct resumption_key);
	__type(value, struct resumption);
} resumptions SEC(".maps");

ENO_INLINE struct transcript *transcript_of(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	return sk ? bpf_sk_storage_get(&transcripts, sk, 0, 0) : 0;
}

/* Put `length` bytes of `option` into the segment; 0 if that went well. */
ENO_INLINE int store(struct bpf_sock_ops *ctx, const __u8 *option, __u64 length)
{
	__asm__ volatile("" : "+r"(length)); /* or the check is not of what is used */
	if (length < ACK_LENGTH || length > ENO_OPTIONS_MAX)
		return 1;
	return bpf_store_hdr_opt(ctx, option, length, 0) != 0;
}

/* The settings, if this is the daemon's network namespace. */
ENO_INLINE struct settings *here(struct bpf_sock_ops *ctx)
{
	__u32 zero = 0;
	struct settings *found = bpf_map_lookup_elem(&settings, &zero);

	return found && found->namespace == bpf_get_netns_cookie(ctx) ? found : 0;
}

ENO_INLINE void flow_of(struct bpf_sock_ops *ctx, struct flow *flow)
{
	__builtin_memset(flow, 0, sizeof(*flow));
	flow->family = ctx->family;
	flow->local_port = ctx->local_port;
	flow->remote_port = ctx->remote_port;
	if (ctx->family == AF_INET) {
		flow->local[0] = ctx->local_ip4;
		flow->remote[0] = ctx->remote_ip4;
	} else {
		flow->local[0] = ctx->local_ip6[0];
		flow->local[1] = ctx->local_ip6[1];
		flow->local[2] = ctx->local_ip6[2];
		flow->local[3] = ctx->local_ip6[3];
		flow->remote[0] = ctx->remote_ip6[0];
		flow->remote[1] = ctx->remote_ip6[1];
		flow->remote[2] = ctx->remote_ip6[2];
		flow->remote[3] = ctx->remote_ip6[3];
	}
}

/* Copy the options of the segment at hand; how many bytes there are. */
ENO_INLINE __u32 segment_options(struct bpf_sock_ops *ctx, __u8 *to)
{
	void *data = ctx->skb_data, *end = ctx->skb_data_end;
	__u8 *from = data;
	__u32 length = 0;

#pragma unroll
	for (int i = 0; i < ENO_OPTIONS_MAX; i++) {
		if ((void *)(from + HEADER + i + 1) > end)
			break;
		to[i] = from[HEADER + i];
		length = i + 1;
	}
	return length;
}

ENO_INLINE void make_answer(struct bpf_sock_ops *ctx, struct settings *ours,
			    struct eno_said *said, struct pending *pending)
{
	__u32 best = 0;

	if (!eno_read(said) || said->global & ENO_GLOBAL_B)
		return;
	for (__u32 rank = 0; rank < ENO_TEPS; rank++) {
		struct resumption_key key;
		struct resumption *kept;
		__u32 tep = ours->teps[rank], index = tep - ENO_TEP_PLAIN, start, length;
		__u64 stamp;

		if (index >= ENO_TEPS || !eno_has(said, index))
			continue;
		if (!best)
			best = tep;
		start = eno_resumption(said, index);
		if (!start)
			continue;
		key.tep = tep | ENO_V;
#pragma unroll
		for (__u32 i = 0; i < ENO_ID; i++)
			key.identifier[i] = eno_octet(said, start + i);
		kept = bpf_map_lookup_elem(&resumptions, &key);
		if (!kept)
			continue;
		length = 4 + ENO_ID + kept->nonce_length;
		if (length > 4 + ENO_ID + ENO_NONCE || bpf_reserve_hdr_opt(ctx, length, 0))
			continue; /* no room: a fresh exchange instead */
		/* Random bytes of user space, and a time: a machine that was copied
		 * has the first in common with its copy, but not the second. */
		stamp = bpf_ktime_get_ns();
		pending->own_length = length;
		pending->own[0] = ENO_KIND;
		pending->own[1] = length;
		pending->own[2] = ours->global;
		pending->own[3] = tep | ENO_V;
#pragma unroll
		for (__u32 i = 0; i < ENO_ID; i++)
			pending->own[4 + i] = kept->identifier[i];
#pragma unroll
		for (__u32 i = 0; i < ENO_NONCE; i++)
			pending->own[4 + ENO_ID + i] = kept->nonce[i] ^ (__u8)(stamp >> 8 * i);
		return;
	}
	if (!best || bpf_reserve_hdr_opt(ctx, 4, 0))
		return;
	pending->own_length = 4;
	pending->own[0] = ENO_KIND;
	pending->own[1] = 4;
	pending->own[2] = ours->global;
	pending->own[3] = best;
}

/* Room for the answer in a SYN-ACK.  One that is repeated has no SYN beside it. */
ENO_INLINE void reserve_answer(struct bpf_sock_ops *ctx, struct settings *ours)
{
	struct flow flow;
	struct pending *known, fresh;
	struct eno_said said;
	__u8 syn[HEADER + ENO_OPTIONS_MAX];
	__u32 isn;
	int length;

	flow_of(ctx, &flow);
	known = bpf_map_lookup_elem(&pendings, &flow);
	length = bpf_getsockopt(ctx, SOL_TCP, TCP_BPF_SYN, syn, sizeof(syn));
	if (length < HEADER || length > HEADER + ENO_OPTIONS_MAX) {
		if (known && known->own_length)
			bpf_reserve_hdr_opt(ctx, known->own_length, 0);
		return;
	}
	isn = (__u32)syn[4] << 24 | (__u32)syn[5] << 16 | (__u32)syn[6] << 8 | syn[7];
	if (known && known->isn == isn) {
		/* With SYN cookies every SYN comes here; the answer stays the same. */
		if (known->own_length)
			bpf_reserve_hdr_opt(ctx, known->own_length, 0);
		return;
	}
	__builtin_memset(&said, 0, sizeof(said));
	__builtin_memset(&fresh, 0, sizeof(fresh));
	said.size = length - HEADER;
	fresh.isn = isn;
	fresh.theirs_length = length - HEADER;
	__builtin_memcpy(said.options, syn + HEADER, ENO_OPTIONS_MAX);
	__builtin_memcpy(fresh.theirs, syn + HEADER, ENO_OPTIONS_MAX);
	make_answer(ctx, ours, &said, &fresh);
	bpf_map_update_elem(&pendings, &flow, &fresh, BPF_ANY);
}

ENO_INLINE void write_answer(struct bpf_sock_ops *ctx)
{
	struct flow flow;
	struct pending *known;

	flow_of(ctx, &flow);
	known = bpf_map_lookup_elem(&pendings, &flow);
	if (known)
		store(ctx, known->own, known->own_length);
}

ENO_INLINE void reserve_own(struct bpf_sock_ops *ctx, struct transcript *of)
{
	__u32 flags = ctx->skb_tcp_flags;

	if (ctx->args[0] == BPF_WRITE_HDR_TCP_CURRENT_MSS || !(flags & FLAG_SYN)) {
		if ((of->seen & (ACKED | PEER_SPOKE)) == ACKED)
			bpf_reserve_hdr_opt(ctx, ACK_LENGTH, 0);
	} else if (flags & FLAG_ACK) {
		/* The kernel does not show us the SYN that has crossed ours.  A SYN-ACK
		 * without ENO makes both sides go on in plain. */
		of->seen |= CROSSED;
	} else if (of->seen & (GAVE_UP | CROSSED) || (of->syns_max && of->syns >= of->syns_max) ||
		   bpf_reserve_hdr_opt(ctx, of->own_length, 0)) {
		of->seen |= GAVE_UP;
	}
}

ENO_INLINE void write_own(struct bpf_sock_ops *ctx, struct transcript *of)
{
	__u8 ack[ACK_LENGTH] = {ENO_KIND, ACK_LENGTH};

	if (!(ctx->skb_tcp_flags & FLAG_SYN)) {
		bpf_store_hdr_opt(ctx, ack, ACK_LENGTH, 0);
	} else if (!store(ctx, of->own, of->own_length)) {
		of->seen |= SYN_LEFT;
		if (of->syns < 255)
			of->syns++;
	}
}

ENO_INLINE void opened(struct bpf_sock_ops *ctx, struct transcript *of)
{
	struct eno_said said;
	__u8 ticket[1 + ENO_ID];

	__builtin_memset(&said, 0, sizeof(said));
	said.size = segment_options(ctx, said.options);
	__builtin_memcpy(of->theirs, said.options, ENO_OPTIONS_MAX);
	__builtin_memcpy(ticket, of->ticket, sizeof(ticket));
	of->theirs_length = said.size;
	of->seen |= UP;
	if ((of->seen & (SYN_LEFT | GAVE_UP | CROSSED)) != SYN_LEFT ||
	    !eno_acceptable(&said, of->offered, ticket)) {
		bpf_sock_ops_cb_flags_set(ctx, 0);
		return;
	}
	of->seen |= ACKED;
	bpf_sock_ops_cb_flags_set(ctx, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG |
				       BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG);
}

ENO_INLINE void accepted(struct bpf_sock_ops *ctx)
{
	struct flow flow;
	struct pending *known;
	struct transcript *of;
	struct bpf_sock *sk = ctx->sk;

	flow_of(ctx, &flow);
	known = bpf_map_lookup_elem(&pendings, &flow);
	if (!sk || !known || known->isn + 1 != ctx->rcv_nxt)
		return;
	/* It has them of its listener; there is nothing more to write. */
	bpf_sock_ops_cb_flags_set(ctx, 0);
	of = bpf_sk_storage_get(&transcripts, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (of) {
		of->kind = ACCEPTED;
		of->own_length = known->own_length;
		of->theirs_length = known->theirs_length;
		__builtin_memcpy(of->own, known->own, ENO_OPTIONS_MAX);
		__builtin_memcpy(of->theirs, known->theirs, ENO_OPTIONS_MAX);
		of->ack_length = segment_options(ctx, of->ack);
		of->seen = UP;
	}
	bpf_map_delete_elem(&pendings, &flow);
}

/* The peer has got our SYN-ACK's acknowledgement: what comes is in its place, and
 * acknowledges what we have sent. */
ENO_INLINE void came(struct bpf_sock_ops *ctx, struct transcript *of)
{
	struct tcphdr *header = ctx->skb_data;
	__u32 acknowledged;

	if ((void *)(header + 1) > (void *)ctx->skb_data_end || !header->ack || header->syn)
		return;
	acknowledged = bpf_ntohl(header->ack_seq);
	if ((__s32)(acknowledged - ctx->snd_una) < 0 || (__s32)(ctx->snd_nxt - acknowledged) < 0)
		return;
	of->seen |= PEER_SPOKE;
	bpf_sock_ops_cb_flags_set(ctx, 0);
}

SEC("sockops")
int tcpcrypt_eno(struct bpf_sock_ops *ctx)
{
	struct transcript *of = transcript_of(ctx);
	struct settings *ours;

	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		if (of && of->kind == LISTENER)
			bpf_sock_ops_cb_flags_set(ctx, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
		break;
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		if (of && of->kind == OPENER)
			bpf_sock_ops_cb_flags_set(ctx, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
		break;
	case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
		if (of && of->kind == OPENER)
			reserve_own(ctx, of);
		else if (!ctx->is_fullsock && (ours = here(ctx)))
			reserve_answer(ctx, ours);
		break;
	case BPF_SOCK_OPS_WRITE_HDR_OPT_CB:
		if (of && of->kind == OPENER)
			write_own(ctx, of);
		else if (!ctx->is_fullsock && here(ctx))
			write_answer(ctx);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		if (of && of->kind == OPENER)
			opened(ctx, of);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		if (of && of->kind == OPENER) {
			of->seen |= UP;
			bpf_sock_ops_cb_flags_set(ctx, 0);
		} else if (here(ctx)) {
			accepted(ctx);
		}
		break;
	case BPF_SOCK_OPS_PARSE_HDR_OPT_CB:
		if (of && of->kind == OPENER)
			came(ctx, of);
		break;
	}
	return 1;
}

char _license[] SEC("license") = "Dual MIT/GPL";
