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
	// keptLimits is what two replicas and the sessions may keep by their limits.
	keptLimits = 2*storeOctets + maxSessionOctets
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
	return n + t.sessionOctets.taken + uint64(len(t.sessions))*perSession + uint64(len(t.streams))*perStream
}

// full reports whether a store has no room.
func full(err error) bool { return strings.Contains(err.Error(), "store is full") }

// A sessionBudget counts what sessions hold, octets. It implements templates.Budget.
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

// extraOutput is what flows may take beyond budget.FreeOutput times the octets received, of an
// exporter and of all together, octets at once. Ingest's own limits are greater: this one lets
// a short sequence reach what comes after it.
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

// optionsRecords returns how many records of options data a datagram had.
func optionsRecords(r *decode.Result) int { return r.OptionsRecords }
