// Package templates holds what is known of exporters: the template store that
// decoding reads without locks, and the keys and values under which it is
// shared. It knows nothing of Kafka.
//
// A replica learns definitions and facts from datagrams (Learn, LearnFact) and
// from the shared log (Merge). Which definition is in force follows from receive
// times and source ports alone, not from the order of arrival, so that replicas
// that know the same records decide alike.
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

// A Record is one entry for the shared log.
type Record struct{ Key, Value []byte }

// Options are the Store's limits and clock.
type Options struct {
	Replica string           // written into what is shared
	Now     func() time.Time // wall clock; nil: time.Now
	// Changed is called (without locks) when a definition or a fact of an exporter
	// became known; may be nil.
	Changed func(exporter [16]byte)

	// Local: the store shares nothing, see Maintain.
	Local bool

	// HashKeys: definitions are published under a 64-bit hash too, for replicas
	// that do not read the records by digest. See key.go.
	HashKeys bool

	// Patient: Plan gives nothing for a moment where what is known may be wrong
	// soon, see Settle.
	Patient bool

	// Limits by number.
	MaxPerExporter int // definitions, and facts, of one exporter address; 0: 4 096
	MaxTotal       int // definitions and facts of all; 0: 1 000 000
	MaxUnconfirmed int // definitions with which no replica has decoded yet; 0: 65 536

	// Limits by octets of heap, as Stats.Octets accounts them; the same entries go
	// at these limits as at those by number.
	//
	// MaxOctets bounds everything the Store keeps. A plan that several exporters
	// share counts once. 0: 1 GiB.
	MaxOctets int64
	// MaxExporterOctets bounds what is kept of one exporter address; facts take at
	// most half of it. A shared plan counts in full. A definition or fact that is
	// larger is refused. 0: 32 MiB; never more than MaxOctets.
	MaxExporterOctets int64
	// MaxUnconfirmedOctets bounds the definitions with which no replica has decoded
	// yet. A shared plan counts for the first of them. 0: a quarter of MaxOctets.
	MaxUnconfirmedOctets int64
}

const (
	// refreshInterval is after how long an entry that is still received is
	// published again; per entry and replica ±20 %, so that one replica does it
	// and the others see that it is done.
	refreshInterval = 10 * time.Minute
	// lifetime is how long a definition or fact counts after it was received.
	lifetime = 24 * time.Hour
	// maxAhead is how far in the future a shared receive time may lie: a
	// replica with a wrong clock would be right for ever.
	maxAhead = time.Hour
	// maxSources is how many source ports a definition remembers.
	maxSources = 8
	// maxLayouts is how many definitions of one template id are kept.
	maxLayouts = 8
	// shards is how many parts the store has, each with a lock for writers.
	shards = 4096
)

// A Store holds definitions and facts of all exporters. It implements
// decode.State. All its methods may be called concurrently.
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

// A held counts what a Store holds.
type held struct {
	exporters, definitions, facts atomic.Int64
	octets                        atomic.Int64 // without plans
	factOctets                    atomic.Int64
	unconfirmed                   atomic.Int64 // definitions
	unconfirmedOctets             atomic.Int64
}

// A shard holds the exporters whose address hashes to it.
type shard struct {
	domains atomicmap.Map[scope, *domain] // read without lock

	mu        sync.Mutex // guards what follows, changes of domains, and all below the domains but what is atomic
	exporters map[[16]byte]*exporter
}

// An exporter counts what is known of one address.
type exporter struct {
	definitions, facts int
	octets             int64 // accounted, with plans
	factOctets         int64 // of these, facts
	domains            map[*domain]struct{}
	mostDomains        int   // since that map was made
	held               bool  // nothing of it is published: many are new
	heldAt             int64 // receive time of its first datagram
	established        bool  // with one of its definitions maxSets data sets were decoded
	allowance          allowance
}

// A domain is one exporter, version and observation domain.
type domain struct {
	scope   scope
	choices atomicmap.Map[uint16, *choice] // by template id; read without lock
	said    decode.Facts                   // the facts as decoding reads them
	settled atomic.Bool                    // no set waits for an init time any more

	templates map[uint16]*layouts
	facts     map[factID]*fact

	mostTemplates, mostFacts int // since these maps were made
}

// choice returns what is in force of a template id, nil if nothing is.
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
	o.Replica = strings.ToValidUTF8(o.Replica, "\uFFFD") // protobuf carries nothing else
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

// domain returns the domain of sc, nil if nothing is known of it.
func (sh *shard) domain(sc scope) *domain {
	d, _ := sh.domains.Load(sc)
	return d
}

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

// now is the wall clock, ns since the epoch.
func (s *Store) now() int64 { return s.o.Now().UnixNano() }

// changed tells that something became known, not to be evicted for itself; no lock
// is held.
func (s *Store) changed(exporter [16]byte, is bool, keep *place) {
	s.trim(keep)
	if is && s.o.Changed != nil {
		s.o.Changed(exporter)
	}
}

// counters are totals since the start.
type counters struct {
	evicted, refused, overBudget, factConflicts, redefined, conflicts, stale atomic.Uint64
}

// Stats counts what the store holds, and what happened since the start.
type Stats struct {
	Exporters, Definitions, Facts int
	Unconfirmed                   int   // definitions with which no replica has decoded yet
	Pending                       int   // due or under way to the shared log
	Octets                        int64 // heap that all of it takes, as accounted

	Evicted uint64 // dropped for another at a limit
	Refused uint64 // not taken: larger than all of an exporter may be, or no room for a fact
	// OverBudget counts new definitions and facts that were not taken because
	// their exporter, or all exporters together, sent too many.
	OverBudget uint64
	// FactConflicts counts facts that a source port said again after another port
	// of the same address had said otherwise.
	FactConflicts uint64
	Redefined     uint64 // a source port changed to another layout of a template id
	Stale         uint64 // data sets decoded with a definition from before their exporter's restart
	Conflicts     uint64 // one template id had different layouts from different ports
}

// Stats returns current counts. It costs little: no search.
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
