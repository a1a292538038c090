# shellcheck shell=bash
# Sourced by checks: two machines as network namespaces, each with a cable whose other end is here, for a balancer to
# stand between. `client` is four pods and an outsider; `server` is the three pods that serve 10.96.0.10:80 by the rules of
# lb-core/tests/golden, on port 8080. What the outsider sends is masqueraded as the node, 192.0.2.10. Sets `client`, `server`, and the ends here, `left` and `right`. Needs root.

clients=(10.244.2.10{1,2,3,4} 203.0.113.5)
client=lb-client-$$ server=lb-server-$$ left=lbl$$ right=lbr$$ pids=()

# Takes all of it down again; to be called however the check ends.
namespaces_down() {
    [ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true
    ip netns del "$client" 2>/dev/null || true
    ip netns del "$server" 2>/dev/null || true
}

namespaces_up() {
    local pod device side address
    ip netns add "$client"
    ip netns add "$server"
    ip link add "$left" type veth peer name eth0 netns "$client"
    ip link add "$right" type veth peer name eth0 netns "$server"
    for address in "${clients[@]}"; do ip -n "$client" addr add "$address/32" dev eth0; done
    for pod in 10.244.1.2 10.244.2.2 10.244.2.3; do ip -n "$server" addr add "$pod/32" dev eth0; done
    for device in "$left" "$right"; do ip link set "$device" up promisc on; done
    for side in "$client" "$server"; do ip -n "$side" link set lo up; ip -n "$side" link set eth0 up; done
    ip -n "$client" route add 10.96.0.0/12 dev eth0
    ip -n "$client" neigh add 10.96.0.10 lladdr "$(mac_in "$server")" dev eth0
    ip -n "$client" neigh add 10.96.0.11 lladdr "$(mac_in "$server")" dev eth0
    for address in "${clients[@]}" 192.0.2.10; do
        ip -n "$server" route add "$address/32" dev eth0
        ip -n "$server" neigh add "$address" lladdr "$(mac_in "$client")" dev eth0
    done
}

mac_in() { ip -n "$1" -j link show eth0 | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["address"])'; }

# fetch_pages DIRECTORY LOG PROGRAM...: with the program between the two, each client fetches a page of 5 MB from the Vip,
# and one is refused where nobody serves. What the program says is in the log.
fetch_pages() {
    local directory=$1 log=$2 balancer fetched=0 refused=0
    shift 2
    head -c 5000000 /dev/urandom >"$directory/page"
    ip netns exec "$server" python3 -m http.server 8080 --directory "$directory" >/dev/null 2>&1 &
    pids+=($!)
    "$@" >"$log" 2>&1 &
    balancer=$!
    pids+=("$balancer")
    for _ in {1..40}; do
        if ip netns exec "$client" curl -s -m 20 --interface "${clients[fetched]}" -o "$directory/fetched" http://10.96.0.10/page &&
            cmp -s "$directory/page" "$directory/fetched"; then
            fetched=$((fetched + 1))
            [ $fetched -lt ${#clients[@]} ] || break
        else
            sleep 0.25
        fi
    done
    # A refusal is told at once: curl's exit code for it is 7.
    ip netns exec "$client" curl -s -m 5 -o /dev/null http://10.96.0.11/ || refused=$?
    kill -INT "$balancer"
    wait "$balancer"
    unset 'pids[-1]'
    grep -v '^EAL\|^$' "$log"
    [ $fetched = ${#clients[@]} ] || { echo "only $fetched of ${#clients[@]} pages came whole"; return 1; }
    [ $refused = 7 ] || { echo "a Vip that nobody serves did not refuse: curl exited with $refused"; return 1; }
    grep -q '^forward-reply ' "$log"
    echo "$fetched pages of 5 MB, one a client, byte for byte, through the Vip"
}
