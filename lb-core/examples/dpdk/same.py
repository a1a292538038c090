#!/usr/bin/env python3
"""Whether a pcap holds the frames that lb-core/tests/golden/verdicts tells of: length and hash of each that is sent, in order."""
import struct
import sys

pcap, verdicts = sys.argv[1:]
data = open(pcap, "rb").read()

frames, at = [], 24
while at < len(data):
    length = struct.unpack_from("<I", data, at + 8)[0]
    frames.append(data[at + 16 : at + 16 + length])
    at += 16 + length


def fnv(frame):
    hash = 0xCBF29CE484222325
    for byte in frame:
        hash = (hash ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return hash


SENT = {"pass", "accept", "forward", "forward-reply", "no-endpoints", "unmatched-port"}
lines = [line.split() for line in open(verdicts, encoding="ascii")]
expected = [(int(length), hash) for word, length, hash in lines if word in SENT]
for number, (frame, (length, hash)) in enumerate(zip(frames, expected), 1):
    if (len(frame), f"{fnv(frame):016x}") != (length, hash):
        sys.exit(f"frame {number} differs: {frame.hex()}")
if len(frames) != len(expected) or not frames:
    sys.exit(f"{len(frames)} frames, not {len(expected)}")
print(f"{len(frames)} frames, each as every machine has it")
