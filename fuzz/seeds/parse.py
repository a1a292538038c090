#!/usr/bin/env python3
"""Writes the seeds of the target `parse`, a frame a file, beside itself: `python3 fuzz/seeds/parse.py`.

Frames that a healthy network carries, and a few that it should not, to and from the Service of
lb-host/examples/seed. Lengths and checksums are right except where the name says otherwise.
"""

import ipaddress
import pathlib
import struct

CLIENT, VIP = "198.51.100.7", "203.0.113.10"
CLIENT6, VIP6, MAPPED = "2001:db8:7::7", "2001:db8:10::10", "::ffff:198.51.100.7"
TCP, UDP, ICMP, ICMP6, SCTP, FRAGMENT = 6, 17, 1, 58, 132, 44


def packed(address):
    return ipaddress.ip_address(address).packed


def checksum(data):
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def summed(payload, at, source=None, destination=None, protocol=0):
    """The payload with its checksum at this offset; over the pseudo-header too if there are addresses."""
    pseudo = b""
    if source:
        pseudo = packed(source) + packed(destination) + struct.pack("!II", len(payload), protocol)
    return payload[:at] + struct.pack("!H", checksum(pseudo + payload)) + payload[at + 2 :]


def ip4(protocol, payload, source=CLIENT, destination=VIP, flags=0x4000, options=b""):
    words = 5 + len(options) // 4
    header = struct.pack("!BBHHHBBH", 0x40 | words, 0, words * 4 + len(payload), 0x1D, flags, 64, protocol, 0)
    return summed(header + packed(source) + packed(destination) + options, 10) + payload


def ip6(protocol, payload, source=CLIENT6, destination=VIP6):
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + packed(source) + packed(destination) + payload


def tcp(source=CLIENT, destination=VIP, flags=0x02, payload=b"", options=b"\x02\x04\x05\xb4"):
    words = 5 + len(options) // 4
    header = struct.pack("!HHIIBBHHH", 40001, 8081, 1, 0, words << 4, flags, 64240, 0, 0)
    return summed(header + options + payload, 16, source, destination, TCP)


def udp(source=CLIENT, destination=VIP, payload=b"question"):
    return summed(struct.pack("!HHHH", 40006, 53, 8 + len(payload), 0) + payload, 6, source, destination, UDP)


def sctp_init():
    # CRC32c (RFC 9260 appendix A) over the common header and an INIT chunk.
    packet = struct.pack("!HHII", 40009, 8081, 0, 0) + struct.pack("!BBHIIHHI", 1, 0, 20, 7, 65536, 1, 1, 9)
    crc = 0xFFFFFFFF
    for byte in packet:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return packet[:8] + struct.pack("<I", ~crc & 0xFFFFFFFF) + packet[12:]


def icmp(kind, code, payload, rest=0):
    return summed(struct.pack("!BBHI", kind, code, 0, rest) + payload, 2)


def icmp6(kind, code, payload, rest=0):
    return summed(struct.pack("!BBHI", kind, code, 0, rest) + payload, 2, VIP6, CLIENT6, ICMP6)


def ether(kind, payload, tags=()):
    tags = b"".join(struct.pack("!HH", *tag) for tag in tags)
    return bytes.fromhex("020000000011020000000007") + tags + struct.pack("!H", kind) + payload


def fragment6(following, offset, more):
    return struct.pack("!BBHI", following, 0, offset | more, 0x1D)


SYN, SYN6 = tcp(), tcp(CLIENT6, VIP6)
QUESTION, QUESTION6 = udp(), udp(CLIENT6, VIP6)
HOP_BY_HOP = bytes([TCP, 0, 1, 4, 0, 0, 0, 0])
V4, V6, ARP = 0x0800, 0x86DD, 0x0806

SEEDS = {
    "tcp4-syn": ether(V4, ip4(TCP, SYN)),
    "tcp4-data-padded-to-60": ether(V4, ip4(TCP, tcp(flags=0x18, options=b"", payload=b"hi"))).ljust(60, b"\0"),
    "tcp4-ip-options": ether(V4, ip4(TCP, SYN, options=b"\x94\x04\0\0")),
    "tcp4-vlan": ether(V4, ip4(TCP, SYN), [(0x8100, 7)]),
    "tcp4-qinq": ether(V4, ip4(TCP, SYN), [(0x88A8, 7), (0x8100, 8)]),
    "tcp4-no-link-layer": ip4(TCP, SYN),
    "tcp4-cut-inside-tcp-header": ether(V4, ip4(TCP, SYN))[:44],
    "tcp4-data-offset-past-end": ether(V4, ip4(TCP, SYN[:12] + b"\xf0" + SYN[13:])),
    "tcp4-ihl-past-end": ether(V4, b"\x4f" + ip4(TCP, SYN)[1:]),
    "tcp4-total-length-past-end": ether(V4, ip4(TCP, SYN)[:2] + b"\xff\xff" + ip4(TCP, SYN)[4:]),
    "udp4": ether(V4, ip4(UDP, QUESTION)),
    "udp4-first-fragment": ether(V4, ip4(UDP, QUESTION, flags=0x2000)),
    "udp4-last-fragment": ether(V4, ip4(UDP, b"the rest", flags=0x0002)),
    "udp4-fragment-past-64k": ether(V4, ip4(UDP, b"the rest", flags=0x1FFF)),
    "sctp4-init": ether(V4, ip4(SCTP, sctp_init())),
    "icmp4-echo": ether(V4, ip4(ICMP, icmp(8, 0, b"ping", 0x10001))),
    "icmp4-unreachable-quotes-udp": ether(V4, ip4(ICMP, icmp(3, 3, ip4(UDP, QUESTION)), VIP, CLIENT)),
    "icmp4-too-big-quotes-8-bytes-of-tcp": ether(V4, ip4(ICMP, icmp(3, 4, ip4(TCP, SYN)[:28], 1400), VIP, CLIENT)),
    "icmp4-quotes-less-than-ports": ether(V4, ip4(ICMP, icmp(3, 3, ip4(TCP, SYN)[:22]), VIP, CLIENT)),
    "tcp6-syn": ether(V6, ip6(TCP, SYN6)),
    "tcp6-hop-by-hop-router-alert": ether(V6, ip6(0, bytes([TCP, 0, 5, 2, 0, 0, 1, 0]) + SYN6)),
    "tcp6-nine-extension-headers": ether(V6, ip6(60, (bytes([60]) + HOP_BY_HOP[1:]) * 8 + HOP_BY_HOP + SYN6)),
    "tcp6-routing-header-segments-left": ether(V6, ip6(43, bytes([TCP, 2, 4, 1, 0, 0, 0, 0]) + packed(VIP6) + SYN6)),
    "tcp6-no-link-layer": ip6(TCP, SYN6),
    "tcp6-from-mapped-address": ether(V6, ip6(TCP, tcp(MAPPED, VIP6), source=MAPPED)),
    "udp6": ether(V6, ip6(UDP, QUESTION6)),
    "udp6-first-fragment": ether(V6, ip6(FRAGMENT, fragment6(UDP, 0, 1) + QUESTION6)),
    "udp6-last-fragment": ether(V6, ip6(FRAGMENT, fragment6(UDP, 16, 0) + b"the rest")),
    "udp6-atomic-fragment": ether(V6, ip6(FRAGMENT, fragment6(UDP, 0, 0) + QUESTION6)),
    "icmp6-unreachable-quotes-udp": ether(V6, ip6(ICMP6, icmp6(1, 4, ip6(UDP, QUESTION6)), VIP6, CLIENT6)),
    "icmp6-too-big-quotes-tcp": ether(V6, ip6(ICMP6, icmp6(2, 0, ip6(TCP, SYN6), 1280), VIP6, CLIENT6)),
    "arp": ether(ARP, bytes.fromhex("0001080006040001020000000007c6336407000000000000cb00710a")),
}

directory = pathlib.Path(__file__).with_suffix("")
directory.mkdir(exist_ok=True)
for name, frame in SEEDS.items():
    (directory / name).write_bytes(frame)
