package sqlite

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weir/internal/cli/sink"
	"weir/pkg/flowpb"
)

// schema1File creates a file from testdata/schema1.sql, a dump of a file written with schema 1.
func schema1File(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("testdata/schema1.sql")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "old.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(t.Context(), string(text)); err != nil {
		t.Fatal(err)
	}
	return path
}

const tables = "SELECT m.name, c.name, c.type, c.\"notnull\" FROM sqlite_schema m JOIN pragma_table_info(m.name) c WHERE m.type = 'table' ORDER BY m.name, c.cid"

func TestAFileOfSchema1IsBroughtUpToDate(t *testing.T) {
	path := schema1File(t)
	var both sync.WaitGroup
	for _, rows := range []string{"flows", "connections"} { // two programs open it; it must be upgraded once
		both.Go(func() {
			s, err := Open(t.Context(), sink.Options{Path: path, Rows: rows, Topic: "netflow." + rows})
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	s := open(t, path, "flows", sink.Options{})
	fresh := open(t, filepath.Join(t.TempDir(), "new.db"), "flows", sink.Options{})
	if d := cmp.Diff(query(t, fresh, tables), query(t, s, tables)); d != "" {
		t.Errorf("columns of a new file and of the old one: -new +old\n%s", d)
	}
	for statement, want := range map[string]string{
		"SELECT user_version FROM pragma_user_version":                                     "3",
		"SELECT group_concat(src || ':' || src_port || ' ' || octets, ', ') FROM flows":    "10.0.0.1:5000 100, 10.0.0.2:5001 200",
		"SELECT count(*) FROM flows WHERE firewall_event IS NULL AND tunnel_src IS NULL":   "2",
		"SELECT group_concat(CAST(id AS TEXT) || ' ' || octets, ', ') FROM connections":    "one 20, two 1",
		"SELECT group_concat(topic || ' ' || partition || ' ' || next, ', ') FROM offsets": "netflow.connections 0 1, netflow.connections 1 0, netflow.flows 0 6",
		"SELECT count(*) FROM epochs":                                                      "0",
		"SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'":        "0",
		"SELECT count(*) FROM talks":                                                       "2",
	} {
		if got := query(t, s, statement)[0]; got != want {
			t.Errorf("%s: want %s, got %s", statement, want, got)
		}
	}
	// The topic must be read from the offset after the stored rows.
	if b := begin(t, s, "id", map[int32]int64{0: 0}); !cmp.Equal(b, sink.Beginning{From: map[int32]int64{0: 6}}) {
		t.Errorf("want to go on at 6, got %+v", b)
	}
	write(t, s, sink.Record{Offset: 6, Time: at, Messages: [][]byte{marshal(t, &flowpb.FlowMessage{Type: flowpb.FlowMessage_IPFIX, FirewallEvent: 2, FlowId: 7})}})
	if got := query(t, s, "SELECT firewall_event, flow_id FROM flows WHERE flow_id IS NOT NULL"); !cmp.Equal(got, []string{"2|7"}) {
		t.Errorf("a row of the new columns: %v", got)
	}
}

func TestFieldsOfSchema2AreColumns(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "f.db"), "flows", sink.Options{})
	begin(t, s, "id", map[int32]int64{0: 0})
	m := &flowpb.FlowMessage{
		Type: flowpb.FlowMessage_IPFIX, PostNatSrcPort: 1024, PostNatDstPort: 80, NatEvent: 4, FirewallEvent: 5, FlowId: 1<<64 - 1, FirewallRule: "LAN",
		TunnelSrcAddr: []byte{192, 0, 2, 1}, TunnelDstAddr: []byte{192, 0, 2, 2}, TunnelProto: 17, TunnelId: 5001,
		UserName: "ann", StationAddr: []byte{192, 0, 2, 7}, StationMac: 0x0007cb000001,
		IngressVrfId: 3, IngressVrfName: "red", IngressVrfRd: "65000:3", EgressVrfId: 4, EgressVrfName: "blue", EgressVrfRd: "65000:4", RouteDistinguisher: "65000:5",
	}
	write(t, s, sink.Record{Time: at, Messages: [][]byte{marshal(t, m)}})
	var names []string
	for _, c := range flowColumns2 {
		names = append(names, c.name)
	}
	want := "1024|80|4|5|-1|LAN|192.0.2.1|192.0.2.2|udp|5001|ann|192.0.2.7|00:07:cb:00:00:01|3|red|65000:3|4|blue|65000:4|65000:5"
	if got := query(t, s, "SELECT "+strings.Join(names, ", ")+" FROM flows"); !cmp.Equal(got, []string{want}) {
		t.Errorf("want %s\n got %v", want, got)
	}
}

// The leader epoch distinguishes a log that was truncated and grew again from a log that only grew.
func TestALogThatWasCutAndHasGrownIsReadFromTheCut(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "f.db"), "flows", sink.Options{})
	begin(t, s, "id", map[int32]int64{0: 0, 1: 0, 2: 0})
	write(t, s, sink.Record{Partition: 0, Offset: 98, Epoch: 3}, sink.Record{Partition: 0, Offset: 99, Epoch: 4},
		sink.Record{Partition: 1, Offset: 49, Epoch: 2}, sink.Record{Partition: 2, Offset: 9, Epoch: -1})
	epochs := func(want map[int32]int32) {
		t.Helper()
		got, err := s.Epochs(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("epochs: -want +got\n%s", d)
		}
	}
	epochs(map[int32]int32{0: 4, 1: 2, 2: -1})
	got := beginTopic(t, s, sink.Topic{
		ID: "id", First: map[int32]int64{0: 20, 1: 0, 2: 0}, End: map[int32]int64{0: 300, 1: 300, 2: 300}, EpochEnds: map[int32]int64{0: 70, 1: 120},
	})
	if d := cmp.Diff(sink.Beginning{From: map[int32]int64{0: 70, 1: 50, 2: 10}, Lost: 30}, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	epochs(map[int32]int32{1: 2, 2: -1}) // partition 0 has an offset and no epoch
	// A program of schema 1 that has the file open writes an offset without an epoch.
	if _, err := s.db.ExecContext(t.Context(), "UPDATE offsets SET next = 60 WHERE partition = 1"); err != nil {
		t.Fatal(err)
	}
	epochs(map[int32]int32{2: -1})
	if b := begin(t, s, "other", map[int32]int64{0: 0}); !b.Anew {
		t.Errorf("another topic: %+v", b)
	}
	epochs(map[int32]int32{})
}

// An operator added columns and a table whose names a later schema took. The upgrade must keep their values. A column
// that cannot hold Weir's values is renamed.
func TestAFileWithColumnsOfTheOperatorIsUpgraded(t *testing.T) {
	path := schema1File(t)
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		"ALTER TABLE flows ADD COLUMN User_Name TEXT",
		"UPDATE flows SET User_Name = 'ann' WHERE src = '10.0.0.1'",
		"ALTER TABLE flows ADD COLUMN rd INTEGER NOT NULL DEFAULT 5",
		"ALTER TABLE flows ADD COLUMN rd_before_2 TEXT",
		"ALTER TABLE flows ADD COLUMN flow_id TEXT AS (src || '-' || dst)",
		"ALTER TABLE connections ADD COLUMN packets_est INTEGER",
		"CREATE TABLE epochs (name TEXT)",
		"INSERT INTO epochs VALUES ('holocene')",
	} {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s := open(t, path, "flows", sink.Options{})
	begin(t, s, "id", map[int32]int64{0: 0})
	m := &flowpb.FlowMessage{Type: flowpb.FlowMessage_IPFIX, UserName: "bob", FlowId: 7, RouteDistinguisher: "65000:5"}
	write(t, s, sink.Record{Offset: 6, Time: at, Messages: [][]byte{marshal(t, m)}})
	want := []string{
		"ann|NULL|NULL|5|10.0.0.1-192.0.2.80", "NULL|NULL|NULL|5|10.0.0.2-192.0.2.80", "bob|7|65000:5|5|NULL",
	}
	got := query(t, s, "SELECT user_name, flow_id, rd, rd_before_2_2, flow_id_before_2 FROM flows ORDER BY rowid")
	for i, w := range want {
		if i >= len(got) || got[i] != w {
			t.Errorf("row %d: want %s, got %v", i, w, got)
		}
	}
	if got := query(t, s, "SELECT * FROM epochs_before_2"); !cmp.Equal(got, []string{"holocene"}) {
		t.Errorf("the operator's table: %v", got)
	}
}

// The view of a schema 2 file must be replaced, unless the operator wrote another one.
func TestTheViewOfAnOlderFileIsReplaced(t *testing.T) {
	for name, tt := range map[string]struct{ statement, want string }{
		"ours":     {"SELECT 1", "SELECT count(estimated) FROM talks"},
		"dropped":  {"DROP VIEW talks", "SELECT count(estimated) FROM talks"},
		"replaced": {"DROP VIEW talks; CREATE VIEW talks AS SELECT 2 AS two UNION ALL SELECT 3", "SELECT count(two) FROM talks"},
	} {
		path := schema1File(t)
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.ExecContext(t.Context(), tt.statement); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if got := query(t, open(t, path, "flows", sink.Options{}), tt.want); !cmp.Equal(got, []string{"2"}) {
			t.Errorf("%s: %s: got %v", name, tt.want, got)
		}
	}
}
