package offline

import (
	"io"
	"strings"
	"testing"

	"weir/internal/cli/report"
	"weir/internal/decode"
	"weir/pkg/flowpb"
)

// collecting is an Output that collects flows.
type collecting struct{ all []*flowpb.FlowMessage }

func (c *collecting) Consume(_ report.Origin, r *decode.Result) error {
	c.all = append(c.all, r.Messages...)
	return nil
}

func (c *collecting) Flush() error { return nil }

func FuzzFlowLines(f *testing.F) {
	f.Add([]byte(`{"record":"flow","type":"IPFIX","src_mac":"00:11:22:33:44:55","elements":[{"pen":1,"id":2,"value":"00ff"}]}`))
	f.Add([]byte(`{"1700000000.25": {"client": ["127.0.0.1", 40000], "header": {"version": 9, "count": 1, "uptime": 3, "timestamp": 4, "sequence": 1, "source_id": 0}, "flows": [{"IPV4_SRC_ADDR": "127.0.0.1", "IN_BYTES": 1, "IN_SRC_MAC": 5}]}}`))
	f.Add([]byte(`{"1700000000.25": {"client": ["::1", 40000, 0, 0], "header": {"version": 10, "length": 1, "export_uptime": 3}, "flows": [{"sourceIPv6Address": 1, "flowStartMicroseconds": [1, 2], "userName": "x"}]}}`))
	f.Add([]byte(`{"1.5": {"client": ["10.0.0.1", 1], "header": {"version": 5, "count": 1}, "flows": [{}]}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		c := &collecting{}
		o := New("test", strings.NewReader(string(line)+"\n"), io.Discard, c)
		if code := o.Run(nil, []string{"-"}); code != 0 && code != 1 {
			t.Errorf("exit code %d", code)
		}
	})
}
