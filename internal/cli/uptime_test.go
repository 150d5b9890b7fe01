package cli

import (
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
)

// A NetFlow v5 flow has times at uptime 613 775 s while the uptime in the header is 60 s: 42.6 days before a wrap.
// The default accepts this time; --uptime-max-age rejects it.
func TestTheAgeOfUptimesIsAsked(t *testing.T) {
	b := []byte{0, 5, 0, 1}
	for _, v := range []uint32{60_000, 1_700_000_000, 0, 1, 0, 0x0a000001, 0x0a000002, 0, 0, 1, 100, 613_775_597, 613_775_597, 0, 0x1100, 0, 0} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	text := hex.EncodeToString(b) + "\n"
	// byExport is the export time. byUptime is the export time less the age of the uptime across a wrap:
	// 1700000000 s + 613775.597 s - 60 s - 2^32 ms.
	const byExport, byUptime = `"time_flow_start_ns":"1700000000000000000",`, `"time_flow_start_ns":"1696318748301000000",`
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"decode", "--json", "--uptime-max-age", "24h", "-"}, byExport},
		{[]string{"decode", "--json", "-"}, byUptime},
		{[]string{"flows", "--json", "--uptime-max-age", "24h", "-"}, byExport},
		{[]string{"flows", "--json", "-"}, byUptime},
		{[]string{"connections", "-n", "--json", "--uptime-max-age", "24h", "-"}, `"start_unix_ns":"1700000000000000000",`},
		{[]string{"connections", "-n", "--json", "--uptime-max-age", "1193h", "-"}, `"start_unix_ns":"1696318748301000000",`},
	} {
		if got := run(t, text, tt.args...); got.code != 0 || !strings.Contains(got.out, tt.want) {
			t.Errorf("%v: want %s, got %d %s%s", tt.args, tt.want, got.code, got.out, got.errout)
		}
	}
}
