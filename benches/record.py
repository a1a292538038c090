#!/usr/bin/env python3
"""Turns what runs of the benches measured into a record: `benches/record.py FILE.csv RUN...`, or prints it: `- RUN...`.

Each RUN is the CRITERION_HOME of one run. One row a comparison: medians per element (packet, key, question;
the whole iteration where a bench counts none), and the ratio, which is the median of the runs' own ratios; of
figures too, the run in the middle counts. A row whose benches were not run is left out, and said so.
"""

import csv
import json
import pathlib
import statistics
import sys

HIT, REPLY, MASQUERADE = "process/tcp4-dnat/hit", "process/tcp4-dnat/reply", "process/tcp4-masquerade/hit"
NEW, MISS, TABLE, FLOOR = "process/tcp4/new", "process/tcp4/miss", "flow_table", "process/floor"
SIZES = ["1k", "64k", "1M"]
LAYOUTS = ["linear-inline", "linear-words-75", "linear-words-50"]
WORST = ["icmp-error4", "fragments4", "extension-headers6"]


def rows():
    """Goal (of those that the figures here can speak to), ours, its peer or floor, the highest good ratio."""
    for size in [*SIZES, "10M"]:
        yield "", f"{HIT}/{size}", f"{FLOOR}/parse-rewrite-tcp4", ""
        yield "", f"{HIT}/{size}", f"{FLOOR}/mac-swap", ""
        yield "", f"{HIT}/{size}", f"{FLOOR}/random-line/{size}", ""
        yield "", f"{HIT}/{size}", f"{FLOOR}/pointer-chase/{size}", ""
    for size in SIZES:
        yield "", f"{MASQUERADE}/{size}", f"{HIT}/{size}", ""
        yield "P3", f"process/tcp6-dnat/hit/{size}", f"{HIT}/{size}", {"1k": 1.15, "1M": 1.3}.get(size, "")
        yield "P4", f"{REPLY}/{size}", f"{HIT}/{size}", 1.1
        yield "P4", f"process/udp4/hit/{size}", f"{HIT}/{size}", 1.1
        yield "", f"process/tcp6-dnat/reply/{size}", f"process/tcp6-dnat/hit/{size}", ""
        yield "", f"process/udp6/hit/{size}", f"process/tcp6-dnat/hit/{size}", ""
        yield "P6", f"{NEW}/{size}", f"{HIT}/{size}", {"1k": 2.2, "1M": 4}.get(size, "")
    yield "", "process/tcp6/new/1k", f"{NEW}/1k", ""
    yield "", "process/udp4/new/1k", f"{NEW}/1k", ""
    for services in ["1k", "100k"]:
        yield "P7", f"{NEW}/{services}-services", f"{NEW}/10-services", 1.5 if services == "100k" else ""
        yield "", f"process/tcp6/miss/{services}-services", f"{MISS}/{services}-services", ""
    for services in ["10", "1k", "100k"]:
        yield "P17", f"{MISS}/{services}-services", f"{HIT}/1k", 1.5
    for backends in [10, 100, 1000]:
        yield "", f"{NEW}/{backends}-backends", f"{NEW}/1-backends", ""
    for kind in WORST:
        yield "P15", f"process/{kind}/hit/1k", f"{HIT}/1k", 20
    for name in ["parse-rewrite-tcp4", "parse-rewrite-tcp6"]:
        yield "", f"{FLOOR}/{name}", f"{FLOOR}/mac-swap", ""
    for family in ["v4", "v6"]:
        for name in ["pair-multiply-shift", "nh"]:
            yield "", f"{TABLE}/hash/{name}/{family}", f"{TABLE}/hash/siphash-1-3/{family}", ""
    for size in SIZES:
        yield "", f"{TABLE}/tag-buckets/hit/{size}", f"{TABLE}/floor/random-line/{size}", ""
        for what in ["hit", "miss"]:
            for layout in LAYOUTS:
                yield "", f"{TABLE}/tag-buckets/{what}/{size}", f"{TABLE}/{layout}/{what}/{size}", ""
    yield "", f"{TABLE}/tag-buckets/hit/1k", f"{TABLE}/hash/siphash-1-3/v4", ""
    for kind in ["tcp6", "udp4", "vlan", "extension-header", "icmp-error", "not-ip"]:
        yield "", f"parse/{kind}", "parse/tcp4", ""
    for what in ["hit", "miss"]:
        for size in ["1k", "50k"]:
            yield "P7", f"rules/decide/{what}/{size}", f"rules/decide/{what}/10", 1.5
    yield "P9", "rules/apply/one-endpoint/50k", "rules/apply/one-endpoint/1k", 2
    yield "P10", "rules/compile/50k", "", ""
    yield "P10", "rules/load/50k", "", ""
    for backends in [10, 100, 1000]:
        yield "P11", f"maglev/build/65537/{backends}", f"maglev/build-by-the-crate/65537/{backends}", 0.0027 if backends == 1000 else ""


def medians(directory):
    """Nanoseconds an element, by the id of the bench."""
    found = {}
    for path in pathlib.Path(directory).glob("**/new/benchmark.json"):
        bench = json.loads(path.read_text())
        elements = (bench["throughput"] or {}).get("Elements", 1)
        estimates = json.loads((path.parent / "estimates.json").read_text())
        found[bench["full_id"]] = estimates["median"]["point_estimate"] / elements
    return found


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    runs = [medians(directory) for directory in sys.argv[2:]]
    for directory, run in zip(sys.argv[2:], runs):
        if not run:
            sys.exit(f"no figures in {directory}: run the benches with CRITERION_HOME={directory} first")
    middle = statistics.median
    if sys.argv[1] != "-":
        pathlib.Path(sys.argv[1]).parent.mkdir(parents=True, exist_ok=True)
    with open("/dev/stdout" if sys.argv[1] == "-" else sys.argv[1], "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["goal", "what", "ours_ns", "peer", "peer_ns", "ratio", "goal_ratio", "command"])
        for goal, ours, peer, limit in rows():
            if any(ours not in run or (peer and peer not in run) for run in runs):
                print(f"left out, not measured in every run: {ours} {peer}", file=sys.stderr)
                continue
            nanoseconds = [f"{middle(run[name] for run in runs):.1f}" if name else "" for name in (ours, peer)]
            ratio = f"{middle(run[ours] / run[peer] for run in runs):.3g}" if peer else ""
            command = f"cargo bench --bench {ours.split('/')[0]}"
            table.writerow([goal, ours, nanoseconds[0], peer, nanoseconds[1], ratio, limit, command])


main()
