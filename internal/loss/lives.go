package loss

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"weir/internal/bounded"
	"weir/pkg/flowpb"
)

const (
	// silentFor is the silence after which a process counts as ended. A process reports
	// every 10 s as long as it receives datagrams.
	silentFor = 45 * time.Second
	// succeededFor is the silence after which a process counts as ended if a successor
	// with the same name has reported.
	succeededFor = 25 * time.Second
	// triedFor is the time for which Ended does not return a process again, whether or
	// not its recovery succeeded.
	triedFor = 5 * time.Minute
	// RememberLives is the time after its last report for which a process is remembered.
	RememberLives = 15 * time.Minute
	// maxKnownLives bounds the remembered processes.
	maxKnownLives = 1000
)

// A Life is a process of a replica, as described by its reports.
type Life struct {
	Replica  string
	Started  int64     // ns since the epoch
	Reported time.Time // time of the last report, by the clock of the process
	Next     int64     // start of the next process with that name, ns since the epoch; 0: there is none
}

// Lives holds the processes that report, and finds those that ended without closing
// their account. It is safe for concurrent use.
type Lives struct {
	mu  sync.Mutex
	all bounded.Map[lifeKey, *knownLife]
}

// NewLives returns an empty Lives.
func NewLives() *Lives { return &Lives{all: bounded.New[lifeKey, *knownLife](maxKnownLives)} }

type lifeKey struct {
	replica string
	started int64
}

type knownLife struct {
	reported time.Time // last report, by the clock of the process
	heard    time.Time // last report, by the clock of the reader
	tried    time.Time // last return by Ended
	closed   bool
}

// Take adds a record of the topic, which was written at the instant at and read at the
// instant now. For a record written before the reader started the caller must pass the
// same instant for both.
func (l *Lives) Take(value []byte, at, now time.Time) {
	var m flowpb.ExporterReport
	if proto.Unmarshal(value, &m) != nil || m.Schema != schema || now.Sub(at) > RememberLives {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	k := lifeKey{clip(m.Replica), m.StartedNs}
	known := l.all.Get(k)
	if known == nil {
		known = &knownLife{}
		l.all.PutOrEvict(k, known, 0, func(a, b *knownLife) int { return a.heard.Compare(b.heard) })
	}
	if recovered(&m) { // written by another process: no sign of life
		known.closed = known.closed || m.GetSummary().GetClosed()
		return
	}
	// A process that reports after another replica closed its account was only paused.
	known.reported, known.heard = at, now
	known.closed = m.GetSummary().GetClosed()
}

// recovered reports whether another process wrote m on behalf of an ended process.
func recovered(m *flowpb.ExporterReport) bool {
	return m.GetSlot().GetRecovered() != nil || m.GetSummary().GetRecovered()
}

// Ended returns the processes, except self, that seem to have ended without closing
// their account, in order of their starts. It returns each process once in triedFor.
func (l *Lives) Ended(now time.Time, self Life) (ended []Life) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, v := range l.all.All() {
		silence := now.Sub(v.heard)
		if k == (lifeKey{self.Replica, self.Started}) {
			continue
		}
		if silence > RememberLives {
			l.all.Delete(k)
			continue
		}
		next, wait := l.next(k), silentFor
		if next != 0 {
			wait = succeededFor
		}
		if !v.closed && !v.reported.IsZero() && silence >= wait && now.Sub(v.tried) >= triedFor {
			v.tried = now
			ended = append(ended, Life{Replica: k.replica, Started: k.started, Reported: v.reported, Next: next})
		}
	}
	slices.SortFunc(ended, func(a, b Life) int {
		return cmp.Or(cmp.Compare(a.Started, b.Started), cmp.Compare(a.Replica, b.Replica))
	})
	return ended
}

// next returns the start of the next process with the same name, 0 if there is none.
// l.mu must be held.
func (l *Lives) next(of lifeKey) (started int64) {
	for k := range l.all.All() {
		if k.replica == of.replica && k.started > of.started && (started == 0 || k.started < started) {
			started = k.started
		}
	}
	return started
}
