"""Both ends of the walk that record.sh records: `walk.py serve` and `walk.py dial`.

`serve` answers on the service's addresses as if it were the service; `dial` makes the connections,
one after the other and from fixed ports, so that a new recording tells the same story.
"""

import http.client
import http.server
import socket
import socketserver
import struct
import subprocess
import sys
import threading

OUTSIDE, OUTSIDE_V6, POD = "198.51.100.7", "2001:db8:7::7", "10.244.1.77"
LOAD_BALANCER, LOAD_BALANCER_V6 = "203.0.113.10", "2001:db8:10::10"
NODE, CLUSTER_IP, DNS = "192.0.2.11", "10.96.100.50", "10.96.0.10"
PORT, NODE_PORT, CLOSED_PORT = 8081, 32255, 9999
NAME = "example.default.svc.cluster.local"

# More than one full segment, so that the capture has some without PSH.
PAGE = "".join(f"{line:3} one page of the example service, a line of sixty bytes\n" for line in range(60)).encode()


class Page(http.server.BaseHTTPRequestHandler):
    protocol_version, server_version, sys_version = "HTTP/1.1", "example", ""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_):
        pass


class Web(http.server.ThreadingHTTPServer):
    def __init__(self, family, port):
        self.address_family = family
        super().__init__(("", port), Page)

    def server_bind(self):
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        socketserver.TCPServer.server_bind(self)  # HTTPServer's would look the host's name up
        self.server_name, self.server_port = NAME, self.server_address[1]


def question(name):
    """A DNS question section for the A records of a name (RFC 1035 §4.1.2)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return labels + b"\0" + struct.pack("!HH", 1, 1)


class Resolver(socketserver.BaseRequestHandler):
    """Answers every question as if it were NAME's (RFC 1035 §4.1.1, §4.1.3; the name by a pointer, §4.1.4)."""

    def handle(self):
        query, sock = self.request
        header = query[:2] + struct.pack("!HHHHH", 0x8580, 1, 1, 0, 0)
        answer = struct.pack("!HHHIH", 0xC00C, 1, 1, 5, 4) + socket.inet_aton(CLUSTER_IP)
        sock.sendto(header + query[12:] + answer, self.client_address)


def serve():
    servers = [Web(socket.AF_INET, PORT), Web(socket.AF_INET, NODE_PORT), Web(socket.AF_INET6, PORT)]
    servers.append(socketserver.UDPServer((DNS, 53), Resolver))
    for server in servers[1:]:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("serving", flush=True)
    servers[0].serve_forever()


def get(source, destination):
    connection = http.client.HTTPConnection(*destination, source_address=source, timeout=5)
    host = f"{NAME}:{destination[1]}"
    connection.request("GET", "/", headers={"Host": host, "User-Agent": "walk", "Connection": "close"})
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, PAGE), f"{source} -> {destination}: not the page"
    connection.close()


def resolve(source):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.bind(source)
        sock.sendto(struct.pack("!HHHHHH", 0x2A2A, 0x0100, 1, 0, 0, 0) + question(NAME), (DNS, 53))
        return socket.inet_ntoa(sock.recv(512)[-4:])


def dial():
    # From outside, through the load balancer; three times, as one connection never shows balancing.
    for port in (40001, 40002, 40003):
        get((OUTSIDE, port), (LOAD_BALANCER, PORT))
    get((OUTSIDE_V6, 40004), (LOAD_BALANCER_V6, PORT))
    # From outside, to a node.
    get((OUTSIDE, 40005), (NODE, NODE_PORT))
    # From a pod, by the service's name.
    address = resolve((POD, 40006))
    assert address == CLUSTER_IP, address
    get((POD, 40007), (address, PORT))
    # What is no service's.
    try:
        get((OUTSIDE, 40008), (NODE, CLOSED_PORT))
        raise AssertionError(f"{NODE}:{CLOSED_PORT} is open")
    except ConnectionRefusedError:
        pass
    subprocess.run(["ping", "-q", "-c", "2", "-i", "0.2", "-I", OUTSIDE, NODE], check=True, stdout=sys.stderr)


{"serve": serve, "dial": dial}[sys.argv[1]]()
