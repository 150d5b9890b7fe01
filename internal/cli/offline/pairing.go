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

// PairConfig is the pairing's configuration by the environment.
func PairConfig(environ []string) (pair.Config, error) {
	c, err := settings.Parse[struct {
		Pair pair.Config `envPrefix:"PAIR_"`
	}](env.ToMap(environ))
	c.Pair.Service = func(proto uint8, port uint16) bool { return services.Name(proto, port) != "" }
	return c.Pair, err
}

// A Pairing collects flows and pairs them when all are there: inputs may
// overlap in time, data may come before its template, and the machine's clock
// never goes back.
type Pairing struct {
	Config      pair.Config
	Learned     *annotate.Learned
	flows       []received
	NotPairable int
}

// received is a flow and when it was received, ns since the epoch.
type received struct {
	at   uint64
	flow pair.Flow
}

func (p *Pairing) Take(_ report.Origin, r *decode.Result) error {
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

func (p *Pairing) Flush() error { return nil }

// Connections pairs the flows. Each connection has its last report, at the
// place of its first. Connections that became a part of another are left out.
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
