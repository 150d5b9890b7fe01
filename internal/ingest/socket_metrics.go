package ingest

import (
	"github.com/prometheus/client_golang/prometheus"

	"weir/internal/transport"
)

// SocketMetrics exports the receive buffers of UDP sockets and the drops of the kernel. It implements
// prometheus.Collector.
type SocketMetrics struct {
	sockets       func() []*transport.Socket
	drops, buffer *prometheus.Desc
}

// NewSocketMetrics returns a collector for the sockets that the function returns at each collection.
// The function must be safe for concurrent use. Collect reads the kernel's counters.
func NewSocketMetrics(sockets func() []*transport.Socket) *SocketMetrics {
	label := []string{"address"}
	return &SocketMetrics{
		sockets: sockets,
		drops: prometheus.NewDesc("weir_ingest_socket_drops_total",
			"datagrams that the kernel dropped because the socket's buffer was full", label, nil),
		buffer: prometheus.NewDesc("weir_ingest_socket_buffer_octets",
			"receive buffer that the kernel granted each socket", label, nil),
	}
}

// Describe implements prometheus.Collector.
func (m *SocketMetrics) Describe(c chan<- *prometheus.Desc) { c <- m.drops; c <- m.buffer }

// Collect implements prometheus.Collector. Sockets that share an address share a series. A counter of the
// kernel begins at 0 with each socket: a restart of the process resets it, as Prometheus expects.
func (m *SocketMetrics) Collect(c chan<- prometheus.Metric) {
	drops, buffer := map[string]uint64{}, map[string]int{}
	for _, s := range m.sockets() {
		at := s.Address.String()
		drops[at] += s.Drops()
		buffer[at] = s.Buffer
	}
	for at, n := range drops {
		c <- prometheus.MustNewConstMetric(m.drops, prometheus.CounterValue, float64(n), at)
		c <- prometheus.MustNewConstMetric(m.buffer, prometheus.GaugeValue, float64(buffer[at]), at)
	}
}
