#!/usr/bin/env bash
# Whether a replay of the shipped capture is what it should be, as tshark sees it: nothing malformed, no checksum wrong,
# every packet to a Vip sent to a pod with a comment that says why, everything else as it came in.
#
#   tests/replay_tshark.sh OUT.pcapng [IN.pcap]
set -euo pipefail
output=$1
input=${2:-$(dirname "$0")/../lb-host/examples/seed/walk.pcap}
failed=0
complain() { echo "replay_tshark.sh: $output: $*" >&2; failed=1; }
show() {
    tshark -o ip.check_checksum:TRUE -o tcp.check_checksum:TRUE -o udp.check_checksum:TRUE -o 'sctp.checksum:CRC 32c' "$@" \
        2> >(grep -v 'Running as user' >&2)
}
count() { show -r "$1" -Y "$2" -T fields -e frame.number | wc -l; }
same() { # WHAT, FRAMES, EXPECTED
    [ "$2" = "$3" ] || complain "$1: $2 frames, expected $3"
}

wrong='ip.checksum.status == 0 || tcp.checksum.status == 0 || udp.checksum.status == 0 || icmp.checksum.status == 0 || icmpv6.checksum.status == 0 || sctp.checksum.status == 0'
same "checksums wrong in the input" "$(count "$input" "$wrong")" 0
same "checksums wrong" "$(count "$output" "$wrong")" 0
same "malformed" "$(count "$output" _ws.malformed)" 0

# What the seed's Service is dialled by, and where its pods are.
dialled='tcp.dstport == 8081 || tcp.dstport == 32255'
pods='tcp.dstport == 8080 && (ip.dst in {10.244.1.10, 10.244.1.11, 10.244.2.10} || ipv6.dst in {fd00:10:244:1::10, fd00:10:244:1::11, fd00:10:244:2::10})'
egress='frame.interface_name == "egress"'
to_vips=$(count "$input" "$dialled")
[ "$to_vips" -gt 0 ] || complain "nothing dials the Service in $input"
same "sent to pods" "$(count "$output" "$egress && ($pods)")" "$to_vips"
same "told as DNAT, with the path to the pod" \
    "$(count "$output" "$egress && ($pods) && frame.comment contains \"DNAT\" && frame.comment contains \"-> pod \"")" "$to_vips"
same "still addressed to a Vip" "$(count "$output" "$egress && ($dialled)")" 0
from_vips='tcp.srcport == 8081 || tcp.srcport == 32255'
same "replies from the Vips" "$(count "$output" "$egress && ($from_vips)")" "$(count "$input" "$from_vips")"
same "told as a load balancer's" \
    "$(count "$output" "$egress && frame.comment contains \"lb 203.0.113.10:8081 -> node 192.0.2.11:32255 -> service 10.96.100.50:8081 -> pod 10.244.\"")" \
    "$(count "$input" 'ip.addr == 203.0.113.10 && tcp')"

# Bytes of what is nobody's business, and of the replies, are those that were captured.
bytes() { show -r "$1" -Y "$2" -x; }
others="!($dialled) && !($from_vips)"
cmp <(bytes "$input" "$others") <(bytes "$output" "$egress && !tcp.port == 8080 && $others") || complain "packets of no service were changed"
cmp <(bytes "$input" "$from_vips") <(bytes "$output" "$egress && ($from_vips)") || complain "replies are not what was captured"
exit $failed
