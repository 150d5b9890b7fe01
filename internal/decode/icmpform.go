package decode

import (
	"sync/atomic"
	"time"

	"weir/internal/flowkey"
	"weir/pkg/flowpb"
)

// A portForm is how an exporter puts ICMP type and code into the destination port,
// where it has no element for them. NetFlow v5 and RFC 5102 have type * 256 + code.
// Cisco IOS XR sends code * 256 + type for ICMPv6, and 0 for ICMP. Procera sends the
// type alone, for both.
//
// fprobe (NetFlow v1, v5, v7) sends the type as the source port and the code as the
// destination port; of all others ICMP has no source port there.
//
// Where one octet is 0 the other one is the type: type 0 is reserved in ICMPv6, and
// in ICMP it is an echo reply, which has code 0 only. Where neither is, the form that
// the exporter has shown counts.
type portForm uint8

const (
	codeFirst  portForm = 1 << iota // code * 256 + type
	typeFirst                       // type * 256 + code
	nPortForms = iota
)

// portICMP returns type * 256 + code of the ports of ICMP or ICMPv6, and notes the form
// that an ICMPv6 one shows. The source port src is 0 in NetFlow v9 and IPFIX, where some
// exporters report the identifier of an echo in it.
func (c *context) portICMP(proto uint8, src, port uint64) uint64 {
	high, low := port>>8&0xff, port&0xff
	switch {
	case high == 0 && src != 0 && src < 256:
		return src<<8 | low
	case high == 0:
		if proto == flowkey.ICMPv6 && low != 0 {
			c.formsSeen |= codeFirst
		}
		return low << 8
	case low == 0:
		if proto == flowkey.ICMPv6 {
			c.formsSeen |= typeFirst
		}
	case c.codeFirst && proto == flowkey.ICMPv6:
		return low<<8 | high
	}
	return high<<8 | low
}

// portForms are the forms that an exporter and domain has shown. The zero value is
// none.
type portForms struct {
	known  atomic.Uint32            // bit per form
	learnt [nPortForms]atomic.Int64 // when this process learnt of it last, receive time, ns
}

// codeFirst reports whether ports of ICMPv6 are read as code * 256 + type. A port of the
// other form outweighs: a packet of the reserved type 0, which anyone can send, looks as
// if its code were a type.
func (f *portForms) codeFirst() bool { return portForm(f.known.Load()) == codeFirst }

// set notes or forgets a form; the id is that of the fact. There is one writer at a time.
func (f *portForms) set(id uint64, known bool) {
	form := portForm(id)
	if id != uint64(codeFirst) && id != uint64(typeFirst) {
		return // of a later version, or forged
	}
	if known {
		f.known.Or(uint32(form))
	} else {
		f.known.And(^uint32(form))
	}
}

// formInterval is how long a form is not learnt again: less often than every record, and
// often enough that the fact stays known while the exporter shows it.
const formInterval = 5 * time.Minute

// due reports whether a form that was received at a time, ns, is to be learnt.
func (f *portForms) due(form portForm, received int64) bool {
	if portForm(f.known.Load())&form == 0 {
		return true
	}
	return !withinDistance(f.learnt[form-1].Load(), received, int64(formInterval))
}

// learnForms makes facts of the forms that the data set at hand showed. type * 256 + code
// is what is taken without any fact: it is one only against the other form.
func (d *Decoder) learnForms() {
	seen := d.ctx.formsSeen
	d.ctx.formsSeen = 0
	if d.ctx.header.Version < VersionNetFlow9 {
		return // nothing is learnt of these
	}
	for _, form := range [...]portForm{codeFirst, typeFirst} {
		if seen&form == 0 || form == typeFirst && portForm(d.ctx.facts.icmpForms.known.Load())&codeFirst == 0 ||
			!d.ctx.facts.icmpForms.due(form, d.ctx.meta.Received) {
			continue
		}
		d.State.LearnFact(d.key(0), &d.ctx.meta, &d.ctx.header, Fact{What: flowpb.Fact_WHAT_ICMPV6_FORM, ID: uint64(form), Number: 1})
		d.loadFacts()
		if f := &d.ctx.facts.icmpForms; portForm(f.known.Load())&form != 0 {
			f.learnt[form-1].Store(d.ctx.meta.Received) // not where it was refused: facts may be those of nobody
		}
	}
}
