"""Conversations among equals, between high ports.

    p2p.py listen                     TCP and UDP on a few high ports
    p2p.py talk HOST                  many short conversations with the other hosts, as of the host HOST
    p2p.py together HERE THERE        TCP connections that both ends open at once (RFC 9293, 3.5)
    p2p.py tracker PORT               a BitTorrent tracker
    p2p.py torrent FILE URL OUT       a torrent of one file
"""
import hashlib
import http.server
import os
import random
import socket
import sys
import threading
import time
import urllib.parse

PORTS = [20201, 33445, 41000, 51515]
HOSTS = {"client": "198.18.1.{}", "server": "198.18.2.{}", "peer": "198.19.3.{}"}


# ---- short conversations


def listen_udp(address, port):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((address, port))
    while True:
        data, peer = s.recvfrom(2048)
        if random.random() < 0.7:
            s.sendto(b"u" * random.randrange(20, 400), peer)


def serve_tcp(s):
    with s:
        s.settimeout(30)
        try:
            while s.recv(2048):
                s.sendall(b"t" * random.randrange(50, 2000))
                if random.random() < 0.2:
                    return
        except OSError:
            pass


def listen_tcp(address, port):
    s = socket.create_server((address, port), backlog=64)
    while True:
        threading.Thread(target=serve_tcp, args=(s.accept()[0],), daemon=True).start()


def listen():
    own = own_addresses()
    for address in own:
        for port in PORTS:
            threading.Thread(target=listen_udp, args=(address, port), daemon=True).start()
            threading.Thread(target=listen_tcp, args=(address, port), daemon=True).start()
    threading.Event().wait()


def own_addresses():
    found = []
    for pattern in HOSTS.values():
        for i in range(1, 4):
            s = socket.socket()
            try:
                s.bind((pattern.format(i), 0))
                found.append(pattern.format(i))
            except OSError:
                pass
            s.close()
    return found


def talk(name):
    random.seed(name)
    own = HOSTS[name]
    others = [v for k, v in HOSTS.items() if k != name]
    for i in range(90):
        here = own.format(random.randrange(1, 4))
        there = (random.choice(others).format(random.randrange(1, 4)), random.choice(PORTS))
        try:
            if i % 3:
                talk_udp(here, there)
            else:
                talk_tcp(here, there)
        except OSError as err:
            print(here, there, err)
        time.sleep(random.random() * 0.5)


def talk_udp(here, there):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((here, random.randrange(10000, 65000)))
    s.settimeout(0.2)
    for _ in range(random.choice([1, 1, 1, 2, 5])):
        s.sendto(b"d" * random.randrange(20, 400), there)
        try:
            s.recv(2048)
        except OSError:
            pass


def talk_tcp(here, there):
    with socket.socket() as s:
        s.bind((here, random.randrange(10000, 65000)))
        s.settimeout(2)
        s.connect(there)
        for _ in range(random.choice([1, 1, 2, 4])):
            s.sendall(b"c" * random.randrange(50, 1500))
            if not s.recv(2048):
                return


def together(here, there):
    for i in range(8):
        while time.time() % 4 > 0.2:  # at the same moment on both hosts
            time.sleep(0.001)
        moment = time.time() // 4 * 4 + 0.3
        s = socket.socket()
        s.bind((here, 45000 + i))
        s.settimeout(3)
        time.sleep(max(0, moment - time.time()))
        try:
            s.connect((there, 45000 + i))
            s.sendall(b"s" * 300)
            s.recv(2048)
        except OSError as err:
            print("together", err)
        time.sleep(0.3)
        s.close()


# ---- BitTorrent (BEP 3)


def bencode(v):
    if isinstance(v, int):
        return b"i%de" % v
    if isinstance(v, bytes):
        return b"%d:%s" % (len(v), v)
    if isinstance(v, list):
        return b"l" + b"".join(map(bencode, v)) + b"e"
    return b"d" + b"".join(bencode(k) + bencode(v[k]) for k in sorted(v)) + b"e"


def torrent(path, url, out):
    data, size = open(path, "rb").read(), 16384
    pieces = b"".join(hashlib.sha1(data[i:i + size]).digest() for i in range(0, len(data), size))
    info = {b"name": os.path.basename(path).encode(), b"length": len(data), b"piece length": size, b"pieces": pieces}
    open(out, "wb").write(bencode({b"announce": url.encode(), b"info": info}))


class Tracker(http.server.BaseHTTPRequestHandler):
    peers = {}

    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query, encoding="latin-1")
        self.peers[self.client_address[0]] = int(query["port"][0])
        packed = b"".join(socket.inet_aton(a) + p.to_bytes(2, "big") for a, p in self.peers.items())
        body = bencode({b"interval": 10, b"peers": packed})
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def tracker(port):
    http.server.ThreadingHTTPServer(("", int(port)), Tracker).serve_forever()


globals()[sys.argv[1]](*sys.argv[2:])
