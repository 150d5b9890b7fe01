package enrich

import (
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

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

// served is what connections of a service had.
type served struct{ connections, octets uint64 }

// A tally is the traffic of one transaction.
type tally struct {
	crossings map[crossing]volume
	services  map[string]served
}

func (t *tally) flow(m *flowpb.FlowMessage) {
	if t.crossings == nil {
		t.crossings = map[crossing]volume{}
	}
	k := crossing{addr16(m.SamplerAddress), m.ObservationDomainId, m.InIf, m.OutIf, uint8(m.Proto)}
	rate := max(m.SamplingRate, 1)
	v := t.crossings[k]
	v.octets += (m.Bytes + m.ReverseBytes) * rate
	v.packets += (m.Packets + m.ReversePackets) * rate
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
	v.octets += more
	t.services[c.Service] = v
}

func (t *tally) clear() {
	clear(t.crossings)
	clear(t.services)
}

// traffic is the traffic metrics: at most a number of series, beyond which all is
// counted as other, so that sums stay exact.
type traffic struct {
	mu       sync.Mutex
	left     int // series that may still be made
	flows    map[flowLabels]*volume
	services map[string]*served
}

type flowLabels struct{ exporter, iface, direction, protocol string }

// seriesOfOther are the series that are always there: of both directions, octets
// and packets, and of services.
const seriesOfOther = 6

func newTraffic(series int, reg prometheus.Registerer) *traffic {
	t := &traffic{left: max(0, series-seriesOfOther), flows: map[flowLabels]*volume{}, services: map[string]*served{}}
	reg.MustRegister(t)
	return t
}

// add adds what a committed transaction had.
func (t *traffic) add(of *tally, names *learned) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, v := range of.crossings {
		exporter, protocol := names.exporter(k.exporter), services.Protocol(uint32(k.proto))
		for _, d := range []struct {
			direction string
			index     uint32
		}{{"in", k.in}, {"out", k.out}} {
			iface := names.name(nameKey{k.exporter, k.domain, flowpb.Fact_WHAT_INTERFACE_NAME, uint64(d.index)})
			if iface == "" {
				iface = strconv.FormatUint(uint64(d.index), 10)
			}
			s := series(t, t.flows, flowLabels{exporter, iface, d.direction, protocol}, flowLabels{other, other, d.direction, other})
			s.octets += v.octets
			s.packets += v.packets
		}
	}
	for name, v := range of.services {
		if name == "" {
			name = "none"
		}
		s := series(t, t.services, name, other)
		s.connections += v.connections
		s.octets += v.octets
	}
}

// series returns the two series of k, or those of what has none.
func series[K comparable, V any](t *traffic, all map[K]*V, k, rest K) *V {
	s := all[k]
	if s == nil && k != rest && t.left < 2 {
		k = rest
		s = all[k]
	}
	if s == nil {
		if s = new(V); k != rest {
			t.left -= 2
		}
		all[k] = s
	}
	return s
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
	for k, v := range t.flows {
		counter(trafficOctets, v.octets, k.exporter, k.iface, k.direction, k.protocol)
		counter(trafficPackets, v.packets, k.exporter, k.iface, k.direction, k.protocol)
	}
	for k, v := range t.services {
		counter(serviceCount, v.connections, k)
		counter(serviceOctets, v.octets, k)
	}
}
