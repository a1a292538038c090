/* A DPDK application with lb-core in its loop: frames that come in at one port leave at its neighbour, translated.
 *
 *     lb-dpdk EAL-ARGUMENTS -- IMAGE [PACKETS]
 *
 * IMAGE is what `lb compile` writes. With one port frames leave where they came in; with two, at the other one. Ends on
 * SIGINT, after PACKETS packets, or, where no number is given, when nothing came for a while after something had. Where frames bring their time of
 * reception (net_pcap does), that is the engine's time; else the time-stamp counter. */
#include <inttypes.h>
#include <lb_core.h>
#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_malloc.h>
#include <rte_mbuf_dyn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BURST = 32, MBUFS = 8191, RING = 512, HELD = 256, IDLE = 20000, EXPIRE = 256 };

static volatile sig_atomic_t stopped;
static struct rte_mempool *pool;
static lb_balancer *balancer;
static int timestamp = -1;
static uint64_t timestamp_flag;

/* Fragments that wait for their first. */
static struct held {
    struct rte_mbuf *mbuf;
    uint64_t datagram;
} held[HELD];
static unsigned held_next;

static void stop(int signal)
{
    (void)signal;
    stopped = 1;
}

static void check(lb_status status, const char *what)
{
    if (status != LB_STATUS_OK)
        rte_exit(EXIT_FAILURE, "%s: %s\n", what, lb_status_text(status));
}

static void *memory_for(const lb_layout *layout)
{
    void *memory = rte_malloc("lb", layout->size, layout->alignment);
    if (memory == NULL)
        rte_exit(EXIT_FAILURE, "no memory: %zu bytes wanted\n", layout->size);
    return memory;
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
    void *memory;
    uint8_t *image;
    long length = 0;
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (length = ftell(file)) < 0)
        rte_exit(EXIT_FAILURE, "cannot read %s\n", path);
    rewind(file);
    image = rte_malloc("image", (size_t)length + 1, 0);
    if (image == NULL || fread(image, 1, (size_t)length, file) != (size_t)length)
        rte_exit(EXIT_FAILURE, "cannot read %s\n", path);
    fclose(file);

    check(lb_rules_layout(NULL, &layout), "lb_rules_layout");
    memory = memory_for(&layout);
    check(lb_rules_load(memory, layout.size, image, (size_t)length, &rules, NULL), path);
    /* A key of zeros, so that every run is the same; one that faces the world draws it at random. */
    check(lb_config_linux(&config), "lb_config_linux");
    check(lb_balancer_layout(&sizes, &layout), "lb_balancer_layout");
    memory = memory_for(&layout);
    check(lb_balancer_init(memory, layout.size, &config, &sizes, rules, &balancer), "lb_balancer_init");
}

static void start_port(uint16_t port)
{
    struct rte_eth_conf config = {0};
    if (rte_eth_dev_configure(port, 1, 1, &config) != 0 ||
        rte_eth_rx_queue_setup(port, 0, RING, rte_eth_dev_socket_id(port), NULL, pool) != 0 ||
        rte_eth_tx_queue_setup(port, 0, RING, rte_eth_dev_socket_id(port), NULL) != 0 || rte_eth_dev_start(port) != 0)
        rte_exit(EXIT_FAILURE, "port %u cannot be started\n", port);
    (void)rte_eth_promiscuous_enable(port);
}

static uint64_t now_of(const struct rte_mbuf *mbuf)
{
    if (timestamp >= 0 && (mbuf->ol_flags & timestamp_flag) != 0)
        return *RTE_MBUF_DYNFIELD(mbuf, timestamp, const rte_mbuf_timestamp_t *) * 1000;
    return (uint64_t)((double)rte_rdtsc() / (double)rte_get_tsc_hz() * 1e9);
}

static void transmit(uint16_t port, struct rte_mbuf **out, uint16_t count)
{
    uint16_t sent = 0, tries = 0;
    while (sent < count && tries++ < 100)
        sent = (uint16_t)(sent + rte_eth_tx_burst(port, 0, out + sent, (uint16_t)(count - sent)));
    rte_pktmbuf_free_bulk(out + sent, count - sent);
}

/* The answer to a rejected packet, in a buffer of its own. */
static struct rte_mbuf *reply_to(const lb_packet *packet, uint64_t now)
{
    struct rte_mbuf *reply = rte_pktmbuf_alloc(pool);
    size_t length = 0;
    if (reply == NULL)
        return NULL;
    if (lb_write_reply(balancer, now, packet, rte_pktmbuf_mtod(reply, uint8_t *), rte_pktmbuf_tailroom(reply),
                       &length) != LB_STATUS_OK) {
        rte_pktmbuf_free(reply);
        return NULL;
    }
    reply->data_len = (uint16_t)length;
    reply->pkt_len = (uint32_t)length;
    return reply;
}

static void hold(struct rte_mbuf *mbuf, uint64_t datagram)
{
    struct held *place = &held[held_next++ % HELD];
    rte_pktmbuf_free(place->mbuf);
    place->mbuf = mbuf;
    place->datagram = datagram;
}

static void process(uint16_t from, uint16_t to, struct rte_mbuf **mbufs, uint16_t count)
{
    static lb_packet packets[BURST];
    struct rte_mbuf *forward[BURST], *back[BURST], *again[HELD];
    uint16_t forwards = 0, backs = 0, agains = 0, i, j;
    uint64_t now = now_of(mbufs[0]);
    for (i = 0; i < count; i++) {
        packets[i].struct_size = sizeof packets[i];
        packets[i].data = rte_pktmbuf_mtod(mbufs[i], uint8_t *);
        /* The first segment: headers are there, and no other byte is asked for. */
        packets[i].length = rte_pktmbuf_data_len(mbufs[i]);
    }
    check(lb_process_batch(balancer, now, packets, count), "lb_process_batch");
    for (i = 0; i < count; i++) {
        const lb_verdict *verdict = &packets[i].verdict;
        struct rte_mbuf *reply;
        switch (verdict->action) {
        case LB_ACTION_PASS:
        case LB_ACTION_ACCEPT:
        case LB_ACTION_FORWARD:
            forward[forwards++] = mbufs[i];
            break;
        case LB_ACTION_HOLD:
            hold(mbufs[i], verdict->datagram);
            break;
        case LB_ACTION_REJECT:
            reply = reply_to(&packets[i], now);
            rte_pktmbuf_free(mbufs[i]);
            if (reply != NULL && from == to)
                forward[forwards++] = reply;
            else if (reply != NULL)
                back[backs++] = reply;
            break;
        default:
            rte_pktmbuf_free(mbufs[i]);
        }
        for (j = 0; verdict->has_releases && j < HELD; j++) {
            struct held *place = &held[(held_next + j) % HELD];
            if (place->mbuf != NULL && place->datagram == verdict->releases) {
                again[agains++] = place->mbuf;
                place->mbuf = NULL;
            }
        }
    }
    transmit(to, forward, forwards);
    transmit(from, back, backs);
    for (i = 0; i < agains; i = (uint16_t)(i + BURST))
        process(from, to, again + i, (uint16_t)RTE_MIN(agains - i, BURST));
}

/* Work that is done between bursts, a little at a time. */
static void forget(uint64_t now)
{
    uint64_t deadline = 0;
    if (lb_next_deadline(balancer, &deadline) == LB_STATUS_OK && deadline <= now)
        check(lb_expire(balancer, now, EXPIRE, NULL), "lb_expire");
}

int main(int argc, char **argv)
{
    uint64_t packets = 0, limit = UINT64_MAX, idle = 0, started = 0, ended = 0, count = 0;
    uint16_t port, ports;
    unsigned code;
    int used = rte_eal_init(argc, argv);
    if (used < 0 || argc - used < 2)
        rte_exit(EXIT_FAILURE, "usage: lb-dpdk EAL-ARGUMENTS -- IMAGE [PACKETS]\n");
    argc -= used;
    argv += used;
    if (lb_abi_version() != LB_ABI_VERSION)
        rte_exit(EXIT_FAILURE, "the library is of another version than lb_core.h\n");
    if (argc > 2)
        limit = strtoull(argv[2], NULL, 10);
    ports = rte_eth_dev_count_avail();
    if (ports != 1 && ports != 2)
        rte_exit(EXIT_FAILURE, "one port or two, not %u\n", ports);
    pool = rte_pktmbuf_pool_create("mbufs", MBUFS, 256, 0, RTE_MBUF_DEFAULT_BUF_SIZE, (int)rte_socket_id());
    if (pool == NULL)
        rte_exit(EXIT_FAILURE, "no memory for packets\n");
    make_balancer(argv[1]);
    RTE_ETH_FOREACH_DEV(port)
        start_port(port);
    if (rte_mbuf_dyn_rx_timestamp_register(&timestamp, &timestamp_flag) != 0)
        timestamp = -1;
    (void)signal(SIGINT, stop);
    (void)signal(SIGTERM, stop);

    while (!stopped && packets < limit && (packets == 0 || idle < IDLE || limit != UINT64_MAX)) {
        RTE_ETH_FOREACH_DEV(port) {
            struct rte_mbuf *mbufs[BURST];
            uint16_t received = rte_eth_rx_burst(port, 0, mbufs, BURST);
            if (received == 0) {
                idle++;
                continue;
            }
            if (packets == 0)
                started = rte_rdtsc();
            idle = 0;
            packets += received;
            forget(now_of(mbufs[0]));
            process(port, ports == 2 ? port ^ 1 : port, mbufs, received);
            ended = rte_rdtsc();
        }
    }
    printf("%" PRIu64 " packets, %.3f Mpps\n", packets,
           (double)packets * (double)rte_get_tsc_hz() / (double)RTE_MAX(ended - started, 1u) / 1e6);
    for (code = 0; code < 64; code++)
        if (lb_verdict_count(balancer, (lb_code)code, &count) == LB_STATUS_OK && count > 0)
            printf("%s %" PRIu64 "\n", lb_code_label((lb_code)code), count);
    RTE_ETH_FOREACH_DEV(port)
        (void)rte_eth_dev_stop(port);
    RTE_ETH_FOREACH_DEV(port)
        (void)rte_eth_dev_close(port);
    return rte_eal_cleanup() == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
