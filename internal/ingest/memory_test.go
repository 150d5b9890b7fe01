package ingest

import (
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"weir/internal/settings"
	"weir/internal/weirtest/locked"
)

// parse reads ingest's settings from an environment.
func parse(t *testing.T, env map[string]string) (Config, error) {
	t.Helper()
	all := map[string]string{"KAFKA_BROKERS": "127.0.0.1:9092"}
	maps.Copy(all, env)
	return settings.Parse[Config](all)
}

func TestChosenPartsHaveToFitIntoMemoryMax(t *testing.T) {
	const mib = 1 << 20
	chosen := map[string]string{
		"PRODUCE_MAX_OCTETS": strconv.Itoa(64 * mib), "PARK_MAX_OCTETS": strconv.Itoa(32 * mib),
		"UNDECODED_BURST": strconv.Itoa(32 * mib), "TEMPLATES_MAX_OCTETS": strconv.Itoa(100 * mib),
	}
	const need = (6*64 + 2*32 + 2*32 + 100 + 128) * mib
	for _, tt := range []struct {
		max  int
		want string
	}{
		{0, ""}, {need, ""}, {1 << 40, ""},
		{need - 1, "may need 740 MiB: lower them, leave them unset so that they are made to fit, or raise it (PRODUCE_MAX_OCTETS 384 MiB, " +
			"PARK_MAX_OCTETS 64 MiB, UNDECODED_BURST 64 MiB, TEMPLATES_MAX_OCTETS 100 MiB, everything else 128 MiB)"},
		{-1, "MEMORY_MAX=-1"},
	} {
		chosen["MEMORY_MAX"] = strconv.Itoa(tt.max)
		_, err := parse(t, chosen)
		if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("MEMORY_MAX=%d: want %q, got %v", tt.max, tt.want, err)
		}
	}
	if _, err := parse(t, map[string]string{"MEMORY_MAX": "140000000"}); err != nil {
		t.Errorf("nothing is chosen, and it is refused: %v", err)
	}
}

func TestPartsThatAreNotChosenAreMadeToFit(t *testing.T) {
	const mib = 1 << 20
	for _, tt := range []struct {
		name string
		env  map[string]string
		want string // PRODUCE, PARK, BURST, TEMPLATES in MiB; of the heap's 75 %, 128 MiB are for everything else
	}{
		{"no bound", nil, "64 64 64 640"},
		{"room for all", map[string]string{"MEMORY_MAX": strconv.Itoa(2048 * mib)}, "64 64 64 640"},
		// 3/4 of 1 400 are 1 050; less 128 and 640 for the others leaves 282 for templates.
		{"fewer templates", map[string]string{"MEMORY_MAX": strconv.Itoa(1400 * mib)}, "64 64 64 282"},
		// 300 - 128 = 172. The sum of least is 13: the parts get a fifth of the distance from it to
		// the sum of enough.
		{"less of all", map[string]string{"MEMORY_MAX": strconv.Itoa(400 * mib)}, "13 13 13 38"},
		// 300 - 128 - 96 = 76. The sum of least of the other parts is 10.
		{"one is chosen", map[string]string{"MEMORY_MAX": strconv.Itoa(400 * mib), "PRODUCE_MAX_OCTETS": strconv.Itoa(16 * mib)}, "16 10 10 32"},
		{"a default is chosen", map[string]string{"MEMORY_MAX": strconv.Itoa(520 * mib), "PRODUCE_MAX_OCTETS": strconv.Itoa(64 * mib)}, "64 0 0 8"},
		{"0 is the default", map[string]string{"PRODUCE_MAX_OCTETS": "0", "PARK_MAX_OCTETS": "0", "UNDECODED_BURST": "0"}, "64 64 0 640"},
	} {
		c, err := parse(t, tt.env)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		c.fit()
		if got := fmt.Sprint(c.MaxOctets/mib, c.ParkMax/mib, c.Undecoded.Burst/mib, c.Templates.Octets/mib); got != tt.want {
			t.Errorf("%s: want %s MiB, got %s", tt.name, tt.want, got)
		}
	}
}

// TestWhatTheDefaultsComeTo: at most 1.7 GiB, with connections.
func TestWhatTheDefaultsComeTo(t *testing.T) {
	const mib = 1 << 20
	for _, tt := range []struct {
		env  map[string]string
		want int
	}{
		{nil, (6*64 + 2*64 + 2*64 + 640 + 128) * mib},
		{map[string]string{"LISTEN_TCP": "127.0.0.1:4739"}, (6*64 + 2*64 + 2*64 + 640 + 128 + 160 + 64) * mib},
		{map[string]string{"PRODUCE_MAX_OCTETS": strconv.Itoa(1 << 62)}, math.MaxInt},
	} {
		c, err := parse(t, tt.env)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.memory(); got != tt.want || c.heapMax() != tt.want {
			t.Errorf("%v: want %d octets, got %d and for the heap %d", tt.env, tt.want, got, c.heapMax())
		}
		if tt.want != math.MaxInt && tt.want > 17*(1<<30)/10 {
			t.Errorf("%v: %d MiB are more than 1.7 GiB", tt.env, tt.want>>20)
		}
	}
	c, err := parse(t, map[string]string{"MEMORY_MAX": "400000000"})
	if err != nil || c.memory() != 400_000_000 || c.heapMax() != 300_000_000 {
		t.Errorf("MEMORY_MAX=400000000: %v; want that and three quarters of it for the heap, got %d and %d", err, c.memory(), c.heapMax())
	}
}

// TestTheHeapHasRoomForWhatIsSet: settings that take more than three quarters of MEMORY_MAX, which
// the previous version accepted, must not make the garbage collector run all the time, and ingest
// must log the reduced settings and the conflict.
func TestTheHeapHasRoomForWhatIsSet(t *testing.T) {
	const mib = 1 << 20
	var log locked.Buffer
	for _, tt := range []struct {
		octets, want int // PRODUCE_MAX_OCTETS and the heap of MEMORY_MAX=1000 MiB
		warned       bool
	}{
		{64 * mib, 750*mib - 750*mib%75, false},                            // 384 and 128
		{128 * mib, (768 + 128 + 2*512/1024 + 2*512/1024 + 8) * mib, true}, // and 512 KiB twice, 8 MiB for what is not set
		{145 * mib, 1000 * mib, true},                                      // 870 and 128, which leave 2
	} {
		c, err := parse(t, map[string]string{"MEMORY_MAX": strconv.Itoa(1000 * mib), "PRODUCE_MAX_OCTETS": strconv.Itoa(tt.octets)})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.heapMax(); got > tt.want || got < tt.want-2*mib {
			t.Errorf("PRODUCE_MAX_OCTETS=%d: want %d octets of heap, got %d", tt.octets, tt.want, got)
		}
		c.fit()
		before := len(log.String())
		c.logMemory(slog.New(slog.NewTextHandler(&log, nil)))
		text := log.String()[before:]
		if !strings.Contains(text, "TEMPLATES_MAX_OCTETS="+strconv.Itoa(c.Templates.Octets)) || strings.Contains(text, "level=WARN") != tt.warned {
			t.Errorf("PRODUCE_MAX_OCTETS=%d: want the octets of templates, and a warning %v, got\n%s", tt.octets, tt.warned, text)
		}
	}
}

// TestAMemoryMaxOfBeforeIsStillAccepted: until octets of templates were bounded, the
// parts and their defaults had to fit into MEMORY_MAX; 1 KiB was reckoned for each of
// TEMPLATES_MAX. Settings accepted then are accepted now.
func TestAMemoryMaxOfBeforeIsStillAccepted(t *testing.T) {
	before := []struct {
		name           string
		per, otherwise int
	}{
		{"PRODUCE_MAX_OCTETS", 6, 64 << 20}, {"PARK_MAX_OCTETS", 2, 64 << 20}, {"UNDECODED_BURST", 2, 64 << 20},
		{"TEMPLATES_MAX", 1 << 10, 1_000_000}, {"TCP_MAX_CONNECTIONS", 160 << 10, 1024},
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		env := map[string]string{}
		sum := 128 << 20
		tcp := rng.IntN(2) == 0
		if tcp {
			env["LISTEN_TCP"] = "127.0.0.1:4739"
		}
		for _, v := range before {
			n := v.otherwise
			if rng.IntN(2) == 0 { // down to nearly nothing
				n = 1 + rng.IntN(max(1, 2*v.otherwise>>rng.IntN(20)))
				env[v.name] = strconv.Itoa(n)
			}
			if tcp || v.name != "TCP_MAX_CONNECTIONS" {
				sum += v.per * n
			}
		}
		env["MEMORY_MAX"] = strconv.Itoa(sum)
		c, err := parse(t, env)
		if err != nil {
			t.Fatalf("%v: %v", env, err)
		}
		c.fit()
		for _, p := range c.parts() {
			if *p.setting < p.least && env[p.variable] == "" {
				t.Fatalf("%v: %s=%d is less than can work", env, p.variable, *p.setting)
			}
		}
	}
}
