#!/usr/bin/env python3
"""Writes the seeds of the targets that read octets of the outside: `fuzz/seeds/host.py`."""
import gzip
import struct
from pathlib import Path

here = Path(__file__).parent
examples = here.parent.parent / "lb-host" / "examples"


def write(target, name, octets):
    directory = here / target
    directory.mkdir(exist_ok=True)
    (directory / name).write_bytes(octets)


# A byte: 0 for text as written, 2 for text as applied, 1 for objects made of what follows.
services = (examples / "services.yaml").read_bytes()
write("manifest", "services-as-written", b"\0" + services)
write("manifest", "services-as-applied", b"\2" + services)
write("manifest", "made-objects", bytes([1]) + bytes(range(256)) * 2)
write("manifest", "anchors-of-anchors", b"\0a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n")
write("manifest", "nested-deeply", b"\0" + b"[" * 200)
write("manifest", "a-name-twice", b"\2" + b"{apiVersion: v1, kind: Namespace, metadata: {name: a}}\n---\n" * 2)

# Records of a capture: seconds, fraction, captured and original length.
frame = (here / "parse" / "udp4").read_bytes()
record = lambda order, octets, length: struct.pack(order + "IIII", 1, 2, length, length) + octets
header = lambda order, magic: struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262144, 1)
pcap = header("<", 0xA1B2C3D4) + record("<", frame, len(frame)) * 2
write("pcap", "pcap-little-endian", pcap)
write("pcap", "pcap-big-endian-nanoseconds", header(">", 0xA1B23C4D) + record(">", frame, len(frame)))
write("pcap", "pcap-record-longer-than-the-file", header("<", 0xA1B2C3D4) + record("<", frame, 0x7FFFFFFF))
write("pcap", "pcap-ends-in-a-record", pcap[:-5])
write("pcap", "pcap-gzip", gzip.compress(pcap, mtime=0))


def block(kind, body):
    body += b"\0" * (-len(body) % 4)
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length


section = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
interface = block(1, struct.pack("<HHI", 1, 0, 262144) + struct.pack("<HHB3x", 9, 1, 9))
packet = block(6, struct.pack("<IIIII", 0, 0, 5, len(frame), len(frame)) + frame)
write("pcap", "pcapng", section + interface + packet + packet)
write("pcap", "pcapng-a-packet-of-no-interface", section + packet)
write("pcap", "pcapng-a-simple-packet", section + interface + block(3, struct.pack("<I", len(frame)) + frame))


def query(name, kind, flags=0x0100, edns=None):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label)
    octets = struct.pack(">HHHHHH", 0x1234, flags, 1, 0, 0, 1 if edns else 0) + labels + b"\0" + struct.pack(">HH", kind, 1)
    return octets + (struct.pack(">BHHIH", 0, 41, edns, 0, 0) if edns else b"")


# A byte: how many octets a stream gives at once.
for name, octets in {
    "a-service": query("web.shop.svc.cluster.local", 1),
    "srv-with-edns": query("_http._tcp.web.shop.svc.cluster.local", 33, edns=1232),
    "reverse": query("10.0.96.10.in-addr.arpa", 12),
    "version": query("dns-version.cluster.local", 16),
    "outside": query("example.com", 28),
    "a-pointer-to-itself": struct.pack(">HHHHHH", 1, 0x100, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1",
    "an-answer": query("web.shop.svc.cluster.local", 1, flags=0x8180),
    "two-questions": struct.pack(">HHHHHH", 1, 0x100, 2, 0, 0, 0) + b"\0\0\1\0\1" * 2,
}.items():
    write("dns", name, b"\x06" + octets)

# Kind, pace, octets, flags: 1 is a packet to a proxy port, 3 an answer to what was said.
write("proxy", "tcp-opened-and-answered", bytes([1, 0, 0, 2, 3, 10, 0, 0x10, 3, 10, 4, 0x18]) + b"data" + bytes([3, 20, 0, 0x11]))
write("proxy", "syns-beyond-the-limit", b"".join(bytes([1 | n << 2, 0, 0, 2]) for n in range(40)))
write("proxy", "datagrams", b"".join(bytes([1 | n << 2, n, 8, 0]) + b"question" for n in range(9)))
syn = (here / "parse" / "tcp4-no-link-layer").read_bytes()
write("proxy", "a-packet-as-it-is", bytes([0, 0, len(syn), 0]) + syn)
write("proxy", "nothing-for-a-while", b"".join(bytes([1, n, 0, 2]) for n in range(36)))

# Sizes and room, then kind, number or pace, meta, octets.
sizes = bytes([0x55, 0x3F, 0x11, 0xFF])
syn = (here / "parse" / "tcp4-syn").read_bytes()
handed = lambda meta: bytes([0, 2, meta, len(syn)]) + syn
write("c_abi", "packets-and-flows", sizes + handed(0) * 3 + bytes([6, 0, 0, 0, 8, 40, 255, 0, 7, 0, 0, 0]))
write("c_abi", "numbers-of-no-enum", sizes + handed(3) + handed(0xFF) + handed(0x0C) + bytes([9, 8, 3, 0]))
write("c_abi", "rules-swapped", sizes + handed(0) + bytes([5, 1, 0, 0, 4, 2, 0, 0]) + handed(0) + bytes([4, 1, 0, 0]) + handed(0))
write("c_abi", "no-memory-for-flows", bytes([0, 0, 0, 0]) + handed(0) * 2)
