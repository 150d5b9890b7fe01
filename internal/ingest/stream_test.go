package ingest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"weir/internal/kafka/broker"
	"weir/internal/transport"
	"weir/internal/weirtest/locked"
)

var anyPort = netip.MustParseAddrPort("127.0.0.1:0")

// streaming runs a replica that listens over TCP, and returns where.
func streaming(t *testing.T, change func(*Config)) (r *Replica, addr string, stop func() error) {
	t.Helper()
	c := config(embedded(t).Addr(), "one")
	c.Streams.TCP = []netip.AddrPort{anyPort}
	if change != nil {
		change(&c)
	}
	r, stop = start(t, c, &locked.Buffer{})
	eventually(t, "the replica listens", func() bool { return len(r.listening()) > 0 && r.Ready() == nil })
	return r, strings.TrimPrefix(r.listening()[0], "tcp "), stop
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func send(t *testing.T, c io.Writer, messages ...[]byte) {
	t.Helper()
	for _, m := range messages {
		if _, err := c.Write(m); err != nil {
			t.Fatal(err)
		}
	}
}

// ended waits until the other side has closed c.
func ended(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil || os.IsTimeout(err) {
		t.Fatalf("%d octets, %v: want the end", n, err)
	}
}

func (r *Replica) streamsEnded(why string) int {
	return int(testutil.ToFloat64(r.metrics.streamEnds.WithLabelValues(why)))
}

// withdrawal returns an IPFIX message with a set that withdraws a template, or all templates.
func withdrawal(domain uint32, set, id uint16) []byte {
	m := binary.BigEndian.AppendUint16(nil, 10)
	m = binary.BigEndian.AppendUint16(m, 24)
	m = binary.BigEndian.AppendUint32(m, 1_760_000_000)
	m = binary.BigEndian.AppendUint32(m, 0)
	m = binary.BigEndian.AppendUint32(m, domain)
	m = binary.BigEndian.AppendUint16(m, set)
	m = binary.BigEndian.AppendUint16(m, 8)
	return append(binary.BigEndian.AppendUint16(m, id), 0, 0)
}

func TestTemplatesAreOfTheirConnectionAndWithdrawnThere(t *testing.T) {
	r, addr, stop := streaming(t, nil)
	template, data := packet(t, "ipfix_template.hex"), packet(t, "ipfix_data.hex")
	domain := binary.BigEndian.Uint32(data[12:])
	ids := []uint16{}
	for b := template[20:]; len(b) >= 4; { // the ids of the template set's records
		n := int(binary.BigEndian.Uint16(b[2:]))
		ids = append(ids, binary.BigEndian.Uint16(b))
		b = b[4+4*n:]
	}
	one, other := dial(t, addr), dial(t, addr)
	send(t, one, template, data)
	flows := uint64(0)
	eventually(t, "the flows are decoded", func() bool { flows = r.Stats().Flows; return flows > 0 })
	lost := func() int { return int(testutil.ToFloat64(r.metrics.sets.WithLabelValues("127.0.0.1", reasonSession))) }
	send(t, other, data) // its connection has no template
	eventually(t, "data without a template of its connection is counted", func() bool { return lost() > 0 })
	sets := lost()
	send(t, one, data)
	eventually(t, "the first connection goes on", func() bool { return r.Stats().Flows == 2*flows })
	for _, id := range ids {
		send(t, one, withdrawal(domain, 2, id))
	}
	send(t, one, data)
	eventually(t, "data of withdrawn templates is counted", func() bool { return lost() == 2*sets })
	send(t, one, template, data, withdrawal(domain, 2, 2), data)
	eventually(t, "all are withdrawn at once", func() bool { return lost() == 3*sets && r.Stats().Flows == 3*flows })
	if n := testutil.ToFloat64(r.metrics.errors.WithLabelValues("127.0.0.1", "withdrawal")); n != 0 {
		t.Errorf("%v withdrawals were errors", n)
	}
	send(t, one, withdrawal(domain, 2, 999))
	eventually(t, "a withdrawal of what is not known is an error", func() bool {
		return testutil.ToFloat64(r.metrics.errors.WithLabelValues("127.0.0.1", "withdrawal")) == 1
	})
	if n := r.store.Stats().Definitions; n != 0 {
		t.Errorf("%d templates of connections are in the shared store", n)
	}
	_ = one.Close()
	eventually(t, "its end is counted", func() bool { return r.streamsEnded(transport.EndClosed) == 1 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if n := r.streamsEnded(transport.EndShutdown); n != 1 {
		t.Errorf("%d connections ended by the shutdown: want 1", n)
	}
	if s := r.Stats(); s.Dropped != 0 {
		t.Errorf("%d flows dropped", s.Dropped)
	}
}

func TestHostileConnections(t *testing.T) {
	r, addr, _ := streaming(t, func(c *Config) { c.Streams.PerAddress = 20 })
	template, data := packet(t, "ipfix_template.hex"), packet(t, "ipfix_data.hex")
	whole := slices.Concat(template, data)

	octets := dial(t, addr)
	for i := range whole { // octet by octet
		send(t, octets, whole[i:i+1])
	}
	eventually(t, "octet by octet, the flows are decoded", func() bool { return r.Stats().Flows > 0 })
	flows := r.Stats().Flows
	together := dial(t, addr)
	send(t, together, slices.Concat(whole, data, data, data[:100]))
	eventually(t, "several messages at once are decoded", func() bool { return r.Stats().Flows == 4*flows })

	_ = together.Close()
	eventually(t, "half a message is a cut", func() bool { return r.streamsEnded(transport.EndCut) == 1 })
	long := dial(t, addr)
	send(t, long, []byte{0, 10, 0xff, 0xff}, make([]byte, 65_000)) // states 65 535
	_ = long.Close()
	eventually(t, "a length that does not come is a cut", func() bool { return r.streamsEnded(transport.EndCut) == 2 })
	for i, b := range [][]byte{{0, 10, 0, 15, 0}, {0, 9, 0, 20, 0}, []byte("GET / HTTP/1.1\r\n\r\n"), make([]byte, 70_000)} {
		c := dial(t, addr)
		_, _ = c.Write(b) // it may be closed in the middle
		ended(t, c)
		eventually(t, "what is no IPFIX is closed", func() bool { return r.streamsEnded(transport.EndNoIPFIX) == i+1 })
	}
	biggest := make([]byte, 65_535) // a set of unknown id: an error, and the connection lives
	copy(biggest, []byte{0, 10, 0xff, 0xff})
	binary.BigEndian.PutUint16(biggest[16:], 4)
	binary.BigEndian.PutUint16(biggest[18:], 65_535-16)
	send(t, octets, biggest, data)
	eventually(t, "after the largest message comes the next", func() bool { return r.Stats().Flows == 5*flows })

	// A thousand silent connections from one address.
	for range 1000 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	eventually(t, "most are closed", func() bool { return r.streamsEnded(transport.EndPerSource) == 1000-19 })
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	neighbour, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer neighbour.Close()
	send(t, neighbour, whole)
	eventually(t, "another exporter is served", func() bool { return r.Stats().Flows == 6*flows })
}

func TestConnectionsBeyondTheLimitAreClosed(t *testing.T) {
	r, addr, _ := streaming(t, func(c *Config) { c.Streams.Max = 2 })
	one, other := dial(t, addr), dial(t, addr)
	for _, c := range []net.Conn{one, other} { // a silent connection is closed
		send(t, c, packet(t, "ipfix_template.hex"))
	}
	eventually(t, "two are open", func() bool { return r.streams.Open() == 2 })
	ended(t, dial(t, addr))
	if n := r.streamsEnded(transport.EndLimit); n != 1 {
		t.Errorf("%d were over the limit: want 1", n)
	}
	_ = one.Close()
	eventually(t, "one is open", func() bool { return r.streams.Open() == 1 })
}

func TestAnIdleConnectionIsClosed(t *testing.T) {
	r, addr, _ := streaming(t, func(c *Config) { c.Streams.Idle = 50 * time.Millisecond })
	ended(t, dial(t, addr))
	eventually(t, "it is counted", func() bool { return r.streamsEnded(transport.EndIdle) == 1 })
}

func TestAProxyNamesTheExporterOfAConnection(t *testing.T) {
	r, addr, _ := streaming(t, func(c *Config) { c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")} })
	whole := slices.Concat(packet(t, "ipfix_template.hex"), packet(t, "ipfix_data.hex"))
	first := dial(t, addr)
	header := []byte("PROXY TCP4 192.0.2.77 198.51.100.1 40000 4739\r\n")
	for _, b := range header { // in pieces
		send(t, first, []byte{b})
	}
	send(t, first, whole)
	second := dial(t, addr)
	v2 := append([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"), 192, 0, 2, 78, 198, 51, 100, 1, 0x9c, 0x40, 0x12, 0x83)
	send(t, second, slices.Concat(v2, whole))
	eventually(t, "both exporters' flows are decoded", func() bool {
		return testutil.CollectAndCount(r.metrics.flows) == 2 && testutil.ToFloat64(r.metrics.flows.WithLabelValues("192.0.2.77")) > 0 &&
			testutil.ToFloat64(r.metrics.flows.WithLabelValues("192.0.2.78")) > 0
	})
	for i, b := range [][]byte{whole, []byte("PROXY UNKNOWN\r\n"), []byte("PROXY TCP4 nonsense\r\n")} {
		c := dial(t, addr)
		send(t, c, b)
		ended(t, c)
		eventually(t, "who has no exporter is closed", func() bool { return r.streamsEnded(transport.EndProxy) == i+1 })
	}
}

// authority signs certificates of a test.
type authority struct {
	t    *testing.T
	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.key, a.cert = a.make("ca", nil)
	return a
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

// make makes name.pem and name.key.
func (a *authority) make(name string, serial *big.Int) (*ecdsa.PrivateKey, *x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	parent, by := a.cert, a.key
	if a.cert == nil {
		c.SerialNumber, c.IsCA, parent, by = big.NewInt(1), true, c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, b := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(a.path(file), pem.EncodeToMemory(b), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	c, err = x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return key, c
}

// client is the TLS of an exporter; name may be empty.
func (a *authority) client(name string) *tls.Config {
	a.t.Helper()
	c := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	c.RootCAs.AddCert(a.cert)
	if name != "" {
		cert, err := tls.LoadX509KeyPair(a.path(name+".pem"), a.path(name+".key"))
		if err != nil {
			a.t.Fatal(err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c
}

func TestIPFIXOverTLS(t *testing.T) {
	ours, others := newAuthority(t), newAuthority(t)
	ours.make("collector", big.NewInt(2))
	ours.make("exporter", big.NewInt(3))
	others.make("stranger", big.NewInt(4))
	whole := slices.Concat(packet(t, "ipfix_template.hex"), packet(t, "ipfix_data.hex"))
	for _, mutual := range []bool{false, true} {
		t.Run(fmt.Sprintf("mutual %v", mutual), func(t *testing.T) {
			r, addr, _ := streaming(t, func(c *Config) {
				c.Streams.TCP, c.Streams.TLS = nil, []netip.AddrPort{anyPort}
				c.Streams.CertFile, c.Streams.KeyFile = ours.path("collector.pem"), ours.path("collector.key")
				if mutual {
					c.Streams.ClientCA = ours.path("ca.pem")
				}
				c.Streams.Idle = time.Minute
				if err := c.Streams.Validate(); err != nil {
					t.Fatal(err)
				}
			})
			c, err := tls.Dial("tcp", addr, ours.client("exporter"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			send(t, c, whole)
			eventually(t, "the flows are decoded", func() bool { return r.Stats().Flows > 0 })
			ours.make("collector", big.NewInt(5)) // renewed
			renewed, err := tls.Dial("tcp", addr, ours.client("exporter"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = renewed.Close() }()
			if n := renewed.ConnectionState().PeerCertificates[0].SerialNumber.Int64(); n != 5 {
				t.Errorf("the certificate shown has serial %d: want the renewed one's, 5", n)
			}
			for i, how := range []*tls.Config{ours.client(""), {RootCAs: ours.client("").RootCAs, Certificates: others.client("stranger").Certificates}} {
				c, err := tls.Dial("tcp", addr, how)
				if !mutual {
					if err != nil {
						t.Fatal(err)
					}
					_ = c.Close()
					continue
				}
				if err == nil { // TLS 1.3 reports the failure to the client at its first read
					ended(t, c)
				}
				eventually(t, "a stranger is refused", func() bool { return r.streamsEnded(transport.EndTLS) == i+1 })
			}
			plain := dial(t, addr)
			send(t, plain, whole)
			eventually(t, "no TLS is refused", func() bool { return r.streamsEnded(transport.EndTLS) == map[bool]int{false: 1, true: 3}[mutual] })
		})
	}
}

// TestABrokerThatIsAwayHoldsUpConnectionsInsteadOfDropping: TCP can wait.
func TestABrokerThatIsAwayHoldsUpConnectionsInsteadOfDropping(t *testing.T) {
	b := embedded(t)
	c := config(b.Addr(), "one")
	c.Streams.TCP, c.MaxRecords, c.Flush = []netip.AddrPort{anyPort}, 400, 100*time.Millisecond
	r, stop := start(t, c, &locked.Buffer{})
	eventually(t, "the replica listens", func() bool { return len(r.listening()) > 0 && r.Ready() == nil })
	conn := dial(t, strings.TrimPrefix(r.listening()[0], "tcp "))
	send(t, conn, packet(t, "ipfix_template.hex"))
	b.Close()
	data := packet(t, "ipfix_data.hex")
	_ = conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	for range 100_000 { // far more than all buffers on the way hold
		if _, err := conn.Write(data); err != nil {
			break
		}
	}
	if s := r.Stats(); s.Dropped != 0 || s.Flows == 0 || s.Flows > 400 || testutil.ToFloat64(r.metrics.streamWaits) == 0 {
		t.Errorf("%+v, %v waits: want no drop, at most 400 flows and a wait", s, testutil.ToFloat64(r.metrics.streamWaits))
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// ipfixMessage is an IPFIX message of sets of domain 1, exported now.
func ipfixMessage(sets ...[]byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, 10)
	b = binary.BigEndian.AppendUint16(b, uint16(16+len(bytes.Join(sets, nil))))
	b = binary.BigEndian.AppendUint32(b, uint32(time.Now().Unix()))
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 1)
	return append(b, bytes.Join(sets, nil)...)
}

// wideTemplate returns a template set with a template of so many fields of one octet.
func wideTemplate(id, fields int) []byte {
	b := binary.BigEndian.AppendUint16(nil, 2)
	b = binary.BigEndian.AppendUint16(b, uint16(8+4*fields))
	b = binary.BigEndian.AppendUint16(b, uint16(id))
	b = binary.BigEndian.AppendUint16(b, uint16(fields))
	for i := range fields {
		b = binary.BigEndian.AppendUint16(b, uint16(20_000+i))
		b = append(b, 0, 1)
	}
	return b
}

// manyOptions returns an options template of nine fields, whose records have one octet, and a
// message full of such records.
func manyOptions() (template, data []byte) {
	template = []byte{0, 3, 0, 46, 1, 0, 0, 9, 0, 1, 0, 149, 0, 1}
	for range 8 {
		template = append(template, 0, 210, 0, 0)
	}
	data = make([]byte, 65_535-16)
	binary.BigEndian.PutUint16(data, 256)
	binary.BigEndian.PutUint16(data[2:], uint16(len(data)))
	return template, data
}

func liveHeap() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestWhatConnectionsHold: options messages of 64 KB and wide templates take no more
// than TCP_MAX_OCTETS, and 160 KiB a connection.
func TestWhatConnectionsHold(t *testing.T) {
	const connections, budget = 8, 8 << 20
	r, addr, _ := streaming(t, func(c *Config) { c.Streams.Octets = budget })
	refused := func(limit string) float64 { return testutil.ToFloat64(r.metrics.streamRefused.WithLabelValues(limit)) }
	options, records := manyOptions()
	before := liveHeap()
	var all []net.Conn
	learnt := uint64(0)
	for range connections {
		c := dial(t, addr)
		all = append(all, c)
		send(t, c, ipfixMessage(options), ipfixMessage(records))
		for id := range 24 { // 12 MiB by what a plan of 4 000 fields takes
			send(t, c, ipfixMessage(wideTemplate(300+id, 4000)))
		}
		learnt += 1 + 24
		eventually(t, "all is decoded", func() bool {
			return float64(r.stats.learnt.Load())+refused("connection")+refused("address")+refused("all") == float64(learnt)
		})
	}
	if got := liveHeap() - before; got > budget+connections*perConnection+4<<20 {
		t.Errorf("%d connections hold %d KiB beside a budget of %d KiB: want at most %d KiB each", connections, got>>10, budget>>10, perConnection>>10)
	}
	// 500 KiB a connection: three plans of 164 KB; 2 MiB for the address.
	if held := r.sessions.octets.Load(); held > budget/addressPart || held < budget/addressPart*3/4 {
		t.Errorf("%v octets of templates are held: want nearly %d", held, budget/addressPart)
	}
	if refused("connection") == 0 || refused("address") == 0 {
		t.Errorf("refused for the connection %v, for the address %v: want both", refused("connection"), refused("address"))
	}
	for _, c := range all {
		_ = c.Close()
	}
	eventually(t, "their octets are given back", func() bool { return r.sessions.octets.Load() == 0 })
}

// TestShutdownCountsWhatCameOverTCP: a shutdown without Kafka must decode all received data, and
// each flow must be published or counted as dropped.
func TestShutdownCountsWhatCameOverTCP(t *testing.T) {
	b, err := broker.Start("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	c := config(b.Addr(), "one")
	c.Streams.TCP = []netip.AddrPort{anyPort}
	c.MaxRecords, c.Flush, c.Drain = 8, 200*time.Millisecond, 300*time.Millisecond
	r, stop := start(t, c, &locked.Buffer{})
	eventually(t, "the replica listens", func() bool { return len(r.listening()) > 0 && r.Ready() == nil })
	conn := dial(t, strings.TrimPrefix(r.listening()[0], "tcp "))
	template := []byte{0, 2, 0, 20, 1, 0, 0, 3, 0, 8, 0, 4, 0, 12, 0, 4, 0, 1, 0, 4}
	send(t, conn, ipfixMessage(template), ipfixMessage(dataA))
	eventually(t, "a flow is published", func() bool {
		n, _ := r.run.Load().producer.Buffered()
		return r.Stats().Flows == 1 && n == 0
	})
	b.Close()
	const sent = 201
	for range sent - 1 {
		send(t, conn, ipfixMessage(dataA))
	}
	eventually(t, "the connection waits for Kafka", func() bool { return testutil.ToFloat64(r.metrics.streamWaits) > 0 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if s := r.Stats(); s.Flows != sent || s.Dropped != sent-1 {
		t.Errorf("of %d flows %d are decoded and %d counted as dropped: want all, and all but the published one", sent, s.Flows, s.Dropped)
	}
}
