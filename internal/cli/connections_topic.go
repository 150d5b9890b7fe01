package cli

import (
	"cmp"
	"context"
	"errors"
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
	host := func(s string) error {
		p, err := hostPrefix(s)
		o.hosts = append(o.hosts, p)
		return err
	}
	f.Func("host", "only connections of the `ADDRESS`, in any of its textual forms, or prefix; may be repeated", host)
	f.Func("match-host", "the same", host)
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
	least := func(s string) (err error) {
		if o.least, err = strconv.ParseUint(s, 10, 64); err != nil {
			return fmt.Errorf("%q: want a number of packets, 0 or more", s)
		}
		return nil
	}
	f.Func("p", "leave out connections of fewer than `N` packets; default 10 in the table of a file, else 0", least)
	f.Func("packets", "the same", least)
	return o
}

// hostPrefix reads an address or a prefix; an IPv4 one may be written as IPv6, any
// may stand in brackets, and a zone does not count.
func hostPrefix(s string) (netip.Prefix, error) {
	text := s
	if inner, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(inner, "]") {
		text = strings.TrimSuffix(inner, "]")
	}
	if a, err := netip.ParseAddr(text); err == nil {
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return p, fmt.Errorf("%q: want an address or a prefix (192.0.2.0/24)", s)
	case p.Addr().Is4In6() && p.Bits() >= 96:
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
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

// topicFlags say how a topic is read.
type topicFlags struct {
	once, start, interim bool
	since                time.Duration
}

// topicFlagsOf adds them; newest is what --once prints.
func topicFlagsOf(f *verbFlags, newest string) *topicFlags {
	o := &topicFlags{}
	f.BoolVar(&o.once, "once", false, "read what is on the topic now, "+newest+", and end")
	f.BoolVar(&o.start, "from-start", false, "read the topic from its first record on")
	f.DurationVar(&o.since, "since", 0, "read what was published in the last `DURATION` (10m), and go on")
	return o
}

// check says what is wrong with the flags, which are for the topic only.
func (o *topicFlags) check(f *verbFlags, files bool, names ...string) error {
	for _, name := range names {
		if files && f.given(name) {
			return fmt.Errorf("--%s is for the topic, not for files", name)
		}
	}
	switch {
	case o.start && o.since != 0:
		return errors.New("--from-start and --since: want one of them")
	case o.since < 0:
		return fmt.Errorf("--since %v: want more than 0", o.since)
	}
	return nil
}

// tail is what of the topic is read.
func (o *topicFlags) tail() kafka.Tail {
	t := kafka.Tail{Start: o.start || o.once && o.since == 0, Once: o.once}
	if o.since > 0 {
		t.Since = time.Now().Add(-o.since)
	}
	return t
}

// errEnough ends the reading of a topic: what was asked for was printed.
var errEnough = errors.New("enough")

// topicConnections prints the connections of the topic.
type topicConnections struct {
	topicFlags
	filter   *connectionFilter
	choice   *choice
	noNames  bool
	stderr   io.Writer
	print    *livePrinter
	shown    int // without --once
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
	if !o.once {
		tell(o.stderr, "following %s at %s; end with Ctrl-C", topic, strings.Join(settings.Kafka.Brokers, ","))
	}
	told := ""
	err := o.tail().Read(ctx, settings.Kafka, topic, o.take, func(err error) {
		if err.Error() != told {
			told = err.Error()
			tell(o.stderr, "weir connections: %v", err)
		}
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
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
		shown := o.choice.of(list)
		o.print.write(shown)
		tell(o.stderr, "%s", totals(shown, len(list)))
		tell(o.stderr, "%d connections shown", len(shown))
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
		if o.noNames {
			c.GetInitiator().Name, c.GetResponder().Name = "", ""
		}
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
	if n := o.choice.limit; n > 0 && !o.once {
		list = list[:min(len(list), n-o.shown)]
	}
	o.print.print(list)
	if o.shown += len(list); !o.once && o.choice.limit > 0 && o.shown >= o.choice.limit && o.print.err() == nil {
		return errEnough
	}
	return o.print.err()
}

// followConnections is the verb connections without files.
func followConnections(o *topicConnections) int {
	settings, err := kafkaFromEnvironment()
	if err != nil {
		tell(o.stderr, "weir connections: no file, and for the topic the settings are wrong:\n%v", err)
		return exitUsage
	}
	return untilEnd("connections", o.stderr, func(ctx context.Context) error { return o.run(ctx, settings) })
}

// untilEnd runs a verb until it is done or told to end.
func untilEnd(verb string, stderr io.Writer, run func(context.Context) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil && !brokenPipe(err) {
		tell(stderr, "weir %s: %v", verb, err)
		return exitFailed
	}
	return exitDone
}
