/* What a netfilter queue itself costs: every packet of one is accepted as it is.

     accepting QUEUE

   The least that any program in the path of packets can do, in the way in which the
   segment plane does it: packets come whole, and joined where the kernel has joined
   them; what waits is received by one recvmmsg, and the verdicts on it leave by one
   send.  Says "ready" when the queue is there, and serves until it is killed. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netlink.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    AT_ONCE = 32,
    DATAGRAM_MAX = 1 << 17,
    QUEUE_LENGTH = 4096,
    RECEIVE_BUFFER = 4 << 20
};

struct verdict {
    struct nlmsghdr header;
    struct nfgenmsg generic;
    struct nlattr attribute;
    struct nfqnl_msg_verdict_hdr what;
};

/* A message to configure a queue, with one attribute of up to eight bytes. */
struct request {
    struct nlmsghdr header;
    struct nfgenmsg generic;
    char attributes[32];
};

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void add(struct request *request, uint16_t kind, const void *data, size_t size)
{
    struct nlattr *at = (void *)((char *)request + NLMSG_ALIGN(request->header.nlmsg_len));

    at->nla_type = kind;
    at->nla_len = NLA_HDRLEN + size;
    memcpy((char *)at + NLA_HDRLEN, data, size);
    request->header.nlmsg_len = NLMSG_ALIGN(request->header.nlmsg_len) + NLA_ALIGN(at->nla_len);
}

static struct request begin(uint16_t queue)
{
    struct request request = {0};

    request.header.nlmsg_len = NLMSG_LENGTH(sizeof(request.generic));
    request.header.nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_CONFIG;
    request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
    request.generic.version = NFNETLINK_V0;
    request.generic.res_id = htons(queue);
    return request;
}

/* Send, and wait for the kernel to say that it was done. */
static void tell(int fd, struct request *request)
{
    char answer[512];

    if (send(fd, request, request->header.nlmsg_len, 0) < 0)
        fail("accepting: send");
    if (recv(fd, answer, sizeof(answer), 0) < 0)
        fail("accepting: recv");
    errno = -((struct nlmsgerr *)NLMSG_DATA((struct nlmsghdr *)answer))->error;
    if (errno)
        fail("accepting: queue");
}

static void take(int fd, uint16_t queue)
{
    struct nfqnl_msg_config_cmd bind = {.command = NFQNL_CFG_CMD_BIND};
    struct nfqnl_msg_config_params copy = {htonl(0xFFFF), NFQNL_COPY_PACKET};
    uint32_t length = htonl(QUEUE_LENGTH), joined = htonl(NFQA_CFG_F_GSO);
    struct request request = begin(queue);

    add(&request, NFQA_CFG_CMD, &bind, sizeof(bind));
    tell(fd, &request);
    request = begin(queue);
    add(&request, NFQA_CFG_PARAMS, &copy, sizeof(copy));
    tell(fd, &request);
    request = begin(queue);
    add(&request, NFQA_CFG_QUEUE_MAXLEN, &length, sizeof(length));
    tell(fd, &request);
    request = begin(queue);
    add(&request, NFQA_CFG_FLAGS, &joined, sizeof(joined));
    add(&request, NFQA_CFG_MASK, &joined, sizeof(joined));
    tell(fd, &request);
}

/* The number of the packet that a message brings, in the kernel's byte order; 0: there is none. */
static int number_of(const char *message, size_t size, uint32_t *number)
{
    const struct nlmsghdr *header = (const void *)message;
    size_t at = NLMSG_LENGTH(sizeof(struct nfgenmsg));

    if (size < at || header->nlmsg_type != (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET))
        return 0;
    while (at + NLA_HDRLEN <= size) {
        const struct nlattr *attribute = (const void *)(message + at);

        if (attribute->nla_len < NLA_HDRLEN || attribute->nla_len > size - at)
            return 0;
        if ((attribute->nla_type & NLA_TYPE_MASK) == NFQA_PACKET_HDR) {
            memcpy(number, message + at + NLA_HDRLEN, sizeof(*number));
            return 1;
        }
        at += NLA_ALIGN(attribute->nla_len);
    }
    return 0;
}

static void serve(int fd, uint16_t queue)
{
    static char memory[AT_ONCE][DATAGRAM_MAX];
    struct iovec parts[AT_ONCE];
    struct mmsghdr messages[AT_ONCE] = {0};
    struct verdict verdicts[AT_ONCE] = {0};

    for (int index = 0; index < AT_ONCE; index++) {
        parts[index] = (struct iovec){memory[index], DATAGRAM_MAX};
        messages[index].msg_hdr.msg_iov = &parts[index];
        messages[index].msg_hdr.msg_iovlen = 1;
        verdicts[index].header.nlmsg_len = sizeof(struct verdict);
        verdicts[index].header.nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_VERDICT;
        verdicts[index].header.nlmsg_flags = NLM_F_REQUEST;
        verdicts[index].generic.res_id = htons(queue);
        verdicts[index].attribute.nla_len = NLA_HDRLEN + sizeof(verdicts[index].what);
        verdicts[index].attribute.nla_type = NFQA_VERDICT_HDR;
        verdicts[index].what.verdict = htonl(NF_ACCEPT);
    }
    for (;;) {
        int came = recvmmsg(fd, messages, AT_ONCE, MSG_WAITFORONE, NULL), count = 0;

        if (came < 0 && errno != EINTR && errno != ENOBUFS)
            fail("accepting: recvmmsg");
        for (int index = 0; index < came; index++)
            count += number_of(memory[index], messages[index].msg_len,
                               &verdicts[count].what.id);
        if (count && send(fd, verdicts, count * sizeof(struct verdict), 0) < 0
                && errno != ENOBUFS && errno != EAGAIN)
            fail("accepting: send");
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_nl self = {.nl_family = AF_NETLINK};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
    int room = RECEIVE_BUFFER;

    if (argc != 2) {
        fprintf(stderr, "usage: %s QUEUE\n", argv[0]);
        return 2;
    }
    if (fd < 0 || bind(fd, (struct sockaddr *)&self, sizeof(self)) < 0)
        fail("accepting: socket");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
    take(fd, (uint16_t)atoi(argv[1]));
    puts("ready");
    fflush(stdout);
    serve(fd, (uint16_t)atoi(argv[1]));
}
