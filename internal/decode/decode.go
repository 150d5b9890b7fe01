// Package decode turns export datagrams into flows, templates, options records
// and errors. It is pure: octets and a template lookup in, values out.
package decode

import (
	"net/netip"
	"time"

	"weir/internal/wire"
	"weir/pkg/flowpb"
)

// Versions of the export protocols that carry templates, as in the first two octets of a datagram.
const (
	VersionNetFlow9 = 9  // RFC 3954
	VersionIPFIX    = 10 // RFC 7011
)

// Meta is what the receiver of a datagram knows of it.
type Meta struct {
	Exporter netip.Addr // source address: unmapped, without zone
	Port     uint16     // UDP source port
	Received int64      // ns since the epoch; 0 = unknown (hex text)
}

// A Header is the header of a datagram, of whichever version.
type Header struct {
	Version  uint16 // 1, 5, 7, 9, 10 (IPFIX)
	Count    uint16 // records as stated (v1, v5, v7, v9); IPFIX: message length in octets
	Uptime   uint32 // sysUptime, ms; 0 for IPFIX
	Export   int64  // export time, ns since the epoch
	Sequence uint32 // 0 for v1
	Domain   uint32 // v9 source id, IPFIX observation domain, v5 engine type<<8 | engine id
	Sampling uint16 // v5: 2 bits mode, 14 bits interval
}

// A TemplateKey is the identity of a template (not the source port: NAT and
// line cards change it).
type TemplateKey struct {
	Exporter [16]byte // v4-mapped when IPv4
	Domain   uint32
	ID       uint16
	Version  uint8 // 9 or 10
}

// A Field is one field of a template.
type Field struct {
	PEN    uint32 // private enterprise number, 0 = IANA's
	ID     uint16 // element id without the enterprise bit; v9: field or scope type
	Length uint16 // octets; 65535 = variable (IPFIX)
}

// VarLen is the Length of a variable-length field, RFC 7011 section 7.
const VarLen = 65535

// A Template is a template or options template definition.
type Template struct {
	ID      uint16
	Options bool
	Scopes  int     // the first Scopes fields are scopes; 0 unless Options
	Fields  []Field // in record order
}

// A State is what is known about exporters: the template store, seen from the
// decoder. Calls come from several goroutines.
type State interface {
	// Plan returns the definition in force for a datagram from k's exporter, or
	// nil when none is known, or when it is worth to wait for a fresher one or
	// for a fact. It takes no lock and allocates nothing.
	Plan(k *TemplateKey, m *Meta, h *Header) *Plan
	// Learn takes a definition found in a datagram: it is in force from now on
	// for that exporter and port. It compiles what it does not know yet and
	// returns an error when Compile refuses the template. t is the caller's
	// scratch: it is cloned when kept.
	Learn(k *TemplateKey, m *Meta, h *Header, t *Template) (*Plan, error)
	// Facts returns what options data said about k's exporter, version and
	// domain (k.ID is ignored), never nil. It takes no lock.
	Facts(k *TemplateKey) *Facts
	// LearnFact takes one fact of options data about k's exporter, version and
	// domain (k.ID is ignored).
	LearnFact(k *TemplateKey, m *Meta, h *Header, f Fact)
}

// A Withdrawer is a State that is scoped to one transport session, where templates
// are withdrawn (RFC 7011 section 8.1).
type Withdrawer interface {
	// Withdraw forgets the definition of k, or all of k's domain when k's id is
	// IPFIXTemplates or IPFIXOptions. It returns false when it was not known.
	Withdraw(k *TemplateKey, options bool) bool
}

// An Exporter is what the operator says of an exporter. It is immutable.
type Exporter struct {
	Name, Site       string            // written into its flows; "" = not said
	AddressPlan      string            // the same: where a private address names one host; "" = its site
	SamplingDefault  uint64            // 1 in N where nothing else says a rate; 0 = not said
	SamplingOverride uint64            // 1 in N whatever the exporter says; 0 = not said
	Interfaces       map[uint32]string // ifIndex → name, before what options data says
}

// A Fact is one thing that options data says.
type Fact struct {
	What   flowpb.Fact_What
	ID     uint64
	Number uint64
	Text   string
}

// A Span is one flow of the wire path: offsets in Result.Buf.
type Span struct {
	Start    int // the FlowMessage begins
	ValueEnd int // the FlowMessage ends, the record key begins
	KeyEnd   int // the record key ends; = ValueEnd when the flow has no address pair
}

// A Learnt is a template that a datagram brought and that was accepted.
type Learnt struct {
	Template Template // owned by the Result
	Off      int      // offset of the template record in the datagram, octets
}

// An OptionsRecord is one record of options data.
type OptionsRecord struct {
	TemplateID uint16
	Off        int      // offset of the record in the datagram, octets
	Values     []Value  // in record order, scopes first
	Facts      []Fact   // what it says about the exporter
	Exported   Exported // what it says of the exporting process
}

// Exported are totals that an exporting process reports of itself (IE 40, 41,
// 42), since it began to.
type Exported struct {
	Has                       bool // any of them
	Octets, Messages, Records uint64
}

// A Value is one field of a record, raw.
type Value struct {
	PEN    uint32
	ID     uint16
	Scope  bool
	Octets []byte // aliases the datagram
}

// A Set is a data set whose template is not known: what is needed to decode it
// later.
type Set struct {
	Meta   Meta
	Header Header
	Hash   uint64 // of the datagram
	ID     uint16 // template id
	Off    int    // offset of Data in the datagram, octets
	Data   []byte // the set's content without its header; aliases the datagram
}

// A Result is what a datagram holds. It is reused from datagram to datagram;
// its parts are valid until the next call.
type Result struct {
	Header    Header
	Hash      uint64                // xxHash64 of the datagram
	Buf       []byte                // wire path: messages and keys, see Flows
	Flows     []Span                // wire path, in record order
	Messages  []*flowpb.FlowMessage // readable path, in record order; not reused
	Templates []Learnt
	Options   []OptionsRecord // readable path, in record order; not reused
	Unknown   []Set
	Errors    []wire.Error // in datagram order; parts skipped, not only what ended it

	OptionsRecords int      // records of options data, on either path
	Exported       Exported // what the last one of those that say it says of the exporting process

	// TooSmall counts the flow records that were not decoded because a datagram
	// makes at most one flow per MinFlow octets of its data sets; Errors names the
	// sets, with the cause record_too_small.
	TooSmall int
	// Beyond counts the flow records that were not decoded because Buf had reached
	// Decoder.MaxOctets.
	Beyond int

	OldUptimes int // times given as uptimes that lie more than MaxUptimeAge back behind a wrap of the clock; the export time stands for them
	Misencoded int // times that were Unix µs or ns where NTP's form is asked for, and read so
	BadRates   int // sampling rates that cannot be (zero or absurd operands), taken as unknown

	fields []Field // of Templates
}

// A Decoder decodes datagrams, one at a time: it holds scratch space. Use one
// a goroutine; they may share their State.
type Decoder struct {
	State   State
	Replica string // written into each flow when not empty
	// Exporter returns what the operator says of an exporter, nil for nothing. It
	// is called once a datagram; nil: nothing is said of any.
	Exporter func(netip.Addr) *Exporter
	// ExporterOfRecord takes the exporter that a record names (IE 130, 131) for
	// the flow's.
	ExporterOfRecord bool
	// DropElements leaves out what has no field of its own.
	DropElements bool
	// MaxUptimeAge is how long ago the time of a flow may lie that is an uptime after
	// the header's: such an uptime is of before the clock wrapped (2^32 ms), or wrong.
	// Beyond it the flow has its export time. 0 means no limit, as for what reads files
	// of flows again: they are exported days later.
	MaxUptimeAge time.Duration
	// MaxOctets ends the decoding of flows once Result.Buf holds so many octets;
	// the last flow may exceed it. 0 means no limit. The readable path ignores it.
	MaxOctets int

	tmpl         Template // scratch for template records
	k            TemplateKey
	rec          record
	optionValues optionValues // of the options record at hand
	out          outcome
	head         []byte // what all messages of a datagram begin with
	pending      []Set  // data sets met before their template
	ctx          context
	fast         fastSet
	packed       window   // of a record with fields of variable length: the others
	variable     [][]byte // and those, in record order
	slack        []byte   // a set with octets around it, see behind
	plain        bool     // appending path only: the second oracle of tests
	limit        int      // MaxOctets, or math.MaxInt
	credit       int      // octets of data sets that may still make flows of small records
	last         int      // how many flows r may hold after the set at hand

	factCredit int // octets of options data that may still make facts
}

// MinFlow is the number of octets of data sets, their headers included, that a
// flow takes at least. Records shorter than that would make a flow of a hundred
// octets from one.
const MinFlow = 8

// MinFact is the number of octets of options data that a fact takes at least. Records
// beyond that are counted and not decoded; Errors names the set, with the cause
// record_too_small.
const MinFact = 8

// smallAllowance is how many octets a datagram has beside those of its data sets,
// so that a few small records are decoded whatever their number.
const smallAllowance = 8 * MinFlow

// MaxName is the length of the longest name that options data can set, octets.
// A name is repeated in every flow that refers to it; longer ones are cut.
const MaxName = 255

// Map16 gives an address as 16 octets, IPv4 v4-mapped.
func Map16(a netip.Addr) [16]byte { return a.As16() }
