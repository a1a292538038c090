/* A DPDK application with lb-core in its loop: frames that come in at one port leave at its neighbour, translated.
 *
 *     lb-dpdk EAL-ARGUMENTS -- IMAGE [PACKETS]
 *
 * IMAGE is what `lb compile` writes. With one port frames leave where they came in; with two, at the other one. Every core of the EAL's
 * (-l 0-3) is a worker: a balancer, a queue of each port if there are so many, and a ring for packets that came to
 * another core's queue, as receive-side scaling can't know to which core an answer goes once addresses are translated, and lb_steer can.
 *
 * Ends on SIGINT, after PACKETS packets at a core, or, where no number is given, when nothing came for a while after something had. Where frames
 * bring their time of reception (net_pcap does), that is the engine's time; else the time-stamp counter. */
#include <inttypes.h>
#include <lb_core.h>
#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_launch.h>
#include <rte_malloc.h>
#include <rte_mbuf_dyn.h>
#include <rte_prefetch.h>
#include <rte_ring.h>
#include <rte_spinlock.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BURST = 32, GIVEN = 2 * BURST, HELD = 256, CORES = 16, PORTS = 2, MBUFS = 16383, QUEUE = 512, RING = 2048 };
enum { EXPIRE = 256, BORED = 100, IDLE = 20000 };

/* What is to leave by each port after a burst. */
struct leaving {
    struct rte_mbuf *mbufs[PORTS][2 * BURST];
    uint16_t count[PORTS];
};

/* All that a core has; but for the ring nobody else writes to it. */
static struct worker {
    lb_balancer *balancer;
    struct rte_ring *ring;
    /* Fragments that wait for their first. */
    struct held {
        struct rte_mbuf *mbuf;
        uint64_t datagram;
    } held[HELD];
    unsigned held_next;
    /* On their way to the rings of other cores. */
    struct rte_mbuf *given[CORES][GIVEN];
    uint16_t given_count[CORES];
    uint64_t received, handed_on, lost, started, ended;
} __rte_cache_aligned workers[CORES];

static volatile sig_atomic_t stopped;
static struct rte_mempool *pool;
static uint16_t cores, ports, rx_queues[PORTS], tx_queues[PORTS];
/* Taken where cores share a queue to send by. */
static rte_spinlock_t tx_locks[PORTS][CORES];
static uint64_t limit = UINT64_MAX;
static int timestamp = -1;
static uint64_t timestamp_flag;

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

static uint8_t *read_image(const char *path, size_t *length)
{
    uint8_t *image;
    long end = 0;
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (end = ftell(file)) < 0)
        rte_exit(EXIT_FAILURE, "cannot read %s\n", path);
    rewind(file);
    *length = (size_t)end;
    image = rte_malloc("image", *length + 1, 0);
    if (image == NULL || fread(image, 1, *length, file) != *length)
        rte_exit(EXIT_FAILURE, "cannot read %s\n", path);
    fclose(file);
    return image;
}

/* A balancer of its own for each core, over one image that all read. */
static void make_worker(uint16_t core, const uint8_t *image, size_t length)
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
    char name[16];
    void *memory;

    check(lb_rules_layout(NULL, &layout), "lb_rules_layout");
    memory = memory_for(&layout);
    check(lb_rules_load(memory, layout.size, image, length, &rules, NULL), "lb_rules_load");
    /* Keys of zeros, so that every run is the same; one that faces the world draws them at random. */
    check(lb_config_linux(&config), "lb_config_linux");
    config.core = core;
    config.cores = cores;
    config.seed = core;
    check(lb_balancer_layout(&sizes, &layout), "lb_balancer_layout");
    memory = memory_for(&layout);
    check(lb_balancer_init(memory, layout.size, &config, &sizes, rules, &workers[core].balancer), "lb_balancer_init");
    (void)snprintf(name, sizeof name, "for-%u", core);
    workers[core].ring = rte_ring_create(name, RING, (int)rte_socket_id(), RING_F_SC_DEQ);
    if (workers[core].ring == NULL)
        rte_exit(EXIT_FAILURE, "no memory for a ring\n");
}

static void start_port(uint16_t port)
{
    struct rte_eth_conf config = {0};
    struct rte_eth_dev_info about;
    uint16_t queue;
    if (rte_eth_dev_info_get(port, &about) != 0)
        rte_exit(EXIT_FAILURE, "port %u says nothing of itself\n", port);
    rx_queues[port] = RTE_MIN(cores, about.max_rx_queues);
    tx_queues[port] = RTE_MIN(cores, about.max_tx_queues);
    /* By addresses alone, so that the fragments of a datagram stay together. */
    config.rx_adv_conf.rss_conf.rss_hf = about.flow_type_rss_offloads & (RTE_ETH_RSS_IPV4 | RTE_ETH_RSS_IPV6);
    if (rx_queues[port] > 1 && config.rx_adv_conf.rss_conf.rss_hf != 0)
        config.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
    if (rte_eth_dev_configure(port, rx_queues[port], tx_queues[port], &config) != 0)
        rte_exit(EXIT_FAILURE, "port %u cannot be configured\n", port);
    for (queue = 0; queue < rx_queues[port]; queue++)
        if (rte_eth_rx_queue_setup(port, queue, QUEUE, rte_eth_dev_socket_id(port), NULL, pool) != 0)
            rte_exit(EXIT_FAILURE, "port %u has no queue %u to receive by\n", port, queue);
    for (queue = 0; queue < tx_queues[port]; queue++)
        if (rte_eth_tx_queue_setup(port, queue, QUEUE, rte_eth_dev_socket_id(port), NULL) != 0)
            rte_exit(EXIT_FAILURE, "port %u has no queue %u to send by\n", port, queue);
    if (rte_eth_dev_start(port) != 0)
        rte_exit(EXIT_FAILURE, "port %u cannot be started\n", port);
    (void)rte_eth_promiscuous_enable(port);
}

static uint64_t now_of(const struct rte_mbuf *mbuf)
{
    if (timestamp >= 0 && (mbuf->ol_flags & timestamp_flag) != 0)
        return *RTE_MBUF_DYNFIELD(mbuf, timestamp, const rte_mbuf_timestamp_t *) * 1000;
    return (uint64_t)((double)rte_rdtsc() / (double)rte_get_tsc_hz() * 1e9);
}

static void leave(struct leaving *leaving, uint16_t port, struct rte_mbuf *mbuf)
{
    leaving->mbufs[port][leaving->count[port]++] = mbuf;
}

static void transmit(uint16_t core, const struct leaving *leaving)
{
    uint16_t port;
    for (port = 0; port < ports; port++) {
        struct rte_mbuf *const *mbufs = leaving->mbufs[port];
        uint16_t count = leaving->count[port], queue = core % tx_queues[port], sent = 0, tries = 0;
        if (count == 0)
            continue;
        if (tx_queues[port] < cores)
            rte_spinlock_lock(&tx_locks[port][queue]);
        while (sent < count && tries++ < 100)
            sent = (uint16_t)(sent + rte_eth_tx_burst(port, queue, (struct rte_mbuf **)(uintptr_t)mbufs + sent,
                                                      (uint16_t)(count - sent)));
        if (tx_queues[port] < cores)
            rte_spinlock_unlock(&tx_locks[port][queue]);
        rte_pktmbuf_free_bulk((struct rte_mbuf **)(uintptr_t)mbufs + sent, count - sent);
    }
}

/* Puts what was given to other cores in their rings; false as long as one of these is full. */
static bool flush(struct worker *worker)
{
    uint16_t to, left = 0;
    for (to = 0; to < cores; to++) {
        struct rte_mbuf **given = worker->given[to];
        uint16_t count = worker->given_count[to], taken;
        if (count == 0)
            continue;
        taken = (uint16_t)rte_ring_enqueue_burst(workers[to].ring, (void **)given, count, NULL);
        memmove(given, given + taken, (size_t)(count - taken) * sizeof *given);
        worker->handed_on += taken;
        worker->given_count[to] = (uint16_t)(count - taken);
        left = (uint16_t)(left + worker->given_count[to]);
    }
    return left == 0;
}

static void give(struct worker *worker, uint16_t to, struct rte_mbuf *mbuf)
{
    if (worker->given_count[to] == GIVEN && !flush(worker) && worker->given_count[to] == GIVEN) {
        worker->lost++;
        rte_pktmbuf_free(mbuf);
        return;
    }
    worker->given[to][worker->given_count[to]++] = mbuf;
}

/* The answer to a rejected packet, in a buffer of its own. */
static struct rte_mbuf *reply_to(lb_balancer *balancer, const lb_packet *packet, uint64_t now)
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

static void hold(struct worker *worker, struct rte_mbuf *mbuf, uint64_t datagram)
{
    struct held *place = &worker->held[worker->held_next++ % HELD];
    rte_pktmbuf_free(place->mbuf);
    place->mbuf = mbuf;
    place->datagram = datagram;
}

static void describe(lb_packet *packets, struct rte_mbuf **mbufs, uint16_t count)
{
    uint16_t i;
    for (i = 0; i < count; i++) {
        packets[i].struct_size = sizeof packets[i];
        memset(&packets[i].meta, 0, sizeof packets[i].meta);
        packets[i].data = rte_pktmbuf_mtod(mbufs[i], uint8_t *);
        /* The first segment: headers are there, and no other byte is asked for. */
        packets[i].length = rte_pktmbuf_data_len(mbufs[i]);
    }
}

/* Judges packets that are this core's, and sends on what is to leave. */
static void judge(uint16_t core, struct rte_mbuf **mbufs, uint16_t count)
{
    struct worker *worker = &workers[core];
    lb_packet packets[BURST];
    struct rte_mbuf *again[HELD], *reply;
    struct leaving leaving = {.count = {0}};
    uint16_t agains = 0, i, j;
    uint64_t now = now_of(mbufs[0]), deadline = 0;
    describe(packets, mbufs, count);
    check(lb_process_batch(worker->balancer, now, packets, count), "lb_process_batch");
    for (i = 0; i < count; i++) {
        const lb_verdict *verdict = &packets[i].verdict;
        uint16_t from = mbufs[i]->port, to = ports == 2 ? from ^ 1 : from;
        switch (verdict->action) {
        case LB_ACTION_PASS:
        case LB_ACTION_ACCEPT:
        case LB_ACTION_FORWARD:
            leave(&leaving, to, mbufs[i]);
            break;
        case LB_ACTION_HOLD:
            hold(worker, mbufs[i], verdict->datagram);
            break;
        case LB_ACTION_ELSEWHERE:
            give(worker, verdict->core, mbufs[i]);
            break;
        case LB_ACTION_REJECT:
            reply = reply_to(worker->balancer, &packets[i], now);
            if (reply != NULL)
                leave(&leaving, from, reply);
            rte_pktmbuf_free(mbufs[i]);
            break;
        default:
            rte_pktmbuf_free(mbufs[i]);
        }
        for (j = 0; verdict->has_releases && j < HELD; j++) {
            struct held *place = &worker->held[(worker->held_next + j) % HELD];
            if (place->mbuf != NULL && place->datagram == verdict->releases) {
                again[agains++] = place->mbuf;
                place->mbuf = NULL;
            }
        }
    }
    transmit(core, &leaving);
    for (i = 0; i < agains; i = (uint16_t)(i + BURST))
        judge(core, again + i, (uint16_t)RTE_MIN(agains - i, BURST));
    /* Between bursts a little is forgotten at a time. */
    if (lb_next_deadline(worker->balancer, &deadline) == LB_STATUS_OK && deadline <= now)
        check(lb_expire(worker->balancer, now, EXPIRE, NULL), "lb_expire");
}

/* What came by this core's queue: most is handed on, where there are many cores. */
static void receive(uint16_t core, struct rte_mbuf **mbufs, uint16_t count)
{
    struct worker *worker = &workers[core];
    lb_packet packets[BURST];
    struct rte_mbuf *own[BURST];
    uint16_t told[BURST], owns = 0, i;
    if (cores == 1) {
        judge(core, mbufs, count);
        return;
    }
    describe(packets, mbufs, count);
    check(lb_steer(worker->balancer, packets, count, told), "lb_steer");
    for (i = 0; i < count; i++) {
        if (told[i] == core)
            own[owns++] = mbufs[i];
        else
            give(worker, told[i], mbufs[i]);
    }
    if (owns > 0)
        judge(core, own, owns);
}

static int work(void *unused)
{
    uint16_t core = (uint16_t)rte_lcore_index(-1), port;
    struct worker *worker = &workers[core];
    struct rte_mbuf *mbufs[BURST];
    uint64_t idle = 0;
    (void)unused;
    while (!stopped) {
        uint16_t count = (uint16_t)rte_ring_dequeue_burst(worker->ring, (void **)mbufs, BURST, NULL);
        uint16_t i;
        /* Another core's cache has them: asked for all at once, they come together. */
        for (i = 0; i < count; i++)
            rte_prefetch0(mbufs[i]);
        for (i = 0; i < count; i++)
            rte_prefetch0(rte_pktmbuf_mtod(mbufs[i], uint8_t *));
        idle = count > 0 ? 0 : idle + 1;
        if (count > 0)
            judge(core, mbufs, count);
        RTE_ETH_FOREACH_DEV(port) {
            /* While another core can't take what is its, nothing new is fetched: the NIC's queue is where packets wait. */
            if (!flush(worker) || core >= rx_queues[port])
                continue;
            count = rte_eth_rx_burst(port, core, mbufs, BURST);
            if (count == 0)
                continue;
            idle = 0;
            if (worker->received == 0)
                worker->started = rte_rdtsc();
            worker->received += count;
            receive(core, mbufs, count);
            worker->ended = rte_rdtsc();
        }
        (void)flush(worker);
        /* Where the machine is not ours alone, as it is not in a check. */
        if (idle > BORED)
            (void)sched_yield();
        if (worker->received >= limit || (limit == UINT64_MAX && worker->received > 0 && idle > IDLE))
            stopped = 1;
    }
    return 0;
}

static void report(void)
{
    uint64_t judged = 0, handed_on = 0, lost = 0, started = UINT64_MAX, ended = 0, count;
    uint16_t core;
    unsigned code;
    for (core = 0; core < cores; core++) {
        check(lb_counter_by_name(workers[core].balancer, "packets", &count), "packets");
        judged += count;
        handed_on += workers[core].handed_on;
        lost += workers[core].lost;
        if (workers[core].received > 0) {
            started = RTE_MIN(started, workers[core].started);
            ended = RTE_MAX(ended, workers[core].ended);
        }
    }
    printf("%" PRIu64 " packets, %.3f Mpps\n", judged,
           (double)judged * (double)rte_get_tsc_hz() / (double)RTE_MAX(ended - RTE_MIN(started, ended), 1u) / 1e6);
    for (code = 0; code < 64; code++) {
        uint64_t all = 0;
        for (core = 0; core < cores; core++)
            if (lb_verdict_count(workers[core].balancer, (lb_code)code, &count) == LB_STATUS_OK)
                all += count;
        if (all > 0)
            printf("%s %" PRIu64 "\n", lb_code_label((lb_code)code), all);
    }
    for (core = 0; cores > 1 && core < cores; core++) {
        check(lb_counter_by_name(workers[core].balancer, "flows-created", &count), "flows-created");
        printf("core %u: %" PRIu64 " flows\n", core, count);
    }
    if (cores > 1)
        printf("handed-on %" PRIu64 ", lost %" PRIu64 " on the way\n", handed_on, lost);
}

int main(int argc, char **argv)
{
    uint16_t port, core;
    uint8_t *image;
    size_t length;
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
    cores = (uint16_t)rte_lcore_count();
    if (ports < 1 || ports > PORTS || cores > CORES)
        rte_exit(EXIT_FAILURE, "one port or two, not %u; %u cores at most, not %u\n", ports, CORES, cores);
    pool = rte_pktmbuf_pool_create("mbufs", MBUFS, 256, 0, RTE_MBUF_DEFAULT_BUF_SIZE, (int)rte_socket_id());
    if (pool == NULL)
        rte_exit(EXIT_FAILURE, "no memory for packets\n");
    image = read_image(argv[1], &length);
    for (core = 0; core < cores; core++)
        make_worker(core, image, length);
    RTE_ETH_FOREACH_DEV(port)
        start_port(port);
    if (rte_mbuf_dyn_rx_timestamp_register(&timestamp, &timestamp_flag) != 0)
        timestamp = -1;
    (void)signal(SIGINT, stop);
    (void)signal(SIGTERM, stop);

    rte_eal_mp_remote_launch(work, NULL, CALL_MAIN);
    rte_eal_mp_wait_lcore();
    report();
    RTE_ETH_FOREACH_DEV(port)
        (void)rte_eth_dev_stop(port);
    RTE_ETH_FOREACH_DEV(port)
        (void)rte_eth_dev_close(port);
    return rte_eal_cleanup() == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
