package enrich

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/internal/annotate"
	"weir/internal/flowkey"
	"weir/internal/saturating"
	"weir/internal/services"
	"weir/pkg/flowpb"
)

// other is the label value of what has no series of its own.
const other = "other"

// A crossing is where traffic went through an exporter.
type crossing struct {
	exporter [16]byte
	domain   uint32
	in, out  uint32 // ifIndex
	proto    uint8
}

// volume is in octets and packets, times the sampling rate.
type volume struct{ octets, packets uint64 }

// served is what connections of a service had. merged are those that were counted and
// have become a part of another one, while connections still has them.
type served struct{ connections, merged, octets uint64 }

// A tally is the traffic of one transaction.
type tally struct {
	crossings map[crossing]volume
	services  map[string]served
}

// flow takes a flow that counts what no other does.
func (t *tally) flow(m *flowpb.FlowMessage) {
	octets, packets := saturating.Add(m.Bytes, m.ReverseBytes), saturating.Add(m.Packets, m.ReversePackets)
	t.crossed(m, saturating.Estimate(octets, m.SamplingRate), saturating.Estimate(packets, m.SamplingRate))
}

// crossed takes octets and packets, estimated, that went where m says.
func (t *tally) crossed(m *flowpb.FlowMessage, octets, packets uint64) {
	if t.crossings == nil {
		t.crossings = map[crossing]volume{}
	}
	k := crossing{flowkey.AddressOrZero(m.SamplerAddress), m.ObservationDomainId, m.InIf, m.OutIf, uint8(m.Proto)}
	v := t.crossings[k]
	v.octets, v.packets = saturating.Add(v.octets, octets), saturating.Add(v.packets, packets)
	t.crossings[k] = v
}

// connection takes one report; more is by how many octets it is beyond the last.
func (t *tally) connection(c *flowpb.Connection, more uint64) {
	if t.services == nil {
		t.services = map[string]served{}
	}
	v := t.services[c.Service]
	if c.Version == 1 {
		v.connections++
	}
	if c.EmitReason == flowpb.EmitReason_EMIT_REASON_MERGED {
		v.merged++
	}
	v.octets = saturating.Add(v.octets, more)
	t.services[c.Service] = v
}

func (t *tally) clear() {
	clear(t.crossings)
	clear(t.services)
}

// traffic is the traffic metrics: at most a number of series, beyond which all is
// counted as other, so that sums stay exact. When there is no room for a series, those
// that nothing was counted in for idleFor are added to other: flows can be forged, and
// must not take the series for good.
type traffic struct {
	now func() time.Time // nil: no series is given up

	mu        sync.Mutex
	left      int // series that may still be made
	flows     map[flowLabels]*series[volume]
	services  map[string]*series[served]
	at        time.Time // of the transaction that is being added
	reclaimed time.Time // when idle series were last looked for
}

// A series is one pair of series with the same labels.
type series[V any] struct {
	v    V
	last time.Time // something was counted
}

const (
	idleFor      = time.Hour
	reclaimEvery = time.Minute
)

type flowLabels struct{ exporter, iface, direction, protocol string }

// seriesOfOther are the series that are always there: of both directions, octets
// and packets, and of services.
const seriesOfOther = 6

func newTraffic(most int, reg prometheus.Registerer) *traffic {
	t := &traffic{left: max(0, most-seriesOfOther), flows: map[flowLabels]*series[volume]{}, services: map[string]*series[served]{}}
	reg.MustRegister(t)
	return t
}

// add adds what a committed transaction had.
func (t *traffic) add(of *tally, names *annotate.Learned) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.now != nil {
		t.at = t.now()
	}
	for k, v := range of.crossings {
		exporter, protocol := names.Exporter(k.exporter), services.Protocol(uint32(k.proto))
		for _, d := range []struct {
			direction string
			index     uint32
		}{{"in", k.in}, {"out", k.out}} {
			iface := names.Name(annotate.NameKey{Exporter: k.exporter, Domain: k.domain, What: flowpb.Fact_WHAT_INTERFACE_NAME, ID: uint64(d.index)})
			if iface == "" {
				iface = strconv.FormatUint(uint64(d.index), 10)
			}
			k := flowLabels{exporter, iface, d.direction, protocol}
			seriesOf(t, t.flows, k, k.rest()).add(v)
		}
	}
	for name, v := range of.services {
		if name == "" {
			name = "none"
		}
		seriesOf(t, t.services, name, other).add(v)
	}
}

// rest returns the labels of what has no series of its own.
func (k flowLabels) rest() flowLabels { return flowLabels{other, other, k.direction, other} }

func (v *volume) add(w volume) {
	v.octets, v.packets = counterSum(v.octets, w.octets), counterSum(v.packets, w.packets)
}

// add counts w. A counter does not go down: merged connections are taken from the next
// that come.
func (v *served) add(w served) {
	merged := v.merged + w.merged
	settled := min(merged, w.connections)
	v.connections += w.connections - settled
	v.merged = merged - settled
	v.octets = counterSum(v.octets, w.octets)
}

// counterSum adds to a counter of Prometheus. A counter that would overflow begins
// again, as after a restart: at its greatest value it would not count any more.
func counterSum(counter, more uint64) uint64 {
	if sum := counter + more; sum >= counter {
		return sum
	}
	return more
}

// seriesOf returns the two series of k, or those of what has none.
func seriesOf[K comparable, V any](t *traffic, all map[K]*series[V], k, rest K) *V {
	s := all[k]
	if s == nil && k != rest && t.left < 2 && !t.reclaim() {
		k = rest
		s = all[k]
	}
	if s == nil {
		if s = new(series[V]); k != rest {
			t.left -= 2
		}
		all[k] = s
	}
	s.last = t.at
	return &s.v
}

// reclaim adds the idle series to those of what has none; false when none is idle. It
// looks at all of them once a minute at most.
func (t *traffic) reclaim() bool {
	if t.now == nil || t.at.Sub(t.reclaimed) < reclaimEvery {
		return false
	}
	t.reclaimed = t.at
	for k, s := range t.flows {
		if r := k.rest(); k != r && t.at.Sub(s.last) >= idleFor {
			delete(t.flows, k)
			t.left += 2
			seriesOf(t, t.flows, r, r).add(s.v)
		}
	}
	for k, s := range t.services {
		if k != other && t.at.Sub(s.last) >= idleFor {
			delete(t.services, k)
			t.left += 2
			seriesOf(t, t.services, other, other).add(s.v)
		}
	}
	return t.left >= 2
}

var (
	trafficLabels  = []string{"exporter", "interface", "direction", "protocol"}
	trafficOctets  = prometheus.NewDesc("weir_traffic_octets_total", "octets of flows, times the sampling rate, by interface and whether they came in or went out there", trafficLabels, nil)
	trafficPackets = prometheus.NewDesc("weir_traffic_packets_total", "packets of flows, times the sampling rate, by interface and whether they came in or went out there", trafficLabels, nil)
	serviceCount   = prometheus.NewDesc("weir_service_connections_total", "connections by the service of the responder's port", []string{"service"}, nil)
	serviceOctets  = prometheus.NewDesc("weir_service_octets_total", "octets of connections, times the sampling rate, by the service of the responder's port", []string{"service"}, nil)
)

// Describe implements prometheus.Collector.
func (t *traffic) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{trafficOctets, trafficPackets, serviceCount, serviceOctets} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (t *traffic) Collect(out chan<- prometheus.Metric) {
	t.mu.Lock()
	defer t.mu.Unlock()
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	for k, s := range t.flows {
		v := &s.v
		counter(trafficOctets, v.octets, k.exporter, k.iface, k.direction, k.protocol)
		counter(trafficPackets, v.packets, k.exporter, k.iface, k.direction, k.protocol)
	}
	for k, s := range t.services {
		v := &s.v
		counter(serviceCount, v.connections, k)
		counter(serviceOctets, v.octets, k)
	}
}
