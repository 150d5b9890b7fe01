package main

import (
	"strings"
	"time"

	"weir/internal/decode"
	"weir/internal/ingest/budget"
	"weir/internal/templates"
)

// Limits of the stores: small, so that short sequences reach them, octets.
const (
	storeOctets    = 384 << 10
	exporterOctets = 256 << 10
	// maxSessionOctets bounds the templates and facts of all sessions.
	maxSessionOctets = 256 << 10
	// keptLimits is the sum of the memory limits of two replicas and the sessions.
	keptLimits = 2*storeOctets + maxSessionOctets
)

// newStore returns a store with small limits.
func newStore(replica string, now func() time.Time) *templates.Store {
	return templates.New(templates.Options{
		Replica: replica, Now: now, Patient: true,
		MaxOctets: storeOctets, MaxExporterOctets: exporterOctets, MaxUnconfirmedOctets: storeOctets / 2,
	})
}

// Memory of a TCP session and of a stream, octets. A session's decoder keeps the space of its last
// messages; a stream has an account in a tally and in a book.
const (
	perSession = 64 << 10
	perStream  = 2 << 10
)

// accounted returns the octets that the stores report as used.
func accounted(t *target) uint64 {
	n := uint64(t.store.Stats().Octets + t.tail.Stats().Octets)
	return n + t.sessionOctets.taken + uint64(len(t.sessions))*perSession + uint64(len(t.streams))*perStream
}

// full reports whether a store has no room.
func full(err error) bool { return strings.Contains(err.Error(), "store is full") }

// A sessionBudget counts the octets that sessions use. It implements templates.Budget.
type sessionBudget struct{ taken uint64 }

// Take implements templates.Budget.
func (b *sessionBudget) Take(n int) bool {
	if b.taken+uint64(n) > maxSessionOctets {
		return false
	}
	b.taken += uint64(n)
	return true
}

// Give implements templates.Budget.
func (b *sessionBudget) Give(n int) { b.taken -= uint64(n) }

func newSession(t *target) *templates.Session { return t.store.NewSession(&t.sessionOctets) }

// extraOutput is the output of flows beyond budget.FreeOutput times the octets received, of an
// exporter and of all together, in octets at once. Ingest's own limits are greater: this limit lets
// a short sequence reach the state after it.
const extraOutput = 512

// An outputBudget is the budget for flows.
type outputBudget = budget.Budget

func newOutputBudget(extra int) *outputBudget {
	return budget.New(budget.Limit{AtOnce: extra}, budget.Limit{AtOnce: extra})
}

// decodeWithin decodes a message as ingest does, within the budget for flows.
func decodeWithin(b *outputBudget, w *worker, octets []byte, m *decode.Meta) {
	w.decoder.MaxOctets = budget.OutputLimit(len(octets))
	w.decoder.Wire(octets, m, &w.result)
	b.ChargeOutput(&w.result, m.Exporter, len(octets), time.Unix(0, m.Received))
}

// optionsRecords returns the number of options data records in a datagram.
func optionsRecords(r *decode.Result) int { return r.OptionsRecords }
