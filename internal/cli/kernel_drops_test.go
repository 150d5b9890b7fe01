package cli

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"weir/internal/cli/collect"
	"weir/internal/cli/up"
	"weir/internal/weirtest/captures"
	"weir/internal/weirtest/locked"
	"weir/internal/weirtest/payloads"
)

// flooded is the number of datagrams that a test sends to sockets that are not yet read. The receive buffer is set
// to one octet; the kernel raises it to its minimum, which holds one or two datagrams.
const flooded = 300

// flood sends the first datagram of a capture repeatedly. On loopback each datagram is in the buffer or dropped
// when the call returns.
func flood(t *testing.T, to net.Addr) {
	t.Helper()
	c, err := net.Dial("udp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	datagram := payloads.Of(t, captures.File("softflowd_v9_big.pcap"))[0]
	for range flooded {
		if _, err := c.Write(datagram); err != nil {
			t.Fatal(err)
		}
	}
}

// figure returns the number that the group of a pattern matches in text.
func figure(t *testing.T, text, pattern string) int {
	t.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if found == nil {
		t.Fatalf("no %s in:\n%s", pattern, text)
	}
	n, err := strconv.Atoi(found[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCollectAndDoctorReportWhatTheKernelDropped(t *testing.T) {
	for verb, run := range map[string]func(ctx context.Context, started func([]net.Addr), stderr io.Writer) error{
		"collect": func(ctx context.Context, started func([]net.Addr), stderr io.Writer) error {
			o := collect.Options{Listen: []string{"127.0.0.1:0"}, Path: filepath.Join(t.TempDir(), "flows.jsonl"), Buffer: 1, Started: started}
			return collect.Run(ctx, o, stderr)
		},
		"doctor": func(ctx context.Context, started func([]net.Addr), stderr io.Writer) error {
			c := newExamination("doctor", nil, stderr, time.Now())
			err := c.receiveFor(ctx, doctorOptions{listen: []string{"127.0.0.1:0"}, period: time.Minute, buffer: 1, started: started}, stderr)
			_, _ = io.WriteString(stderr, c.in.Summary())
			return err
		},
	} {
		t.Run(verb, func(t *testing.T) {
			ctx, end := context.WithCancel(t.Context())
			defer end()
			var stderr locked.Buffer
			err := run(ctx, func(a []net.Addr) {
				flood(t, a[0])
				end() // buffered datagrams must still be read
			}, &stderr)
			if err != nil {
				t.Fatal(err)
			}
			text := stderr.String()
			read, dropped := figure(t, text, `datagrams=(\d+) `), figure(t, text, `the kernel dropped (\d+) datagrams`)
			if read == 0 || dropped == 0 || read+dropped != flooded {
				t.Errorf("%d read, %d dropped: want %d together:\n%s", read, dropped, flooded, text)
			}
			if verb == "collect" && figure(t, text, `dropped_by_kernel=(\d+)`) != dropped {
				t.Errorf("the summary has another number:\n%s", text)
			}
		})
	}
}

func TestUpShowsWhatTheKernelDropped(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the whole pipeline for some seconds")
	}
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		return l.Addr().String()
	}
	ctx, end := context.WithTimeout(t.Context(), time.Minute)
	defer end()
	listening := make(chan struct{})
	o := up.Options{
		Kafka: "127.0.0.1:0", Listen: []string{"127.0.0.1:0"}, Buffer: 1, Page: free(), Metrics: free(),
		Environ: map[string]string{"DNS_ENABLED": "false"},
		Started: func(udp []net.Addr, _ string) { flood(t, udp[0]); close(listening) },
	}
	var stdout, stderr locked.Buffer
	ended := make(chan error, 1)
	go func() { ended <- up.Run(ctx, o, &stdout, &stderr) }()
	select {
	case <-listening:
	case err := <-ended:
		t.Fatalf("ended: %v\n%s", err, stderr.String())
	}
	get := func(url string) string {
		t.Helper()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			r, err := http.Get(url)
			if err == nil {
				b, _ := io.ReadAll(r.Body)
				_ = r.Body.Close()
				return string(b)
			}
			select {
			case err := <-ended:
				t.Fatalf("ended: %v\n%s", err, stderr.String())
			case <-tick.C: // the server does not answer yet
			}
		}
	}
	metrics := figure(t, get("http://"+o.Metrics+"/metrics"), `weir_ingest_socket_drops_total\{[^}]*part="sockets"[^}]*\} (\d+)`)
	var page struct {
		Totals struct {
			KernelDrops int `json:"kernel_drops"`
		} `json:"totals"`
	}
	if err := json.Unmarshal([]byte(get("http://"+o.Page+"/snapshot.json")), &page); err != nil {
		t.Fatal(err)
	}
	end()
	if err := <-ended; err != nil {
		t.Errorf("%v\n%s", err, stderr.String())
	}
	text := stderr.String()
	_, summary, _ := strings.Cut(text, "weir up: ended:")
	read, dropped := figure(t, summary, `datagrams=(\d+) `), figure(t, summary, `dropped_by_kernel=(\d+) `)
	if read == 0 || dropped == 0 || read+dropped != flooded {
		t.Errorf("%d read, %d dropped: want %d together", read, dropped, flooded)
	}
	if metrics != dropped || page.Totals.KernelDrops != dropped || figure(t, text, `the kernel dropped (\d+) datagrams`) != dropped {
		t.Errorf("/metrics has %d, the page %d: want %d as in:\n%s", metrics, page.Totals.KernelDrops, dropped, text)
	}
}
