#!/usr/bin/env python3
"""Whether a pcap holds the frames that a replay's pcapng has on `egress`, byte for byte and in order."""
import struct
import sys

pcap, pcapng = (open(path, "rb").read() for path in sys.argv[1:])

ours, at = [], 24
while at < len(pcap):
    length = struct.unpack_from("<I", pcap, at + 8)[0]
    ours.append(pcap[at + 16 : at + 16 + length])
    at += 16 + length

theirs, at = [], 0
while at < len(pcapng):
    kind, length, interface = struct.unpack_from("<III", pcapng, at)
    if kind == 6 and interface % 2 == 1:  # an enhanced packet block; egress is the second interface of each pair
        captured = struct.unpack_from("<I", pcapng, at + 20)[0]
        theirs.append(pcapng[at + 28 : at + 28 + captured])
    at += length

for number, (one, other) in enumerate(zip(ours, theirs), 1):
    if one != other:
        sys.exit(f"frame {number} differs:\n{one.hex()}\n{other.hex()}")
if len(ours) != len(theirs) or not ours:
    sys.exit(f"{len(ours)} frames, not {len(theirs)}")
print(f"{len(ours)} frames, each the same as lb replay's")
