#!/usr/bin/env python3
"""Runs deploy/clickhouse/schema.sql in ClickHouse (chdb) over what is on the topics.

chdb has no Kafka engine: the queues are tables in memory, filled from files with the
records' values, in the format that the engine would read them with.

  clickhouse.py BROKERS FRAMING        prints one JSON object
"""
import json
import os
import re
import sys
import tempfile

import chdb.session
from confluent_kafka import Consumer, KafkaError


def values(brokers, topic):
    """The values of all records, committed ones alone."""
    c = Consumer({"bootstrap.servers": brokers, "group.id": "clickhouse-test", "auto.offset.reset": "earliest", "enable.auto.commit": False,
                  "isolation.level": "read_committed", "enable.partition.eof": True, "enable.metrics.push": False})
    c.subscribe([topic])
    ended, out = set(), []
    while True:
        r = c.poll(10)
        if r is None:
            sys.exit(f"{topic}: nothing came for 10 s")
        if r.error():
            if r.error().code() != KafkaError._PARTITION_EOF:
                sys.exit(f"{topic}: {r.error()}")
            ended.add(r.partition())
            if len(ended) == len(c.assignment()):
                c.close()
                return out
            continue
        out.append(r.value())


def main(brokers, framing):
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    schema = open(os.path.join(root, "deploy/clickhouse/schema.sql")).read()
    with tempfile.TemporaryDirectory() as work:
        session = chdb.session.Session(os.path.join(work, "db"))
        os.environ["TZ"] = "UTC"
        schema = re.sub(r"ENGINE = Kafka SETTINGS.*?;", "ENGINE = Memory;", schema, flags=re.S)
        for statement in re.sub(r"--.*", "", schema).split(";"):
            if statement.strip():
                session.query(statement)
        for topic, proto, message in (("flows", "flow", "FlowMessage"), ("connections", "connection", "Connection")):
            records = values(brokers, "netflow." + topic)
            directory = os.path.join(work, topic)
            os.mkdir(directory)
            if framing == "delimited":
                with open(os.path.join(directory, "all.bin"), "wb") as f:
                    f.write(b"".join(records))
                form = "Protobuf"
            else:
                for i, value in enumerate(records):
                    with open(os.path.join(directory, f"{i}.bin"), "wb") as f:
                        f.write(value)
                form = "ProtobufSingle"
            described = session.query(f"SELECT name, type FROM system.columns WHERE database = 'weir' AND table = '{topic}_queue' ORDER BY position", "JSONEachRow")
            structure = ", ".join("`%(name)s` %(type)s" % json.loads(line) for line in str(described).splitlines())
            structure = structure.replace("'", "\\'")
            session.query(f"INSERT INTO weir.{topic}_queue SELECT * FROM file('{directory}/*.bin', '{form}', '{structure}') "
                          f"SETTINGS format_schema = '{root}/proto/weir/v1/{proto}.proto:{message}', max_threads = 1")

        def one(sql):
            return json.loads(str(session.query(sql, "JSONEachRow")).splitlines()[0])

        out = {
            "flows": one("SELECT toUInt32(count()) AS n, toFloat64(sum(bytes)) AS octets, toFloat64(sum(packets)) AS packets, toString(min(sampler_address)) AS exporter, "
                         "toUInt32(countIf(time_received < '2020-01-01')) AS undated, toUInt32(countIf(type = '')) AS untyped FROM weir.flows"),
            "connections": one("SELECT toUInt32(count()) AS n, toFloat64(sum(forward_octets + reverse_octets)) AS octets, toFloat64(sum(forward_packets + reverse_packets)) AS packets, "
                               "toUInt32(countIf(conn_state = '')) AS stateless FROM weir.connections FINAL"),
        }
        # The queries of docs/consumers.md, as they stand there.
        guide = open(os.path.join(root, "docs/consumers.md")).read()
        queries = [q for block in re.findall(r"```sql\n(.*?)```", guide, flags=re.S) for q in block.split(";") if "SELECT" in q]
        out["queries"] = [len(str(session.query(q, "JSONEachRow")).splitlines()) for q in queries]
        session.close()
    print(json.dumps(out))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
