package sqlite

import (
	"math"
	"net"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"weir/internal/services"
	"weir/pkg/flowpb"
)

// A kind describes a table and the messages that its rows store.
type kind struct {
	name   string
	age    string // column with the age of a row
	insert string
	row    func(message []byte, at time.Time) (values []any, ok bool)
}

// deleteOldest returns the statement that deletes the oldest rows of those that where selects. Its last parameter is
// their number.
func (k *kind) deleteOldest(where string) string {
	return "DELETE FROM " + k.name + " WHERE rowid IN (SELECT rowid FROM " + k.name + " " + where +
		" ORDER BY " + k.age + " LIMIT ?)"
}

var kinds = map[string]*kind{
	"flows":       {"flows", "published", insertOf("flows", flowColumns), flowRow},
	"connections": {"connections", "published", upsertOf(connectionColumns), connectionRow},
}

// A column is a column of a table with its SQL declaration.
type column struct{ name, declared string }

const (
	number  = "INTEGER"
	text    = "TEXT"
	neither = "INTEGER NOT NULL"
)

// flowColumns are the columns of the table flows. Times are in ns since 1970 as in the messages; an unknown value
// is NULL. Columns that a later schema added must be last, in the order of the schemas, as ALTER TABLE appends
// them.
var flowColumns = append([]column{
	{"published", neither}, {"received", number}, {"start", number}, {`"end"`, number},
	{"exporter", text}, {"exporter_name", text}, {"domain", number}, {"type", text}, {"sampling_rate", number},
	{"protocol", text}, {"src", text}, {"src_port", number}, {"dst", text}, {"dst_port", number},
	{"icmp_type", number}, {"icmp_code", number},
	{"octets", number}, {"packets", number}, {"reverse_octets", number}, {"reverse_packets", number},
	{"tcp_flags", number}, {"tos", number},
	{"in_if", number}, {"in_if_name", text}, {"out_if", number}, {"out_if_name", text},
	{"src_as", number}, {"dst_as", number}, {"vlan", number},
	{"src_mac", text}, {"dst_mac", text}, {"next_hop", text},
	{"post_nat_src", text}, {"post_nat_dst", text}, {"application", text},
}, flowColumns2...)

// flowColumns2 are the columns that schema 2 added.
var flowColumns2 = []column{
	{"post_nat_src_port", number}, {"post_nat_dst_port", number}, {"nat_event", number},
	{"firewall_event", number}, {"flow_id", number},
	{"firewall_rule", text}, {"tunnel_src", text}, {"tunnel_dst", text}, {"tunnel_protocol", text}, {"tunnel_id", number},
	{"user_name", text}, {"station", text}, {"station_mac", text},
	{"in_vrf", number}, {"in_vrf_name", text}, {"in_vrf_rd", text},
	{"out_vrf", number}, {"out_vrf_name", text}, {"out_vrf_rd", text}, {"rd", text},
}

// connectionColumns are the columns of the table connections, as flowColumns are those of flows.
var connectionColumns = append([]column{
	{"id", "BLOB NOT NULL UNIQUE"}, {"version", neither}, {"published", neither}, {"final", neither},
	{"emit_reason", text}, {"community_id", text},
	{"start", number}, {`"end"`, number}, {"protocol", text}, {"service", text},
	{"icmp_type", number}, {"icmp_code", number},
	{"initiator", text}, {"initiator_port", number}, {"initiator_name", text},
	{"initiator_as", number}, {"initiator_country", text},
	{"responder", text}, {"responder_port", number}, {"responder_name", text},
	{"responder_as", number}, {"responder_country", text},
	{"octets", number}, {"packets", number}, {"octets_back", number}, {"packets_back", number},
	{"octets_est", number}, {"octets_back_est", number},
	{"state", text}, {"direction_by", text}, {"network_direction", text}, {"quality", text}, {"application", text},
	{"exporter", text}, {"in_if_name", text}, {"out_if_name", text},
}, connectionColumns3...)

// connectionColumns3 are the columns that schema 3 added.
var connectionColumns3 = []column{{"packets_est", number}, {"packets_back_est", number}}

// createEpochs creates the table of leader epochs. epoch is the leader epoch of the last record before the offset
// next.
const createEpochs = "CREATE TABLE epochs (topic TEXT NOT NULL, partition INTEGER NOT NULL, " +
	"next INTEGER NOT NULL, epoch INTEGER NOT NULL, PRIMARY KEY (topic, partition)) WITHOUT ROWID"

// create holds the statements that create the tables of the current schema.
var create = []string{
	createEpochs,
	"CREATE TABLE offsets (topic TEXT NOT NULL, partition INTEGER NOT NULL, topic_id TEXT NOT NULL, " +
		"next INTEGER NOT NULL, PRIMARY KEY (topic, partition)) WITHOUT ROWID",
	tableOf("flows", flowColumns),
	tableOf("connections", connectionColumns),
	"CREATE INDEX flows_published ON flows (published)",
	"CREATE INDEX flows_start ON flows (start)",
	"CREATE INDEX flows_src ON flows (src, start)",
	"CREATE INDEX flows_dst ON flows (dst, start)",
	"CREATE INDEX connections_published ON connections (published)",
	"CREATE INDEX connections_start ON connections (start)",
	"CREATE INDEX connections_initiator ON connections (initiator, start)",
	"CREATE INDEX connections_responder ON connections (responder, start)",
	createTalks,
}

// createTalks creates a view for people: times as text, durations in seconds, hosts with their names. Octets and
// packets are estimates where the exporter samples, and the reported numbers in rows without an estimate. Connections
// that became part of another are left out: their traffic is that of the other one too.
const createTalks = `CREATE VIEW talks AS SELECT ` + talksEnds +
	`max(coalesce(octets, 0), coalesce(octets_est, 0)) + ` +
	`max(coalesce(octets_back, 0), coalesce(octets_back_est, 0)) AS octets, ` +
	`max(coalesce(packets, 0), coalesce(packets_est, 0)) + ` +
	`max(coalesce(packets_back, 0), coalesce(packets_back_est, 0)) AS packets, ` +
	`CASE WHEN octets_est > octets OR octets_back_est > octets_back THEN '~' ELSE '' END AS estimated ` +
	`FROM connections WHERE emit_reason IS NOT 'MERGED'`

// createTalks2 is the statement of the view in schemas 1 and 2. upgradeFrom2 replaces the view with exactly this text.
const createTalks2 = `CREATE VIEW talks AS SELECT ` + talksEnds +
	`coalesce(octets, 0) + coalesce(octets_back, 0) AS octets, ` +
	`coalesce(packets, 0) + coalesce(packets_back, 0) AS packets FROM connections`

// talksEnds are the columns of the view talks before the numbers.
const talksEnds = `strftime('%Y-%m-%d %H:%M:%f', start / 1e9, 'unixepoch') AS began, ` +
	`("end" - start) / 1e9 AS seconds, ` +
	`coalesce(service, protocol || coalesce('/' || responder_port, '')) AS service, ` +
	`initiator || coalesce(' (' || initiator_name || ')', '') AS initiator, ` +
	`responder || coalesce(' (' || responder_name || ')', '') AS responder, `

func tableOf(name string, columns []column) string {
	var all []string
	for _, c := range columns {
		all = append(all, c.name+" "+c.declared)
	}
	return "CREATE TABLE " + name + " (" + strings.Join(all, ", ") + ")"
}

func insertOf(table string, columns []column) string {
	var all []string
	for _, c := range columns {
		all = append(all, c.name)
	}
	return "INSERT INTO " + table + " (" + strings.Join(all, ", ") + ") VALUES (?" +
		strings.Repeat(", ?", len(columns)-1) + ")"
}

// upsertOf returns the statement that inserts a connection or replaces an older version of it.
func upsertOf(columns []column) string {
	var all []string
	for _, c := range columns[1:] {
		all = append(all, c.name+" = excluded."+c.name)
	}
	return insertOf("connections", columns) + " ON CONFLICT (id) DO UPDATE SET " + strings.Join(all, ", ") +
		" WHERE excluded.version > version"
}

// flowRow returns the values of flowColumns for a message that was published at at. ok is false when it is not a
// flow.
func flowRow(message []byte, at time.Time) (values []any, ok bool) {
	m := &flowpb.FlowMessage{}
	if proto.Unmarshal(message, m) != nil || m.GetType() == flowpb.FlowMessage_FLOWUNKNOWN {
		return nil, false
	}
	icmp := m.GetProto() == 1 || m.GetProto() == 58
	return []any{
		at.UnixNano(), orNull(m.GetTimeReceivedNs()), orNull(m.GetTimeFlowStartNs()), orNull(m.GetTimeFlowEndNs()),
		address(m.GetSamplerAddress()), textOrNull(m.GetExporterName()),
		m.GetObservationDomainId(), m.GetType().String(), orNull(m.GetSamplingRate()),
		services.Protocol(m.GetProto()), address(m.GetSrcAddr()), nullIf(icmp, m.GetSrcPort()),
		address(m.GetDstAddr()), nullIf(icmp, m.GetDstPort()),
		nullIf(!icmp, m.GetIcmpType()), nullIf(!icmp, m.GetIcmpCode()),
		counter(m.GetBytes()), counter(m.GetPackets()),
		nullIf(!m.GetBiflow(), uint64(counter(m.GetReverseBytes()))),
		nullIf(!m.GetBiflow(), uint64(counter(m.GetReversePackets()))),
		m.GetTcpFlags(), m.GetIpTos(),
		m.GetInIf(), textOrNull(m.GetInIfName()), m.GetOutIf(), textOrNull(m.GetOutIfName()),
		orNull(uint64(m.GetSrcAs())), orNull(uint64(m.GetDstAs())), orNull(uint64(m.GetVlanId())),
		mac(m.GetSrcMac()), mac(m.GetDstMac()), address(m.GetNextHop()),
		address(m.GetPostNatSrcAddr()), address(m.GetPostNatDstAddr()), textOrNull(m.GetApplicationName()),
		orNull(uint64(m.GetPostNatSrcPort())), orNull(uint64(m.GetPostNatDstPort())), orNull(uint64(m.GetNatEvent())),
		orNull(uint64(m.GetFirewallEvent())), identifierOrNull(m.GetFlowId()),
		textOrNull(m.GetFirewallRule()), address(m.GetTunnelSrcAddr()), address(m.GetTunnelDstAddr()),
		tunnelProtocol(m.GetTunnelProto()), identifierOrNull(m.GetTunnelId()),
		textOrNull(m.GetUserName()), address(m.GetStationAddr()), mac(m.GetStationMac()),
		orNull(uint64(m.GetIngressVrfId())), textOrNull(m.GetIngressVrfName()), textOrNull(m.GetIngressVrfRd()),
		orNull(uint64(m.GetEgressVrfId())), textOrNull(m.GetEgressVrfName()), textOrNull(m.GetEgressVrfRd()),
		textOrNull(m.GetRouteDistinguisher()),
	}, true
}

// connectionRow returns the values of connectionColumns for a message that was published at at. ok is false when
// it is not a connection.
func connectionRow(message []byte, at time.Time) (values []any, ok bool) {
	c := &flowpb.Connection{}
	if proto.Unmarshal(message, c) != nil || len(c.GetConnectionId()) == 0 {
		return nil, false
	}
	a, z, there, back := c.GetInitiator(), c.GetResponder(), c.GetForward(), c.GetReverse()
	seen := there
	if seen == nil {
		seen = back
	}
	var quality []string
	for _, q := range c.GetQuality() {
		quality = append(quality, strings.TrimPrefix(q.String(), "QUALITY_"))
	}
	icmp := c.IcmpType != nil
	count := func(t *flowpb.Traffic, n uint64) any { return nullIf(t == nil, uint64(counter(n))) }
	return []any{
		c.GetConnectionId(), c.GetVersion(), at.UnixNano(), c.GetFinal(),
		enum(c.GetEmitReason().String(), "EMIT_REASON_"), textOrNull(c.GetCommunityId()),
		orNull(uint64(max(0, c.GetStartUnixNs()))), orNull(uint64(max(0, c.GetEndUnixNs()))),
		services.Protocol(c.GetProtocol()), textOrNull(c.GetService()),
		nullIf(!icmp, c.GetIcmpType()), nullIf(!icmp, c.GetIcmpCode()),
		address(a.GetAddress()), nullIf(icmp, a.GetPort()), textOrNull(a.GetName()),
		orNull(uint64(a.GetAsn())), textOrNull(a.GetCountry()),
		address(z.GetAddress()), nullIf(icmp, z.GetPort()), textOrNull(z.GetName()),
		orNull(uint64(z.GetAsn())), textOrNull(z.GetCountry()),
		count(there, there.GetOctets()), count(there, there.GetPackets()),
		count(back, back.GetOctets()), count(back, back.GetPackets()),
		count(there, there.GetOctetsEst()), count(back, back.GetOctetsEst()),
		enum(c.GetConnState().String(), "CONN_STATE_"), enum(c.GetDirectionMethod().String(), "DIRECTION_METHOD_"),
		enum(c.GetNetworkDirection().String(), "NETWORK_DIRECTION_"),
		textOrNull(strings.Join(quality, ",")), textOrNull(c.GetApplicationName()),
		address(seen.GetExporter()), textOrNull(seen.GetInputIfName()), textOrNull(seen.GetOutputIfName()),
		count(there, there.GetPacketsEst()), count(back, back.GetPacketsEst()),
	}, true
}

// maxCounter is the greatest stored number of octets or packets, 9 PB. An exporter can report 2^64-1 for a flow,
// but integers in SQLite are signed, and its sum() fails above 2^63-1.
const maxCounter = 1 << 53

// counter returns a number of octets or packets, limited to maxCounter.
func counter(n uint64) int64 { return int64(min(n, maxCounter)) }

// orNull returns n, at most 2^63-1, or NULL for 0 in a field where 0 means unknown.
func orNull(n uint64) any {
	if n == 0 {
		return nil
	}
	return int64(min(n, math.MaxInt64)) // integers in SQLite are signed
}

// identifierOrNull returns an identifier of 64 bits in two's complement, or NULL for 0. Two identifiers must not become
// equal, so that those from 2^63 on are negative numbers.
func identifierOrNull(n uint64) any {
	if n == 0 {
		return nil
	}
	return int64(n)
}

// tunnelProtocol returns the name of the protocol of the outer packet, NULL for 0 (no tunnel).
func tunnelProtocol(n uint32) any {
	if n == 0 {
		return nil
	}
	return services.Protocol(n)
}

// nullIf returns n, or NULL if absent is set.
func nullIf[N uint32 | uint64](absent bool, n N) any {
	if absent {
		return nil
	}
	return int64(n) // at most maxCounter
}

func textOrNull(s string) any {
	if s == "" {
		return nil
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

func address(b []byte) any {
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return nil
	}
	return a.Unmap().String()
}

func mac(n uint64) any {
	if n == 0 {
		return nil
	}
	return net.HardwareAddr{byte(n >> 40), byte(n >> 32), byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}.String()
}

func enum(name, prefix string) any {
	if s := strings.TrimPrefix(name, prefix); s != "UNSPECIFIED" {
		return s
	}
	return nil
}
