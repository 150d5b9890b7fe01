"""Small servers of real protocols: servers.py ftp FOLDER | smtp | ssdp, and clients: msearch | mdns."""
import socket
import struct
import sys
import time

GROUP = "239.255.255.250"


def ftp(folder):
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import FTPHandler
    from pyftpdlib.servers import FTPServer

    authorizer = DummyAuthorizer()
    authorizer.add_anonymous(folder)
    FTPHandler.authorizer = authorizer
    FTPHandler.passive_ports = range(40000, 40100)
    FTPServer(("::", 21), FTPHandler).serve_forever()


def smtp():
    from aiosmtpd.controller import Controller
    from aiosmtpd.handlers import Sink

    Controller(Sink(), hostname="::", port=25, server_hostname="mail.example").start()
    time.sleep(10**6)


def ssdp():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("", 1900))
    s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + socket.inet_aton("198.18.2.1"))
    while True:
        _, peer = s.recvfrom(2048)
        s.sendto(b"HTTP/1.1 200 OK\r\nST: upnp:rootdevice\r\nUSN: uuid:0\r\n\r\n", peer)


def msearch():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(1)
    s.sendto(b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 1\r\nST: ssdp:all\r\n\r\n',
             (GROUP, 1900))
    try:
        s.recv(2048)
    except OSError:
        pass


def mdns():
    """Asks for server.local once by multicast from a high port (RFC 6762, 6.7): the answer is unicast."""
    question = struct.pack(">6H", 7, 0, 1, 0, 0, 0) + b"\x06server\x05local\0" + struct.pack(">2H", 1, 1)
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(1)
    s.sendto(question, ("224.0.0.251", 5353))
    try:
        s.recv(2048)
    except OSError:
        pass


globals()[sys.argv[1]](*sys.argv[2:])
