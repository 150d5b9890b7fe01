package sqlite

import (
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/internal/cli/sink"
	"weir/pkg/flowpb"
)

// flowRecords returns n records of a flow each, a second apart, with the offsets from first on.
func flowRecords(t *testing.T, first, n int) (list []sink.Record) {
	t.Helper()
	for i := first; i < first+n; i++ {
		m := marshal(t, &flowpb.FlowMessage{
			Type: flowpb.FlowMessage_IPFIX, ObservationDomainId: uint32(i), Bytes: 100,
			SrcAddr: []byte{10, byte(i >> 16), byte(i >> 8), byte(i)}, DstAddr: []byte{192, 0, 2, 1},
		})
		list = append(list, sink.Record{
			Offset: int64(i), Time: at.Add(time.Duration(i) * time.Second), Messages: [][]byte{m},
		})
	}
	return list
}

// Two topics share a file. The limit of one must hold for its own rows, whatever the other one stores.
func TestTheSizeLimitOfATopicLeavesTheOtherTopicAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "both.db")
	const limit = 1 << 20
	flows := open(t, path, "flows", sink.Options{MaxSize: limit})
	begin(t, flows, "id", map[int32]int64{0: 0})
	const n = 20_000 // about 4 MB with their indexes
	write(t, flows, flowRecords(t, 0, n)...)
	talks := open(t, path, "connections", sink.Options{MaxSize: limit})
	begin(t, talks, "id", map[int32]int64{0: 0})
	const few = 100
	for i := range few {
		write(t, talks, sink.Record{
			Offset: int64(i), Time: at, Messages: [][]byte{marshal(t, connection(strconv.Itoa(i), 1, 1))},
		})
	}
	counts := func() string {
		t.Helper()
		return query(t, talks, "SELECT (SELECT count(*) FROM connections), (SELECT count(*) FROM flows)")[0]
	}
	if n, err := talks.Trim(t.Context(), at); n != 0 || err != nil {
		t.Errorf("connections: %d rows deleted, want 0: %v", n, err)
	}
	if got, want := counts(), fmt.Sprintf("%d|%d", few, n); got != want {
		t.Errorf("rows after the deletion of connections: want %s, got %s", want, got)
	}
	deleted, err := flows.Trim(t.Context(), at)
	if err != nil || deleted == 0 || deleted == n {
		t.Errorf("flows: %d of %d rows deleted: %v", deleted, n, err)
	}
	if got, want := counts(), fmt.Sprintf("%d|%d", few, n-deleted); got != want {
		t.Errorf("rows after the deletion of flows: want %s, got %s", want, got)
	}
	var own int64
	const statement = "SELECT sum(pgsize) FROM dbstat WHERE aggregate = 1 AND name LIKE 'flows%'"
	if err := flows.db.QueryRowContext(t.Context(), statement).Scan(&own); err != nil || own > limit {
		t.Errorf("the flows have %d octets, want at most %d: %v", own, limit, err)
	}
	oldest := query(t, flows, "SELECT min(domain), max(domain) FROM flows")
	if want := fmt.Sprintf("%d|%d", deleted, n-1); oldest[0] != want {
		t.Errorf("flows that are left: want %s, got %s", want, oldest[0])
	}
}

// A full disk is a file that may not grow. Deletion must work, and Write must work after it.
func TestRowsAreDeletedFromAFullDisk(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "f.db"), "flows", sink.Options{Keep: time.Hour})
	begin(t, s, "id", map[int32]int64{0: 0})
	if _, err := s.db.ExecContext(t.Context(), "PRAGMA max_page_count = 300"); err != nil {
		t.Fatal(err)
	}
	const each = 500
	n := 0
	var err error
	for ; err == nil && n < 100*each; n += each {
		_, _, err = s.Write(t.Context(), flowRecords(t, n, each))
	}
	if !errors.Is(err, sink.ErrFull) {
		t.Fatalf("want ErrFull, got %v", err)
	}
	n -= each
	if got := query(t, s, "SELECT count(*), max(domain) FROM flows"); !cmp.Equal(got, []string{fmt.Sprintf("%d|%d", n, n-1)}) {
		t.Errorf("rows of the failed write: want none beyond %d, got %v", n, got)
	}
	if deleted, err := s.Trim(t.Context(), at.Add(time.Duration(n)*time.Second)); err != nil || deleted != int64(n-3600) {
		t.Errorf("%d deleted, want %d: %v", deleted, n-3600, err)
	}
	if rows, _, err := s.Write(t.Context(), flowRecords(t, n, each)); rows != each || err != nil {
		t.Errorf("after the deletion %d rows were written: %v", rows, err)
	}
}

// A reader that stays open must not delay the end of the sink. SQLite would wait ten seconds for it.
func TestClosingDoesNotWaitForReaders(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	s := open(t, path, "connections", sink.Options{})
	begin(t, s, "id", map[int32]int64{0: 0})
	db, err := sql.Open("sqlite", "file:"+path+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	rows, err := db.QueryContext(t.Context(), "SELECT name FROM sqlite_schema")
	if err != nil || !rows.Next() {
		t.Fatalf("no row: %v", err)
	}
	defer func() { _ = rows.Close() }()
	write(t, s, sink.Record{Time: at, Messages: [][]byte{marshal(t, connection("one", 1, 1))}})
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Close waits for the reader")
	}
	if !rows.Next() {
		t.Errorf("the reader was disturbed: %v", rows.Err())
	}
	if got := look(t, path, "SELECT count(*) FROM connections"); got != "1" {
		t.Errorf("rows after the end: want 1, got %s", got)
	}
}
