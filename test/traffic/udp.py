"""UDP conversations.

    udp.py serve PORT...          answers each datagram; one that begins with "push N" twice, the second N seconds later
    udp.py ask ADDRESS PORT ...   datagrams of one socket, with pauses
"""
import argparse
import socket
import threading
import time


def answer(s, data, peer, to):
    words = data.split()
    size = len(data) // 2 + 20
    s.sendto(b"a" * size, peer)
    if words[:1] == [b"push"]:
        time.sleep(float(words[1]))
        s.sendto(b"p" * size, peer)


def listen(address, port):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((address, port))
    while True:
        data, peer = s.recvfrom(65535)
        threading.Thread(target=answer, args=(s, data, peer, address), daemon=True).start()


def serve(ports):
    for port in ports:  # a socket for each address, so that the answer comes from the address that was asked
        for i in range(1, 5):
            for address in (f"198.18.2.{i}", f"2001:db8:2::{i}"):
                threading.Thread(target=listen, args=(address, port), daemon=True).start()
    threading.Event().wait()


def ask(a):
    s = socket.socket(socket.AF_INET6 if ":" in a.address else socket.AF_INET, socket.SOCK_DGRAM)
    s.connect((a.address, a.port))
    s.settimeout(2)
    for i in range(a.times):
        if i and not a.push:
            time.sleep(a.pause)
        s.send((b"push %f " % a.pause if a.push else b"ask ") + b"q" * a.octets)
        try:
            s.recv(65535)
            if a.push:
                s.settimeout(a.pause + 2)
                s.recv(65535)
        except OSError as err:
            print(a, err)


def main():
    p = argparse.ArgumentParser()
    sub = p.add_subparsers(dest="what", required=True)
    sub.add_parser("serve").add_argument("ports", type=int, nargs="+")
    q = sub.add_parser("ask")
    q.add_argument("address")
    q.add_argument("port", type=int)
    q.add_argument("--pause", type=float, default=0)
    q.add_argument("--times", type=int, default=1)
    q.add_argument("--octets", type=int, default=40)
    q.add_argument("--push", action="store_true")
    a = p.parse_args()
    if a.what == "serve":
        serve(a.ports)
    else:
        ask(a)


main()
