package templates

import (
	"sync"
	"sync/atomic"

	"weir/internal/decode"
)

// A plans shares compiled plans between definitions. Exporters of the same model send the
// same templates, and a plan is the largest part of a definition.
type plans struct {
	octets atomic.Int64 // heap octets of all plans, shared or not
	mu     sync.Mutex   // guards all; taken inside a shard's lock
	all    map[planKey]*sharedPlan
}

// A planKey identifies a plan. Layouts with the same digest may collide.
type planKey struct {
	version  uint8
	template uint16
	digest   digest
}

// A sharedPlan is a plan with the number of definitions that use it.
type sharedPlan struct {
	plan *decode.Plan
	uses int
}

// get returns the plan of t. compiled reports whether get compiled it. The caller must
// return the plan with put, under the same key.
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
	if p.all[k] == nil { // a second layout with the same digest is not shared
		p.all[k] = &sharedPlan{plan, 1}
	}
	return plan, true, nil
}

// put returns a plan. The last put of a shared plan releases it.
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

// planOctets returns the heap octets of a plan with its entry in plans.
func planOctets(p *decode.Plan) int64 { return int64(p.HeapOctets()) + perPlan }
