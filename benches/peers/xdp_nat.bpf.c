/* A peer of P2 and P6: the least that an XDP program does to be a Service's NAT for IPv4 TCP. One LRU map has both keys
 * of each connection; what is in none asks a map of services and picks an endpoint by chance. No states, no masquerading,
 * no options, fragments or IPv6.
 *
 * Run by BPF_PROG_TEST_RUN, both programs first write the next packet's addresses into the one there is; `nothing` does
 * no more than that, so that the difference is the NAT's. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/tcp.h>

#include <bpf/bpf_helpers.h>

#include "xdp_nat.h"

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1);
    __type(key, struct tuple);
    __type(value, struct flow);
} flows SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, SERVICES);
    __type(key, struct tuple);
    __type(value, struct service);
} services SEC(".maps");

const volatile struct settings settings = {};
struct run run = {};

struct headers {
    struct ethhdr ethernet;
    struct iphdr ip;
    struct tcphdr tcp;
} __attribute__((packed));

static __always_inline struct headers *headers(struct xdp_md *packet)
{
    struct headers *headers = (void *)(long)packet->data;
    return (void *)(headers + 1) > (void *)(long)packet->data_end ? 0 : headers;
}

/* SplitMix64. */
static __always_inline __u64 next_random(void)
{
    __u64 z = run.random += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

/* Puts the next packet's addresses and ports there. */
static __always_inline void come(struct headers *headers)
{
    __u64 random = next_random();
    __u32 number = settings.fresh ? (__u32)run.next++ : (__u32)((random >> 32) * settings.connections >> 32);
    struct tuple tuple = dialled(number);
    if (!settings.fresh && (random & 1))
        tuple = answer(tuple, endpoint(number % SERVICES, number), NETWORK16(8080));
    headers->ip.saddr = tuple.source;
    headers->ip.daddr = tuple.destination;
    headers->tcp.source = tuple.source_port;
    headers->tcp.dest = tuple.destination_port;
}

/* RFC 1624, equation 3. */
static __always_inline __u16 updated(__u16 checksum, __u64 sum)
{
    sum += (__u16)~checksum;
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

static __always_inline int leave(struct headers *headers, const struct flow *flow)
{
    __u64 addresses = (__u64)(__u32)~headers->ip.saddr + flow->source + (__u32)~headers->ip.daddr + flow->destination;
    __u64 ports = (__u64)(__u16)~headers->tcp.source + flow->source_port + (__u16)~headers->tcp.dest + flow->destination_port;
    headers->ip.check = updated(headers->ip.check, addresses);
    headers->tcp.check = updated(headers->tcp.check, addresses + ports);
    headers->ip.saddr = flow->source;
    headers->ip.daddr = flow->destination;
    headers->tcp.source = flow->source_port;
    headers->tcp.dest = flow->destination_port;
    return XDP_TX;
}

SEC("xdp")
int nothing(struct xdp_md *packet)
{
    struct headers *headers_ = headers(packet);
    if (!headers_)
        return XDP_PASS;
    come(headers_);
    return XDP_TX;
}

SEC("xdp")
int nat(struct xdp_md *packet)
{
    struct headers *h = headers(packet);
    if (!h)
        return XDP_PASS;
    come(h);
    if (h->ethernet.h_proto != NETWORK16(ETH_P_IP) || h->ip.version != 4 || h->ip.ihl != 5 || h->ip.protocol != 6)
        return XDP_PASS;
    if (h->ip.frag_off & NETWORK16(0x3fff))
        return XDP_PASS;
    struct tuple tuple = {h->ip.saddr, h->ip.daddr, h->tcp.source, h->tcp.dest, h->ip.protocol};
    struct flow *known = bpf_map_lookup_elem(&flows, &tuple);
    if (known) {
        known->packets++;
        known->seen = bpf_ktime_get_coarse_ns();
        run.hits++;
        return leave(h, known);
    }
    struct tuple vip = {.destination = tuple.destination, .destination_port = tuple.destination_port, .protocol = 6};
    struct service *service = bpf_map_lookup_elem(&services, &vip);
    if (!service)
        return XDP_PASS;
    __u32 pick = (__u32)(((__u64)bpf_get_prandom_u32() * ENDPOINTS) >> 32);
    if (pick >= ENDPOINTS)
        return XDP_DROP;
    __u64 now = bpf_ktime_get_coarse_ns();
    __u32 backend = service->endpoints[pick];
    struct tuple reply = answer(tuple, backend, service->port);
    struct flow there = {tuple.source, backend, tuple.source_port, service->port, 1, now};
    struct flow back = {tuple.destination, tuple.source, tuple.destination_port, tuple.source_port, 0, now};
    if (bpf_map_update_elem(&flows, &reply, &back, BPF_NOEXIST) || bpf_map_update_elem(&flows, &tuple, &there, BPF_ANY))
        return XDP_DROP;
    run.begun++;
    return leave(h, &there);
}

char terms[] SEC("license") = "Dual MIT/GPL";
