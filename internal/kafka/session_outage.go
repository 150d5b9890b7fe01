package kafka

import (
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// outages holds the brokers that a client could not reach or lost the connection to. While a broker is away, the
// producers of the input keep their records: the partitions that it leads are not quiet, although they are read
// to their end for a moment when it is back.
type outages struct {
	mu    sync.Mutex // must not be held over I/O
	nodes map[int32]bool
}

// note notes a failed broker. The client's goroutines call it.
func (o *outages) note(node int32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.nodes == nil {
		o.nodes = map[int32]bool{}
	}
	o.nodes[node] = true
}

// drain returns the brokers that failed since the last call, by node id. The caller owns the map.
func (o *outages) drain() map[int32]bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	nodes := o.nodes
	o.nodes = nil
	return nodes
}

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (o *outages) OnBrokerConnect(b kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err != nil {
		o.note(b.NodeID)
	}
}

// OnBrokerE2E implements kgo.HookBrokerE2E.
func (o *outages) OnBrokerE2E(b kgo.BrokerMetadata, _ int16, e2e kgo.BrokerE2E) {
	if e2e.Err() != nil {
		o.note(b.NodeID)
	}
}

// unquiet restarts the silence of the partitions whose leader failed since the last call, or is not known: a timeout of
// a connection must not be counted before the producers could write again.
func (l *life) unquiet() {
	failed := l.outages.drain()
	if len(failed) == 0 {
		return
	}
	for n, p := range l.owned {
		leader, _, err := l.gts.Client().PartitionLeader(l.sc.Input, n)
		if err != nil || leader < 0 || failed[leader] {
			p.since = l.sc.Now()
		}
	}
}
