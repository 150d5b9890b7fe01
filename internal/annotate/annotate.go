// Package annotate adds names, home networks, AS and country to a connection, or anonymises its addresses.
package annotate

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"weir/internal/annotate/cryptopan"
	"weir/internal/annotate/geo"
	"weir/internal/annotate/rdns"
	"weir/internal/failure"
	"weir/internal/flowkey"
	"weir/internal/pair"
	"weir/internal/services"
	"weir/pkg/flowpb"
)

// Config holds the settings of an Annotator.
type Config struct {
	HomeNets         []netip.Prefix `env:"HOME_NETS" unit:"CIDR list" help:"the operator's own networks, comma separated; they determine is_home and network_direction"`
	MaxMindFiles     []string       `env:"MAXMIND_FILES" unit:"paths" help:"databases in MaxMind's format with AS numbers and countries, comma separated; read again when they change"`
	AnonymizeKeyFile string         `env:"ANONYMIZE_KEY_FILE" unit:"path" help:"file with a Crypto-PAn key (32 octets or 64 hexadecimal digits) by which all addresses of the output are anonymized; must be the same on every replica; no DNS queries are sent"`
	DNS              rdns.Config    `envPrefix:"DNS_"`
}

// An Annotator adds to connections the fields that pairing cannot set: the service, names, home networks, AS and
// country. With an anonymisation key it maps the addresses and looks up no names.
//
// Annotate and Learned must be used by one goroutine at a time. Run and Names may be used concurrently with it.
type Annotator struct {
	Names   *rdns.Resolver // of hosts
	Learned *Learned       // of exporters, interfaces, VRFs and applications

	home  []netip.Prefix
	paths []string // of MaxMind files
	geo   *geo.Files
	hide  *cryptopan.Map // nil: addresses are not anonymised
	dns   bool           // reverse DNS lookups are enabled
	batch int            // connections whose addresses all fit into the queue of names
	ids   textSlab       // Community IDs
}

// New reads the files that c names. It sends no DNS query; Run and All do. learned holds the names that flows
// carry.
func New(c Config, learned *Learned) (*Annotator, error) {
	names, err := rdns.New(c.DNS)
	if err != nil {
		return nil, err
	}
	places, err := geo.Open(c.MaxMindFiles)
	if err != nil {
		return nil, fmt.Errorf("MAXMIND_FILES: %w", err)
	}
	hide, err := readKey(c.AnonymizeKeyFile)
	if err != nil {
		return nil, fmt.Errorf("ANONYMIZE_KEY_FILE: %w", err)
	}
	return &Annotator{
		Names: names, Learned: learned, home: c.HomeNets, paths: c.MaxMindFiles, geo: places, hide: hide,
		dns: c.DNS.Enabled && hide == nil, batch: min(c.DNS.Queue, c.DNS.CacheSize) / 2,
	}, nil
}

// readKey reads the anonymisation key. It returns nil without a file.
func readKey(path string) (*cryptopan.Map, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := cryptopan.ParseKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cryptopan.New(key)
}

// Run looks up wanted names and reloads changed MaxMind files until ctx ends. It returns nil then.
func (a *Annotator) Run(ctx context.Context, log *slog.Logger) error {
	if a.dns {
		public, private := a.Names.Servers()
		log.Info("names", "servers", public, "servers_for_private_addresses", private)
	}
	var group errgroup.Group
	group.Go(func() error { return a.Names.Run(ctx) })
	if len(a.paths) > 0 {
		group.Go(func() error { return a.reread(ctx, log) })
	}
	return group.Wait()
}

// rereadEvery is the interval at which files are checked for changes.
const rereadEvery = 10 * time.Second

// reread reloads changed MaxMind files until ctx ends. It logs a repeated failure only the first time.
func (a *Annotator) reread(ctx context.Context, log *slog.Logger) error {
	t := time.NewTicker(rereadEvery)
	defer t.Stop()
	var failures failure.Repeats
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		changed, err := a.geo.Reload()
		for _, path := range changed {
			log.Info("a MaxMind file has changed", "path", path)
		}
		switch {
		case err == nil:
			failures.Recovered()
		case failures.IsNew(err, time.Time{}):
			log.Error("cannot load a MaxMind file: the previous database stays in use", "err", err)
		}
	}
}

// NamesHosts reports whether names of addresses are looked up. Under anonymisation they are not.
func (a *Annotator) NamesHosts() bool { return a.hide == nil }

// Want requests the name of an address that a connection will be annotated with. It never waits.
func (a *Annotator) Want(address netip.Addr) {
	if a.hide == nil {
		a.Names.Want(address)
	}
}

// Annotate adds the names and places known now to c, or anonymises it. It must be called once for each c: a
// second call would map the mapped addresses.
func (a *Annotator) Annotate(c *flowpb.Connection) {
	c.Service = services.Name(uint8(c.Protocol), uint16(c.Responder.Port))
	for _, t := range []*flowpb.Traffic{c.Forward, c.Reverse} {
		if t != nil {
			a.interfaces(t)
		}
	}
	if t := c.Forward; len(c.ApplicationId) > 0 {
		if t == nil {
			t = c.Reverse
		}
		exporter := flowkey.AddressOrZero(t.GetExporter())
		c.ApplicationName = a.Learned.Name(NameKey{
			exporter, t.GetDomain(), flowpb.Fact_WHAT_APPLICATION_NAME, number(c.ApplicationId),
		})
	}
	a.place(c)
	if a.hide != nil {
		anonymize(c, a.hide)
	} else {
		a.host(c.Initiator)
		a.host(c.Responder)
	}
	var id [32]byte
	c.CommunityId = a.ids.add(pair.AppendCommunityID(id[:0], c))
}

// A textSlab allocates short strings many at a time: a report of a connection then allocates nothing of its own.
type textSlab struct{ b strings.Builder }

// textSlabLen is the number of octets allocated at a time. A string that is kept keeps that many alive.
const textSlabLen = 4096

// add returns a copy of text, of at most textSlabLen octets.
func (t *textSlab) add(text []byte) string {
	if t.b.Cap()-t.b.Len() < len(text) {
		t.b.Reset()
		t.b.Grow(textSlabLen)
	}
	start := t.b.Len()
	t.b.Write(text)
	return t.b.String()[start:]
}

// interfaces sets the names of a direction's interfaces and VRFs.
func (a *Annotator) interfaces(t *flowpb.Traffic) {
	k := NameKey{flowkey.AddressOrZero(t.Exporter), t.Domain, flowpb.Fact_WHAT_INTERFACE_NAME, uint64(t.InputIf)}
	t.InputIfName = a.Learned.Name(k)
	k.ID = uint64(t.OutputIf)
	t.OutputIfName = a.Learned.Name(k)
	k.What = flowpb.Fact_WHAT_VRF_NAME
	if k.ID = uint64(t.InputVrf); k.ID != 0 {
		t.InputVrfName = a.Learned.Name(k)
	}
	if k.ID = uint64(t.OutputVrf); k.ID != 0 {
		t.OutputVrfName = a.Learned.Name(k)
	}
}

// place sets AS, country, is_home and the network direction.
func (a *Annotator) place(c *flowpb.Connection) {
	for _, e := range []*flowpb.Endpoint{c.Initiator, c.Responder} {
		address, ok := netip.AddrFromSlice(e.Address)
		if !ok {
			continue
		}
		asn, country := a.geo.Lookup(address)
		if e.Country = country; e.Asn == 0 { // the exporter's AS number takes precedence
			e.Asn = asn
		}
		e.IsHome = slices.ContainsFunc(a.home, func(p netip.Prefix) bool { return p.Contains(address) })
	}
	if len(a.home) == 0 {
		return
	}
	switch from, to := c.Initiator.IsHome, c.Responder.IsHome; {
	case from && to:
		c.NetworkDirection = flowpb.NetworkDirection_NETWORK_DIRECTION_INTERNAL
	case from:
		c.NetworkDirection = flowpb.NetworkDirection_NETWORK_DIRECTION_OUTBOUND
	case to:
		c.NetworkDirection = flowpb.NetworkDirection_NETWORK_DIRECTION_INBOUND
	default:
		c.NetworkDirection = flowpb.NetworkDirection_NETWORK_DIRECTION_EXTERNAL
	}
}

// host sets the name of an end, or the reason for its absence.
func (a *Annotator) host(e *flowpb.Endpoint) {
	address, ok := netip.AddrFromSlice(e.Address)
	if !ok {
		return
	}
	n := a.Names.Peek(address)
	e.Name, e.NameStatus, e.NameVerified, e.NameSource = n.Name, n.Status, n.Verified, n.Source
}

// anonymize maps all addresses of c and removes the names and MAC addresses that would identify them. The
// connection's id becomes its tag, the same on every replica.
func anonymize(c *flowpb.Connection, m *cryptopan.Map) {
	for _, e := range []*flowpb.Endpoint{c.Initiator, c.Responder} {
		e.Address, e.NatAddress, e.Mac = mapped(m, e.Address), mapped(m, e.NatAddress), nil
		e.Name, e.NameStatus, e.NameVerified, e.NameSource = "", flowpb.NameStatus_NAME_STATUS_DISABLED, false, 0
	}
	for _, t := range []*flowpb.Traffic{c.Forward, c.Reverse} {
		if t != nil {
			t.Exporter = mapped(m, t.Exporter)
		}
	}
	c.ConnectionId = m.Tag(c.ConnectionId)
}

// mapped returns the image of an address, nil for octets that are not an address.
func mapped(m *cryptopan.Map, address []byte) []byte {
	a, ok := netip.AddrFromSlice(address)
	if !ok {
		return nil
	}
	return m.Addr(a).AsSlice()
}
