package kafka

import (
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weir/internal/decode"
	"weir/internal/kafka/framing"
	"weir/internal/kafka/recordbatch"
)

// An Arena copies messages into slabs of their partitions and produces each message as a record with its key.
// The client later reads the records of a partition together, one after another in memory. Each goroutine
// needs an Arena of its own: its methods must not be called concurrently.
type Arena struct {
	p       *Producer
	form    framing.Config
	n       int     // partitions that filling was made for
	filling []*slab // by partition; nil: the next record takes a new slab
	start   *slab   // of records produced before the number of partitions is known
	turn    int     // selects the partition of messages without key
	scratch []byte  // a message in the form of the record
}

// A slab holds the octets and the records of a partition, in the order in which they were produced. It returns
// to the producer's pool once it takes no more records and each of them is settled. Records of a partition are
// acknowledged in order, so at most two slabs of an Arena and partition hold fewer waiting records than they
// have room for; slabBound limits what refused records take beside them.
type slab struct {
	p          *Producer
	records    []kgo.Record
	n          int // records in use
	octets     []byte
	runs       []*run
	runsInUse  int
	partition  int32 // of all records; byKey: the client computes it
	partitions int32 // number of partitions that partition was computed for
	// left counts the records that are not settled, including those that are not in use while the slab is being
	// filled.
	left atomic.Int32
}

// byKey is the partition of a slab whose records go by their keys.
const byKey = -1

// A run is a number of records of a slab, in a row, that belong to the same account. It is the Context of these
// records. It has no deadline and no values: the client may call its methods after the record's promise, when
// the slab is in use again.
type run struct {
	slab *slab
	of   Account
}

// Deadline implements context.Context.
func (*run) Deadline() (deadline time.Time, ok bool) { return time.Time{}, false }

// Done implements context.Context.
func (*run) Done() <-chan struct{} { return nil }

// Err implements context.Context.
func (*run) Err() error { return nil }

// Value implements context.Context.
func (*run) Value(any) any { return nil }

// Sizes of slabs.
const (
	// recordOctets is the size of a kgo.Record.
	recordOctets = 160
	// messageOctets is the room of a slab per record, octets. Most flows take 100 to 160.
	messageOctets = 160
	// arenaRecords is the number of records of all slabs that an Arena fills at a time, where slabs have
	// between minSlab and maxSlab records.
	arenaRecords     = 4096
	minSlab, maxSlab = 4, 128
	// keptScratch is the capacity of a scratch buffer that is kept.
	keptScratch = 256 << 10
)

// slabRecords returns the number of records of a slab in a topic of n partitions. n is 0 while it is not known.
func slabRecords(n int) int { return min(maxSlab, max(minSlab, arenaRecords/max(n, 1))) }

// slabBound returns the octets that full slabs may take. Slabs with waiting records of 100 octets take about
// three times the octets of these.
func (p *Producer) slabBound() int64 { return 4*int64(p.maxOctets) + 4<<20 }

// Arena returns an Arena for records in the given form.
func (p *Producer) Arena(form framing.Config) *Arena { return &Arena{p: p, form: form} }

// Add produces the messages that spans delimit in buf, received at the instant at. It copies them and never
// waits for Kafka. of is notified of each message once.
func (a *Arena) Add(buf []byte, spans []decode.Span, at time.Time, of Account) {
	if n := int(a.p.partitions.Load()); n != a.n {
		a.repartition(n)
	}
	// A record that the client refuses takes room in a slab until its promise: while the buffer is full, records
	// are refused here.
	records := int64(a.p.max) - a.p.cl.BufferedProduceRecords()
	octets := int64(a.p.maxOctets) - a.p.cl.BufferedProduceBytes()
	refused := 0
	for _, s := range spans {
		value, key := buf[s.Start:s.ValueEnd], buf[s.ValueEnd:s.KeyEnd]
		if !a.form.Plain() {
			a.scratch, _ = a.form.Append(a.scratch[:0], framing.Flows, value) // cannot fail: the decoder's messages are valid
			value = a.scratch
		}
		size := int64(len(value) + len(key))
		if records <= 0 || octets < size || !a.produce(key, value, at, of) {
			refused++
			continue
		}
		records, octets = records-1, octets-size
	}
	if cap(a.scratch) > keptScratch {
		a.scratch = nil
	}
	if refused > 0 {
		of.Settled(refused, ErrBufferFull)
	}
}

// produce copies a record into the slab of its partition and hands it to the client. It returns false if it needs a new
// slab while the retired slabs that wait for Kafka exceed slabBound.
func (a *Arena) produce(key, value []byte, at time.Time, of Account) bool {
	filling := &a.start
	to := int32(byKey)
	if a.n > 0 {
		to = int32(a.turn % a.n) // a topic has few partitions
		if len(key) > 0 {
			to = recordbatch.Partition(key, a.n)
		}
		filling = &a.filling[to]
	}
	s := *filling
	size := len(value) + len(key)
	if s != nil && size > cap(s.octets)-len(s.octets) {
		*filling = nil
		s.retire()
		a.turn++
		s = nil
	}
	if s == nil {
		if s = a.p.takeSlab(slabRecords(a.n), size); s == nil {
			return false
		}
		s.partition, s.partitions = to, int32(a.n)
		*filling = s
	}
	begin, end := len(s.octets), len(s.octets)+len(value)
	s.octets = append(append(s.octets, value...), key...)
	r := &s.records[s.n]
	*r = kgo.Record{
		Topic: a.p.topic, Partition: max(to, 0), Value: s.octets[begin:end:end], Timestamp: at, Context: s.runOf(of),
	}
	if len(key) > 0 {
		r.Key = s.octets[end:len(s.octets):len(s.octets)]
	}
	if s.n++; s.n == len(s.records) {
		*filling = nil
		s.retire()
		a.turn++
	}
	a.p.cl.TryProduce(r.Context, r, finished) // s must not be used from here on: its last record may be settled
	return true
}

// repartition prepares the Arena for a topic of n partitions.
func (a *Arena) repartition(n int) {
	for _, s := range append(a.filling, a.start) {
		if s != nil {
			s.retire()
		}
	}
	a.n, a.filling, a.start = n, make([]*slab, n), nil
}

// runOf returns the run of the next record of s, which belongs to an account.
func (s *slab) runOf(of Account) *run {
	if s.runsInUse > 0 {
		if x := s.runs[s.runsInUse-1]; x.of == of {
			return x
		}
	}
	if s.runsInUse == len(s.runs) {
		s.runs = append(s.runs, &run{slab: s})
	}
	x := s.runs[s.runsInUse]
	s.runsInUse++
	x.of = of
	return x
}

// takeSlab returns an empty slab for the given number of records, with room for a record of need octets. It returns nil
// while the retired slabs that wait for Kafka exceed slabBound.
func (p *Producer) takeSlab(records, need int) *slab {
	if p.slabOctets.Load() > p.slabBound() {
		return nil
	}
	s, _ := p.slabs.Get().(*slab)
	if s == nil || len(s.records) != records {
		s = &slab{p: p, records: make([]kgo.Record, records), octets: make([]byte, 0, records*messageOctets)}
	}
	if cap(s.octets) < need {
		s.octets = make([]byte, 0, need)
	}
	s.left.Store(int32(records))
	return s
}

// retire ends the filling of s. The caller must not use s afterwards, except for its last record if s is full and
// the client does not have it yet.
func (s *slab) retire() {
	s.p.slabOctets.Add(s.size())
	if unused := len(s.records) - s.n; unused > 0 {
		s.settle(unused)
	}
}

// size returns the memory of the records and octets of s.
func (s *slab) size() int64 { return int64(len(s.records)*recordOctets + cap(s.octets)) }

// settle counts n records as settled, or as never to be used. s returns to the pool after the last of them.
func (s *slab) settle(n int) {
	if s.left.Add(int32(-n)) > 0 {
		return
	}
	s.p.slabOctets.Add(-s.size())
	if cap(s.octets) > len(s.records)*messageOctets {
		return // it was made for a large message
	}
	for _, x := range s.runs[:s.runsInUse] {
		x.of = nil // the pool must not keep the account of a closed exporter
	}
	s.n, s.octets, s.runsInUse = 0, s.octets[:0], 0
	s.p.slabs.Put(s)
}
