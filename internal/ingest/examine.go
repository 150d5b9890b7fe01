package ingest

import (
	"context"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"

	"weir/internal/decode"
	"weir/internal/doctor"
	"weir/pkg/flowpb"
)

const (
	// examinedFlows bounds the flows of a datagram that are examined.
	examinedFlows = 64
	// examinedPerSecond bounds the datagrams of all exporters that are examined, per second.
	examinedPerSecond = 100
	// examinePeriod is the period that findings cover; the metric is replaced at its end.
	examinePeriod = time.Minute
)

// An examiner applies the rules of weir doctor to samples: of each exporter with a label of its own, a
// datagram per second. Workers call offer; a single goroutine receives samples.
//
// The cost is bounded by examinedPerSecond datagrams of examinedFlows flows each. Only exporters with a
// label are sampled, so that forged addresses cannot displace them.
type examiner struct {
	limit   *rate.Limiter
	samples chan sample
}

// A sample holds copies of the flow messages of a datagram.
type sample struct {
	label    string // of the exporter
	stream   doctor.Stream
	received int64 // ns since the epoch
	export   int64 // ns since the epoch
	octets   []byte
	ends     []int // end of each message in octets
}

// newExaminer returns an examiner whose channel holds the samples of a second. A full channel drops
// samples.
func newExaminer() *examiner {
	return &examiner{
		limit: rate.NewLimiter(examinedPerSecond, examinedPerSecond), samples: make(chan sample, examinedPerSecond),
	}
}

// offer copies the flows of res, whose messages are in buf, as a sample. It does nothing if x was sampled
// in the same second, or if the examiner is busy. It never blocks. Workers may call it concurrently. The
// compare-and-swap lets one of them sample x in a second.
func (e *examiner) offer(x *exporter, res *decode.Result, buf []byte, at time.Time) {
	second := at.Unix()
	last := x.examined.Load()
	if second == last || len(res.Flows) == 0 {
		return
	}
	label := x.label.Load()
	if label == nil || *label == otherLabel || !x.examined.CompareAndSwap(last, second) || !e.limit.AllowN(at, 1) {
		return
	}
	s := sample{label: *label, received: at.UnixNano(), export: res.Header.Export}
	// The copies are needed: the worker reuses buf for its next message.
	s.stream = doctor.Stream{Exporter: x.addr, Version: res.Header.Version, Domain: res.Header.Domain}
	for _, f := range res.Flows[:min(len(res.Flows), examinedFlows)] {
		s.octets = append(s.octets, buf[f.Start:f.ValueEnd]...)
		s.ends = append(s.ends, len(s.octets))
	}
	select {
	case e.samples <- s:
	default: // the examiner is busy: this sample is lost, the next second has another
	}
}

// An examination applies the rules to the samples of a period. It belongs to the goroutine of examine and
// needs no lock.
type examination struct {
	check  *doctor.Checkup
	labels map[doctor.Stream]string
	flow   flowpb.FlowMessage
}

// newExamination returns the state of a period. Each period begins without state, so that its findings are
// those of its own data.
func newExamination() *examination {
	return &examination{check: doctor.NewOfSample(), labels: map[doctor.Stream]string{}}
}

// add decodes a sample and passes its flows to the rules.
func (e *examination) add(s *sample) {
	e.labels[s.stream] = s.label
	e.check.Message(s.stream, s.received, s.export)
	start := 0
	for _, end := range s.ends {
		e.flow.Reset()
		if proto.Unmarshal(s.octets[start:end], &e.flow) == nil { // the decoder's own messages are good
			e.check.Flow(&e.flow)
		}
		start = end
	}
}

// counts returns the number of streams with a finding, by label and rule.
func (e *examination) counts() map[[2]string]int {
	out := map[[2]string]int{}
	for _, f := range e.check.Findings() {
		if label := e.labels[f.Stream]; label != "" {
			out[[2]string{label, string(f.Rule)}]++
		}
	}
	return out
}

// examine exports the findings of each period until ctx ends. A fault that ends disappears from the metric
// with the next period.
func (r *Replica) examine(ctx context.Context) error {
	t := time.NewTicker(examinePeriod)
	defer t.Stop()
	e := newExamination()
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-r.examiner.samples:
			e.add(&s)
		case <-t.C:
			// A scrape between Reset and Set may miss a finding; the next scrape has it.
			r.metrics.findings.Reset()
			for k, n := range e.counts() {
				r.metrics.findings.WithLabelValues(k[0], k[1]).Set(float64(n))
			}
			e = newExamination()
		}
	}
}
