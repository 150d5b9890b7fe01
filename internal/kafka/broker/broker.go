// Package broker is the embedded broker (franz-go's kfake) of `weir up`, `weir demo` and tests. It is not Kafka:
// it is a single process that keeps records in memory only.
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

// Limits of the topics of a small broker, octets per partition. Kafka deletes whole segments, so a topic may
// hold up to the sum of both.
const (
	smallRetention = "4194304"
	smallSegment   = "1048576"
)

// A Broker is a running embedded broker. The owner must call Close.
type Broker struct {
	cluster *kfake.Cluster
	addr    string
}

// Start starts a broker on addr, host:port. Without a host it listens on 127.0.0.1, since it authenticates
// nobody; port 0 selects a free port. small bounds memory: topics created later have small segments, and topics
// whose records may be deleted by age are also limited in octets. Topics that keep all records (retention.ms=-1)
// or are compacted are never limited in octets.
func Start(addr string, small bool) (*Broker, error) {
	if strings.HasPrefix(addr, ":") {
		addr = "127.0.0.1" + addr
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("embedded broker: %s is in use, perhaps by another broker: "+
				"end that, or choose another address: %w", addr, err)
		}
		return nil, fmt.Errorf("embedded broker: cannot listen on %s: %w", addr, err)
	}
	c, err := kfake.NewCluster(
		kfake.NumBrokers(1),
		kfake.Ports(ln.Addr().(*net.TCPAddr).Port), // of a TCP listener
		kfake.ListenFn(func(_, _ string) (net.Listener, error) { return ln, nil }),
		kfake.BrokerConfigs(map[string]string{
			"log.cleaner.backoff.ms":       "5000", // kfake's default of an hour would delete and compact nothing
			"group.min.session.timeout.ms": "1000", // so that tests do not wait long for a dead consumer
		}),
	)
	if err != nil {
		_ = ln.Close() // the cluster's error is the cause
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
			return nil, nil, false // kfake handles the changed request
		})
	}
	return &Broker{cluster: c, addr: ln.Addr().String()}, nil
}

// shrink reduces the segments and the retention of a topic that is to be created.
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

// config returns a setting of a topic.
func config(name, value string) kmsg.CreateTopicsRequestTopicConfig {
	c := kmsg.NewCreateTopicsRequestTopicConfig()
	c.Name, c.Value = name, &value
	return c
}

// Addr returns the host:port that clients connect to.
func (b *Broker) Addr() string { return b.addr }

// Close ends the broker. Its records are lost.
func (b *Broker) Close() { b.cluster.Close() }
