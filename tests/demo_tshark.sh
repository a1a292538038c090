#!/usr/bin/env bash
# Whether the demo's capture is what it should be, as tshark sees it: nothing malformed, no checksum wrong, an interface a
# router, and on the packets that they translate the layers that were opened.
#
#   tests/demo_tshark.sh OUT.pcapng
set -euo pipefail
output=$1
failed=0
complain() { echo "demo_tshark.sh: $output: $*" >&2; failed=1; }
fields() { # FILTER, FIELD
    tshark -o ip.check_checksum:TRUE -o tcp.check_checksum:TRUE -o udp.check_checksum:TRUE -r "$output" -Y "$1" -T fields -e "$2" \
        2> >(grep -v 'Running as user' >&2)
}
count() { fields "$1" frame.number | wc -l; }
none() { # WHAT, FILTER
    local frames
    frames=$(count "$2")
    [ "$frames" = 0 ] || complain "$1: $frames frames"
}
some() { # WHAT, FILTER
    [ "$(count "$2")" -gt 0 ] || complain "no $1"
}

none "checksums wrong" 'ip.checksum.status == 0 || tcp.checksum.status == 0 || udp.checksum.status == 0 || icmp.checksum.status == 0 || icmpv6.checksum.status == 0'
none "malformed" _ws.malformed
interfaces=$(fields ip frame.interface_name | sort -u | paste -sd' ')
[ "$interfaces" = "load-balancer worker-1 worker-2 worker-3 worker-4" ] || complain "interfaces: $interfaces"
balancer='frame.interface_name == "load-balancer"'
node='frame.interface_name contains "worker-"'
some "packet from the load balancer to a node" "$balancer && frame.comment contains \"lb 203.0.113.1:8081 -> node 192.0.2.\""
some "packet from a node to a Pod" "$node && frame.comment contains \"DNAT SNAT\" && frame.comment contains \"-> pod 10.244.\""
some "the same over IPv6" "$node && ipv6 && frame.comment contains \"-> pod [fd00:10:244:\""
some "answer that is turned back" "$node && frame.comment contains \"forward-reply\""
some "answer of DNS" "dns.flags.rcode == 3"
some "HTTP answer" "http.response.code == 200"
exit $failed
