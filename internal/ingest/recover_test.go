package ingest

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"weir/internal/kafka"
	"weir/internal/loss"
	"weir/internal/weirtest/locked"
)

// readAccounts reads the exporters topic as weir exporters does, and returns the row of the
// only exporter.
func readAccounts(t *testing.T, c Config) loss.Row {
	t.Helper()
	cluster := loss.NewCluster()
	tail := kafka.Tail{Once: true, Start: true}
	err := tail.Read(t.Context(), c.Kafka, c.Topics.Name(kafka.Exporters), func(records []kafka.Record) error {
		for _, r := range records {
			if err := cluster.Take(r.Key, r.Value); err != nil {
				return err
			}
		}
		return nil
	}, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	rows := cluster.View()
	if len(rows) != 1 {
		t.Fatalf("want one exporter, got %d", len(rows))
	}
	return rows[0]
}

// The first replica reports 3 datagrams of 30 flows, publishes 4 more and is killed: its
// last report never reaches Kafka. 2 datagrams are sent to nobody. The second replica
// completes the account, and weir exporters shows 60 flows lost, no more and no less.
func TestTheAccountOfAKilledReplicaIsCompletedFromTheFlows(t *testing.T) {
	b := embedded(t)
	first, second, _ := startTwo(t, b.Addr())
	pkt := packet(t, "v5_30.hex")
	sequence := uint32(1000)
	send := func(to *Replica) {
		if to != nil {
			binary.BigEndian.PutUint32(pkt[8:], uint32(time.Now().Unix())) // of the header: seconds, then the sequence number
			binary.BigEndian.PutUint32(pkt[16:], sequence)
			to.Receive(pkt, netip.MustParseAddrPort("192.0.2.1:5000"), time.Now())
		}
		sequence += 30
	}
	report := func(r *Replica) {
		r.publishAccounts(r.run.Load().reports, r.deps.Now())
		if err := r.run.Load().reports.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		send(first)
		send(second)
	}
	report(first)
	report(second)
	for range 4 {
		send(first)
		send(second)
	}
	if err := first.run.Load().producer.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	first.run.Load().reports.Close() // nothing more is reported
	send(nil)
	send(nil)
	send(second)
	report(second)
	c := config(b.Addr(), "reader")
	if got := readAccounts(t, c).Loss; got.Lost != 6*30 {
		t.Fatalf("before: want the flows of 6 datagrams missing, got %+v", got)
	}
	var ended []loss.Life
	eventually(t, "the first replica is found", func() bool {
		ended = second.accounts.lives.Ended(time.Now().Add(time.Minute), second.accounts.self)
		return len(ended) == 1 && ended[0].Replica == "first"
	})
	if err := second.recoverAccount(t.Context(), second.run.Load().reports, ended[0]); err != nil {
		t.Fatal(err)
	}
	got := readAccounts(t, c)
	if got.Loss.Lost != 2*30 || got.Loss.Received != 15*30 || got.Received[loss.Datagrams] != 15 {
		t.Errorf("want 60 flows lost of 510, got %+v; received %+v", got.Loss, got.Received)
	}
	if got := testutil.ToFloat64(second.metrics.recovered); got != 4*30 {
		t.Errorf("recovered flows: want 120, got %v", got)
	}
}

// A replica that is stopped closes its account: nobody looks for more.
func TestAStoppedReplicaClosesItsAccount(t *testing.T) {
	b := embedded(t)
	var log locked.Buffer
	r, stop := start(t, config(b.Addr(), "stopped"), &log)
	eventually(t, "the replica is ready", func() bool { return r.Ready() == nil })
	r.Receive(packet(t, "v5_30.hex"), netip.MustParseAddrPort("192.0.2.1:5000"), time.Now())
	r.publishAccounts(r.run.Load().reports, time.Now())
	if err := r.run.Load().reports.Flush(t.Context()); err != nil { // nothing is left to report
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	lives := loss.NewLives()
	reports := 0
	c := config(b.Addr(), "reader")
	tail := kafka.Tail{Once: true, Start: true}
	err := tail.Read(t.Context(), c.Kafka, c.Topics.Name(kafka.Exporters), func(records []kafka.Record) error {
		for _, rec := range records {
			reports++
			lives.Take(rec.Value, rec.Time, time.Now())
		}
		return nil
	}, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	if ended := lives.Ended(time.Now().Add(10*time.Minute), loss.Life{}); len(ended) != 0 || reports < 3 {
		t.Errorf("want a closed account among at least 3 reports, got %v of %d", ended, reports)
	}
}
