"""TCP conversations that end in the ways that real ones do.

    tcp.py serve PORTS                a server; the client's first line says how to behave
    tcp.py ask ADDRESS PORT ...       one conversation
    tcp.py again ADDRESS PORT PAUSE   three of one 5-tuple, PAUSE seconds apart
    tcp.py forge PORT                 answers each SYN to PORT with a forged RST, ahead of the server's answer
"""
import argparse
import json
import random
import socket
import struct
import threading
import time

LINGER_RESET = struct.pack("ii", 1, 0)  # close() sends RST


def reset(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
    s.close()


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


# ---- the server


def handle(s):
    with s:
        lines = s.makefile("rb")
        try:
            order = json.loads(lines.readline())
            if order["push"]:  # the server speaks again after the pause
                s.sendall(b"w" * 500)
                time.sleep(order["pause"])
                s.sendall(b"p" * 1500)
            else:
                s.sendall(b"a" * 1500)
            if order["order"] == "close-first":
                if order["pause"]:
                    lines.readline()
                s.shutdown(socket.SHUT_WR)
                lines.read()
            elif order["order"] == "reset-first":
                if order["pause"]:
                    lines.readline()
                time.sleep(0.05)
                reset(s)
            elif order["order"] == "reset-middle":
                s.sendall(b"m" * 9000)
                reset(s)
            else:
                while line := lines.readline():
                    s.sendall(line * 3)
        except (OSError, ValueError):
            pass


def listen(port):
    s = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
    while True:
        threading.Thread(target=handle, args=(s.accept()[0],), daemon=True).start()


def serve(ports):
    for part in ports.split(","):
        low, _, high = part.partition("-")
        for port in range(int(low), int(high or low) + 1):
            threading.Thread(target=listen, args=(port,), daemon=True).start()
    threading.Event().wait()


# ---- the client


def converse(s, a):
    order = {"order": a.order, "pause": a.pause, "push": a.push}
    s.settimeout(a.pause + 20)
    s.sendall(json.dumps(order).encode() + b"\n")
    s.recv(100)
    if a.end == "reset-middle":
        return reset(s)
    if a.pause:
        time.sleep(a.pause)
        s.sendall(b"again " + b"x" * 200 + b"\n")
        time.sleep(0.2)
    if a.end == "reset":
        time.sleep(0.05)
        return reset(s)
    if a.end == "half":  # the client closes, the server goes on
        s.sendall(b"last\n" * 20)
        s.shutdown(socket.SHUT_WR)
    if a.end == "late":  # data on a connection that the server has closed
        time.sleep(0.2)
        s.sendall(b"late\n")
        time.sleep(0.1)
        return s.close()
    if a.order == "keep" and a.end != "half":
        s.sendall(b"bye\n")
        s.shutdown(socket.SHUT_WR)
    while s.recv(4096):
        pass
    s.close()


def ask(a, source_port=0):
    s = socket.socket(family(a.address), socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if source_port:
        s.bind(("::" if ":" in a.address else "0.0.0.0", source_port))
    s.settimeout(10)
    try:
        s.connect((a.address, a.port))
        converse(s, a)
    except OSError as err:
        print(a, err)
        s.close()


def again(a):
    port = random.randrange(20000, 30000)
    for _ in range(3):
        ask(a, port)
        time.sleep(a.again)


def forge(port):
    from scapy.all import IP, TCP, Ether, IPv6, sendp, sniff

    def answer(p):
        if p[TCP].flags != "S":
            return
        ip = IP(src=p[IP].dst, dst=p[IP].src) if IP in p else IPv6(src=p[IPv6].dst, dst=p[IPv6].src)
        # The sequence number is wrong, so that the client goes on (RFC 5961), as with a censor's late RST.
        rst = TCP(sport=port, dport=p[TCP].sport, flags="RA", seq=1, ack=p[TCP].seq - 1000)
        sendp(Ether(src="02:00:00:00:00:02", dst="02:00:00:00:00:01") / ip / rst, iface="wire0", verbose=False)

    sniff(iface="wire0", filter=f"tcp dst port {port} and tcp[tcpflags] == tcp-syn or (ip6 and tcp dst port {port})",
          prn=answer, store=False)


def main():
    p = argparse.ArgumentParser()
    sub = p.add_subparsers(dest="what", required=True)
    sub.add_parser("serve").add_argument("ports")
    sub.add_parser("forge").add_argument("port", type=int)
    for name in ("ask", "again"):
        q = sub.add_parser(name)
        q.add_argument("address")
        q.add_argument("port", type=int)
        if name == "again":
            q.add_argument("again", type=float)
        q.add_argument("--order", default="keep", help="what the server does: close-first, reset-first, reset-middle")
        q.add_argument("--end", default="close", help="what the client does: reset, reset-middle, half, late")
        q.add_argument("--pause", type=float, default=0)
        q.add_argument("--push", action="store_true")
    a = p.parse_args()
    if a.what == "serve":
        serve(a.ports)
    elif a.what == "forge":
        forge(a.port)
    elif a.what == "ask":
        ask(a)
    else:
        again(a)


main()
