package ingest

import (
	"net/netip"
	"testing"
	"time"

	"weir/internal/decode"
	"weir/internal/doctor"
	"weir/internal/templates"
	"weir/internal/weirtest/payloads"
)

// withLabel returns an exporter with a label.
func withLabel(a, label string) *exporter {
	x := &exporter{addr: netip.MustParseAddr(a)}
	x.label.Store(&label)
	return x
}

// decodedV5 is a v5 datagram of softflowd, which has no interfaces and states no sampling
// rate.
func decodedV5(t *testing.T, x *exporter) (res decode.Result) {
	t.Helper()
	d := decode.Decoder{State: templates.New(templates.Options{Now: time.Now})}
	d.Wire(payloads.Of(t, "../../testdata/captures/softflowd_v5_synth_adj.pcap")[0], &decode.Meta{Exporter: x.addr, Port: 2055}, &res)
	if len(res.Flows) == 0 {
		t.Fatal("no flows")
	}
	return res
}

func TestFindingsAreThoseOfWeirDoctor(t *testing.T) {
	x := withLabel("192.0.2.1", "edge-1")
	res := decodedV5(t, x)
	at := time.Unix(0, res.Header.Export)
	e, period := newExaminer(), newExamination()
	e.offer(x, &res, res.Buf, at)
	s := <-e.samples
	clear(res.Buf) // a sample has octets of its own
	period.add(&s)
	got := period.counts()
	for _, r := range []doctor.Rule{doctor.SamplingUnknown, doctor.NoInterfaces} {
		if got[[2]string{"edge-1", string(r)}] != 1 {
			t.Errorf("%s is not found: %v", r, got)
		}
	}
	if n := got[[2]string{"edge-1", string(doctor.ClockOff)}]; n != 0 {
		t.Errorf("the clock is found off by %v", got)
	}
}

func TestADatagramASecondIsExamined(t *testing.T) {
	x := withLabel("192.0.2.1", "edge-1")
	res := decodedV5(t, x)
	e := newExaminer()
	at := time.Unix(1_000_000, 0)
	for range 10 {
		e.offer(x, &res, res.Buf, at)
	}
	e.offer(x, &res, res.Buf, at.Add(time.Second))
	if n := len(e.samples); n != 2 {
		t.Errorf("%d samples in two seconds", n)
	}
	for _, other := range []*exporter{withLabel("192.0.2.2", otherLabel), {addr: x.addr}} {
		e.offer(other, &res, res.Buf, at)
	}
	if n := len(e.samples); n != 2 {
		t.Error("an exporter without a label of its own is examined")
	}
}

func TestForgedExportersCannotMakeTheExaminerWork(t *testing.T) {
	res := decodedV5(t, withLabel("192.0.2.1", "edge-1"))
	e := newExaminer()
	at := time.Unix(1_000_000, 0)
	for range 10 * examinedPerSecond {
		e.offer(withLabel("192.0.2.1", "edge-1"), &res, res.Buf, at)
	}
	if n := len(e.samples); n > examinedPerSecond {
		t.Errorf("%d samples in a second, at most %d", n, examinedPerSecond)
	}
}
