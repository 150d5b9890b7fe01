// Package broker is the embedded broker (franz-go's kfake) of `weir up`, `weir
// demo` and tests. It is not Kafka: memory only, one process.
package broker

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// What a topic of a small broker holds, octets per partition. A segment is
// freed as a whole, so a topic that is cut by time or octets may hold up to
// their sum.
const (
	smallRetention = "4194304"
	smallSegment   = "1048576"
)

// A Broker is a running embedded broker.
type Broker struct {
	cluster *kfake.Cluster
	addr    string
}

// Start starts one on addr (host:port; no host: 127.0.0.1, since it asks nobody
// who they are; port 0: a free one). small keeps memory
// bounded: every topic made later has small segments, and those whose records
// may be deleted by age are also cut by octets. Topics that keep everything
// (retention.ms=-1) or are compacted are never cut by octets.
func Start(addr string, small bool) (*Broker, error) {
	if strings.HasPrefix(addr, ":") {
		addr = "127.0.0.1" + addr
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("embedded broker: %s is taken, by another broker perhaps: end that, or choose another address: %w", addr, err)
		}
		return nil, fmt.Errorf("embedded broker: cannot listen on %s: %w", addr, err)
	}
	c, err := kfake.NewCluster(
		kfake.NumBrokers(1),
		kfake.Ports(ln.Addr().(*net.TCPAddr).Port), // a tcp listener's address
		kfake.ListenFn(func(_, _ string) (net.Listener, error) { return ln, nil }),
		kfake.BrokerConfigs(map[string]string{
			"log.cleaner.backoff.ms":       "5000", // an hour by default: nothing would be cut or compacted
			"group.min.session.timeout.ms": "1000", // so that a test need not wait for a dead consumer
		}),
	)
	if err != nil {
		_ = ln.Close() // the cluster's error says more
		return nil, fmt.Errorf("embedded broker on %s: %w", addr, err)
	}
	Mend(c)
	if small {
		c.ControlKey(int16(kmsg.CreateTopics), func(r kmsg.Request) (kmsg.Response, error, bool) {
			if req, ok := r.(*kmsg.CreateTopicsRequest); ok {
				for i := range req.Topics {
					shrink(&req.Topics[i])
				}
			}
			return nil, nil, false // kfake goes on with the changed request
		})
	}
	return &Broker{cluster: c, addr: ln.Addr().String()}, nil
}

// shrink makes a topic that is to be created small.
func shrink(t *kmsg.CreateTopicsRequestTopic) {
	cut := true
	own := t.Configs
	t.Configs = nil
	for _, c := range own {
		switch {
		case c.Value == nil:
		case c.Name == "cleanup.policy":
			cut = cut && !strings.Contains(*c.Value, "compact")
		case c.Name == "retention.ms":
			cut = cut && *c.Value != "-1"
		}
		if c.Name != "segment.bytes" {
			t.Configs = append(t.Configs, c)
		}
	}
	t.Configs = append(t.Configs, config("segment.bytes", smallSegment))
	if cut {
		t.Configs = append(t.Configs, config("retention.bytes", smallRetention))
	}
}

func config(name, value string) kmsg.CreateTopicsRequestTopicConfig {
	c := kmsg.NewCreateTopicsRequestTopicConfig()
	c.Name, c.Value = name, &value
	return c
}

// Addr is the host:port that clients start from.
func (b *Broker) Addr() string { return b.addr }

// Close ends it; all records are gone.
func (b *Broker) Close() { b.cluster.Close() }
