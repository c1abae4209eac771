/* A path of a certain rate and delay between two interfaces, on which segments come to harm.

     slow_path ONE OTHER MEGABITS MILLISECONDS QUEUE SEED

   Frames pass from either interface to the other: MEGABITS to the second, MILLISECONDS one
   way, and QUEUE bytes at most wait for their turn.  A line `FAULT SHARE` on stdin says what
   becomes of segments from then on, and is answered by one with two numbers: TCP segments
   that came since the line before, and how many of them came to harm.

     none      nothing
     drop      they are lost
     repeat    they come twice
     reorder   others overtake them: they take up to half the delay longer
     corrupt   a bit of them is another one
     cut       they come as two segments

   With `-` behind the share SYNs are spared. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FRAME = 1 << 11, A_TURN = 64, WIRE = 24 /* preamble, checksum and gap of a frame */ };

struct frame {
    struct frame *next;
    double due;
    size_t size;
    uint8_t octets[FRAME];
};

struct way {
    int from, to;
    double free_at;      /* when the line has sent what waits for it */
    struct frame *first; /* by `due` */
    struct frame *last;
};

enum fault { NONE, DROP, REPEAT, REORDER, CORRUPT, CUT, FAULTS };
static const char *const names[] = {"none", "drop", "repeat", "reorder", "corrupt", "cut"};

static double rate, delay, share;
static size_t room;
static enum fault fault;
static int spare;
static long seen, harmed;
static struct frame *unused;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int joined_to(const char *device)
{
    int one = 1, fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    struct packet_mreq all = {.mr_type = PACKET_MR_PROMISC};
    int size = 8 << 20;
    at.sll_ifindex = all.mr_ifindex = (int)if_nametoindex(device);
    if (fd < 0 || !at.sll_ifindex ||
        /* The header says which checksum has yet to be filled in. */
        setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one) ||
        setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one) ||
        setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all))
        die(device);
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size))
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size))
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    if (bind(fd, (struct sockaddr *)&at, sizeof at))
        die(device);
    return fd;
}

/* --- segments --------------------------------------------------------------------- */

static uint32_t sum(const uint8_t *at, size_t size)
{
    uint32_t total = 0;
    for (; size > 1; at += 2, size -= 2)
        total += (uint32_t)at[0] << 8 | at[1];
    return size ? total + ((uint32_t)at[0] << 8) : total;
}

static void put_sum(uint8_t *at, uint32_t total)
{
    while (total >> 16)
        total = (total & 0xFFFF) + (total >> 16);
    at[0] = (uint8_t)(~total >> 8);
    at[1] = (uint8_t)~total;
}

/* Where TCP begins in a frame, behind the link's and IP's header; 0: it is none. */
static size_t tcp_of(const uint8_t *octets, size_t size)
{
    const uint8_t *ip = octets + ETH_HLEN;
    size_t at = 0;
    if (size >= ETH_HLEN + 40 && octets[12] == 0x08 && octets[13] == 0x00 && ip[9] == 6)
        at = ETH_HLEN + (size_t)(ip[0] & 15) * 4;
    else if (size >= ETH_HLEN + 60 && octets[12] == 0x86 && octets[13] == 0xDD && ip[6] == 6)
        at = ETH_HLEN + 40;
    return at && at + 20 <= size ? at : 0;
}

static void seal(uint8_t *octets, size_t tcp, size_t size)
{
    uint8_t *ip = octets + ETH_HLEN;
    size_t length = size - tcp;
    uint32_t total = 6 + (uint32_t)length;
    if (ip[0] >> 4 == 4) {
        ip[2] = (uint8_t)((size - ETH_HLEN) >> 8);
        ip[3] = (uint8_t)(size - ETH_HLEN);
        memset(ip + 10, 0, 2);
        put_sum(ip + 10, sum(ip, tcp - ETH_HLEN));
        total += sum(ip + 12, 8);
    } else {
        ip[4] = (uint8_t)(length >> 8);
        ip[5] = (uint8_t)length;
        total += sum(ip + 8, 32);
    }
    memset(octets + tcp + 16, 0, 2);
    put_sum(octets + tcp + 16, total + sum(octets + tcp, length));
}

static double chance(void)
{
    return (double)random() / ((double)RAND_MAX + 1.0);
}

/* --- the line --------------------------------------------------------------------- */

static struct frame *made(void)
{
    struct frame *frame = unused;
    if (frame)
        unused = frame->next;
    else if (!(frame = malloc(sizeof *frame)))
        die("malloc");
    return frame;
}

static void leave(struct frame *frame)
{
    frame->next = unused;
    unused = frame;
}

/* Takes its turn on the line, or is dropped where the queue is full. */
static void pass(struct way *way, struct frame *frame, double longer)
{
    double at = now();
    if (way->free_at < at)
        way->free_at = at;
    if ((way->free_at - at) * rate > (double)room) {
        leave(frame);
        return;
    }
    way->free_at += (double)(frame->size + WIRE) / rate;
    frame->due = way->free_at + delay + longer;
    frame->next = NULL;
    if (!way->last || way->last->due <= frame->due) {
        *(way->last ? &way->last->next : &way->first) = frame;
        way->last = frame;
        return;
    }
    struct frame **place = &way->first;
    while ((*place)->due <= frame->due)
        place = &(*place)->next;
    frame->next = *place;
    *place = frame;
}

static struct frame *copy(const struct frame *frame)
{
    struct frame *other = made();
    memcpy(other, frame, sizeof *frame);
    return other;
}

/* The second half of a segment becomes a frame of its own; NULL if it has no two bytes. */
static struct frame *cut(struct frame *frame, size_t tcp)
{
    size_t data = tcp + (size_t)(frame->octets[tcp + 12] >> 4) * 4, first;
    struct frame *other;
    uint32_t number;
    if (data + 2 > frame->size)
        return NULL;
    first = 1 + (size_t)random() % (frame->size - data - 1);
    other = copy(frame);
    memmove(other->octets + data, other->octets + data + first, frame->size - data - first);
    other->size -= first;
    memcpy(&number, other->octets + tcp + 4, 4);
    number = htonl(ntohl(number) + (uint32_t)first);
    memcpy(other->octets + tcp + 4, &number, 4);
    seal(other->octets, tcp, other->size);
    frame->size = data + first;
    frame->octets[tcp + 13] &= (uint8_t)~0x09; /* FIN and PSH stand behind all data */
    seal(frame->octets, tcp, frame->size);
    return other;
}

static void carry(struct way *way, struct frame *frame)
{
    size_t tcp = tcp_of(frame->octets, frame->size);
    struct frame *other = NULL;
    double longer = 0;
    if (tcp) {
        seen++;
        if (fault != NONE && chance() < share && !(spare && frame->octets[tcp + 13] & 2)) {
            harmed++;
            if (fault == DROP) {
                leave(frame);
                return;
            }
            if (fault == REPEAT)
                other = copy(frame);
            else if (fault == REORDER)
                longer = delay / 2 * chance();
            else if (fault == CORRUPT)
                frame->octets[tcp + (size_t)random() % (frame->size - tcp)] ^=
                    (uint8_t)(1 << random() % 8);
            else if (!(other = cut(frame, tcp)))
                harmed--;
        }
    }
    pass(way, frame, longer);
    if (other)
        pass(way, other, 0);
}

static void take(struct way *way)
{
    struct virtio_net_hdr header;
    for (int i = 0; i < A_TURN; i++) {
        struct frame *frame = made();
        struct iovec parts[2] = {{&header, sizeof header}, {frame->octets, FRAME}};
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
        ssize_t size = recvmsg(way->from, &message, MSG_TRUNC);
        if (size < (ssize_t)sizeof header) {
            leave(frame);
            if (size < 0 && errno != EAGAIN && errno != ENETDOWN)
                die("recvmsg");
            return;
        }
        frame->size = (size_t)size - sizeof header;
        if (message.msg_flags & MSG_TRUNC || frame->size > FRAME) {
            fprintf(stderr, "a frame of %zu bytes: segments are to be cut before\n", frame->size);
            exit(1);
        }
        if (header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM &&
            header.csum_start + header.csum_offset + 2u <= frame->size)
            put_sum(frame->octets + header.csum_start + header.csum_offset,
                    sum(frame->octets + header.csum_start, frame->size - header.csum_start));
        carry(way, frame);
    }
}

static void give(struct way *way)
{
    static struct virtio_net_hdr header;
    double at = now();
    while (way->first && way->first->due <= at) {
        struct frame *frame = way->first;
        struct iovec parts[2] = {{&header, sizeof header}, {frame->octets, frame->size}};
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
        if (sendmsg(way->to, &message, 0) < 0 && (errno == EAGAIN || errno == ENOBUFS))
            return; /* a moment later */
        way->first = frame->next;
        if (!way->first)
            way->last = NULL;
        leave(frame);
    }
}

static void told(void)
{
    char line[64], name[16], end[2] = "";
    double number;
    ssize_t size = read(0, line, sizeof line - 1);
    if (size <= 0)
        exit(0);
    line[size] = 0;
    if (sscanf(line, "%15s %lf %1s", name, &number, end) >= 2)
        for (int i = 0; i < FAULTS; i++)
            if (!strcmp(name, names[i])) {
                printf("%ld %ld\n", seen, harmed);
                fflush(stdout);
                fault = (enum fault)i;
                share = number;
                spare = end[0] == '-';
                seen = harmed = 0;
                return;
            }
    fprintf(stderr, "no fault: %s", line);
    exit(2);
}

int main(int argc, char **argv)
{
    struct way ways[2] = {0};
    struct pollfd wait[3] = {{0, POLLIN, 0}};
    if (argc != 7) {
        fprintf(stderr, "usage: %s ONE OTHER MEGABITS MILLISECONDS QUEUE SEED\n", argv[0]);
        return 2;
    }
    for (int i = 0; i < 2; i++) {
        ways[i].from = ways[1 - i].to = joined_to(argv[1 + i]);
        wait[1 + i] = (struct pollfd){ways[i].from, POLLIN, 0};
    }
    rate = atof(argv[3]) * 1e6 / 8;
    delay = atof(argv[4]) / 1e3;
    room = (size_t)atol(argv[5]);
    srandom((unsigned)atol(argv[6]));
    puts("ready");
    fflush(stdout);
    for (;;) {
        double until = now() + 1;
        for (int i = 0; i < 2; i++)
            if (ways[i].first && ways[i].first->due < until)
                until = ways[i].first->due;
        double left = until - now();
        struct timespec pause = {0, left > 0 ? (long)(left * 1e9) % 1000000000L : 0};
        if (ppoll(wait, 3, &pause, NULL) < 0)
            die("ppoll");
        for (int i = 0; i < 2; i++) {
            give(&ways[i]);
            if (wait[1 + i].revents)
                take(&ways[i]);
        }
        if (wait[0].revents)
            told();
    }
}
