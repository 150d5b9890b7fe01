"""QUIC (RFC 9000) by aioquic: quic.py serve CERTIFICATE KEY PORT | ask ADDRESS PORT ..."""
import argparse
import asyncio
import os
import ssl

from aioquic.asyncio import connect, serve
from aioquic.quic.configuration import QuicConfiguration

PROTOCOL = ["weir-test"]


async def answer(reader, writer):
    request = await reader.read()
    writer.write(b"a" * int(request))
    writer.write_eof()


def on_stream(reader, writer):
    asyncio.ensure_future(answer(reader, writer))


async def run_server(a):
    configuration = QuicConfiguration(is_client=False, alpn_protocols=PROTOCOL, idle_timeout=60)
    configuration.load_cert_chain(a.certificate, a.key)
    # A socket for each address, so that the answer comes from the address that was asked.
    for i in range(1, 5):
        for address in (f"198.18.2.{i}", f"2001:db8:2::{i}"):
            await serve(address, a.port, configuration=configuration, stream_handler=on_stream)
    await asyncio.Event().wait()


async def run_client(a):
    configuration = QuicConfiguration(is_client=True, alpn_protocols=PROTOCOL, idle_timeout=60,
                                      verify_mode=ssl.CERT_NONE, server_name="www.example")
    async with connect(a.address, a.port, configuration=configuration) as client:
        for i in range(a.times):
            if i:
                await asyncio.sleep(a.idle)
            reader, writer = await client.create_stream()
            writer.write(str(a.octets).encode())
            writer.write_eof()
            await reader.read()
        if a.abandon:  # no CONNECTION_CLOSE
            os._exit(0)


def main():
    p = argparse.ArgumentParser()
    sub = p.add_subparsers(dest="what", required=True)
    q = sub.add_parser("serve")
    q.add_argument("certificate")
    q.add_argument("key")
    q.add_argument("port", type=int)
    q = sub.add_parser("ask")
    q.add_argument("address")
    q.add_argument("port", type=int)
    q.add_argument("--octets", type=int, default=1500)
    q.add_argument("--times", type=int, default=1)
    q.add_argument("--idle", type=float, default=0)
    q.add_argument("--abandon", action="store_true")
    a = p.parse_args()
    task = run_server(a) if a.what == "serve" else asyncio.wait_for(run_client(a), 8 + a.idle * a.times)
    try:
        asyncio.run(task)
    except (OSError, asyncio.TimeoutError) as err:
        print(a, repr(err))


main()
