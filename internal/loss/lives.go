package loss

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"weir/pkg/flowpb"
)

const (
	// silentFor is the silence after which a process is taken to have ended: it reports
	// every 10 s as long as anything comes.
	silentFor = 45 * time.Second
	// succeededFor is that silence where a successor of the same name has reported.
	succeededFor = 25 * time.Second
	// triedFor is for how long a process is not named again, whatever came of it.
	triedFor = 5 * time.Minute
	// RememberLives is for how long after its last report a process is remembered.
	RememberLives = 15 * time.Minute
	// maxKnownLives bounds the processes that are remembered.
	maxKnownLives = 1000
)

// A Life is one process of a replica, as its reports show it.
type Life struct {
	Replica  string
	Started  int64     // ns since the epoch
	Reported time.Time // of the last report, by the clock of the process
	Next     int64     // when the next process of that name started, ns since the epoch; 0: none has
}

// Lives holds the processes that report, and finds those that ended without closing
// their account. It is safe for use by several goroutines.
type Lives struct {
	mu  sync.Mutex
	all map[lifeKey]*knownLife
}

type lifeKey struct {
	replica string
	started int64
}

type knownLife struct {
	reported, heard time.Time // by the clock of the process, and of the reader
	tried           time.Time // Ended returned it last
	closed          bool
}

// Take reads a record of the topic, written at the instant at and read at the instant
// now. Both are the same of what was written before the reader started.
func (l *Lives) Take(value []byte, at, now time.Time) {
	var m flowpb.ExporterReport
	if proto.Unmarshal(value, &m) != nil || m.Schema != schema || now.Sub(at) > RememberLives {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	k := lifeKey{clip(m.Replica), m.StartedNs}
	known := l.all[k]
	if known == nil {
		if l.all == nil {
			l.all = map[lifeKey]*knownLife{}
		}
		if len(l.all) >= maxKnownLives {
			l.forgetOldest()
		}
		known = &knownLife{}
		l.all[k] = known
	}
	if recovered(&m) { // by another process
		known.closed = known.closed || m.GetSummary().GetClosed()
		return
	}
	// One that goes on after it was taken to have ended was only paused.
	known.reported, known.heard, known.closed = at, now, m.GetSummary().GetClosed()
}

// recovered reports whether another process than the one that m is about wrote it.
func recovered(m *flowpb.ExporterReport) bool {
	return m.GetSlot().GetRecovered() != nil || m.GetSummary().GetRecovered()
}

func (l *Lives) forgetOldest() {
	var oldest lifeKey
	for k, v := range l.all {
		if o := l.all[oldest]; o == nil || v.heard.Before(o.heard) {
			oldest = k
		}
	}
	delete(l.all, oldest)
}

// Ended returns the processes that seem to have ended without closing their account, but
// for self. It returns each once in triedFor.
func (l *Lives) Ended(now time.Time, self Life) (ended []Life) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, v := range l.all {
		silence := now.Sub(v.heard)
		if k == (lifeKey{self.Replica, self.Started}) {
			continue
		}
		if silence > RememberLives {
			delete(l.all, k)
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

// next returns when the next process of that name started, 0: none has.
func (l *Lives) next(of lifeKey) (started int64) {
	for k := range l.all {
		if k.replica == of.replica && k.started > of.started && (started == 0 || k.started < started) {
			started = k.started
		}
	}
	return started
}
