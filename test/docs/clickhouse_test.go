package docs

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/pkg/flowpb"
)

// A column is a column of ClickHouse, with its type in the queue and in the table.
type column struct{ name, queued, kept, expr string }

// columns returns the columns of a message. prefix is the name of the enclosing message, with its
// dot.
func columns(t *testing.T, md protoreflect.MessageDescriptor, prefix string) (list []column) {
	t.Helper()
	for i := range md.Fields().Len() {
		fd := md.Fields().Get(i)
		c := column{name: prefix + string(fd.Name())}
		if fd.Kind() == protoreflect.MessageKind {
			for _, inner := range columns(t, fd.Message(), c.name+".") {
				if fd.IsList() {
					inner.queued, inner.kept, inner.expr = "Array("+inner.queued+")", "Array("+inner.queued+")", ""
				}
				list = append(list, inner)
			}
			continue
		}
		switch fd.Kind() {
		case protoreflect.Uint32Kind:
			c.queued = "UInt32"
		case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
			c.queued = "UInt64"
		case protoreflect.Int64Kind:
			c.queued = "Int64"
		case protoreflect.BoolKind:
			c.queued = "Bool"
		case protoreflect.StringKind, protoreflect.EnumKind: // an enumeration by name: it may grow
			c.queued = "LowCardinality(String)"
		case protoreflect.BytesKind:
			c.queued = "String"
		default:
			t.Fatalf("%s: no column for %v", fd.FullName(), fd.Kind())
		}
		c.kept = c.queued
		quoted := "`" + c.name + "`"
		switch name := string(fd.Name()); {
		case fd.IsList():
			c.queued, c.kept = "Array("+c.queued+")", "Array("+c.kept+")"
		case flowpb.FormOf(fd) == flowpb.Address:
			// Octets of IPv4 become ::ffff:192.0.2.1; none become ::.
			c.kept = "IPv6"
			c.expr = "CAST(toFixedString(multiIf(length(" + quoted + ") = 4, concat(unhex('00000000000000000000FFFF'), " + quoted + "), length(" + quoted + ") = 16, " + quoted + ", unhex(repeat('00', 16))), 16) AS IPv6)"
		case strings.HasSuffix(name, "_ns"):
			c.kept = "DateTime64(9, 'UTC')"
			c.expr = "fromUnixTimestamp64Nano(toInt64(" + quoted + "), 'UTC')"
		case fd.Kind() == protoreflect.BytesKind && name == "connection_id":
			c.kept = "FixedString(16)"
			c.expr = "toFixedString(" + quoted + ", 16)"
		}
		list = append(list, c)
	}
	return list
}

// keptName returns the name of a column in the table: times lose the unit, which their type states,
// and dots would make a nested column.
func keptName(name string) string {
	name = strings.TrimSuffix(strings.TrimSuffix(name, "_ns"), "_unix")
	return strings.ReplaceAll(name, ".", "_")
}

// ddl returns the statements for a topic.
func ddl(t *testing.T, m protoreflect.ProtoMessage, topic, file, table, engine string) string {
	t.Helper()
	md := m.ProtoReflect().Descriptor()
	list := columns(t, md, "")
	var queue, keep, view []string
	for _, c := range list {
		queue = append(queue, fmt.Sprintf("  `%s` %s", c.name, c.queued))
		kept := keptName(c.name)
		nested := strings.HasPrefix(c.queued, "Array") && strings.Contains(c.name, ".")
		if nested { // elements.pen, elements.id, elements.value stay together
			kept = c.name
		}
		keep = append(keep, fmt.Sprintf("  `%s` %s", kept, c.kept))
		expr := c.expr
		if expr == "" {
			expr = "`" + c.name + "`"
		}
		view = append(view, fmt.Sprintf("  %s AS `%s`", expr, kept))
	}
	return fmt.Sprintf(`CREATE TABLE IF NOT EXISTS weir.%[1]s_queue (
%[2]s
) ENGINE = Kafka SETTINGS
  kafka_broker_list = 'kafka:9092', kafka_topic_list = '%[3]s', kafka_group_name = 'clickhouse',
  kafka_format = 'ProtobufSingle', kafka_schema = '%[4]s:%[5]s';

CREATE TABLE IF NOT EXISTS weir.%[1]s (
%[6]s
) ENGINE = %[7]s;

CREATE MATERIALIZED VIEW IF NOT EXISTS weir.%[1]s_view TO weir.%[1]s AS SELECT
%[8]s
FROM weir.%[1]s_queue;
`, table, strings.Join(queue, ",\n"), topic, file, md.Name(), strings.Join(keep, ",\n"), engine, strings.Join(view, ",\n"))
}

func TestTheDefinitionsForClickHouse(t *testing.T) {
	whole(t, "deploy/clickhouse/schema.sql", `-- ClickHouse tables of Weir's topics, written by make gen from proto/weir/v1; docs/consumers.md
-- explains them. ingest's FRAMING=delimited and PACK want kafka_format = 'Protobuf'.
CREATE DATABASE IF NOT EXISTS weir;

`+ddl(t, &flowpb.FlowMessage{}, "netflow.flows", "flow.proto", "flows",
		"MergeTree PARTITION BY toDate(time_received) ORDER BY (sampler_address, time_received) TTL toDateTime(time_received) + INTERVAL 30 DAY")+`
-- Of a connection the greatest version is in force: ask with FINAL.
`+ddl(t, &flowpb.Connection{}, "netflow.connections", "connection.proto", "connections",
		"ReplacingMergeTree(version) ORDER BY connection_id TTL toDateTime(first_received) + INTERVAL 90 DAY"))
}
