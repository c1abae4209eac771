/* Connections opened, used for one request and one reply, and closed, as fast as
   they go: what bench/connections.py measures with.

     connection_load serve ADDRESS PORT
         answers each connection's first bytes with as many and ends the stream
     connection_load open ADDRESS PORT CONCURRENCY SECONDS
         keeps CONCURRENCY connections under way and prints one line of JSON:
         ok, failed, seconds, p50_ms, p99_ms, and the processor time it took; what
         fails goes to stderr in words

   One thread and one epoll each, so that it costs little beside what it measures.
   A connection counts when the whole reply and the end of the stream have come. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { REQUEST = 16, EVENTS = 256, LATENCIES = 1 << 20 };

struct flow {
    int fd;
    int received;
    int asked;
    double since;
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

static void serve(const struct sockaddr_storage *address, socklen_t length)
{
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN};
    char buffer[4096];
    int one = 1, epoll = epoll_create1(0);
    int listener = socket(address->ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (listener < 0 || bind(listener, (const struct sockaddr *)address, length) ||
        listen(listener, 65535))
        die("listen");
    event.data.fd = listener;
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    event.data.fd = fd;
                    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
                }
                continue;
            }
            ssize_t size = read(fd, buffer, sizeof buffer);
            if (size < 0 && errno == EAGAIN)
                continue;
            if (size > 0 && write(fd, buffer, (size_t)size) < 0)
                perror("write");
            close(fd);
        }
    }
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
    struct rusage used;
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
    getrusage(RUSAGE_SELF, &used);
    long kept = ok < LATENCIES ? ok : LATENCIES;
    qsort(latencies, (size_t)kept, sizeof *latencies, by_value);
    printf("{\"ok\": %ld, \"failed\": %ld, \"seconds\": %.6f, \"p50_ms\": %.3f, "
           "\"p99_ms\": %.3f, \"cpu_s\": %.6f}\n",
           ok, failed, last - start, kept ? latencies[kept / 2] * 1e3 : 0.0,
           kept ? latencies[kept * 99 / 100] * 1e3 : 0.0,
           (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
               (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
    free(flows);
}

int main(int argc, char **argv)
{
    struct sockaddr_storage address;
    socklen_t length;
    if (argc == 4 && !strcmp(argv[1], "serve")) {
        parse(argv[2], argv[3], &address, &length);
        serve(&address, length);
    } else if (argc == 6 && !strcmp(argv[1], "open")) {
        parse(argv[2], argv[3], &address, &length);
        load(&address, length, atoi(argv[4]), atof(argv[5]));
    } else {
        fprintf(stderr, "usage: %s serve ADDRESS PORT | open ADDRESS PORT CONCURRENCY SECONDS\n",
                argv[0]);
        return 2;
    }
    return 0;
}
