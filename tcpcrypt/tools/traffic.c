/* Traffic as fast as it goes: what `tcpcrypt bench` and bench/ measure with.

     traffic serve ADDRESS PORT once    answers each connection's first bytes with as many
                                        and ends the stream
     traffic serve ADDRESS PORT echo    gives every byte back
     traffic serve ADDRESS PORT sink    takes blocks; the first byte of each says whether it
                                        is the last, and that one is answered with 8 bytes

     traffic open ADDRESS PORT CONCURRENCY SECONDS
         keeps CONCURRENCY connections under way, 16 bytes there and back on each
     traffic bulk ADDRESS PORT FLOWS SECONDS
         sends on FLOWS connections, and waits until all of it has arrived
     traffic ping ADDRESS PORT BYTES SECONDS
         sends BYTES and waits until they are back, again and again on one connection

   Each prints one line of JSON, in which cpu_s is the processor time that it took; what
   fails goes to stderr in words.  One thread and one epoll each, so that it costs little
   beside what it measures.  A server says "ready" once it listens. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { REQUEST = 16, EVENTS = 256, LATENCIES = 1 << 20, BLOCK = 256 << 10, CHUNK = BLOCK };

struct flow {
    int fd;
    int received;
    int asked;
    double since;
    size_t at; /* in the block */
    int last;  /* the block is the last one */
};

static double latencies[LATENCIES];

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

static void parse(const char *address, const char *port, struct sockaddr_storage *out,
                  socklen_t *length)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)atoi(port));
        *length = sizeof *v4;
    } else if (inet_pton(AF_INET6, address, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)atoi(port));
        *length = sizeof *v6;
    } else {
        fprintf(stderr, "%s is no address\n", address);
        exit(2);
    }
}

static double spent(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static char chunk[CHUNK];

/* -1: the connection is over. */
static int answer_once(struct flow *flow)
{
    ssize_t size = read(flow->fd, chunk, 4096);
    if (size < 0 && errno == EAGAIN)
        return 0;
    if (size > 0 && write(flow->fd, chunk, (size_t)size) < 0)
        perror("write");
    return -1;
}

static int give_back(struct flow *flow)
{
    ssize_t size = read(flow->fd, chunk, sizeof chunk);
    if (size < 0 && errno == EAGAIN)
        return 0;
    /* What is asked to be given back is small enough for the socket's buffer. */
    return size > 0 && write(flow->fd, chunk, (size_t)size) == size ? 0 : -1;
}

static int take_blocks(struct flow *flow)
{
    ssize_t size = read(flow->fd, chunk, sizeof chunk);
    if (size < 0 && errno == EAGAIN)
        return 0;
    if (size <= 0)
        return -1;
    for (size_t seen = 0; seen < (size_t)size;) {
        size_t left = (size_t)size - seen, piece = BLOCK - flow->at;
        if (flow->at == 0)
            flow->last = chunk[seen];
        piece = piece < left ? piece : left;
        seen += piece;
        flow->at = (flow->at + piece) % BLOCK;
        if (flow->at == 0 && flow->last)
            return write(flow->fd, "received", 8) == 8 ? 0 : -1;
    }
    return 0;
}

static void serve(const struct sockaddr_storage *address, socklen_t length,
                  int (*happens)(struct flow *))
{
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN};
    int one = 1, fd, epoll = epoll_create1(0);
    int listener = socket(address->ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (listener < 0 || bind(listener, (const struct sockaddr *)address, length) ||
        listen(listener, 65535))
        die("listen");
    event.data.ptr = NULL;
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            struct flow *flow = events[i].data.ptr;
            if (flow == NULL) {
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    flow = calloc(1, sizeof *flow);
                    if (flow == NULL)
                        die("calloc");
                    flow->fd = fd;
                    event.data.ptr = flow;
                    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
                }
                continue;
            }
            if (happens(flow) < 0) {
                close(flow->fd);
                free(flow);
            }
        }
    }
}

static int connected(const struct sockaddr_storage *address, socklen_t length)
{
    int one = 1, fd = socket(address->ss_family, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)address, length))
        die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

/* What the socket takes now; 1 once the last block has gone. */
static int send_blocks(struct flow *flow, int stop, unsigned long long *bytes)
{
    for (int turn = 0; turn < 8; turn++) {
        size_t size = BLOCK - flow->at;
        if (flow->at == 0) {
            if (flow->last)
                return 1;
            flow->last = stop;
        }
        size = size < CHUNK ? size : CHUNK;
        chunk[0] = (char)(flow->at == 0 ? flow->last : 0);
        ssize_t sent = write(flow->fd, chunk, size);
        if (sent < 0 && errno == EAGAIN)
            return 0;
        if (sent < 0)
            die("bulk");
        *bytes += (size_t)sent;
        flow->at = (flow->at + (size_t)sent) % BLOCK;
        if ((size_t)sent < size)
            return 0;
    }
    return 0;
}

static void bulk(const struct sockaddr_storage *address, socklen_t length, int count,
                 double seconds)
{
    struct epoll_event events[EVENTS];
    struct flow *flows = calloc((size_t)count, sizeof *flows);
    unsigned long long bytes = 0;
    int epoll = epoll_create1(0), open = count;
    char answer[8];
    for (int i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLOUT, .data.ptr = &flows[i]};
        flows[i].fd = connected(address, length);
        fcntl(flows[i].fd, F_SETFL, O_NONBLOCK);
        epoll_ctl(epoll, EPOLL_CTL_ADD, flows[i].fd, &event);
    }
    double start = now(), end = start + seconds;
    while (open > 0) {
        if (now() > end + 30) {
            fprintf(stderr, "bulk: what was sent did not arrive within 30 s\n");
            exit(1);
        }
        int ready = epoll_wait(epoll, events, EVENTS, 1000);
        for (int i = 0; i < ready; i++) {
            struct flow *flow = events[i].data.ptr;
            if (flow->asked) {
                if (read(flow->fd, answer, sizeof answer) != sizeof answer)
                    die("answer");
                close(flow->fd);
                open--;
            } else if (send_blocks(flow, now() >= end, &bytes)) {
                struct epoll_event event = {.events = EPOLLIN, .data.ptr = flow};
                flow->asked = 1;
                epoll_ctl(epoll, EPOLL_CTL_MOD, flow->fd, &event);
            }
        }
    }
    printf("{\"bytes\": %llu, \"seconds\": %.6f, \"cpu_s\": %.6f}\n", bytes, now() - start,
           spent());
    free(flows);
}

static int by_value(const void *one, const void *other)
{
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

static int begin(int epoll, struct flow *flow, const struct sockaddr_storage *address,
                 socklen_t length)
{
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = flow};
    flow->received = flow->asked = 0;
    flow->since = now();
    flow->fd = socket(address->ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (flow->fd < 0)
        die("socket");
    if (connect(flow->fd, (const struct sockaddr *)address, length) && errno != EINPROGRESS) {
        close(flow->fd);
        return 0;
    }
    epoll_ctl(epoll, EPOLL_CTL_ADD, flow->fd, &event);
    return 1;
}

static int failure(const struct flow *flow, const char *when)
{
    int number = errno, error = 0;
    socklen_t length = sizeof error;
    struct sockaddr_storage own;
    socklen_t own_length = sizeof own;
    getsockopt(flow->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    getsockname(flow->fd, (struct sockaddr *)&own, &own_length);
    fprintf(stderr, "%s from port %d after %.3f s, %d bytes received: %s, %s\n", when,
            ntohs(((struct sockaddr_in *)&own)->sin_port), now() - flow->since, flow->received,
            strerror(error), strerror(number));
    return -1;
}

/* 0: goes on.  1: the connection is over and was whole.  -1: it failed. */
static int step(int epoll, struct flow *flow, uint32_t happened)
{
    char buffer[4096];
    if (!flow->asked) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = flow};
        if (happened & EPOLLERR || write(flow->fd, "0123456789abcdef", REQUEST) != REQUEST)
            return failure(flow, "opening");
        flow->asked = 1;
        epoll_ctl(epoll, EPOLL_CTL_MOD, flow->fd, &event);
        return 0;
    }
    for (;;) {
        ssize_t size = read(flow->fd, buffer, sizeof buffer);
        if (size < 0)
            return errno == EAGAIN ? 0 : failure(flow, "reading");
        if (size == 0)
            return flow->received == REQUEST ? 1 : failure(flow, "at the end");
        flow->received += (int)size;
    }
}

static void load(const struct sockaddr_storage *address, socklen_t length, int concurrency,
                 double seconds)
{
    struct epoll_event events[EVENTS];
    struct flow *flows = calloc((size_t)concurrency, sizeof *flows);
    long ok = 0, failed = 0;
    int epoll = epoll_create1(0), open = 0;
    double start = now(), end = start + seconds, last = start;
    for (int i = 0; i < concurrency; i++)
        open += begin(epoll, &flows[i], address, length);
    /* What does not end within ten seconds after the last was begun has failed. */
    while (open > 0 && now() < end + 10) {
        int count = epoll_wait(epoll, events, EVENTS, 1000);
        for (int i = 0; i < count; i++) {
            struct flow *flow = events[i].data.ptr;
            int outcome = step(epoll, flow, events[i].events);
            if (outcome == 0)
                continue;
            close(flow->fd);
            open--;
            last = now();
            if (outcome > 0)
                latencies[ok++ % LATENCIES] = last - flow->since;
            else
                failed++;
            if (last < end && begin(epoll, flow, address, length))
                open++;
        }
    }
    failed += open;
    long kept = ok < LATENCIES ? ok : LATENCIES;
    qsort(latencies, (size_t)kept, sizeof *latencies, by_value);
    printf("{\"ok\": %ld, \"failed\": %ld, \"seconds\": %.6f, \"p50_ms\": %.3f, "
           "\"p99_ms\": %.3f, \"cpu_s\": %.6f}\n",
           ok, failed, last - start, kept ? latencies[kept / 2] * 1e3 : 0.0,
           kept ? latencies[kept * 99 / 100] * 1e3 : 0.0,
           spent());
    free(flows);
}

static void ping(const struct sockaddr_storage *address, socklen_t length, int bytes,
                 double seconds)
{
    int fd = connected(address, length);
    long count = 0;
    double start = now(), end = start + seconds, before = start, after = start;
    if (bytes < 1 || bytes > CHUNK)
        bytes = REQUEST;
    while (before < end) {
        if (write(fd, chunk, (size_t)bytes) != bytes)
            die("ping");
        for (int got = 0; got < bytes;) {
            ssize_t size = read(fd, chunk, (size_t)(bytes - got));
            if (size <= 0)
                die("pong");
            got += (int)size;
        }
        after = now();
        latencies[count++ % LATENCIES] = after - before;
        before = after;
    }
    close(fd);
    long kept = count < LATENCIES ? count : LATENCIES;
    qsort(latencies, (size_t)kept, sizeof *latencies, by_value);
    printf("{\"count\": %ld, \"seconds\": %.6f, \"p50_us\": %.2f, \"p99_us\": %.2f, "
           "\"cpu_s\": %.6f}\n",
           count, after - start, latencies[kept / 2] * 1e6, latencies[kept * 99 / 100] * 1e6,
           spent());
}

int main(int argc, char **argv)
{
    struct sockaddr_storage address;
    socklen_t length;
    const char *what = argc > 1 ? argv[1] : "";
    signal(SIGPIPE, SIG_IGN);
    if (argc == 5 && !strcmp(what, "serve")) {
        parse(argv[2], argv[3], &address, &length);
        if (!strcmp(argv[4], "once"))
            serve(&address, length, answer_once);
        else if (!strcmp(argv[4], "echo"))
            serve(&address, length, give_back);
        else if (!strcmp(argv[4], "sink"))
            serve(&address, length, take_blocks);
    } else if (argc == 6) {
        parse(argv[2], argv[3], &address, &length);
        if (!strcmp(what, "open"))
            return load(&address, length, atoi(argv[4]), atof(argv[5])), 0;
        if (!strcmp(what, "bulk"))
            return bulk(&address, length, atoi(argv[4]), atof(argv[5])), 0;
        if (!strcmp(what, "ping"))
            return ping(&address, length, atoi(argv[4]), atof(argv[5])), 0;
    }
    fprintf(stderr, "usage: %s serve ADDRESS PORT once|echo|sink\n"
                    "       %s open|bulk|ping ADDRESS PORT NUMBER SECONDS\n", argv[0], argv[0]);
    return 2;
}
