package enrich

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// maxLongExporters bounds the exporters counted separately for long records, both in a transaction and as label values
// of the metric: exporter addresses can be forged. Further exporters are counted as "other".
const maxLongExporters = 64

// longRecords counts the records of an exporter in a transaction that span more than PAIR_ACTIVE_TIMEOUT. longest is
// for the log line; the metric counts records.
type longRecords struct {
	exporter [16]byte // zero: all exporters beyond maxLongExporters
	records  uint64
	longest  time.Duration
}

// addLong adds a record of exporter that spans d to list, and returns list. The caller must use the returned slice. The
// search is linear: few exporters send long records. It must not allocate for each record: the list belongs to the
// transaction and has at most maxLongExporters+1 elements.
func addLong(list []longRecords, exporter [16]byte, d time.Duration) []longRecords {
	i := 0
	for i < len(list) && list[i].exporter != exporter {
		i++
	}
	if i >= maxLongExporters {
		i, exporter = 0, [16]byte{}
		for i < len(list) && list[i].exporter != exporter {
			i++
		}
	}
	if i == len(list) {
		list = append(list, longRecords{exporter: exporter})
	}
	list[i].records++
	list[i].longest = max(list[i].longest, d)
	return list
}

// timeouts reports exporters whose active timeout is longer than PAIR_ACTIVE_TIMEOUT. Only the session's goroutine may
// use it.
type timeouts struct {
	total  *prometheus.CounterVec // exporter
	named  map[string]bool        // exporters that have a label value and were logged
	log    *slog.Logger
	active time.Duration
}

// newTimeouts registers the counter of long flows.
func newTimeouts(reg prometheus.Registerer, active time.Duration, log *slog.Logger) *timeouts {
	total := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_enrich_flows_long_total",
		Help: "flows that span clearly more than PAIR_ACTIVE_TIMEOUT (by more than a tenth and 5 s), by exporter; " +
			"beyond 64 exporters under other",
	}, []string{"exporter"})
	reg.MustRegister(total)
	return &timeouts{named: map[string]bool{}, log: log, active: active, total: total}
}

// add counts the long records of a committed transaction, and logs each exporter once. exporter is the name for the
// label: names come from the exporters file, so that several addresses may share a name.
func (t *timeouts) add(r longRecords, exporter string) {
	if r.exporter == [16]byte{} || !t.named[exporter] && len(t.named) >= maxLongExporters {
		t.total.WithLabelValues(other).Add(float64(r.records))
		return
	}
	t.total.WithLabelValues(exporter).Add(float64(r.records))
	if t.named[exporter] {
		return
	}
	t.named[exporter] = true
	t.log.Warn("an exporter's active timeout is longer than PAIR_ACTIVE_TIMEOUT: "+
		"connections that last longer than PAIR_IDLE are reported in parts. "+
		"Shorten the exporter's timeout, or raise PAIR_ACTIVE_TIMEOUT, PAIR_IDLE and PAIR_LATE_GRACE",
		"exporter", exporter, "record_spans", r.longest.Round(time.Second), "PAIR_ACTIVE_TIMEOUT", t.active)
}
