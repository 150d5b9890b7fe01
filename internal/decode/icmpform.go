package decode

import (
	"sync/atomic"
	"time"

	"weir/internal/flowkey"
	"weir/internal/ipfix"
	"weir/pkg/flowpb"
)

// A portForm is an exporter's encoding of ICMP type and code in the destination port, in templates
// without an element for them. NetFlow v5 and RFC 5102 have type * 256 + code. Cisco IOS XR sends
// code * 256 + type for ICMPv6, and 0 for ICMP. Procera sends the type alone, for both.
//
// fprobe (NetFlow v1, v5, v7) sends the type as the source port and the code as the destination
// port; other exporters send source port 0 for ICMP.
//
// If one octet is 0, the other is the type: type 0 is reserved in ICMPv6, and in ICMP it is an echo
// reply, whose code is always 0. If neither is 0, the form that the exporter has shown before
// decides.
//
// The port of some ICMPv6 packets in each form:
//
//	                               type*256+code   code*256+type   type alone
//	echo request (128, 0)          80 00           00 80           00 80
//	port unreachable (1, 4)        01 04           04 01           00 01
//	packet too big (2, 0)          02 00           00 02           00 02
//
// In the first two forms only the second row is ambiguous. The third form loses the code.
type portForm uint8

const (
	codeFirst  portForm = 1 << iota // code * 256 + type
	typeFirst                       // type * 256 + code
	nPortForms = iota
)

// portICMP returns type * 256 + code from the ports of ICMP or ICMPv6, and notes the form that an
// ICMPv6 port shows. The caller must pass src = 0 for NetFlow v9 and IPFIX, where some exporters
// report the identifier of an echo in the source port.
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

// portForms are the forms that an exporter and domain has shown. The zero value has none.
type portForms struct {
	known  atomic.Uint32            // a bit per form
	learnt [nPortForms]atomic.Int64 // receive time of its last report to the State by this process, ns
}

// codeFirst reports whether ports of ICMPv6 are read as code * 256 + type. The other form takes
// precedence: anyone can send a packet of the reserved type 0, whose code looks like a type.
func (f *portForms) codeFirst() bool { return portForm(f.known.Load()) == codeFirst }

// set adds or removes a form; id is the id of the fact. It must be called by one goroutine at a
// time.
func (f *portForms) set(id uint64, known bool) {
	form := portForm(id)
	if id != uint64(codeFirst) && id != uint64(typeFirst) {
		return // from a later version of Weir, or forged
	}
	if known {
		f.known.Or(uint32(form))
	} else {
		f.known.And(^uint32(form))
	}
}

// formInterval is the minimum time between two reports of a form to the State: rarely enough to
// cost nothing per record, and often enough that the fact does not expire while the exporter shows
// the form.
const formInterval = 5 * time.Minute

// due reports whether a form received at a time, ns, must be reported to the State.
func (f *portForms) due(form portForm, received int64) bool {
	if portForm(f.known.Load())&form == 0 {
		return true
	}
	return !withinDistance(f.learnt[form-1].Load(), received, int64(formInterval))
}

// learnForms reports the forms of the current data set to the State. type * 256 + code is the
// default, so it becomes a fact only to contradict the other form.
func (d *Decoder) learnForms() {
	seen := d.ctx.formsSeen
	d.ctx.formsSeen = 0
	if d.ctx.header.Version < ipfix.VersionNetFlow9 {
		return // these versions have no facts
	}
	for _, form := range [...]portForm{codeFirst, typeFirst} {
		if seen&form == 0 || form == typeFirst && portForm(d.ctx.facts.icmpForms.known.Load())&codeFirst == 0 ||
			!d.ctx.facts.icmpForms.due(form, d.ctx.meta.Received) {
			continue
		}
		fact := OptionsFact{What: flowpb.Fact_WHAT_ICMPV6_FORM, ID: uint64(form), Number: 1}
		d.State.LearnFact(d.key(0), &d.ctx.meta, &d.ctx.header, fact)
		d.loadFacts()
		if f := &d.ctx.facts.icmpForms; portForm(f.known.Load())&form != 0 {
			// Only if accepted: the Facts of a refused exporter may be a shared empty value.
			f.learnt[form-1].Store(d.ctx.meta.Received)
		}
	}
}
