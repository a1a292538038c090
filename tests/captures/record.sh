#!/usr/bin/env bash
# Records lb-host/examples/seed/walk.pcap anew, from real Linux sockets: two network namespaces and a
# veth pair between them. `client` holds a client outside the cluster and a pod; `service` holds every
# address that the Service of examples/seed/cluster.yaml is known by, and answers as the service.
#
#   sudo tests/captures/record.sh [OUT.pcap]
#
# Needs root and the Debian packages iproute2 ethtool tcpdump tshark python3 iputils-ping.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$(dirname "$(dirname "$here")")/lb-host/examples/seed/walk.pcap}

[ "$(id -u)" = 0 ] || { echo "record.sh: network namespaces need root: run it with sudo" >&2; exit 2; }
for program in ip ethtool tcpdump tshark python3 ping; do
    command -v "$program" >/dev/null || { echo "record.sh: $program is missing; see the packages named above" >&2; exit 2; }
done

client=client-$$ service=service-$$
scratch=$(mktemp -d)
started=()
cleanup() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    for namespace in "$client" "$service"; do ip netns delete "$namespace" 2>/dev/null || true; done
    rm -rf "$scratch"
}
trap cleanup EXIT

# await FILE WORD: until the word stands in the file.
await() {
    for _ in $(seq 100); do
        grep -q "$2" "$1" && return
        sleep 0.05
    done
    echo "record.sh: no '$2' after 5 s:" >&2
    cat "$1" >&2
    exit 1
}

# place NAMESPACE ADDRESS...: its end of the veth pair is `eth0` and holds these addresses.
place() {
    local namespace=$1 address
    shift
    # Silence what no one asked for: router solicitations, and the link-local address with its multicast reports.
    ip netns exec "$namespace" sh -c 'echo 0 >/proc/sys/net/ipv6/conf/eth0/router_solicitations
                                      echo 1 >/proc/sys/net/ipv6/conf/eth0/addr_gen_mode'
    # With offloads on, packets would be captured before they are cut to size and summed.
    ip netns exec "$namespace" ethtool -K eth0 tx off rx off tso off gso off gro off >/dev/null
    for address; do
        case $address in
            *:*) ip -n "$namespace" address add "$address" dev eth0 nodad ;;
            *) ip -n "$namespace" address add "$address" dev eth0 ;;
        esac
    done
    ip -n "$namespace" link set lo up
    ip -n "$namespace" link set eth0 up
}

ip netns add "$client"
ip netns add "$service"
ip -n "$client" link add eth0 address 02:00:00:00:00:07 type veth \
    peer name eth0 address 02:00:00:00:00:11 netns "$service"
place "$client" 198.51.100.7/32 10.244.1.77/32 2001:db8:7::7/128
place "$service" 203.0.113.10/32 192.0.2.11/32 10.96.100.50/32 10.96.0.10/32 2001:db8:10::10/128
for there in 203.0.113.0/24 192.0.2.0/24 10.96.0.0/12 2001:db8:10::/64; do
    ip -n "$client" route add "$there" dev eth0
done
for there in 198.51.100.0/24 10.244.1.0/24 2001:db8:7::/64; do
    ip -n "$service" route add "$there" dev eth0
done

ip netns exec "$service" python3 "$here/walk.py" serve >"$scratch/serve" 2>&1 &
started+=($!)
await "$scratch/serve" serving
sleep 1 # the links' own multicast reports
# `ip netns exec` becomes the program it runs, so the signal below goes to tcpdump itself.
ip netns exec "$service" tcpdump -Z root -i eth0 -s 0 -U --immediate-mode -w "$scratch/walk.pcap" 2>"$scratch/tcpdump" &
tcpdump=$!
started+=("$tcpdump")
await "$scratch/tcpdump" 'listening on'

ip netns exec "$client" python3 "$here/walk.py" dial
sleep 0.5 # the last packets
kill -INT "$tcpdump"
wait "$tcpdump" || true
grep -q '^0 packets dropped by kernel' "$scratch/tcpdump" || { cat "$scratch/tcpdump" >&2; exit 1; }

"$here/check.sh" "$scratch/walk.pcap"
mv "$scratch/walk.pcap" "$out"
chmod 644 "$out"
echo "recorded $out: $(stat -c %s "$out") bytes, Linux $(uname -r)"
