package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	"weir/internal/framing"
	"weir/internal/kafka"
	"weir/internal/services"
	"weir/pkg/flowpb"
)

// A connectionFilter is which connections are shown.
type connectionFilter struct {
	hosts    []netip.Prefix // either end, or its other address by NAT, is in one of them
	port     *uint16        // of either end; 0: any
	protocol int            // -1: any
	least    uint64         // packets of both directions
}

// filterFlags adds the flags of a filter.
func filterFlags(f *verbFlags) *connectionFilter {
	o := &connectionFilter{protocol: -1, least: 10}
	f.Func("host", "only connections of the `ADDRESS` or prefix; may be repeated", func(s string) error {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, err := netip.ParseAddr(s)
			if err != nil {
				return fmt.Errorf("%q: want an address or a prefix (192.0.2.0/24)", s)
			}
			a = a.Unmap().WithZone("")
			p = netip.PrefixFrom(a, a.BitLen())
		}
		o.hosts = append(o.hosts, p.Masked())
		return nil
	})
	o.port = portFlag(f, "port", "only connections with port `N` at either end")
	f.Func("proto", "only connections of the protocol `NAME` or number", func(s string) error {
		for n := range 256 {
			if strings.EqualFold(services.Protocol(uint32(n)), s) || strconv.Itoa(n) == s {
				o.protocol = n
				return nil
			}
		}
		return fmt.Errorf("%q is no protocol, want a name as in the table or a number up to 255", s)
	})
	f.Func("p", "leave out connections of fewer than `N` packets; default 10 in the table of a file, else 0", func(s string) (err error) {
		o.least, err = strconv.ParseUint(s, 10, 64)
		return err
	})
	return o
}

// is tells whether c is one of those that are asked for, whatever its packets.
func (o *connectionFilter) is(c *flowpb.Connection) bool {
	a, z := c.GetInitiator(), c.GetResponder()
	if o.protocol >= 0 && int(c.GetProtocol()) != o.protocol || *o.port != 0 && a.GetPort() != uint32(*o.port) && z.GetPort() != uint32(*o.port) {
		return false
	}
	return len(o.hosts) == 0 || slices.ContainsFunc([][]byte{a.GetAddress(), z.GetAddress(), a.GetNatAddress(), z.GetNatAddress()}, func(b []byte) bool {
		addr, ok := netip.AddrFromSlice(b)
		return ok && slices.ContainsFunc(o.hosts, func(p netip.Prefix) bool { return p.Contains(addr.Unmap()) })
	})
}

// topicFlags say how the topic of connections is read.
type topicFlags struct {
	once, start, interim bool
	since                time.Duration
}

func connectionsTopicFlags(f *verbFlags) *topicFlags {
	o := &topicFlags{}
	f.BoolVar(&o.once, "once", false, "read what is on the topic now, print the newest report of each connection, and end")
	f.BoolVar(&o.start, "from-start", false, "read the topic from its first record on")
	f.DurationVar(&o.since, "since", 0, "read what was published in the last `DURATION` (10m), and go on")
	f.BoolVar(&o.interim, "interim", false, "print reports of connections that go on too")
	return o
}

// topicConnections prints the connections of the topic.
type topicConnections struct {
	topicFlags
	filter   *connectionFilter
	stderr   io.Writer
	print    *livePrinter
	versions map[string]uint32
	newest   map[string]*flowpb.Connection // with --once
	poison   int
}

// maxVersions bounds the connections whose newest version is remembered, so that
// an older one is not printed after it. They come in order from Kafka; only what
// was written twice could be out of it.
const maxVersions = 1_000_000

// run reads the topic until ctx ends, or it is read.
func (o *topicConnections) run(ctx context.Context, settings kafkaSettings) error {
	topic := settings.Topics.Name(kafka.Connections)
	o.newest, o.versions = map[string]*flowpb.Connection{}, map[string]uint32{}
	tail := kafka.Tail{Start: o.start || o.once && o.since == 0, Once: o.once}
	if o.since > 0 {
		tail.Since = time.Now().Add(-o.since)
	}
	if !o.once {
		tell(o.stderr, "following %s at %s; end with Ctrl-C", topic, strings.Join(settings.Kafka.Brokers, ","))
	}
	told := ""
	err := tail.Read(ctx, settings.Kafka, topic, o.take, func(err error) {
		if err.Error() != told {
			told = err.Error()
			tell(o.stderr, "weir connections: %v", err)
		}
	})
	if err == nil && o.once {
		list := make([]*flowpb.Connection, 0, len(o.newest))
		for _, c := range o.newest {
			if c != nil {
				list = append(list, c)
			}
		}
		slices.SortFunc(list, func(a, b *flowpb.Connection) int {
			return cmp.Or(cmp.Compare(a.GetStartUnixNs(), b.GetStartUnixNs()), strings.Compare(string(a.GetConnectionId()), string(b.GetConnectionId())))
		})
		o.print.print(list)
		tell(o.stderr, "%d connections shown", len(list))
	}
	if o.poison > 0 {
		tell(o.stderr, "%d records of %s are no connections", o.poison, topic)
	}
	if perr := o.print.err(); err == nil {
		err = perr
	}
	return err
}

// take takes the records of one fetch.
func (o *topicConnections) take(records []kafka.Record) error {
	var list []*flowpb.Connection
	for _, r := range records {
		c := &flowpb.Connection{}
		value, _, err := framing.Connections.Next(r.Value)
		if err != nil || proto.Unmarshal(value, c) != nil || len(c.ConnectionId) == 0 {
			o.poison++
			continue
		}
		id := string(c.ConnectionId)
		if o.versions[id] >= c.Version {
			continue
		}
		if len(o.versions) >= maxVersions && !o.once {
			clear(o.versions)
		}
		o.versions[id] = c.Version
		shown := o.filter.is(c) && packets(c) >= o.filter.least && (c.Final || o.interim || o.once)
		switch {
		case o.once && shown:
			o.newest[id] = c
		case o.once:
			delete(o.newest, id) // an older report was shown, the newest is not asked for
		case shown:
			list = append(list, c)
		}
	}
	o.print.print(list)
	return o.print.err()
}

// followConnections is the verb connections without files.
func followConnections(o topicFlags, filter *connectionFilter, asJSON bool, stdout, stderr io.Writer) int {
	settings, err := kafkaFromEnvironment()
	if err != nil {
		tell(stderr, "weir connections: no file, and for the topic the settings are wrong:\n%v", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	t := &topicConnections{topicFlags: o, filter: filter, stderr: stderr, print: newLivePrinter(stdout, asJSON)}
	if err := t.run(ctx, settings); err != nil {
		if brokenPipe(err) {
			return exitDone
		}
		tell(stderr, "weir connections: %v", err)
		return exitFailed
	}
	return exitDone
}
