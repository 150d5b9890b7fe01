package offline

import (
	"fmt"
	"net/netip"
	"time"

	"weir/internal/cli/console"
	"weir/internal/decode"
	"weir/internal/exporters"
)

// Exporters holds the exporters of the file that --exporters names.
type Exporters struct{ table *exporters.Table }

// ExportersFlag adds --exporters. The allow-list of the file is ignored.
func ExportersFlag(f *console.Flags) *Exporters {
	n := &Exporters{}
	const usage = "take names, sites, sampling rates and interfaces of exporters from the YAML `FILE` " +
		"(EXPORTERS_FILE of ingest)"
	f.Func("exporters", usage, func(path string) error {
		file, err := exporters.Open(path)
		if err == nil {
			n.table = file.Table()
		}
		return err
	})
	return n
}

// Apply makes d use the exporters. It does nothing when the flag was not given or n is nil.
func (n *Exporters) Apply(d *decode.Decoder) {
	if n != nil && n.table != nil {
		d.Exporter = n.lookup
	}
}

// lookup returns the settings of the exporter at a. It is a decode.Decoder.Exporters function.
func (n *Exporters) lookup(a netip.Addr) *decode.Exporter {
	if e := n.table.Lookup(a); e != nil {
		return &e.Exporter
	}
	return nil
}

// PortFlag adds a flag for the UDP destination port of datagrams in captures, 0 when it is not given.
func PortFlag(f *console.Flags, name string) *uint16 {
	return console.PortFlag(f, name, "decode UDP datagrams to port `N` only")
}

// UptimeAgeFlag adds --uptime-max-age. The result is 0 when it is not given; see decode.Decoder.MaxUptimeAge.
func UptimeAgeFlag(f *console.Flags) *time.Duration {
	age := new(time.Duration)
	const usage = "replace a flow time before a wrap of the exporter's uptime clock by the export time " +
		"if it is older than `DURATION` (UPTIME_MAX_AGE of ingest; default: no limit)"
	f.Func("uptime-max-age", usage, func(s string) (err error) {
		if *age, err = time.ParseDuration(s); err != nil || *age < decode.MinUptimeAge || *age > decode.MaxUptimeAge {
			return fmt.Errorf("%q: want %v to %v", s, decode.MinUptimeAge, decode.MaxUptimeAge)
		}
		return nil
	})
	return age
}
