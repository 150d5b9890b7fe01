package decode

import (
	"sync/atomic"

	"weir/internal/atomicmap"
	"weir/pkg/flowpb"
)

// Facts holds what options data says about one exporter, version and observation
// domain. The zero value holds nothing; a Facts must not be copied.
//
// Reading takes no lock and may happen at any time. Set and Remove must be called
// by one goroutine at a time. A change costs the same however much is known.
type Facts struct {
	initMs   atomic.Uint64                     // system init time, ms since the epoch; 0: unknown
	samplers atomicmap.Map[uint64, uint64]     // sampler or selector id → rate, 1 in N
	names    atomicmap.Map[factNameID, string] // interfaces, VRFs, applications

	nSamplers, nNames atomic.Int64  // entries, for readers
	samplerIDs        atomic.Uint64 // XOR of the ids of samplers: of one sampler, its id
}

type factNameID struct {
	what flowpb.Fact_What
	id   uint64
}

// Set takes a fact: a rate, an init time or a name in place of the one before.
// A number of 0 or an empty name removes it.
func (f *Facts) Set(fact *Fact) {
	switch fact.What {
	case flowpb.Fact_WHAT_INIT_TIME:
		if fact.ID == 0 {
			f.initMs.Store(fact.Number)
		}
	case flowpb.Fact_WHAT_SAMPLER:
		f.setSampler(fact.ID, fact.Number)
	default:
		f.setName(factNameID{fact.What, fact.ID}, fact.Text)
	}
}

// Remove forgets a fact.
func (f *Facts) Remove(what flowpb.Fact_What, id uint64) { f.Set(&Fact{What: what, ID: id}) }

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

func (f *Facts) setName(k factNameID, name string) {
	if name == "" {
		f.names.Delete(k)
	} else {
		f.names.Store(k, name)
	}
	f.nNames.Store(int64(f.names.Len()))
}

// InitMs returns the exporter's system init time, ms since the epoch; 0: unknown.
func (f *Facts) InitMs() uint64 { return f.initMs.Load() }

// Rate returns the sampling rate, 1 in N, of a sampler or selector.
func (f *Facts) Rate(sampler uint64) (n uint64, ok bool) { return f.samplers.Load(sampler) }

// OnlyRate returns the sampling rate of the only sampler; ok is false when there
// are none or several.
func (f *Facts) OnlyRate() (n uint64, ok bool) {
	if f.nSamplers.Load() != 1 {
		return 0, false
	}
	return f.samplers.Load(f.samplerIDs.Load())
}

// Name returns the name of an interface, VRF or application, "" when there is none.
func (f *Facts) Name(what flowpb.Fact_What, id uint64) string {
	name, _ := f.names.Load(factNameID{what, id}) // "" when there is none
	return name
}
