#!/usr/bin/env python3
"""Writes a pcap of UDP datagrams of 60 bytes from many clients to one Vip: `clients.py PCAP CLIENTS`."""
import struct
import sys

path, clients = sys.argv[1], int(sys.argv[2])


def checksum(header):
    total = sum(struct.unpack(">10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


with open(path, "wb") as out:
    out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
    for number in range(clients):
        client, vip = bytes([10, 244, 2 + number // 250, 1 + number % 250]), bytes([10, 96, 0, 10])
        header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 46, 0, 0, 64, 17, 0, client, vip)
        header = header[:10] + struct.pack(">H", checksum(header)) + header[12:]
        datagram = struct.pack(">HHHH", 40000, 53, 26, 0) + bytes(18)
        frame = bytes.fromhex("020000000001020000000002" "0800") + header + datagram
        out.write(struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame)
