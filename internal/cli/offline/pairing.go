package offline

import (
	"cmp"
	"slices"

	"github.com/caarlos0/env/v11"
	"google.golang.org/protobuf/proto"

	"weir/internal/annotate"
	"weir/internal/cli/report"
	"weir/internal/decode"
	"weir/internal/pair"
	"weir/internal/services"
	"weir/internal/settings"
	"weir/pkg/flowpb"
)

// PairConfig returns the configuration of the pairing from the variables PAIR_* of environ (NAME=value).
func PairConfig(environ []string) (pair.Config, error) {
	c, err := settings.Parse[struct {
		Pair pair.Config `envPrefix:"PAIR_"`
	}](env.ToMap(environ))
	c.Pair.Service = services.HasName
	return c.Pair, err
}

// A Pairing is an Output that collects flows and pairs them after all inputs were read: inputs may overlap in time
// and data sets may precede their template, but the pairing needs its flows in order of receipt.
type Pairing struct {
	Config      pair.Config       // must be set before Consume
	Learned     *annotate.Learned // learns names from the flows; must be set before Consume
	flows       []received
	NotPairable int // flows that the pairing rejects
}

// A received flow has its time of receipt, in ns since the epoch.
type received struct {
	at   uint64
	flow pair.Flow
}

// Consume collects the flows of r. It implements Output.
func (p *Pairing) Consume(_ report.Origin, r *decode.Result) error {
	for _, m := range r.Messages {
		p.Learned.Learn(m)
		if f, ok := pair.FromMessage(m, &p.Config); ok {
			p.flows = append(p.flows, received{m.GetTimeReceivedNs(), f})
		} else {
			p.NotPairable++
		}
	}
	return nil
}

// Flush does nothing.
func (p *Pairing) Flush() error { return nil }

// Connections pairs the flows and closes all connections. Each connection has the state of its last report, in
// the order of first reports. Connections that were merged into another are left out.
func (p *Pairing) Connections() []*flowpb.Connection {
	var out []*flowpb.Connection
	place := map[string]int{}
	m := pair.New(p.Config, 1, func(e *pair.Emission) {
		c := proto.CloneOf(e.Connection)
		id := string(c.GetConnectionId())
		if i, again := place[id]; again {
			out[i] = c
			return
		}
		place[id] = len(out)
		out = append(out, c)
	})
	slices.SortStableFunc(p.flows, func(a, b received) int { return cmp.Compare(a.at, b.at) })
	for i := range p.flows {
		m.Observe(&p.flows[i].flow)
	}
	m.Close()
	return slices.DeleteFunc(out, report.IsMerged)
}
