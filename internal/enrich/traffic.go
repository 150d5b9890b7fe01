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

// other is the label value of the series that counts traffic beyond the limit of series.
const other = "other"

// A crossing identifies traffic through an exporter: from interface in to interface out. A flow is counted at both of
// its interfaces: incoming at in, outgoing at out. An ifIndex of 0 is counted as interface 0: for example because the
// exporter did not report it.
type crossing struct {
	exporter [16]byte
	domain   uint32
	in, out  uint32 // ifIndex
	proto    uint8
}

// A volume counts octets and packets, multiplied by the sampling rate.
type volume struct{ octets, packets uint64 }

// served counts the connections of a service. merged counts connections that are contained in connections, but were
// later merged into another connection.
type served struct{ connections, merged, octets uint64 }

// A tally counts the traffic of a transaction, until its commit adds it to the metrics. It is owned by the session's
// goroutine: counting a flow takes no lock. traffic.add takes the lock once per transaction.
type tally struct {
	crossings map[crossing]volume
	services  map[string]served
}

// flow adds a flow. The traffic of the flow must not be part of another flow; firewall events use crossed.
func (t *tally) flow(m *flowpb.FlowMessage) {
	octets, packets := saturating.Add(m.Bytes, m.ReverseBytes), saturating.Add(m.Packets, m.ReversePackets)
	t.crossed(m, saturating.Estimate(octets, m.SamplingRate), saturating.Estimate(packets, m.SamplingRate))
}

// crossed adds estimated octets and packets to the crossing of m. Sums saturate at math.MaxUint64, since a forged
// counter must not make them small.
func (t *tally) crossed(m *flowpb.FlowMessage, octets, packets uint64) {
	if t.crossings == nil {
		t.crossings = map[crossing]volume{}
	}
	k := crossing{flowkey.AddressOrZero(m.SamplerAddress), m.ObservationDomainId, m.InIf, m.OutIf, uint8(m.Proto)}
	v := t.crossings[k]
	v.octets, v.packets = saturating.Add(v.octets, octets), saturating.Add(v.packets, packets)
	t.crossings[k] = v
}

// connection adds a report of a connection. more is the increase in estimated octets since its previous report.
// Versions after the first add octets only. c.Service must be set: the tally must be called after annotation.
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

// clear empties the tally for the next transaction. The maps keep their buckets.
func (t *tally) clear() {
	clear(t.crossings)
	clear(t.services)
}

// traffic holds the traffic metrics. The number of series is limited; traffic beyond the limit is counted as other, so
// that sums stay exact. At the limit, series that were idle for idleFor are added to other and removed: flows can be
// forged, and forged flows must not occupy the series for ever.
//
// add and Collect may run at the same time, on the session's goroutine and on those of the HTTP server.
type traffic struct {
	now func() time.Time // nil: idle series are not reclaimed; must be set before use

	mu        sync.Mutex // guards the fields below
	left      int        // series that may still be created
	flows     map[flowLabels]*series[volume]
	services  map[string]*series[served]
	at        time.Time // time of the current add
	reclaimed time.Time // time of the last search for idle series
}

// A series holds the counters of a set of labels, and the time of the last addition. Collect exports them as two
// Prometheus series: octets and packets of a flow volume, or connections and octets of a service.
type series[V any] struct {
	v    V
	last time.Time // last addition
}

const (
	// idleFor is the time without additions after which a series may be reclaimed.
	idleFor = time.Hour
	// reclaimEvery is the minimum time between two searches for idle series: a search visits all series.
	reclaimEvery = time.Minute
)

// flowLabels are the label values of a series, in the order of trafficLabels.
type flowLabels struct{ exporter, iface, direction, protocol string }

// seriesOfOther counts the series with label value other, for which room is reserved: octets and packets in both
// directions, and connections and octets of services.
const seriesOfOther = 6

// newTraffic registers traffic metrics of at most most series. A limit below seriesOfOther leaves no series but those
// of other.
func newTraffic(most int, reg prometheus.Registerer) *traffic {
	t := &traffic{
		left:     max(0, most-seriesOfOther),
		flows:    map[flowLabels]*series[volume]{},
		services: map[string]*series[served]{},
	}
	reg.MustRegister(t)
	return t
}

// add adds the tally of a committed transaction. It does not keep committed. Names are resolved here, once per crossing
// of a transaction instead of once per flow. A new name therefore begins a new series, and the old series stays until
// it is reclaimed.
func (t *traffic) add(committed *tally, names *annotate.Learned) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.now != nil {
		t.at = t.now()
	}
	for k, v := range committed.crossings {
		exporter, protocol := names.Exporter(k.exporter), services.Protocol(uint32(k.proto))
		for _, d := range []struct {
			direction string
			index     uint32
		}{{"in", k.in}, {"out", k.out}} {
			iface := names.Name(annotate.NameKey{
				Exporter: k.exporter, Domain: k.domain, What: flowpb.Fact_WHAT_INTERFACE_NAME, ID: uint64(d.index),
			})
			if iface == "" {
				iface = strconv.FormatUint(uint64(d.index), 10)
			}
			k := flowLabels{exporter, iface, d.direction, protocol}
			seriesOf(t, t.flows, k, k.overflow()).add(v)
		}
	}
	for name, v := range committed.services {
		if name == "" {
			name = "none"
		}
		seriesOf(t, t.services, name, other).add(v)
	}
}

// overflow returns the labels of the series that counts traffic of k beyond the limit. The direction remains, so that
// the sums of in and out stay comparable.
func (k flowLabels) overflow() flowLabels { return flowLabels{other, other, k.direction, other} }

// add adds w. The sums wrap, unlike those of a tally, see counterSum.
func (v *volume) add(w volume) {
	v.octets, v.packets = counterSum(v.octets, w.octets), counterSum(v.packets, w.packets)
}

// add adds w. A Prometheus counter must not decrease: merged connections are subtracted from later increases instead.
// Example: a connection is counted, then merged into another. merged is 1, and the next new connection of the service
// is not counted.
func (v *served) add(w served) {
	merged := v.merged + w.merged
	settled := min(merged, w.connections)
	v.connections += w.connections - settled
	v.merged = merged - settled
	v.octets = counterSum(v.octets, w.octets)
}

// counterSum returns counter + more. On overflow it returns more: Prometheus takes the decrease for a restart. A
// counter that saturated would never increase again.
func counterSum(counter, more uint64) uint64 {
	if sum := counter + more; sum >= counter {
		return sum
	}
	return more
}

// seriesOf returns the value of the series of k. At the limit it returns that of overflow, which has no limit. The
// caller must hold t.mu. A set of labels takes two of the series that METRICS_SERIES limits, see series.
func seriesOf[K comparable, V any](t *traffic, all map[K]*series[V], k, overflow K) *V {
	s := all[k]
	if s == nil && k != overflow && t.left < 2 && !t.reclaim() {
		k = overflow
		s = all[k]
	}
	if s == nil {
		if s = new(series[V]); k != overflow {
			t.left -= 2
		}
		all[k] = s
	}
	s.last = t.at
	return &s.v
}

// reclaim adds the idle series to other and removes them. It returns true if there is room for a pair of series. It
// searches at most once per reclaimEvery. The caller must hold t.mu. The traffic of a reclaimed series appears in other
// as a step, so that rate() of other shows a peak.
func (t *traffic) reclaim() bool {
	if t.now == nil || t.at.Sub(t.reclaimed) < reclaimEvery {
		return false
	}
	t.reclaimed = t.at
	for k, s := range t.flows {
		if r := k.overflow(); k != r && t.at.Sub(s.last) >= idleFor {
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
	trafficLabels = []string{"exporter", "interface", "direction", "protocol"}
	trafficOctets = prometheus.NewDesc("weir_traffic_octets_total",
		"octets of flows, multiplied by the sampling rate, by interface and direction at the interface",
		trafficLabels, nil)
	trafficPackets = prometheus.NewDesc("weir_traffic_packets_total",
		"packets of flows, multiplied by the sampling rate, by interface and direction at the interface",
		trafficLabels, nil)
	serviceCount = prometheus.NewDesc("weir_service_connections_total",
		"connections by the service of the responder's port", []string{"service"}, nil)
	serviceOctets = prometheus.NewDesc("weir_service_octets_total",
		"octets of connections, multiplied by the sampling rate, by the service of the responder's port",
		[]string{"service"}, nil)
)

// Describe implements prometheus.Collector.
func (t *traffic) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{trafficOctets, trafficPackets, serviceCount, serviceOctets} {
		out <- d
	}
}

// Collect implements prometheus.Collector. The lock is held while the registry reads from out, which it does without
// waiting for the client.
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
