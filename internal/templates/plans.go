package templates

import (
	"sync"

	"weir/internal/decode"
)

// plans shares compiled plans: exporters of one kind send the same templates, and
// a plan is larger than all else that is kept of one.
type plans struct {
	mu  sync.Mutex
	all map[planKey]*sharedPlan
}

type planKey struct {
	version  uint8
	template uint16
	digest   digest
}

type sharedPlan struct {
	plan *decode.Plan
	uses int
}

// get returns the plan of t, compiled if need be; give it back with put.
func (p *plans) get(k planKey, t *decode.Template) (*decode.Plan, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if sp := p.all[k]; sp != nil && sp.plan.Template().SameLayout(t) {
		sp.uses++
		return sp.plan, nil
	}
	plan, err := decode.Compile(k.version, t)
	if err != nil {
		return nil, err
	}
	if p.all[k] == nil { // of two layouts with one digest the second is not shared
		p.all[k] = &sharedPlan{plan, 1}
	}
	return plan, nil
}

// put gives a plan back.
func (p *plans) put(k planKey, plan *decode.Plan) {
	p.mu.Lock()
	defer p.mu.Unlock()
	sp := p.all[k]
	if sp == nil || sp.plan != plan {
		return
	}
	if sp.uses--; sp.uses == 0 {
		delete(p.all, k)
	}
}
