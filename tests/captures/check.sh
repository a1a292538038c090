#!/usr/bin/env bash
# Whether a recording is fit to be shipped, as tshark sees it: every checksum there and right, nothing
# cut, nothing retransmitted, and each part of the story in it.
#
#   tests/captures/check.sh [IN.pcap]
set -euo pipefail
capture=${1:-$(dirname "$0")/../../lb-host/examples/seed/walk.pcap}
frames() {
    tshark -r "$capture" -o ip.check_checksum:TRUE -o tcp.check_checksum:TRUE -o udp.check_checksum:TRUE \
        -Y "$1" -T fields -e frame.number 2> >(grep -v 'Running as user' >&2)
}
failed=0

while IFS='|' read -r what filter; do
    found=$(frames "$filter" | paste -sd ' ')
    if [ -n "$found" ]; then
        echo "check.sh: $capture: $what: frames $found" >&2
        failed=1
    fi
done <<'NEVER'
IPv4 header checksum wrong|ip && !(ip.checksum.status == 1)
TCP checksum wrong|tcp && !(tcp.checksum.status == 1)
UDP checksum wrong|udp && !(udp.checksum.status == 1)
ICMP checksum wrong|icmp && !(icmp.checksum.status == 1)
ICMPv6 checksum wrong|icmpv6 && !(icmpv6.checksum.status == 1)
cut by the snap length|frame.cap_len < frame.len
larger than the link carries|frame.len > 1514
TTL that no host starts with|ip && !(ip.ttl == 64) || ipv6 && !icmpv6 && !(ipv6.hlim == 64)
retransmitted or lost|tcp.analysis.retransmission || tcp.analysis.lost_segment || tcp.analysis.out_of_order
malformed|_ws.malformed
NEVER

while IFS='|' read -r what count filter; do
    found=$(frames "$filter" | wc -l)
    if [ "$found" != "$count" ]; then
        echo "check.sh: $capture: $what: $found frames, expected $count" >&2
        failed=1
    fi
done <<'STORY'
connections to the load balancer|3|ip.src == 198.51.100.7 && ip.dst == 203.0.113.10 && tcp.dstport == 8081 && tcp.flags == 0x002
connection to the load balancer, IPv6|1|ipv6.src == 2001:db8:7::7 && ipv6.dst == 2001:db8:10::10 && tcp.dstport == 8081 && tcp.flags == 0x002
connection to the NodePort|1|ip.src == 198.51.100.7 && ip.dst == 192.0.2.11 && tcp.dstport == 32255 && tcp.flags == 0x002
connection of a pod to the ClusterIP|1|ip.src == 10.244.1.77 && ip.dst == 10.96.100.50 && tcp.dstport == 8081 && tcp.flags == 0x002
pages served|6|http.response.code == 200
connections closed from both ends|12|tcp.flags.fin == 1
connection refused|1|ip.src == 192.0.2.11 && tcp.srcport == 9999 && tcp.flags.reset == 1
resets in all|1|tcp.flags.reset == 1
question for the service's name|1|ip.src == 10.244.1.77 && ip.dst == 10.96.0.10 && dns.qry.name == "example.default.svc.cluster.local" && dns.flags.response == 0
its answer|1|ip.src == 10.96.0.10 && dns.a == 10.96.100.50
pings|2|icmp.type == 8 && ip.dst == 192.0.2.11
pongs|2|icmp.type == 0 && ip.src == 192.0.2.11
STORY

for needed in arp icmpv6.type==135; do
    [ -n "$(frames "$needed")" ] || { echo "check.sh: $capture: nothing matches $needed" >&2; failed=1; }
done
exit $failed
