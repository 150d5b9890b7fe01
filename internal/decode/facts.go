package decode

import (
	"sync/atomic"

	"weir/internal/atomicmap"
	"weir/pkg/flowpb"
)

// Facts holds the options data of an exporter address, version and observation domain. The zero
// value is empty. A Facts must not be copied.
//
// Several exporters can share one address and differ in source ports. A lookup for a port returns
// the value that this port sent, or else the newest value of any port.
//
// Readers take no lock and may run at any time. The methods that change a Facts must be called by
// one goroutine at a time. The cost of a change does not depend on the number of entries.
type Facts struct {
	initMs   atomic.Uint64                     // system init time, ms since the epoch; 0: unknown
	samplers atomicmap.Map[uint64, uint64]     // sampler or selector id → rate, 1 in N
	names    atomicmap.Map[factNameID, string] // interfaces, VRFs, applications

	icmpForms portForms

	nSamplers, nNames atomic.Int64  // entries, for readers
	samplerIDs        atomic.Uint64 // XOR of the ids of all samplers: with a single sampler, its id

	definitions  atomicmap.Map[uint64, ElementDefinition] // by definitionID
	nDefinitions atomic.Int64                             // entries, for readers

	own    atomicmap.Map[ownID, ownValue]        // values of a port that differ from the newest
	nOwn   atomic.Int64                          // entries, for readers
	ports  atomicmap.Map[uint16, samplersOfPort] // of the ports that sent a sampling rate
	nPorts atomic.Int64                          // entries, for readers
}

// A factNameID identifies a fact that has a name as its value.
// The id is an ifIndex for interface names and descriptions, a VRF id (IE 234, 235) for VRF names and
// route distinguishers, and an applicationId (IE 95, RFC 6759) for application names.
type factNameID struct {
	what flowpb.Fact_What
	id   uint64
}

// An ownID identifies a fact of a source port.
type ownID struct {
	factNameID
	port uint16
}

// An ownValue is the value of a fact of a source port.
type ownValue struct {
	number uint64
	text   string
}

// samplersOfPort counts the samplers for which a port sent a rate.
// XOR finds the id of the only sampler without a list of ids: an id that is added and removed
// cancels itself. The value is meaningless while n is not 1.
type samplersOfPort struct {
	n   int
	ids uint64 // XOR of their ids: with a single sampler, its id
}

// Set stores a fact as the newest: it replaces the rate, init time or name. A number of 0 or an
// empty name removes the fact.
func (f *Facts) Set(fact *OptionsFact) {
	switch fact.What {
	case flowpb.Fact_WHAT_INIT_TIME:
		if fact.ID == 0 {
			f.initMs.Store(fact.Number)
		}
	case flowpb.Fact_WHAT_SAMPLER:
		f.setSampler(fact.ID, fact.Number)
	case flowpb.Fact_WHAT_ICMPV6_FORM:
		f.icmpForms.set(fact.ID, fact.Number != 0)
	case flowpb.Fact_WHAT_ELEMENT_DEFINITION:
		f.setDefinition(fact.ID, ElementDefinition{Name: fact.Text, Type: uint8(fact.Number & 0xff)})
	default:
		f.setName(factNameID{fact.What, fact.ID}, fact.Text)
	}
}

// Remove removes the newest value of a fact.
func (f *Facts) Remove(what flowpb.Fact_What, id uint64) { f.Set(&OptionsFact{What: what, ID: id}) }

// setSampler stores the rate of a sampler; 0 removes it.
func (f *Facts) setSampler(id, rate uint64) {
	_, known := f.samplers.Load(id)
	if known != (rate != 0) {
		f.samplerIDs.Store(f.samplerIDs.Load() ^ id)
	}
	if rate == 0 {
		f.samplers.Delete(id)
	} else {
		f.samplers.Store(id, rate)
	}
	f.nSamplers.Store(int64(f.samplers.Len()))
}

// setName stores a name; "" removes it.
func (f *Facts) setName(k factNameID, name string) {
	if name == "" {
		f.names.Delete(k)
	} else {
		f.names.Store(k, name)
	}
	f.nNames.Store(int64(f.names.Len()))
}

// SetOwn stores a fact for one source port only. The caller must call RemoveOwn once the port's
// value equals the newest.
func (f *Facts) SetOwn(port uint16, fact *OptionsFact) {
	f.own.Store(ownID{factNameID{fact.What, fact.ID}, port}, ownValue{fact.Number, fact.Text})
	f.nOwn.Store(int64(f.own.Len()))
}

// RemoveOwn removes the fact of a source port: lookups for this port then return the newest
// value.
func (f *Facts) RemoveOwn(port uint16, what flowpb.Fact_What, id uint64) {
	f.own.Delete(ownID{factNameID{what, id}, port})
	f.nOwn.Store(int64(f.own.Len()))
}

// AddPort records that a port has sent the rate of a sampler or, if says is false, that this rate was removed. It must
// be called exactly once per port and sampler for each change: a second call would undo the XOR of the ids.
func (f *Facts) AddPort(port uint16, sampler uint64, says bool) {
	p, _ := f.ports.Load(port)
	p.ids ^= sampler
	if says {
		p.n++
	} else {
		p.n--
	}
	if p.n == 0 {
		f.ports.Delete(port)
	} else {
		f.ports.Store(port, p)
	}
	f.nPorts.Store(int64(f.ports.Len()))
}

// ownValue returns the value of a port if it differs from the newest.
func (f *Facts) ownValue(port uint16, what flowpb.Fact_What, id uint64) (v ownValue, ok bool) {
	if f.nOwn.Load() == 0 {
		return v, false
	}
	return f.own.Load(ownID{factNameID{what, id}, port})
}

// InitMs returns the system init time for a port, ms since the epoch; 0 if unknown.
func (f *Facts) InitMs(port uint16) uint64 {
	if v, ok := f.ownValue(port, flowpb.Fact_WHAT_INIT_TIME, 0); ok {
		return v.number
	}
	return f.initMs.Load()
}

// Rate returns the sampling rate, 1 in N, of a sampler or selector for a port.
func (f *Facts) Rate(port uint16, sampler uint64) (n uint64, ok bool) {
	if v, ok := f.ownValue(port, flowpb.Fact_WHAT_SAMPLER, sampler); ok {
		return v.number, true
	}
	return f.samplers.Load(sampler)
}

// OnlyRate returns the sampling rate for records of a port without a sampler element: the rate of
// the only sampler of this port, else of sampler 0, else of the only sampler of the exporter.
// Otherwise ok is false.
//
// RFC 5477 and RFC 3954 name the sampler in each record (IE 302, 48), but many routers with a single
// sampler omit it. With several samplers a choice would be a guess, so the rate stays unknown.
func (f *Facts) OnlyRate(port uint16) (n uint64, ok bool) {
	if f.nPorts.Load() > 1 {
		if p, said := f.ports.Load(port); said && p.n == 1 {
			return f.Rate(port, p.ids)
		}
	}
	if n, ok = f.Rate(port, 0); ok || f.nSamplers.Load() != 1 {
		return n, ok
	}
	return f.Rate(port, f.samplerIDs.Load())
}

// Name returns the name of an interface, VRF or application for a port, or "".
func (f *Facts) Name(port uint16, what flowpb.Fact_What, id uint64) string {
	if v, ok := f.ownValue(port, what, id); ok {
		return v.text
	}
	name, _ := f.names.Load(factNameID{what, id}) // "" when there is none
	return name
}
