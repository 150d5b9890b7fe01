package templates

import (
	"sync"
	"sync/atomic"

	"weir/internal/decode"
)

// plans shares compiled plans: exporters of one kind send the same templates, and
// a plan is larger than all else that is kept of one.
type plans struct {
	octets atomic.Int64 // heap of all
	mu     sync.Mutex
	all    map[planKey]*sharedPlan
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
func (p *plans) get(k planKey, t *decode.Template) (plan *decode.Plan, compiled bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if sp := p.all[k]; sp != nil && sp.plan.Template().SameLayout(t) {
		sp.uses++
		return sp.plan, false, nil
	}
	plan, err = decode.Compile(k.version, t)
	if err != nil {
		return nil, false, err
	}
	p.octets.Add(planOctets(plan))
	if p.all[k] == nil { // of two layouts with one digest the second is not shared
		p.all[k] = &sharedPlan{plan, 1}
	}
	return plan, true, nil
}

// put gives a plan back.
func (p *plans) put(k planKey, plan *decode.Plan) {
	p.mu.Lock()
	defer p.mu.Unlock()
	sp := p.all[k]
	if sp == nil || sp.plan != plan {
		p.octets.Add(-planOctets(plan))
		return
	}
	if sp.uses--; sp.uses == 0 {
		delete(p.all, k)
		p.octets.Add(-planOctets(plan))
	}
}

// planOctets returns what a plan takes, with its entry in plans.
func planOctets(p *decode.Plan) int64 { return int64(p.HeapOctets()) + perPlan }
