/* A peer for orientation: what the kernel's own NAT by rules in kube-proxy's shape (nftables mode, SEMANTICS section 14.2)
 * adds to plain forwarding, for UDP over IPv4.
 *
 *   nftables SERVICES known|new
 *
 * For every line read it measures one turn and writes nanoseconds a packet: what a packet takes from a packet socket
 * through a node to a pod's veth, dialling a Service, less what it takes through a node without rules, dialling the
 * pod. Both nodes are namespaces of this process alone and go when it ends. Of the clients every other one is a pod's
 * neighbour and not masqueraded. A round is shorter than a process's turn on a shared core; those count that were through when sending them returned. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ENDPOINTS = 5, CONNECTIONS = 1000, ROUND = 64, ROUNDS = 200, FRAME = 60 };

struct node {
    int socket, counters;
};

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static const char *dotted(uint32_t address)
{
    static char text[4][16];
    static int turn;
    char *place = text[turn++ % 4];
    snprintf(place, sizeof text[0], "%u.%u.%u.%u", address >> 24, address >> 16 & 255, address >> 8 & 255, address & 255);
    return place;
}

static uint32_t vip(int service) { return 0x0a600000u + service; }
static uint32_t pod(int service, int endpoint) { return 0x0a800000u + service * ENDPOINTS + endpoint; }

/* The rules of this many services. */
static void write_rules(FILE *nft, int services)
{
    fputs("add table ip kube-proxy\n"
          "add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }\n"
          "add map ip kube-proxy no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }\n"
          "add map ip kube-proxy firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }\n"
          "add map ip kube-proxy service-nodeports { type inet_proto . inet_service : verdict; }\n"
          "add set ip kube-proxy cluster-ips { type ipv4_addr; }\n"
          "add set ip kube-proxy nodeport-ips { type ipv4_addr; elements = { 10.255.0.1 } }\n"
          "table ip kube-proxy {\n"
          "chain services {\n"
          " ip daddr . meta l4proto . th dport vmap @service-ips\n"
          " ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports\n}\n"
          "chain mark-for-masquerade { meta mark set meta mark or 0x4000; }\n"
          "chain masquerading { meta mark and 0x4000 == 0 return; meta mark set meta mark xor 0x4000; masquerade fully-random; }\n"
          "chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }\n"
          "chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }\n"
          "chain cluster-ips-check { ip daddr @cluster-ips reject; ip daddr { 10.96.0.0/12 } drop; }\n"
          "chain filter-prerouting { type filter hook prerouting priority -110; ct state new jump firewall-check; }\n"
          "chain filter-forward { type filter hook forward priority -110; ct state new jump service-endpoints-check; ct state new jump cluster-ips-check; }\n"
          "chain nat-prerouting { type nat hook prerouting priority -100; jump services; }\n"
          "chain nat-postrouting { type nat hook postrouting priority 100; jump masquerading; }\n",
          nft);
    for (int s = 0; s < services; s++) {
        for (int e = 0; e < ENDPOINTS; e++)
            fprintf(nft, "chain endpoint-%d-%d { ip saddr %s jump mark-for-masquerade; meta l4proto udp dnat to %s:5353; }\n", s, e,
                    dotted(pod(s, e)), dotted(pod(s, e)));
        fprintf(nft, "chain service-%d { ip daddr %s udp dport 53 ip saddr != 10.200.0.0/16 jump mark-for-masquerade; numgen random mod %d vmap {", s,
                dotted(vip(s)), ENDPOINTS);
        for (int e = 0; e < ENDPOINTS; e++)
            fprintf(nft, "%s %d : goto endpoint-%d-%d", e ? "," : "", e, s, e);
        fputs(" }; }\n", nft);
    }
    fputs("}\n", nft);
    for (int s = 0; s < services; s++)
        fprintf(nft, "add element ip kube-proxy service-ips { %s . udp . 53 : goto service-%d }\nadd element ip kube-proxy cluster-ips { %s }\n",
                dotted(vip(s)), s, dotted(vip(s)));
}

/* A node in a namespace of its own, between a client's veth and a pods'. */
static struct node node(int services)
{
    if (unshare(CLONE_NEWNET))
        fail("a network namespace (root?)");
    int set_up = system("exec >/dev/null 2>&1; set -e\n"
                        "echo 1 | tee /proc/sys/net/ipv6/conf/all/disable_ipv6 /proc/sys/net/ipv6/conf/default/disable_ipv6 || true\n"
                        "ip link add c0 address 02:00:00:00:00:01 type veth peer name n0 address 02:00:00:00:00:02\n"
                        "ip link add p0 address 02:00:00:00:00:03 type veth peer name n1 address 02:00:00:00:00:04\n"
                        "for name in c0 n0 n1 p0 lo; do ip link set $name up; done\n"
                        "echo 1 > /proc/sys/net/ipv4/ip_forward\n"
                        "for name in all n0 n1; do echo 0 > /proc/sys/net/ipv4/conf/$name/rp_filter; done\n"
                        "ip address add 10.254.0.1/24 dev n0; ip address add 10.255.0.1/24 dev n1\n"
                        "ip route add 10.200.0.0/16 dev n0; ip route add 172.20.0.0/16 dev n0\n"
                        /* Nobody has this address, so what arrives is dropped as another's. */
                        "ip neighbour add 10.255.0.2 lladdr 02:00:00:00:00:05 dev n1\n"
                        "ip route add 10.128.0.0/9 via 10.255.0.2\n");
    if (set_up)
        fail("setting up a node by ip");
    if (services) {
        FILE *nft = popen("nft -f -", "w");
        if (!nft)
            fail("nft");
        write_rules(nft, services);
        if (pclose(nft))
            fail("nft does not take the rules");
        FILE *timeout = fopen("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", "w");
        if (!timeout || fputs("600", timeout) < 0 || fclose(timeout))
            fail("nf_conntrack_udp_timeout");
    }
    struct node node = {socket(AF_PACKET, SOCK_RAW, 0), open("/proc/thread-self/net/dev", O_RDONLY)};
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex("c0")};
    int one = 1;
    if (node.socket < 0 || node.counters < 0 || bind(node.socket, (void *)&address, sizeof address)
        || setsockopt(node.socket, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof one))
        fail("a packet socket");
    return node;
}

/* Packets that have come to the pods. */
static long arrived(const struct node *node)
{
    char text[4096];
    ssize_t length = pread(node->counters, text, sizeof text - 1, 0);
    text[length > 0 ? length : 0] = 0;
    char *line = strstr(text, "p0:");
    long bytes, packets;
    if (!line || sscanf(line + 3, "%ld %ld", &bytes, &packets) != 2)
        fail("/proc/net/dev");
    return packets;
}

static uint16_t checksum(const unsigned char *header)
{
    uint32_t sum = 0;
    for (int i = 0; i < 20; i += 2)
        sum += header[i] << 8 | header[i + 1];
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~(sum + (sum >> 16));
}

/* The datagram of the client of this number, to this address and port. */
static void write_frame(unsigned char *frame, uint32_t number, uint32_t to, uint16_t port)
{
    static const unsigned char start[] = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, FRAME - 14, 0, 0, 0, 0, 64, 17};
    uint32_t source = htonl((number & 1 ? 0xac140000u : 0x0ac80000u) | (number >> 1 & 0xffff)), destination = htonl(to);
    uint16_t ports[] = {htons((uint16_t)(1024 + (number >> 17))), htons(port), htons(FRAME - 34), 0};
    memset(frame, 0, FRAME);
    memcpy(frame, start, sizeof start);
    memcpy(frame + 26, &source, 4);
    memcpy(frame + 30, &destination, 4);
    uint16_t sum = htons(checksum(frame + 14));
    memcpy(frame + 24, &sum, 2);
    memcpy(frame + 34, ports, sizeof ports);
}

/* One round: nanoseconds a packet, or less than nothing if not all were through. */
static double send_round(const struct node *node, unsigned char frames[ROUND][FRAME])
{
    struct iovec parts[ROUND];
    struct mmsghdr messages[ROUND];
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < ROUND; i++) {
        parts[i] = (struct iovec){frames[i], FRAME};
        messages[i].msg_hdr.msg_iov = &parts[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    long before = arrived(node);
    double start = now();
    if (sendmmsg(node->socket, messages, ROUND, 0) != ROUND)
        fail("sendmmsg");
    double time = (now() - start) / ROUND;
    return arrived(node) - before == ROUND ? time : -1;
}

int main(int argc, char **argv)
{
    int services = argc == 3 ? atoi(argv[1]) : 0;
    if (services < 1) {
        fprintf(stderr, "usage: nftables SERVICES known|new\n");
        return 2;
    }
    int fresh = !strcmp(argv[2], "new");
    struct node nodes[] = {node(0), node(services)};
    uint32_t next[] = {0, 0};
    static unsigned char frames[ROUND][FRAME];
    static double times[2][ROUNDS];
    char line[16];
    for (int turn = -1; turn < 0 || fgets(line, sizeof line, stdin); turn++) {
        int kept[2] = {0, 0};
        for (int r = 0; r < ROUNDS; r++)
            for (int n = 0; n < 2; n++) {
                for (int i = 0; i < ROUND; i++) {
                    uint32_t number = fresh ? next[n]++ : next[n]++ % CONNECTIONS;
                    int service = (int)(number % (uint32_t)services);
                    n ? write_frame(frames[i], number, vip(service), 53) : write_frame(frames[i], number, pod(service, 0), 5353);
                }
                double time = send_round(&nodes[n], frames);
                if (time >= 0)
                    times[n][kept[n]++] = time;
            }
        /* The first turn makes the known ones known. */
        if (turn < 0)
            continue;
        for (int n = 0; n < 2; n++) {
            if (kept[n] < ROUNDS / 4) {
                fprintf(stderr, "nftables: of %d rounds only %d came through at once\n", ROUNDS, kept[n]);
                return 1;
            }
            qsort(times[n], (size_t)kept[n], sizeof *times[n], by_value);
        }
        printf("%.3f\n", times[1][kept[1] / 2] - times[0][kept[0] / 2]);
        fflush(stdout);
    }
    return 0;
}
