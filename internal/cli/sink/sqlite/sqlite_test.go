package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"weir/internal/cli/sink"
	"weir/pkg/flowpb"
)

var at = time.Unix(1_790_000_000, 5)

func open(t *testing.T, path, rows string, o sink.Options) *Table {
	t.Helper()
	o.Path, o.Rows, o.Topic = path, rows, "netflow."+rows
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func begin(t *testing.T, s *Table, id string, first map[int32]int64) sink.Beginning {
	t.Helper()
	end := map[int32]int64{}
	for p := range first {
		end[p] = 1 << 40
	}
	return beginTopic(t, s, sink.Topic{ID: id, First: first, End: end})
}

func beginTopic(t *testing.T, s *Table, topic sink.Topic) sink.Beginning {
	t.Helper()
	b, err := s.Begin(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, s *Table, records ...sink.Record) (rows, bad int) {
	t.Helper()
	rows, bad, err := s.Write(t.Context(), records)
	if err != nil {
		t.Fatal(err)
	}
	return rows, bad
}

// look returns the first value of a query, as a program that only reads the file, or an empty string on an error.
func look(t *testing.T, path, statement string) string {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?mode=ro&_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var value string
	if db.QueryRowContext(t.Context(), statement).Scan(&value) != nil {
		return ""
	}
	return value
}

// query returns rows as text.
func query(t *testing.T, s *Table, statement string) (list []string) {
	t.Helper()
	rows, err := s.db.QueryContext(t.Context(), statement)
	if err != nil {
		t.Fatalf("%v\n%s", err, statement)
	}
	defer func() { _ = rows.Close() }()
	names, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		values := make([]sql.NullString, len(names))
		to := make([]any, len(names))
		for i := range values {
			to[i] = &values[i]
		}
		if err := rows.Scan(to...); err != nil {
			t.Fatal(err)
		}
		var cells []string
		for _, v := range values {
			if !v.Valid {
				v.String = "NULL"
			}
			cells = append(cells, v.String)
		}
		list = append(list, strings.Join(cells, "|"))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return list
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func connection(id string, version uint32, octets uint64) *flowpb.Connection {
	return &flowpb.Connection{
		ConnectionId: []byte(id), Version: version, Protocol: 6, Service: "https", Final: true, EmitReason: flowpb.EmitReason_EMIT_REASON_COMPLETE,
		StartUnixNs: 1_700_000_000_500_000_000, EndUnixNs: 1_700_000_002_000_000_000,
		Initiator: &flowpb.Endpoint{Address: netip.MustParseAddr("10.0.0.1").AsSlice(), Port: 40000},
		Responder: &flowpb.Endpoint{Address: netip.MustParseAddr("192.0.2.80").AsSlice(), Port: 443, Name: "www.example.net"},
		Forward:   &flowpb.Traffic{Octets: octets, Packets: 3, Exporter: []byte{192, 0, 2, 1}}, Reverse: &flowpb.Traffic{Octets: 7, Packets: 1},
		ConnState: flowpb.ConnState_CONN_STATE_SF, Quality: []flowpb.Quality{flowpb.Quality_QUALITY_SAMPLED, flowpb.Quality_QUALITY_NAT},
	}
}

func TestConnectionsAreUpserted(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "a b%?.db"), "connections", sink.Options{})
	begin(t, s, "id", map[int32]int64{0: 0})
	rows, bad := write(t, s,
		sink.Record{Offset: 0, Time: at, Messages: [][]byte{marshal(t, connection("one", 2, 20)), marshal(t, connection("two", 1, 1))}},
		sink.Record{Offset: 1, Time: at, Messages: [][]byte{[]byte("poison"), marshal(t, connection("one", 1, 10))}}, // older
		sink.Record{Offset: 2, Time: at, Messages: [][]byte{marshal(t, connection("two", 3, 3))}})
	if rows != 4 || bad != 1 {
		t.Errorf("%d rows, %d bad", rows, bad)
	}
	want := []string{
		"one|2|1790000000000000005|1|COMPLETE|1700000000500000000|1700000002000000000|tcp|https|NULL|10.0.0.1|40000|NULL|192.0.2.80|443|www.example.net|20|3|7|1|SF|NULL|SAMPLED,NAT|192.0.2.1",
		"two|3|1790000000000000005|1|COMPLETE|1700000000500000000|1700000002000000000|tcp|https|NULL|10.0.0.1|40000|NULL|192.0.2.80|443|www.example.net|3|3|7|1|SF|NULL|SAMPLED,NAT|192.0.2.1",
	}
	got := query(t, s, `SELECT CAST(id AS TEXT), version, published, final, emit_reason, start, "end", protocol, service, icmp_type, initiator, initiator_port, initiator_name,
		responder, responder_port, responder_name, octets, packets, octets_back, packets_back, state, direction_by, quality, exporter FROM connections ORDER BY id`)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	want = []string{"2023-11-14 22:13:20.500|1.5|https|10.0.0.1|192.0.2.80 (www.example.net)|27|4|"}
	if d := cmp.Diff(want, query(t, s, "SELECT * FROM talks ORDER BY octets DESC LIMIT 1")); d != "" {
		t.Errorf("talks: -want +got\n%s", d)
	}
}

func TestFlowsAreRows(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "f.db"), "flows", sink.Options{})
	begin(t, s, "id", map[int32]int64{0: 0})
	rows, bad := write(t, s, sink.Record{Time: at, Messages: [][]byte{
		marshal(t, &flowpb.FlowMessage{
			Type: flowpb.FlowMessage_IPFIX, SrcAddr: []byte{10, 0, 0, 1}, DstAddr: netip.MustParseAddr("2001:db8::1").AsSlice(), Proto: 17, SrcPort: 5, DstPort: 53,
			Bytes: 100, Packets: 1, SamplerAddress: []byte{192, 0, 2, 1}, SrcMac: 0x0102030405ff, SamplingRate: 10, InIfName: "eth0",
		}),
		marshal(t, &flowpb.FlowMessage{Type: flowpb.FlowMessage_NETFLOW_V9, Proto: 1, IcmpType: 8, DstPort: 2048, Bytes: 1, Biflow: true, ReverseBytes: 9}),
		marshal(t, &flowpb.FlowMessage{}),
	}})
	if rows != 2 || bad != 1 {
		t.Errorf("%d rows, %d bad", rows, bad)
	}
	want := []string{
		"IPFIX|udp|10.0.0.1|5|2001:db8::1|53|NULL|NULL|100|1|NULL|192.0.2.1|01:02:03:04:05:ff|10|eth0",
		"NETFLOW_V9|icmp|NULL|NULL|NULL|NULL|8|0|1|0|9|NULL|NULL|NULL|NULL",
	}
	got := query(t, s, `SELECT type, protocol, src, src_port, dst, dst_port, icmp_type, icmp_code, octets, packets,
		reverse_octets, exporter, src_mac, sampling_rate, in_if_name FROM flows ORDER BY rowid`)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

func TestReadingGoesOnWhereItEnded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	s := open(t, path, "connections", sink.Options{})
	first := map[int32]int64{0: 5, 1: 0}
	if b := begin(t, s, "id", first); !cmp.Equal(b, sink.Beginning{From: first}) {
		t.Errorf("a new file: %+v", b)
	}
	write(t, s, sink.Record{Partition: 0, Offset: 9}, sink.Record{Partition: 1, Offset: 3}, sink.Record{Partition: 0, Offset: 12})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path, "connections", sink.Options{})
	if b := begin(t, s, "id", map[int32]int64{0: 5, 1: 0}); !cmp.Equal(b, sink.Beginning{From: map[int32]int64{0: 13, 1: 4}}) {
		t.Errorf("again: %+v", b)
	}
	if b := begin(t, s, "id", map[int32]int64{0: 20, 1: 4}); !cmp.Equal(b, sink.Beginning{From: map[int32]int64{0: 20, 1: 4}, Missed: 7}) {
		t.Errorf("deleted meanwhile: %+v", b)
	}
	if b := begin(t, s, "other", map[int32]int64{0: 0, 1: 0}); !cmp.Equal(b, sink.Beginning{From: map[int32]int64{0: 0, 1: 0}, Anew: true}) {
		t.Errorf("another topic: %+v", b)
	}
	// Another topic in the same file must have separate offsets.
	f := open(t, path, "flows", sink.Options{})
	if b := begin(t, f, "id", map[int32]int64{0: 0}); !cmp.Equal(b, sink.Beginning{From: map[int32]int64{0: 0}}) {
		t.Errorf("flows: %+v", b)
	}
}

// Partitions that end before the stored offset must be read from their end.
func TestATopicThatEndsBeforeTheStoredPositionIsReadFromItsEnd(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "f.db"), "flows", sink.Options{})
	begin(t, s, "id", map[int32]int64{0: 0, 1: 0, 2: 0})
	write(t, s, sink.Record{Partition: 0, Offset: 99}, sink.Record{Partition: 1, Offset: 49}, sink.Record{Partition: 2, Offset: 9})
	got := beginTopic(t, s, sink.Topic{
		ID: "id", First: map[int32]int64{0: 20, 1: 0, 2: 80, 3: 0}, End: map[int32]int64{0: 70, 1: 60, 2: 80, 3: 5},
	})
	want := sink.Beginning{From: map[int32]int64{0: 70, 1: 50, 2: 80, 3: 0}, Lost: 30, Missed: 70}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	write(t, s, sink.Record{Partition: 0, Offset: 70})
	if d := cmp.Diff([]string{"71"}, query(t, s, "SELECT next FROM offsets WHERE partition = 0")); d != "" {
		t.Errorf("next: -want +got\n%s", d)
	}
}

func TestATopicThatIsRecreatedWithFewerPartitionsIsNewOnce(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "f.db"), "flows", sink.Options{})
	begin(t, s, "a", map[int32]int64{0: 0, 1: 0})
	if b := begin(t, s, "b", map[int32]int64{0: 0}); !b.Anew {
		t.Error("another id: want Anew")
	}
	if b := begin(t, s, "b", map[int32]int64{0: 0}); b.Anew {
		t.Error("the same id: want no Anew")
	}
}

// Opening a file must not wait for the write lock of another process.
func TestAFileThatIsWrittenOpensAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	a := open(t, path, "connections", sink.Options{})
	tx, err := a.db.BeginTx(t.Context(), nil) // holds the lock
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	b := open(t, path, "flows", sink.Options{})
	if got := query(t, b, "SELECT (SELECT auto_vacuum FROM pragma_auto_vacuum), (SELECT journal_mode FROM pragma_journal_mode)"); !cmp.Equal(got, []string{"2|wal"}) {
		t.Errorf("got %v", got)
	}
}

func TestTwoThatWriteTheSame(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	a := open(t, path, "connections", sink.Options{})
	if err := a.lock.Close(); err != nil { // as a program of a version without the lock
		t.Fatal(err)
	}
	b := open(t, path, "connections", sink.Options{})
	a.lock = b.lock
	begin(t, a, "id", map[int32]int64{0: 0})
	begin(t, b, "id", map[int32]int64{0: 0})
	write(t, a, sink.Record{Offset: 0, Time: at, Messages: [][]byte{marshal(t, connection("one", 1, 1))}})
	_, _, err := b.Write(t.Context(), []sink.Record{{Offset: 0, Time: at, Messages: [][]byte{marshal(t, connection("one", 9, 9))}}})
	if !errors.Is(err, ErrOther) {
		t.Errorf("want ErrOther, got %v", err)
	}
	if got := query(t, a, "SELECT version FROM connections"); !cmp.Equal(got, []string{"1"}) {
		t.Errorf("rows of what failed: %v", got)
	}
}

func TestOldRowsAreDeleted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	s := open(t, path, "connections", sink.Options{Keep: time.Hour})
	begin(t, s, "id", map[int32]int64{0: 0})
	const n = 12_000
	fill := func(s *Table, from int) {
		t.Helper()
		var list []sink.Record
		for i := from; i < from+n; i++ {
			list = append(list, sink.Record{Offset: int64(i), Time: at.Add(time.Duration(i) * time.Second), Messages: [][]byte{marshal(t, connection(strconv.Itoa(i), 1, 1))}})
		}
		write(t, s, list...)
	}
	fill(s, 0)
	deleted, err := s.Trim(t.Context(), at.Add(n*time.Second))
	if err != nil || deleted != n-3600 {
		t.Errorf("%d deleted, want %d: %v", deleted, n-3600, err)
	}
	if got, want := query(t, s, "SELECT count(*), min(published) FROM connections"), fmt.Sprintf("3600|%d", at.Add((n-3600)*time.Second).UnixNano()); !cmp.Equal(got, []string{want}) {
		t.Errorf("want %s, got %v", want, got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	size := func() int64 {
		t.Helper()
		i, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return i.Size()
	}
	s = open(t, path, "connections", sink.Options{MaxSize: 2 << 20})
	begin(t, s, "id", map[int32]int64{0: n})
	fill(s, n)
	fill(s, 2*n)
	if err := s.Close(); err != nil { // checkpoints the write-ahead log
		t.Fatal(err)
	}
	before := size()
	s = open(t, path, "connections", sink.Options{MaxSize: 2 << 20})
	if deleted, err := s.Trim(t.Context(), at); err != nil || deleted == 0 {
		t.Errorf("%d deleted: %v", deleted, err)
	}
	newest := query(t, s, "SELECT max(published) FROM connections")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if after := size(); before < 4<<20 || after > 2<<20 || newest[0] != strconv.FormatInt(at.Add((3*n-1)*time.Second).UnixNano(), 10) {
		t.Errorf("%d octets before, %d after; newest %v", before, after, newest)
	}
}

func TestFilesOfSomethingElse(t *testing.T) {
	dir := t.TempDir()
	make := func(name string, statements ...string) string {
		path := filepath.Join(dir, name)
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = db.Close() }()
		for _, s := range statements {
			if _, err := db.ExecContext(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		return path
	}
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("not a database at all\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		make("other.db", "CREATE TABLE t (x)"): "the file is a database of another program",
		make("newer.db", "CREATE TABLE t (x)", "PRAGMA user_version = 4", "PRAGMA application_id = 1466263922"): "the file has schema version 4, this program supports up to 3",
		text:                             "not a database",
		filepath.Join(dir, "no", "x.db"): "unable to open database file",
	} {
		_, err := Open(t.Context(), sink.Options{Path: path, Rows: "flows", Topic: "t"})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: want %q, got %v", path, want, err)
		}
	}
	if _, err := Open(context.Background(), sink.Options{Path: filepath.Join(dir, "y.db"), Rows: "rows"}); err == nil {
		t.Error("rows of another kind")
	}
}

// documentedQuery returns the query of docs/sqlite.md that contains part.
func documentedQuery(t *testing.T, part string) string {
	t.Helper()
	var found []string
	for _, q := range documentedQueries(t) {
		if strings.Contains(q, part) {
			found = append(found, q)
		}
	}
	if len(found) != 1 {
		t.Fatalf("want one query with %q, got %d", part, len(found))
	}
	return found[0]
}

func documentedQueries(t *testing.T) (list []string) {
	t.Helper()
	for _, q := range regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllStringSubmatch(sqliteDoc(t), -1) {
		list = append(list, q[1])
	}
	for _, q := range regexp.MustCompile("sqlite3 [^ ]+ '(SELECT .*)'").FindAllStringSubmatch(sqliteDoc(t), -1) {
		list = append(list, q[1])
	}
	return list
}

func sqliteDoc(t *testing.T) string {
	t.Helper()
	doc, err := os.ReadFile("../../../../docs/sqlite.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(doc)
}

// The queries of docs/sqlite.md must run and use the indexes made for them.
func TestTheDocumentedQueriesUseIndexes(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "c.db"), "connections", sink.Options{})
	for _, q := range documentedQueries(t) {
		plan := strings.Join(query(t, s, "EXPLAIN QUERY PLAN "+q), "\n")
		if !strings.Contains(q, "state IN") && !strings.Contains(q, "FROM talks") && !strings.Contains(plan, "USING INDEX") {
			t.Errorf("no index for\n%s\n%s", q, plan)
		}
	}
}

// One exporter samples 1 in 1000 packets, another exports all of them. The sums of the documented queries must be the
// sums of the traffic, computed by hand, in which no row is missing.
func TestTheDocumentedQueriesSumTraffic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	s := open(t, path, "connections", sink.Options{})
	begin(t, s, "id", map[int32]int64{0: 0})
	now := time.Now().Truncate(time.Second)
	traffic := func(octets, packets, rate uint64) *flowpb.Traffic {
		return &flowpb.Traffic{Octets: octets, Packets: packets, OctetsEst: rate * octets, PacketsEst: rate * packets}
	}
	var messages [][]byte
	add := func(host byte, there, back *flowpb.Traffic, change func(*flowpb.Connection)) {
		c := connection(strconv.Itoa(len(messages)), 1, 0)
		c.Initiator.Address, c.Forward, c.Reverse = []byte{10, 1, 1, host}, there, back
		c.Responder.Address, c.Responder.Name = []byte{192, 0, 2, 80}, ""
		c.StartUnixNs, c.EndUnixNs = now.UnixNano(), now.UnixNano()+1e9
		if change != nil {
			change(c)
		}
		messages = append(messages, marshal(t, c))
	}
	add(11, traffic(90_000, 80, 1), traffic(10_000, 20, 1), nil)
	add(10, traffic(500, 5, 1000), nil, nil)
	add(12, nil, traffic(300, 3, 1000), func(c *flowpb.Connection) {
		c.StartUnixNs, c.EmitReason = 0, flowpb.EmitReason_EMIT_REASON_UNSPECIFIED
	})
	add(13, traffic(1e9, 1e6, 1), nil, func(c *flowpb.Connection) { c.EmitReason = flowpb.EmitReason_EMIT_REASON_MERGED })
	for i := range byte(6) {
		add(14, traffic(0, 0, 1), nil, func(c *flowpb.Connection) {
			c.ConnState, c.Responder.Address = flowpb.ConnState_CONN_STATE_S0, []byte{192, 0, 2, i}
		})
	}
	write(t, s, sink.Record{Time: now, Messages: messages})

	flows := open(t, path, "flows", sink.Options{})
	begin(t, flows, "id", map[int32]int64{0: 0})
	at := uint64(now.UnixNano())
	write(t, flows, sink.Record{Time: now, Messages: [][]byte{
		marshal(t, &flowpb.FlowMessage{
			Type: flowpb.FlowMessage_IPFIX, SamplerAddress: []byte{192, 0, 2, 1}, SamplingRate: 1000, TimeFlowStartNs: at, Bytes: 2000,
			Biflow: true, ReverseBytes: 1000,
		}),
		marshal(t, &flowpb.FlowMessage{
			Type: flowpb.FlowMessage_IPFIX, SamplerAddress: []byte{192, 0, 2, 2}, SamplingRate: 1, TimeFlowStartNs: at, Bytes: 600_000,
		}),
		marshal(t, &flowpb.FlowMessage{ // neither a sampling rate nor a start
			Type: flowpb.FlowMessage_IPFIX, SamplerAddress: []byte{192, 0, 2, 3}, TimeReceivedNs: at, Bytes: 7500,
		}),
	}})

	minute := now.UTC().Format("15:04")
	for part, want := range map[string][]string{
		"AS bytes": {
			"10.1.1.10|192.0.2.80|https|500000|1", "10.1.1.12|192.0.2.80|https|300000|1", "10.1.1.11|192.0.2.80|https|100000|1",
		},
		"'opened'":   {fmt.Sprintf("%d|https|192.0.2.80|opened|500000|NULL", now.UnixNano())},
		"'answered'": {fmt.Sprintf("%d|https|192.0.2.80|opened|500000|NULL", now.UnixNano())},
		"AS tries":   {"10.1.1.14|6|1|6"},
		// 3 000 octets 1 in 1 000 are 24 000 000 bits, 600 000 octets are 4 800 000 and 7 500 octets 60 000; in 60 s.
		"bits_per_second": {minute + "|192.0.2.1|400000", minute + "|192.0.2.2|80000", minute + "|192.0.2.3|1000"},
		"FROM talks": {
			now.UTC().Format("2006-01-02 15:04:05.000") + "|1|https|10.1.1.10|192.0.2.80|500000|5000|~",
			"NULL|NULL|https|10.1.1.12|192.0.2.80|300000|3000|~",
			now.UTC().Format("2006-01-02 15:04:05.000") + "|1|https|10.1.1.11|192.0.2.80|100000|100|",
		},
	} {
		got := query(t, s, documentedQuery(t, part))
		if len(got) > len(want) && (part == "AS bytes" || part == "FROM talks") {
			got = got[:len(want)] // connections of 0 octets follow
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: -want +got\n%s", part, d)
		}
	}
	if n := len(documentedQueries(t)); n != 5 {
		t.Errorf("%d queries are documented, want 5 as in this test", n)
	}
}

func TestEachColumnIsDocumented(t *testing.T) {
	doc := sqliteDoc(t)
	for _, columns := range [][]column{flowColumns, connectionColumns} { // each column must be documented
		for _, c := range columns {
			name := strings.Trim(c.name, `"`)
			for _, end := range []string{"initiator_", "responder_"} {
				if rest, ok := strings.CutPrefix(name, end); ok {
					name = "_" + rest
				}
			}
			if !strings.Contains(doc, "`"+name+"`") {
				t.Errorf("docs/sqlite.md does not name %s", c.name)
			}
		}
	}
}
