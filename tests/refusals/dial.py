"""A client on a real TCP/IP stack, behind a TUN device whose packets go over standard output and input.

Packets are sent as a length of two bytes, big-endian, and so many bytes. For each argument `protocol address port`
one attempt is made; what the stack made of it is told on standard error, a line each.
"""
import errno
import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000

tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"tun0", IFF_TUN | IFF_NO_PI))
for command in (
    "link set lo up",
    "link set tun0 mtu 1500 up",
    "addr add 10.244.2.9/24 dev tun0",
    "addr add fd00:244:2::9/64 dev tun0 nodad",
    "route add default dev tun0",
    "-6 route add default dev tun0",
):
    subprocess.run(["ip", *command.split()], check=True, stdout=sys.stderr)


def leave():
    while True:
        packet = os.read(tun, 65535)
        sys.stdout.buffer.write(struct.pack("!H", len(packet)) + packet)
        sys.stdout.buffer.flush()


def arrive():
    while header := sys.stdin.buffer.read(2):
        os.write(tun, sys.stdin.buffer.read(struct.unpack("!H", header)[0]))


for way in (leave, arrive):
    threading.Thread(target=way, daemon=True).start()


def dial(protocol, address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as client:
        client.settimeout(0.7)
        try:
            client.connect((address, int(port)))
            if protocol == "udp":
                client.send(b"anyone there?")
                client.recv(1)
            return "answered"
        except TimeoutError:
            return "silence"
        except OSError as error:
            return errno.errorcode[error.errno]


for attempt in sys.argv[1:]:
    print(attempt, dial(*attempt.split()), file=sys.stderr, flush=True)
os._exit(0)
