// Package templates stores the templates and options data of exporters. Decoding reads
// the store without locks. The package also defines the keys and values of the shared
// log, the topic on which replicas exchange templates. It does not depend on Kafka.
//
// A definition is a Template Record or Options Template Record (RFC 7011 section 3.4,
// RFC 3954 sections 5.2 and 6.1). A fact is a value from options data, such as a sampling
// rate. A replica learns both from datagrams (Learn, LearnFact) and from the shared log
// (Merge). The definition in force depends on receive times and source ports only, not on
// the order of arrival, so that replicas with the same records decide alike.
package templates

import (
	"cmp"
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"weir/internal/atomicmap"
	"weir/internal/decode"
)

// A Record is a record of the shared log. A nil Value is a tombstone.
type Record struct{ Key, Value []byte }

// Options holds the limits and the clock of a Store. A limit of 0 stands for its default.
type Options struct {
	Replica string           // written into published records; unique among running replicas
	Now     func() time.Time // wall clock; nil: time.Now
	// Changed is called, without locks, after a definition or a fact of an exporter
	// became known. It may be nil. It must be safe for concurrent use.
	Changed func(exporter [16]byte)

	// Local makes a store without a shared log, see Maintain.
	Local bool

	// HashKeys makes the store also publish definitions under a 64-bit hash, for
	// replicas of older versions that do not read records by digest. See key.go.
	HashKeys bool

	// Patient makes Plan return nil while the known definition may be outdated or lacks
	// a fact, so that the caller buffers the set. See Settle.
	Patient bool

	// Limits by number.
	MaxPerExporter int // definitions, and facts, of an exporter address; default 4 096
	MaxTotal       int // definitions and facts of all exporters; default 1 000 000
	MaxUnconfirmed int // definitions with which no replica has decoded yet; default 65 536

	// Limits by heap octets, as estimated by Stats.Octets. The order of eviction is
	// the same as at the limits by number.
	//
	// MaxOctets bounds all entries of the Store. A plan that several exporters share
	// counts once. Default 1 GiB.
	MaxOctets int64
	// MaxExporterOctets bounds the entries of an exporter address; facts may use half
	// of it. A shared plan counts in full. A larger definition or fact is refused.
	// Default 32 MiB, and never more than MaxOctets.
	MaxExporterOctets int64
	// MaxUnconfirmedOctets bounds the definitions with which no replica has decoded
	// yet. A shared plan counts for the first of them. Default: a quarter of MaxOctets.
	MaxUnconfirmedOctets int64
}

const (
	// refreshInterval is the time after which an entry that is still received is
	// published again. It varies by ±20 % per entry and replica, so that usually a
	// single replica publishes and the others see its record.
	refreshInterval = 10 * time.Minute
	// lifetime is the validity of a definition or fact after its last receipt.
	lifetime = 24 * time.Hour
	// maxAhead bounds the lead of a shared receive time over the local clock. Without
	// it, the entries of a replica with a fast clock would stay in force.
	maxAhead = time.Hour
	// maxSources bounds the source ports of a definition.
	maxSources = 8
	// maxLayouts bounds the definitions of a template id.
	maxLayouts = 8
	// shards is the number of parts of the store, each with a lock for writers.
	shards = 4096
)

// A Store holds the definitions and facts of all exporters. It implements
// decode.State. All its methods are safe for concurrent use.
//
// Locks must be taken in this order: a shard's lock, then that of queue, trust, budgets
// or plans. No two shards may be locked at once.
type Store struct {
	o     Options
	seed  maphash.Seed
	held  held
	due   queue
	spent budgets
	trust trust
	plans plans
	swept atomic.Int64 // wall clock of the last sweep, ns
	count counters
	shard [shards]shard
}

// A held counts the entries of a Store.
type held struct {
	exporters, definitions, facts atomic.Int64
	octets                        atomic.Int64 // without plans
	factOctets                    atomic.Int64
	unconfirmed                   atomic.Int64 // number of definitions
	unconfirmedOctets             atomic.Int64
}

// A shard holds the exporters whose address hashes to it.
type shard struct {
	domains atomicmap.Map[scope, *domain] // read without lock

	// mu guards the fields below, changes of domains, and all non-atomic fields of
	// domains, definitions and facts.
	mu        sync.Mutex
	exporters map[[16]byte]*exporter
}

// An exporter holds the counts of an exporter address.
type exporter struct {
	definitions, facts int
	octets             int64 // accounted octets, with plans
	factOctets         int64 // part of octets that facts use
	domains            map[*domain]struct{}
	mostDomains        int   // greatest length of domains since the map was made
	held               bool  // its records are held back: a flood of new exporters
	heldAt             int64 // receive time of its first datagram, ns
	established        bool  // maxSets data sets were decoded with a definition
	allowance          allowance
}

// A domain holds the templates and facts of an Observation Domain.
type domain struct {
	scope   scope
	choices atomicmap.Map[uint16, *choice] // by template id; read without lock
	said    decode.Facts                   // facts in the form that decoding reads
	settled atomic.Bool                    // sets no longer wait for an init time

	templates map[uint16]*layouts
	facts     map[factID]*fact

	mostTemplates, mostFacts int // greatest lengths of these maps since they were made
}

// choice returns the choice of a template id, nil if no definition is in force.
func (d *domain) choice(template uint16) *choice {
	c, _ := d.choices.Load(template)
	return c
}

var noFacts = &decode.Facts{}

// New returns an empty Store.
func New(o Options) *Store {
	if o.Now == nil {
		o.Now = time.Now
	}
	o.MaxPerExporter = cmp.Or(o.MaxPerExporter, 4096)
	o.MaxTotal = cmp.Or(o.MaxTotal, 1_000_000)
	o.Replica = strings.ToValidUTF8(o.Replica, "\uFFFD") // protobuf strings must be valid UTF-8
	o.MaxUnconfirmed = cmp.Or(o.MaxUnconfirmed, 65_536)
	o.MaxOctets = cmp.Or(o.MaxOctets, 1<<30)
	o.MaxExporterOctets = min(cmp.Or(o.MaxExporterOctets, 32<<20), o.MaxOctets)
	o.MaxUnconfirmedOctets = cmp.Or(o.MaxUnconfirmedOctets, o.MaxOctets/4)
	s := &Store{o: o, seed: maphash.MakeSeed()}
	s.trust.newcomers = rate.NewLimiter(newcomersASecond, newcomersBurst)
	s.plans.all = map[planKey]*sharedPlan{}
	s.swept.Store(s.now())
	s.due.off = o.Local
	s.due.underWay = map[string]underWay{}
	return s
}

// domain returns the domain of sc, nil if there is none. It needs no lock.
func (sh *shard) domain(sc scope) *domain {
	d, _ := sh.domains.Load(sc)
	return d
}

// shardOf returns the shard of an exporter address.
func (s *Store) shardOf(exporter *[16]byte) *shard {
	return &s.shard[maphash.Bytes(s.seed, exporter[:])%shards]
}

// Facts implements decode.State.
func (s *Store) Facts(k *decode.TemplateKey) *decode.Facts {
	d := s.shardOf(&k.Exporter).domain(scopeOf(k))
	if d == nil {
		return noFacts
	}
	return &d.said
}

var _ decode.State = (*Store)(nil)

// now returns the wall clock in ns since the epoch.
func (s *Store) now() int64 { return s.o.Now().UnixNano() }

// changed evicts the entries beyond the limits, except keep, and calls Options.Changed if
// news is true. No lock may be held.
func (s *Store) changed(exporter [16]byte, news bool, keep *place) {
	s.trim(keep)
	if news && s.o.Changed != nil {
		s.o.Changed(exporter)
	}
}

// counters are totals since the start.
type counters struct {
	evicted, foreign, refused, overBudget, factConflicts, redefined, conflicts, stale atomic.Uint64
}

// Stats holds the number of entries of a Store and the totals since its start.
type Stats struct {
	Exporters, Definitions, Facts int
	Unconfirmed                   int   // definitions with which no replica has decoded yet
	Pending                       int   // records due or being produced to the shared log
	Octets                        int64 // estimated heap octets

	Evicted uint64 // entries evicted at a limit
	Refused uint64 // entries refused: larger than MaxExporterOctets, or no room for a fact
	// OverBudget counts new definitions and facts that were refused because their
	// exporter, or all exporters together, sent too many.
	OverBudget uint64
	// FactConflicts counts facts that a source port repeated after another port of the
	// same address had sent another value.
	FactConflicts uint64
	Redefined     uint64 // changes of a template id to another layout by a source port
	Stale         uint64 // data sets decoded with a definition from before their exporter's restart
	Conflicts     uint64 // receipts of a template id with different layouts from different ports
}

// Foreign returns the number of definitions that s first learnt from a record of another replica.
func (s *Store) Foreign() uint64 { return s.count.foreign.Load() }

// Stats returns the current counts. It takes constant time, without a search.
func (s *Store) Stats() Stats {
	return Stats{
		Exporters:   int(s.held.exporters.Load()),
		Definitions: int(s.held.definitions.Load()),
		Facts:       int(s.held.facts.Load()),
		Unconfirmed: s.unconfirmed(),
		Pending:     s.due.pending(),
		Octets:      s.octets(),
		Evicted:     s.count.evicted.Load(),
		Refused:     s.count.refused.Load(),
		OverBudget:  s.count.overBudget.Load(),

		FactConflicts: s.count.factConflicts.Load(),

		Redefined: s.count.redefined.Load(),
		Stale:     s.count.stale.Load(),
		Conflicts: s.count.conflicts.Load(),
	}
}
