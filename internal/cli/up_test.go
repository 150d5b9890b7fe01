package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"strings"
	"testing"
	"time"

	"weir/internal/cli/console"
	"weir/internal/cli/up"
	"weir/internal/weirtest/captures"
	"weir/internal/weirtest/locked"
	"weir/internal/weirtest/payloads"
)

func TestUpPrintsConnectionsAsTheyClose(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the whole pipeline for some seconds")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	listening := make(chan []net.Addr, 1)
	o := up.Options{
		Kafka: "127.0.0.1:0", Listen: []string{"127.0.0.1:0", "127.0.0.1:0"}, JSON: true,
		Environ: map[string]string{"DNS_ENABLED": "false", "PAIR_IDLE": "2s", "PAIR_LINGER": "200ms", "PAIR_ACTIVE_TIMEOUT": "1s"},
		Started: func(udp []net.Addr, _ string) { listening <- udp },
	}
	var stdout, stderr locked.Buffer
	ended := make(chan error, 1)
	go func() { ended <- up.Run(ctx, o, &stdout, &stderr) }()
	var addrs []net.Addr
	select {
	case addrs = <-listening:
	case err := <-ended:
		t.Fatalf("ended: %v\n%s", err, stderr.String())
	}

	// The template datagram to one socket, the rest to the other.
	all := payloads.Of(t, captures.File("softflowd_v9_synth_adj.pcap"))
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for i, b := range all {
		if _, err := conn.WriteTo(b, addrs[min(i, 1)]); err != nil {
			t.Fatal(err)
		}
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for strings.Count(stdout.String(), "\n") < 25 { // conversations in the capture
		select {
		case err := <-ended:
			t.Fatalf("ended: %v\n%s", err, stderr.String())
		case <-tick.C:
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ended with: %v", err)
	}
	ids := map[string]bool{}
	for line := range strings.Lines(stdout.String()) {
		var c struct {
			ID string `json:"connection_id"`
		}
		if err := json.Unmarshal([]byte(line), &c); err != nil || c.ID == "" {
			t.Errorf("%q: %v", line, err)
		}
		ids[c.ID] = true
	}
	if len(ids) != 25 {
		t.Errorf("%d connections, want 25", len(ids))
	}
	for _, want := range []string{"datagrams=3 flows=34 ", "softflowd -r", "kcat -C -b 127.0.0.1:"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("%q is not in:\n%s", want, stderr.String())
		}
	}
	if strings.Contains(stderr.String(), "UNKNOWN_TOPIC") {
		t.Errorf("a topic is missing:\n%s", stderr.String())
	}
}

func TestUpSaysWhichFlagATakenPortBelongsTo(t *testing.T) {
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tcp.Close() }()
	tests := []struct {
		name string
		args []string
		want []string
	}{
		{"UDP", []string{"--listen", udp.LocalAddr().String()}, []string{"--listen " + udp.LocalAddr().String(), "in use"}},
		{"broker", []string{"--listen", "127.0.0.1:0", "--kafka", tcp.Addr().String(), "--metrics", "", "--page", ""}, []string{"--kafka " + tcp.Addr().String(), "in use"}},
		{"metrics", []string{"--listen", "127.0.0.1:0", "--kafka", "127.0.0.1:0", "--metrics", tcp.Addr().String()}, []string{"--metrics " + tcp.Addr().String(), "in use"}},
		{"page", []string{"--listen", "127.0.0.1:0", "--kafka", "127.0.0.1:0", "--metrics", "", "--page", tcp.Addr().String()}, []string{"--page " + tcp.Addr().String(), "in use"}},
		{"no page's address", []string{"--listen", "127.0.0.1:0", "--kafka", "127.0.0.1:0", "--metrics", "", "--page", "nonsense"}, []string{"--page nonsense", "host:port, or ''"}},
		{"no address at all", []string{"--listen", "nonsense"}, []string{"--listen nonsense", "host:port"}},
		{"several at once", []string{"--listen", "nonsense," + udp.LocalAddr().String()}, []string{"--listen nonsense", "--listen " + udp.LocalAddr().String()}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := runUp(tt.args, nil, &stdout, &stderr); code != console.ExitFailed {
				t.Errorf("exit code %d, want 1", code)
			}
			for _, want := range tt.want {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("%q is not in:\n%s", want, stderr.String())
				}
			}
		})
	}
}

func TestUpNamesWrongSettings(t *testing.T) {
	t.Setenv("PAIR_IDLE", "soon")
	t.Setenv("DNS_ENABLED", "true")
	t.Setenv("DNS_SERVERS", "nowhere")
	var stdout, stderr bytes.Buffer
	if code := runUp([]string{"--listen", "127.0.0.1:0", "--kafka", "127.0.0.1:0"}, nil, &stdout, &stderr); code != console.ExitUsage {
		t.Errorf("exit code %d, want 2", code)
	}
	for _, want := range []string{"PAIR_IDLE", "soon", "DNS_SERVERS", "nowhere"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("%q is not in:\n%s", want, stderr.String())
		}
	}
}
