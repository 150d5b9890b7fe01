package annotate

import (
	"math/rand/v2"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"weir/internal/annotate/rdns"
	"weir/pkg/flowpb"
)

// BenchmarkConnection measures the cost of host names per connection, with the calls that enrich makes: Want for both
// addresses when the connection opens, Annotate when it is reported. The difference to "off" is the cost. 65 536
// addresses wait in a full queue, as in enrich while more addresses arrive than DNS_RATE allows.
func BenchmarkConnection(b *testing.B) {
	for _, bench := range []struct {
		name string
		on   bool
		next func(zipf *rand.Zipf, i uint32) uint32
	}{
		{"off", false, func(_ *rand.Zipf, i uint32) uint32 { return i }},
		{"refused", true, func(_ *rand.Zipf, i uint32) uint32 { return 1<<24 + i }},
		{"Zipf over 1 M", true, func(zipf *rand.Zipf, _ uint32) uint32 { return uint32(zipf.Uint64()) }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			a, err := New(Config{DNS: rdns.Config{
				Enabled: bench.on, Servers: []string{"192.0.2.53:53"}, Verify: true, Timeout: 2 * time.Second, Rate: 500,
				InFlight: 256, Queue: 65_536, CacheSize: 500_000,
			}}, NewLearned(nil))
			if err != nil {
				b.Fatal(err)
			}
			address := func(n uint32) netip.Addr {
				return netip.AddrFrom4([4]byte{64 | byte(n>>24), byte(n >> 16), byte(n >> 8), byte(n)})
			}
			for n := range uint32(65_536) {
				a.Want(address(n))
			}
			zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.1, 1, 1_000_000-1)
			addrs := make([][]byte, 1<<18)
			for i := range addrs {
				addrs[i] = address(bench.next(zipf, uint32(i))).AsSlice()
			}
			at := 0
			c := &flowpb.Connection{
				Initiator: &flowpb.Endpoint{Port: 40000}, Responder: &flowpb.Endpoint{Port: 443}, Protocol: 6,
				Forward: &flowpb.Traffic{Exporter: []byte{192, 0, 2, 1}},
			}
			before := cpuTime(b)
			b.ReportAllocs()
			for b.Loop() {
				for _, e := range []*flowpb.Endpoint{c.Initiator, c.Responder} {
					e.Address = addrs[at&(len(addrs)-1)]
					at++
					address, _ := netip.AddrFromSlice(e.Address)
					a.Want(address)
				}
				a.Annotate(c)
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// cpuTime returns the CPU time of this process.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
