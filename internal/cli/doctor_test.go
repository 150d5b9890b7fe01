package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/internal/cli/console"
	"weir/internal/doctor"
	"weir/internal/weirtest/captures"
	"weir/internal/weirtest/locked"
	"weir/internal/weirtest/payloads"
)

// findings returns the rules in the output of weir doctor --json.
func findings(t *testing.T, out string) (rules []doctor.Rule) {
	t.Helper()
	for line := range strings.Lines(out) {
		var f findingLine
		if err := json.Unmarshal([]byte(line), &f); err != nil || f.Advice == "" || f.What == "" {
			t.Fatalf("%q: %v", line, err)
		}
		rules = append(rules, f.Rule)
	}
	return rules
}

// The expected findings come from tshark and from the way in which each capture was made.
func TestDoctorFindsWhatIsWrongInCaptures(t *testing.T) {
	for _, test := range []struct {
		capture string
		want    []doctor.Rule
	}{
		// softflowd has no interfaces; the traffic is of three years before the export, and lasts 40 min.
		{"softflowd_v5_synth_adj.pcap", []doctor.Rule{doctor.SamplingUnknown, doctor.NoInterfaces, doctor.ClockOff, doctor.FlowsLong}},
		// It announces a sampling rate of 1 in 10.
		{"softflowd_v9_sampled10_lo.pcap", []doctor.Rule{doctor.NoInterfaces}},
	} {
		r := run(t, "", "doctor", "--json", captures.File(test.capture))
		if got := findings(t, r.out); r.code != console.ExitDone || !slices.Equal(got, test.want) {
			t.Errorf("%s: want %v, got %v, exit code %d, %s", test.capture, test.want, got, r.code, r.errout)
		}
	}
	r := run(t, "", "doctor", captures.File("softflowd_v9_sampled10_lo.pcap"))
	for _, part := range []string{"127.0.0.1, version 9, domain 0:", "13 flows", "notice   no_interfaces: 13 of 13 flows"} {
		if !strings.Contains(r.out, part) {
			t.Errorf("want %q in:\n%s", part, r.out)
		}
	}
}

// The input has a NetFlow v5 datagram with a count of two and a single record, a valid datagram, and a datagram
// with an unknown version.
func TestDoctorFindsDatagramsThatCannotBeDecoded(t *testing.T) {
	record := strings.Repeat("0", 96)
	header := func(count string) string { return "0005" + count + strings.Repeat("0", 40) }
	r := run(t, header("0002")+record+"\n"+header("0001")+record+"\n6a756e6b6a756e6b6a756e6b6a756e6b\n", "doctor", "-")
	for _, part := range []string{"malformed: 1 of 2 datagrams", "version 5, domain 0: 2 datagrams"} {
		if !strings.Contains(r.out, part) {
			t.Errorf("want %q in:\n%s", part, r.out)
		}
	}
	if n := strings.Count(r.out, ", version "); n != 1 || !strings.Contains(r.errout, "errors=2") {
		t.Errorf("%d streams, want 1 and 2 errors; %s", n, r.errout)
	}
}

func TestDoctorFindsFirewallTotalsOfACiscoASA(t *testing.T) {
	r := run(t, "", "doctor", "--json", captures.Shared(t, "corpus/pcap/graylog__cisco_asa_netflowv9.pcap"))
	if got := findings(t, r.out); !slices.Equal(got, []doctor.Rule{doctor.FirewallTotals}) {
		t.Errorf("got %v: %s", got, r.out)
	}
}

func TestDoctorReadsEveryCaptureOfTheCorpus(t *testing.T) {
	paths, _ := filepath.Glob(filepath.Join(captures.Shared(t, "corpus/pcap"), "*.pcap"))
	for _, path := range paths {
		if r := run(t, "", "doctor", "--json", path); r.code != console.ExitDone {
			t.Errorf("%s: exit code %d: %s", path, r.code, r.errout)
		} else {
			findings(t, r.out)
		}
	}
}

func TestDoctorListens(t *testing.T) {
	errout := &locked.Buffer{}
	e := newExamination("doctor", nil, errout, time.Now())
	ctx, cancel := context.WithCancel(t.Context())
	listens, ended := make(chan net.Addr, 1), make(chan error, 1)
	o := doctorOptions{listen: []string{"127.0.0.1:0"}, period: time.Minute, started: func(a []net.Addr) { listens <- a[0] }}
	go func() { ended <- e.receiveFor(ctx, o, errout) }()
	payloads.Send(t, <-listens, payloads.Of(t, captures.File("softflowd_v9_sampled10_lo.pcap")))
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		e.mu.Lock()
		flows := e.in.Counts().Flows
		e.mu.Unlock()
		if flows == 13 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d flows were received, want 13", flows)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := e.print(&out, true); err != nil {
		t.Fatal(err)
	}
	// The capture is older than its datagrams are now.
	if got := findings(t, out.String()); !slices.Contains(got, doctor.ClockOff) || !slices.Contains(got, doctor.NoInterfaces) {
		t.Errorf("got %v", got)
	}
}

func TestWrongUsageOfDoctor(t *testing.T) {
	file := captures.File("softflowd_v9_sampled10_lo.pcap")
	for _, test := range []struct {
		want string
		args []string
	}{
		{"no FILE and no --listen", nil},
		{"want only one of these", []string{"--listen", ":0", file}},
		{"--for is for --listen", []string{"--for", "5s", file}},
		{"--for 0s: want more than 0s", []string{"--listen", ":0", "--for", "0s"}},
		{"--port is for captures", []string{"--listen", ":0", "--port", "2055"}},
	} {
		r := run(t, "", append([]string{"doctor"}, test.args...)...)
		if r.code != console.ExitUsage || !strings.Contains(r.errout, test.want) {
			t.Errorf("%q: want exit code 2 and %q, got %d and %s", test.args, test.want, r.code, r.errout)
		}
	}
	if r := run(t, "", "doctor", "no-such-file.pcap"); r.code != console.ExitFailed {
		t.Errorf("a missing file: exit code %d", r.code)
	}
}
