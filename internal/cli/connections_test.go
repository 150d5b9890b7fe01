package cli

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/internal/cli/demo"
	"weir/internal/cli/offline"
	"weir/internal/weirtest/captures"

	"github.com/google/go-cmp/cmp"
)

func TestNamesOfAFilesConnectionsAreAskedFor(t *testing.T) {
	s, err := demo.StartNameServer("www.example.net 192.0.2.80\nclient.example.net 10.1.1.10")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	t.Setenv("DNS_ENABLED", "true")
	t.Setenv("DNS_SERVERS", s.Addr)
	t.Setenv("DNS_PRIVATE_SERVERS", s.Addr)
	file := captures.File("softflowd_v9_synth_adj.pcap")
	if got := run(t, "", "connections", "--top", "1", file); !strings.Contains(got.out, "  10.1.1.10 (client.example.net) to 192.0.2.80 (www.example.net)\n") {
		t.Errorf("got %s%s", got.out, got.errout)
	}
	for _, flag := range []string{"-n", "--no-dns"} {
		if got := run(t, "", "connections", "--top", "1", flag, file); !strings.Contains(got.out, "  10.1.1.10 to 192.0.2.80\n") {
			t.Errorf("%s: got %s%s", flag, got.out, got.errout)
		}
	}
	t.Setenv("DNS_SERVERS", "nowhere")
	if got := run(t, "", "connections", file); got.code != 2 || !strings.Contains(got.errout, `"nowhere"`) {
		t.Errorf("a wrong server: exit code %d, %q", got.code, got.errout)
	}
}

func TestTheOrderAndNumberOfConnections(t *testing.T) {
	file := captures.File("softflowd_v9_synth_adj.pcap")
	for _, tt := range []struct {
		args []string
		want []string // of synth, in order
	}{
		{[]string{"--top", "2"}, []string{synth[0], synth[24]}},                                  // 9100 and 3420 octets
		{[]string{"--sort", "packets", "--limit", "3"}, []string{synth[24], synth[0], synth[4]}}, // 18, 15 and 6
		{[]string{"--match-host", "[2001:DB8:0::10]", "--sort", "octets"}, []string{synth[6], synth[7]}},
		{[]string{"--host", "::ffff:10.9.0.0/112"}, []string{synth[24]}},
	} {
		list, got := connectionsOf(t, append(tt.args, file)...)
		var is []string
		for _, c := range list {
			is = append(is, c.String())
		}
		if d := cmp.Diff(tt.want, is); d != "" || got.code != 0 {
			t.Errorf("%v: -want +got\n%s%s", tt.args, d, got.errout)
		}
	}
	_, got := connectionsOf(t, "--top", "2", file)
	if want := "total: 12.5 kB in 33 packets, "; !strings.Contains(got.errout, want) || !strings.Contains(got.errout, ", 2 of 25 connections\n") {
		t.Errorf("want %q, got %q", want, got.errout)
	}
}

func TestPairingSettingsComeFromTheEnvironment(t *testing.T) {
	c, err := offline.PairConfig([]string{"PAIR_IDLE=90s", "IDLE=1h", "PATH=/bin"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Idle != 90*time.Second || c.Linger != 5*time.Second {
		t.Errorf("want IDLE 90s and the default LINGER 5s, got %v and %v", c.Idle, c.Linger)
	}
	if _, err := offline.PairConfig([]string{"PAIR_IDLE=soon"}); err == nil || !strings.Contains(err.Error(), "soon") {
		t.Errorf("want an error that names the value, got %v", err)
	}
}

// synth are the conversations of the traffic that the "synth" captures export,
// counted from its packets: protocol, who opened it, packets and octets of both
// directions. Octets of UDP 6000 are the exporter's, which counts two MPLS
// labels of 4 octets in each packet.
var synth = []string{
	"6 10.1.1.10:40001 192.0.2.80:443 8/1820 7/7280",
	"17 10.1.1.10:50000 192.0.2.53:53 1/58 1/118",
	"1 10.1.1.10:0 192.0.2.80:0 1/36 1/36", // ICMP: no ports here
	"1 192.0.2.1:0 10.1.1.10:0 1/56 none",
	"6 10.2.2.2:40022 10.3.3.3:22 3/270 3/360",
	"17 10.4.4.4:6000 10.5.5.5:6001 1/136 1/96",
	"6 2001:db8::10:41000 2001:db8:1::443:443 2/620 2/1020",
	"58 2001:db8::10:0 2001:db8:1::443:0 1/56 1/56",
	"6 203.0.113.66:55555 10.1.1.10:1000 1/40 none",
	"6 203.0.113.66:55555 10.1.1.10:1001 1/40 none",
	"6 203.0.113.66:55555 10.1.1.10:1002 1/40 none",
	"6 203.0.113.66:55555 10.1.1.10:1003 1/40 none",
	"6 203.0.113.66:55555 10.1.1.10:1004 1/40 none",
	"6 203.0.113.66:55555 10.1.1.10:1005 1/40 none",
	"6 203.0.113.66:55555 10.1.1.10:1006 1/40 none",
	"6 203.0.113.66:55555 10.1.1.10:1007 1/40 none",
	"6 203.0.113.66:55555 10.1.1.10:1008 1/40 none",
	"6 203.0.113.66:55555 10.1.1.10:1009 1/40 none",
	"6 10.1.1.10:40009 192.0.2.80:81 1/40 1/40",
	"17 10.1.1.10:7000 192.0.2.80:7001 1/1420 none", // a single datagram: its sender is the initiator, as for the fragment below
	"17 10.1.1.10:0 192.0.2.80:0 1/220 none",        // a later fragment
	"47 10.1.1.10:0 192.0.2.80:0 1/62 none",
	"132 10.1.1.10:0 192.0.2.80:0 1/48 none",
	"50 10.1.1.10:0 192.0.2.80:0 1/68 none",
	"6 10.9.9.9:49999 192.0.2.99:5222 9/1260 9/2160",
}

// A jsonConnection holds the members of connections --json that the tests check.
type jsonConnection struct {
	Protocol             int
	Initiator, Responder struct {
		Address string
		Port    int
	}
	Forward, Reverse *struct{ Packets, Octets json.Number }
	Service          string
	Method           string   `json:"direction_method"`
	State            string   `json:"conn_state"`
	ID               string   `json:"connection_id"`
	Quality          []string `json:"quality"`
}

func (c jsonConnection) String() string {
	if c.Protocol == 1 || c.Protocol == 58 {
		c.Initiator.Port, c.Responder.Port = 0, 0 // types, not ports
	}
	s := fmt.Sprintf("%d %s:%d %s:%d", c.Protocol, c.Initiator.Address, c.Initiator.Port, c.Responder.Address, c.Responder.Port)
	for _, t := range []*struct{ Packets, Octets json.Number }{c.Forward, c.Reverse} {
		if t == nil {
			s += " none"
		} else {
			s += fmt.Sprintf(" %s/%s", t.Packets, t.Octets)
		}
	}
	return s
}

// connectionsOf runs the verb with --json.
func connectionsOf(t *testing.T, args ...string) (list []jsonConnection, got ran) {
	t.Helper()
	got = run(t, "", append([]string{"connections", "--json"}, args...)...)
	d := json.NewDecoder(strings.NewReader(got.out))
	for d.More() {
		var c jsonConnection
		if err := d.Decode(&c); err != nil {
			t.Fatal(err)
		}
		list = append(list, c)
	}
	return list, got
}

func texts(list []jsonConnection) []string {
	var out []string
	for _, c := range list {
		out = append(out, c.String())
	}
	slices.Sort(out)
	return out
}

func TestConnectionsAreTheConversationsOfTheTraffic(t *testing.T) {
	for _, name := range []string{"softflowd_v9_synth_adj", "softflowd_v10_synth_adj", "softflowd_v5_synth_adj", "softflowd_v1_synth_adj"} {
		want := slices.Clone(synth)
		if strings.Contains(name, "v5") || strings.Contains(name, "v1_") {
			want = slices.DeleteFunc(want, func(s string) bool { return strings.Contains(s, "2001:db8") }) // IPv4 only
		}
		slices.Sort(want)
		list, got := connectionsOf(t, "--pcap", captures.File(name+".pcap"))
		if d := cmp.Diff(want, texts(list)); d != "" || got.code != 0 {
			t.Errorf("%s: -want +got (exit code %d)\n%s", name, got.code, d)
		}
		if want := fmt.Sprintf("%d connections shown, 0 of fewer than 0 packets left out (-p), 0 flows not pairable", len(want)); got.last() != want {
			t.Errorf("%s: want %q, got %q", name, want, got.last())
		}
	}
}

func TestTheServiceIsTheResponders(t *testing.T) {
	list, _ := connectionsOf(t, "--pcap", captures.File("softflowd_v9_synth_adj.pcap"))
	got := map[string]string{}
	for _, c := range list {
		if c.Responder.Port < 1024 && c.Forward != nil && c.Reverse != nil && c.Protocol != 1 && c.Protocol != 58 {
			got[c.String()] = c.Service
		}
	}
	want := map[string]string{synth[0]: "https", synth[1]: "domain", synth[4]: "ssh", synth[6]: "https", synth[18]: ""}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

func TestPacketsDecideWhatIsShown(t *testing.T) {
	file := captures.File("softflowd_v9_synth_adj.pcap")
	list, got := connectionsOf(t, file, "-p", "6")
	want := []string{synth[0], synth[4], synth[24]} // 15, 6 and 18 packets
	slices.Sort(want)
	if d := cmp.Diff(want, texts(list)); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	if want := "3 connections shown, 22 of fewer than 6 packets left out (-p), 0 flows not pairable"; got.last() != want {
		t.Errorf("want %q, got %q", want, got.last())
	}
	// Without -p the table leaves out connections of fewer than 10 packets.
	table := run(t, "", "connections", file)
	if want := "2 connections shown, 23 of fewer than 10 packets left out (-p), 0 flows not pairable"; table.last() != want || strings.Count(table.out, "\n") != 3 {
		t.Errorf("want %q and three lines, got %q and\n%s", want, table.last(), table.out)
	}
}

func TestTheOrderOfFilesDoesNotMatter(t *testing.T) {
	a, b := captures.File("softflowd_v9_synth_adj.pcap"), captures.File("softflowd_v5_synth_adj.pcap")
	first, _ := connectionsOf(t, "--pcap", a, b)
	second, _ := connectionsOf(t, "--pcap", b, "--pcap", a)
	if d := cmp.Diff(first, second); d != "" || len(first) == 0 {
		t.Errorf("%d connections, -first +second\n%s", len(first), d)
	}
}

func TestEachConnectionIsPrintedOnce(t *testing.T) {
	list, _ := connectionsOf(t, "--pcap", captures.File("softflowd_v10_loadbalanced_big.pcap"))
	ids := map[string]bool{}
	for _, c := range list {
		ids[c.ID] = true
	}
	if len(ids) != len(list) || len(list) == 0 {
		t.Errorf("%d lines of %d connections", len(list), len(ids))
	}
}

func TestTheTableOfACapture(t *testing.T) {
	for name, args := range map[string][]string{"softflowd_v10_synth_adj.txt": {"-v"}, "softflowd_v10_synth_adj_brief.txt": nil, "softflowd_v10_synth_adj.csv": {"--csv"}} {
		golden(t, "connections/"+name, run(t, "", append([]string{"connections", "-p", "0", captures.File("softflowd_v10_synth_adj.pcap")}, args...)...).out)
	}
}

func TestAnInputThatCannotBeReadLeavesTheOthers(t *testing.T) {
	_, got := connectionsOf(t, "--pcap", "/nonexistent/x.pcap", captures.File("softflowd_v5_synth_adj.pcap"))
	if got.code != 1 || !strings.HasPrefix(got.errout, "weir connections: /nonexistent/x.pcap: no such file or directory\n") || got.out == "" {
		t.Errorf("exit code %d, errors %q, output of %d octets", got.code, got.errout, len(got.out))
	}
}
