#!/usr/bin/env python3
"""Reads netflow.flows or netflow.connections and adds up, as an example of a consumer.

  pip install confluent-kafka protobuf grpcio-tools
  python3 -m grpc_tools.protoc -I proto/weir/v1 --python_out=. flow.proto connection.proto
  python3 docs/examples/consume.py 127.0.0.1:19092 netflow.connections
"""
import json
import sys

from confluent_kafka import Consumer, KafkaError
from google.protobuf import json_format

from connection_pb2 import Connection
from flow_pb2 import FlowMessage


def varint(data, at):
    """The number at an offset, and the offset after it."""
    value, shift = 0, 0
    while True:
        octet = data[at]
        value |= (octet & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if octet < 0x80:
            return value, at


def messages(kind, value):
    """The messages of a record, whatever FORMAT, FRAMING and PACK are."""
    if value.startswith(b'{"'):
        yield json_format.Parse(value, kind())
    elif value[:1] == (b"\x08" if kind is FlowMessage else b"\x0a"):
        yield kind.FromString(value)
    else:
        at = 0
        while at < len(value):
            length, at = varint(value, at)
            yield kind.FromString(value[at:at + length])
            at += length


def read(brokers, topic):
    """Every message of a topic up to its end, committed ones alone."""
    kind = Connection if topic.endswith("connections") else FlowMessage
    consumer = Consumer({
        "bootstrap.servers": brokers, "group.id": "example", "auto.offset.reset": "earliest",
        "enable.auto.commit": False, "isolation.level": "read_committed", "enable.partition.eof": True,
        "enable.metrics.push": False,
    })
    consumer.subscribe([topic])
    ended = set()
    while True:
        record = consumer.poll(10)
        if record is None:
            sys.exit(f"{topic}: nothing came for 10 s")
        if record.error():
            if record.error().code() != KafkaError._PARTITION_EOF:
                sys.exit(f"{topic}: {record.error()}")
            ended.add(record.partition())
            if len(ended) == len(consumer.assignment()):
                consumer.close()
                return
            continue
        ended.discard(record.partition())
        for message in messages(kind, record.value()):
            yield record, message


def main(brokers, topic):
    if topic.endswith("flows"):
        n = octets = packets = 0
        for _, flow in read(brokers, topic):
            n, octets, packets = n + 1, octets + flow.bytes, packets + flow.packets
        print(json.dumps({"flows": n, "octets": octets, "packets": packets}))
        return
    # Of a connection the greatest version is in force: an upsert.
    latest, reports = {}, 0
    for _, connection in read(brokers, topic):
        reports += 1
        before = latest.get(connection.connection_id)
        if before is None or connection.version > before.version:
            latest[connection.connection_id] = connection
    octets = sum(c.forward.octets + c.reverse.octets for c in latest.values())
    packets = sum(c.forward.packets + c.reverse.packets for c in latest.values())
    print(json.dumps({"reports": reports, "connections": len(latest), "octets": octets, "packets": packets}))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
