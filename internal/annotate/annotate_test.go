package annotate

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"weir/internal/pair"
	"weir/pkg/flowpb"
)

// newAnnotator returns an Annotator that is not run: it knows no host names.
func newAnnotator(t *testing.T, c Config) *Annotator {
	t.Helper()
	a, err := New(c, NewLearned(nil))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func octets(s string) []byte { return netip.MustParseAddr(s).AsSlice() }

// conversation returns a connection whose addresses are in the sample data of Crypto-PAn.
func conversation() *flowpb.Connection {
	return &flowpb.Connection{
		ConnectionId: []byte("0123456789abcdef"), Version: 1, Protocol: 6, IpVersion: 4,
		ApplicationId: []byte{13, 0, 0, 1},
		Initiator: &flowpb.Endpoint{
			Address: octets("128.11.68.132"), Port: 40000, NatAddress: octets("129.118.74.4"), NatPort: 5,
			Mac: []byte{2, 0, 0, 0, 0, 1}, Asn: 64500,
		},
		Responder: &flowpb.Endpoint{Address: octets("130.132.252.244"), Port: 443, Mac: []byte{2, 0, 0, 0, 0, 2}},
		Forward:   &flowpb.Traffic{Octets: 10, Exporter: octets("141.223.7.43"), Domain: 7, InputIf: 1, OutputIf: 2},
		Reverse:   &flowpb.Traffic{Octets: 20, Exporter: octets("141.233.145.108"), Domain: 7, InputIf: 2, OutputIf: 1},
	}
}

func TestAnnotateAllocatesCommunityIDsManyAtATime(t *testing.T) {
	a, c := newAnnotator(t, Config{}), conversation()
	a.Annotate(c)
	first := c.CommunityId
	if n := testing.AllocsPerRun(1000, func() { a.Annotate(c) }); n != 0 {
		t.Errorf("%.0f allocations a connection", n)
	}
	if want := pair.CommunityID(c); first != want || c.CommunityId != want {
		t.Errorf("want %s, got first %s, last %s", want, first, c.CommunityId)
	}
}

func BenchmarkAnnotate(b *testing.B) {
	a, err := New(Config{}, NewLearned(nil))
	if err != nil {
		b.Fatal(err)
	}
	c := conversation()
	b.ReportAllocs()
	for b.Loop() {
		a.Annotate(c)
	}
}

func TestHomeNetworksGiveTheDirection(t *testing.T) {
	home := newAnnotator(t, Config{HomeNets: []netip.Prefix{
		netip.MustParsePrefix("128.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32"),
	}})
	for _, tt := range []struct {
		from, to string
		want     flowpb.NetworkDirection
	}{
		{"128.1.1.1", "8.8.8.8", flowpb.NetworkDirection_NETWORK_DIRECTION_OUTBOUND},
		{"8.8.8.8", "2001:db8::1", flowpb.NetworkDirection_NETWORK_DIRECTION_INBOUND},
		{"128.1.1.1", "2001:db8::1", flowpb.NetworkDirection_NETWORK_DIRECTION_INTERNAL},
		{"9.9.9.9", "8.8.8.8", flowpb.NetworkDirection_NETWORK_DIRECTION_EXTERNAL},
	} {
		c := conversation()
		c.Initiator.Address, c.Responder.Address = octets(tt.from), octets(tt.to)
		if home.Annotate(c); c.NetworkDirection != tt.want {
			t.Errorf("%s to %s: want %v, got %v", tt.from, tt.to, tt.want, c.NetworkDirection)
		}
	}
	c := conversation()
	if newAnnotator(t, Config{}).Annotate(c); c.NetworkDirection != 0 || c.Initiator.IsHome {
		t.Errorf("without HOME_NETS: want no direction, got %v", c)
	}
}

// The addresses and their images are the sample data of Crypto-PAn, under its sample key.
func TestAnonymizedConnections(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	key := "1522178d33a4cf80130a5b1649907d10d8988f837979652762574c2d2a842202\n"
	if err := os.WriteFile(path, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	home := []netip.Prefix{netip.MustParsePrefix("128.0.0.0/8")} // of the addresses before they are mapped
	c := conversation()
	newAnnotator(t, Config{AnonymizeKeyFile: path, HomeNets: home}).Annotate(c)

	want := conversation()
	want.Initiator = &flowpb.Endpoint{
		Address: octets("135.242.180.132"), Port: 40000, NatAddress: octets("134.136.186.123"), NatPort: 5,
		Asn: 64500, IsHome: true, NameStatus: flowpb.NameStatus_NAME_STATUS_DISABLED,
	}
	want.Responder = &flowpb.Endpoint{
		Address: octets("133.68.164.234"), Port: 443, NameStatus: flowpb.NameStatus_NAME_STATUS_DISABLED,
	}
	want.Forward.Exporter, want.Reverse.Exporter = octets("141.167.8.160"), octets("141.129.237.235")
	want.Service, want.NetworkDirection = "https", flowpb.NetworkDirection_NETWORK_DIRECTION_OUTBOUND
	want.CommunityId = pair.CommunityID(want) // of the mapped addresses
	if d := cmp.Diff(want, c, protocmp.Transform(), protocmp.IgnoreFields(c, "connection_id")); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if bytes.Equal(c.ConnectionId, conversation().ConnectionId) || len(c.ConnectionId) != 16 {
		t.Errorf("connection id: want another of 16 octets, got %x", c.ConnectionId)
	}

	again := conversation()
	newAnnotator(t, Config{AnonymizeKeyFile: path}).Annotate(again)
	if !bytes.Equal(again.ConnectionId, c.ConnectionId) {
		t.Errorf("another replica with the key: want id %x, got %x", c.ConnectionId, again.ConnectionId)
	}
}

func TestNewRefusesWrongFiles(t *testing.T) {
	dir := t.TempDir()
	short := filepath.Join(dir, "key")
	if err := os.WriteFile(short, []byte("1234"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		c    Config
		want string
	}{
		{Config{AnonymizeKeyFile: short}, "ANONYMIZE_KEY_FILE: " + short + ": not a key: the file has 4 octets"},
		{Config{AnonymizeKeyFile: dir + "/none"}, "no such file"},
		{Config{MaxMindFiles: []string{short}}, "MAXMIND_FILES: MaxMind file " + short},
	} {
		if _, err := New(tt.c, NewLearned(nil)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("want %q, got %v", tt.want, err)
		}
	}
}
