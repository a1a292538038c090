/* Between two interfaces, on plain packet sockets (packet(7)): frames that come in at one leave at the other, translated.
 *
 *     lb-af-packet IMAGE LEFT RIGHT
 *
 * IMAGE is what `lb compile` writes. Ends on SIGINT or SIGTERM and says what became of the packets.
 *
 * PACKET_VNET_HDR puts a virtio_net_hdr in front of every frame, both ways: a veth's other end hands over segments of
 * 64 KiB whose checksum covers the pseudo-header only. Translation moves no header, so what is left to be done goes out as
 * it came in, and all that the engine is told is which sort of checksum it finds. */
/* recvmmsg */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <lb_core.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

enum { BURST = 32, HELD = 64, EXPIRE = 256, FRAME = 65535 + 22, QUEUE = 8 << 20 };

/* As the kernel writes and reads it. */
struct frame {
    struct virtio_net_hdr head;
    uint8_t data[FRAME];
};

static volatile sig_atomic_t stopped;
static lb_balancer *balancer;
static struct frame frames[BURST];

/* Fragments that wait for their first, and how long they are; 0 where none waits. */
static struct held {
    struct frame frame;
    size_t length;
    uint64_t datagram;
} held[HELD];
static unsigned held_next;

static void stop(int signal)
{
    (void)signal;
    stopped = 1;
}

static _Noreturn void fail(const char *what, const char *why)
{
    (void)fprintf(stderr, "lb-af-packet: %s: %s\n", what, why);
    exit(EXIT_FAILURE);
}

static void check(lb_status status, const char *what)
{
    if (status != LB_STATUS_OK)
        fail(what, lb_status_text(status));
}

static void *memory(size_t alignment, size_t size)
{
    void *made = aligned_alloc(alignment, size);
    if (made == NULL)
        fail("memory", strerror(errno));
    return made;
}

static uint64_t now(void)
{
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static void make_balancer(const char *path)
{
    lb_layout layout = {.struct_size = sizeof layout};
    lb_config config = {.struct_size = sizeof config};
    lb_sizes sizes = {.struct_size = sizeof sizes,
                      .v4_flows = 1 << 16,
                      .v6_flows = 1 << 16,
                      .services = 4096,
                      .affinity = 1 << 12,
                      .backends = 1 << 12,
                      .fragments = HELD};
    lb_rules *rules = NULL;
    void *room;
    uint8_t *image;
    long length = -1;
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (length = ftell(file)) < 0)
        fail(path, strerror(errno));
    rewind(file);
    image = memory(1, (size_t)length + 1);
    if (fread(image, 1, (size_t)length, file) != (size_t)length)
        fail(path, "cannot be read");
    (void)fclose(file);

    check(lb_rules_layout(NULL, &layout), "lb_rules_layout");
    room = memory(layout.alignment, layout.size);
    check(lb_rules_load(room, layout.size, image, (size_t)length, &rules, NULL), path);
    check(lb_config_linux(&config), "lb_config_linux");
    /* What senders must not know, or they could choose flows that fall into one place. */
    if (getrandom(config.hash_key, sizeof config.hash_key, 0) != sizeof config.hash_key ||
        getrandom(&config.seed, sizeof config.seed, 0) != sizeof config.seed)
        fail("getrandom", strerror(errno));
    check(lb_balancer_layout(&sizes, &layout), "lb_balancer_layout");
    room = memory(layout.alignment, layout.size);
    check(lb_balancer_init(room, layout.size, &config, &sizes, rules, &balancer), "lb_balancer_init");
}

static int open_socket(const char *name)
{
    /* Of no protocol, and so of no frame, until it is bound. */
    int one = 1, queue = QUEUE, made = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                  .sll_protocol = htons(ETH_P_ALL),
                                  .sll_ifindex = (int)if_nametoindex(name)};
    if (address.sll_ifindex == 0 || made < 0 ||
        setsockopt(made, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one) != 0 ||
        setsockopt(made, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one) != 0 ||
        setsockopt(made, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof one) != 0 ||
        bind(made, (struct sockaddr *)&address, sizeof address) != 0)
        fail(name, strerror(errno));
    (void)setsockopt(made, SOL_SOCKET, SO_RCVBUFFORCE, &queue, sizeof queue);
    return made;
}

/* What a full queue has no room for is lost, as on any wire. */
static void transmit(int to, const struct frame *frame, size_t length)
{
    if (send(to, frame, sizeof frame->head + length, 0) < 0 && errno != EAGAIN && errno != ENOBUFS && errno != EINVAL)
        fail("send", strerror(errno));
}

static void hold(const struct frame *frame, size_t length, uint64_t datagram)
{
    struct held *place = &held[held_next++ % HELD];
    memcpy(&place->frame, frame, sizeof frame->head + length);
    place->length = length;
    place->datagram = datagram;
}

static void finish(int from, int to, const lb_packet *packet, struct frame *frame, uint64_t time)
{
    static struct frame answer;
    const lb_verdict *verdict = &packet->verdict;
    size_t length = 0;
    unsigned i;
    switch (verdict->action) {
    case LB_ACTION_PASS:
    case LB_ACTION_ACCEPT:
    case LB_ACTION_FORWARD:
        transmit(to, frame, packet->length);
        break;
    case LB_ACTION_HOLD:
        hold(frame, packet->length, verdict->datagram);
        break;
    case LB_ACTION_REJECT:
        if (lb_write_reply(balancer, time, packet, answer.data, sizeof answer.data, &length) == LB_STATUS_OK)
            transmit(from, &answer, length);
        break;
    default:
        break;
    }
    for (i = 0; verdict->has_releases && i < HELD; i++) {
        struct held *place = &held[(held_next + i) % HELD];
        lb_packet again = {.struct_size = sizeof again, .data = place->frame.data, .length = place->length};
        if (place->length == 0 || place->datagram != verdict->releases)
            continue;
        place->length = 0;
        check(lb_process_batch(balancer, time, &again, 1), "lb_process_batch");
        /* Its first is known: it is not held again, and releases nothing. */
        finish(from, to, &again, &place->frame, time);
    }
}

/* Takes what waits at one socket. */
static void pass_on(int from, int to)
{
    static lb_packet packets[BURST];
    struct mmsghdr messages[BURST] = {0};
    struct iovec room[BURST];
    uint64_t time = now();
    int i, count;
    for (i = 0; i < BURST; i++) {
        room[i] = (struct iovec){.iov_base = &frames[i], .iov_len = sizeof frames[i]};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &room[i], .msg_iovlen = 1};
    }
    count = recvmmsg(from, messages, BURST, 0, NULL);
    if (count < 0 && errno != EAGAIN && errno != EINTR && errno != ENETDOWN)
        fail("recvmmsg", strerror(errno));
    for (i = 0; i < count; i++) {
        const struct virtio_net_hdr *head = &frames[i].head;
        packets[i] = (lb_packet){.struct_size = sizeof packets[i],
                                 .data = frames[i].data,
                                 .length = messages[i].msg_len - sizeof *head};
        /* In a tunnel it would be the inner packet's. There are no tunnels here. */
        if ((head->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0)
            packets[i].meta.checksum = LB_CHECKSUM_PARTIAL;
    }
    if (count > 0)
        check(lb_process_batch(balancer, time, packets, (size_t)count), "lb_process_batch");
    for (i = 0; i < count; i++)
        finish(from, to, &packets[i], &frames[i], time);
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = stop};
    struct pollfd sides[2];
    uint64_t deadline = 0, count = 0;
    unsigned code;
    if (argc != 4)
        fail("usage", "lb-af-packet IMAGE LEFT RIGHT");
    if (lb_abi_version() != LB_ABI_VERSION)
        fail("lb_core.h", "the library is of another version");
    make_balancer(argv[1]);
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    sides[0] = (struct pollfd){.fd = open_socket(argv[2]), .events = POLLIN};
    sides[1] = (struct pollfd){.fd = open_socket(argv[3]), .events = POLLIN};

    while (!stopped) {
        if (poll(sides, 2, 1000) < 0 && errno != EINTR)
            fail("poll", strerror(errno));
        pass_on(sides[0].fd, sides[1].fd);
        pass_on(sides[1].fd, sides[0].fd);
        if (lb_next_deadline(balancer, &deadline) == LB_STATUS_OK && deadline <= now())
            check(lb_expire(balancer, now(), EXPIRE, NULL), "lb_expire");
    }
    for (code = 0; code < 64; code++)
        if (lb_verdict_count(balancer, (lb_code)code, &count) == LB_STATUS_OK && count > 0)
            printf("%s %" PRIu64 "\n", lb_code_label((lb_code)code), count);
    return EXIT_SUCCESS;
}
