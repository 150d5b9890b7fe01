package main

import (
	"strings"
	"time"

	"weir/internal/decode"
	"weir/internal/templates"
)

// Limits of the stores: small, so that short sequences reach them, octets.
const (
	storeOctets    = 384 << 10
	exporterOctets = 256 << 10
	// keptLimits is what two replicas may keep by their limits.
	keptLimits = 2 * storeOctets
)

// newStore returns a store with small limits.
func newStore(replica string, now func() time.Time) *templates.Store {
	return templates.New(templates.Options{
		Replica: replica, Now: now, Patient: true,
		MaxOctets: storeOctets, MaxExporterOctets: exporterOctets, MaxUnconfirmedOctets: storeOctets / 2,
	})
}

// What a TCP session and a stream take, octets: a session's decoder keeps the space that its
// last messages needed, a stream has an account in a tally and in a book.
const (
	perSession = 64 << 10
	perStream  = 2 << 10
)

// accounted is what the stores say they hold, octets.
func accounted(t *target) uint64 {
	n := uint64(t.store.Stats().Octets + t.tail.Stats().Octets)
	return n + t.budget.taken + uint64(len(t.sessions))*perSession + uint64(len(t.streams))*perStream
}

// full reports whether a store has no room.
func full(err error) bool { return strings.Contains(err.Error(), "store is full") }

// sessionOctets bounds the templates of all sessions.
const sessionOctets = 256 << 10

// A budget counts what sessions hold, octets. It implements templates.Budget.
type budget struct{ taken uint64 }

// Take implements templates.Budget.
func (b *budget) Take(n int) bool {
	if b.taken+uint64(n) > sessionOctets {
		return false
	}
	b.taken += uint64(n)
	return true
}

// Give implements templates.Budget.
func (b *budget) Give(n int) { b.taken -= uint64(n) }

func newSession(t *target) *templates.Session { return t.store.NewSession(&t.budget) }

// optionsRecords returns how many records of options data a datagram had.
func optionsRecords(r *decode.Result) int { return r.OptionsRecords }
