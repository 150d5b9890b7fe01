// Package decode turns export datagrams (NetFlow v1, v5, v7, v9; IPFIX) into flows, templates,
// options records and errors. It is pure: its inputs are octets and a State, its outputs are
// values. It opens nothing, starts no goroutine and reads no clock.
package decode

import (
	"net/netip"
	"time"

	"weir/internal/ipfix"
	"weir/internal/wire"
	"weir/pkg/flowpb"
)

type (
	// Header is the header of a datagram, see ipfix.Header.
	Header = ipfix.Header
	// Field is a field specifier of a template, see ipfix.Field.
	Field = ipfix.Field
	// Template is the layout of records, see ipfix.Template.
	Template = ipfix.Template
	// Value is a field of a record, undecoded, see ipfix.Value.
	Value = ipfix.Value
)

// Meta is the receiver's part of a datagram: its source and its time of receipt.
type Meta struct {
	Exporter netip.Addr // source address: unmapped, without zone
	Port     uint16     // UDP source port
	Received int64      // ns since the epoch; 0 = unknown (hex text)
}

// A TemplateKey identifies a template. The source port is not part of it: NAT and line cards change
// the port of an exporting process. RFC 7011 section 3.4.1 scopes template ids by transport session
// and observation domain; the exporter's address stands for the session.
type TemplateKey struct {
	Exporter [16]byte // v4-mapped when IPv4
	Domain   uint32
	ID       uint16
	Version  uint8 // ipfix.VersionNetFlow9 or ipfix.VersionIPFIX
}

// A State holds templates and options data of exporters: the decoder's view of the template store.
// Its methods must be safe for concurrent use.
type State interface {
	// Plan returns the template in force for a datagram from k's exporter. It returns nil if there
	// is none, or if the State requires a fresher template or options data first: the caller must
	// then keep the set. Plan must not lock or allocate. The caller must not change the Plan.
	Plan(k *TemplateKey, m *Meta, h *Header) *Plan
	// Learn puts the template of a datagram into force for the exporter and its port. It compiles a
	// new layout, and returns an error if Compile refuses it. The caller reuses t, so an
	// implementation must clone it to keep it.
	Learn(k *TemplateKey, m *Meta, h *Header, t *Template) (*Plan, error)
	// Facts returns the options data of k's exporter, version and domain (k.ID is ignored). It must
	// not return nil, and must not lock.
	Facts(k *TemplateKey) *Facts
	// LearnFact stores a fact of options data for k's exporter, version and domain (k.ID is
	// ignored).
	LearnFact(k *TemplateKey, m *Meta, h *Header, f OptionsFact)
}

// A Withdrawer is a State of a single transport session, in which templates can be withdrawn (RFC
// 7011 section 8.1).
type Withdrawer interface {
	// Withdraw removes the template of k, or all templates (options: options templates) of k's
	// domain if k's id is ipfix.IPFIXTemplates or ipfix.IPFIXOptions. It returns false if the template is
	// unknown.
	Withdraw(k *TemplateKey, options bool) bool
}

// An Exporter is the operator's configuration of an exporter. It is immutable. Its texts must be
// valid UTF-8.
type Exporter struct {
	Name, Site       string            // written into its flows; "" = not configured
	AddressPlan      string            // also written: scope in which a private address names one host; "" = Site
	SamplingDefault  uint64            // 1 in N if no other source has a rate; 0 = not configured
	SamplingOverride uint64            // 1 in N, before every rate that the exporter reports; 0: not configured
	Interfaces       map[uint32]string // ifIndex → name; takes precedence over options data
}

// An OptionsFact is a statement of options data about the exporter: a sampling rate, a name, an init
// time.
type OptionsFact struct {
	What   flowpb.Fact_What
	ID     uint64
	Number uint64
	Text   string
}

// A Span is a flow, as offsets in Result.Buf.
//
//	Result.Buf  ... | FlowMessage       | record key | FlowMessage ...
//	                ^ Start             ^ ValueEnd   ^ KeyEnd
//
// The caller writes Buf[Start:ValueEnd] as the value and Buf[ValueEnd:KeyEnd] as the key of a Kafka
// record. Both alias Buf: they are valid until the next call with the same Result.
type Span struct {
	Start    int // the FlowMessage begins
	ValueEnd int // the FlowMessage ends, the record key begins
	KeyEnd   int // the record key ends; = ValueEnd when the flow has no address pair
}

// A Learnt is an accepted template of a datagram.
type Learnt struct {
	Template Template // owned by the Result
	Off      int      // offset of the template record in the datagram, octets
}

// An OptionsRecord is a record of options data.
type OptionsRecord struct {
	TemplateID uint16
	Off        int           // offset of the record in the datagram, octets
	Values     []Value       // in record order, scopes first
	Facts      []OptionsFact // its statements about the exporter
	Exported   Exported      // its totals of the exporting process
}

// Exported holds the totals that an exporting process reports for the time since its start: octets, messages and flow
// records sent (IE 40, 41, 42).
type Exported struct {
	Has                       bool // any of them
	Octets, Messages, Records uint64
}

// A Set is a data set whose template is unknown, with the fields of its datagram that are
// needed to decode it later.
type Set struct {
	Meta   Meta
	Header Header
	Hash   uint64 // of the datagram
	ID     uint16 // template id
	Off    int    // offset of Data in the datagram, octets
	Data   []byte // the set's content without its header; aliases the datagram
}

// A Result is the content of a datagram. The caller owns it and reuses it from datagram to
// datagram; unless a field states otherwise, its parts are valid until the next call.
type Result struct {
	Header    Header
	Hash      uint64                // xxHash64 of the datagram
	Buf       []byte                // messages and keys, see Flows
	Flows     []Span                // in record order
	Messages  []*flowpb.FlowMessage // Read only: the messages of Flows; not reused, the caller may keep them
	Templates []Learnt
	Options   []OptionsRecord // Read only, in record order; not reused
	Unknown   []Set
	Errors    []wire.Error // in datagram order; includes errors after which decoding went on

	OptionsRecords int      // records of options data
	Exported       Exported // of the last options record that has totals

	// TooSmall counts the flow records that were not decoded because a datagram makes at most one
	// flow per MinFlow octets of its data sets. Errors names the sets, with the cause
	// record_too_small.
	TooSmall int
	// Beyond counts the flow records that were not decoded because Buf had reached
	// Decoder.MaxOctets.
	Beyond int

	OldUptimes int // uptimes before a wrap of the clock and older than MaxUptimeAge, replaced by the export time
	Misencoded int // NTP timestamps (RFC 7011 sections 6.1.9, 6.1.10) that hold, and were read as, Unix µs or ns
	BadRates   int // impossible sampling rates (zero or absurd operands), treated as unknown

	fields []Field // of Templates
}

// A Decoder decodes datagrams one at a time. It holds scratch space, so each goroutine must have
// its own; several Decoders may share a State. The fields in front must not be changed during a
// call.
type Decoder struct {
	State   State
	Replica string // written into each flow when not empty; must be valid UTF-8
	// Exporter returns the operator's configuration of an exporter, or nil. It is called once per
	// datagram and must not block. A nil function configures no exporter.
	Exporter func(netip.Addr) *Exporter
	// ExporterOfRecord makes the exporter that a record names (IE 130, 131) the flow's exporter.
	// Set it for trusted relays only: any sender can write these elements.
	ExporterOfRecord bool
	// DropElements omits fields that FlowMessage has no field for.
	DropElements bool
	// MaxUptimeAge bounds the age of a flow time that is an uptime greater than the header's. Such
	// an uptime is either from before a wrap of the clock (2^32 ms) or wrong; beyond the bound the
	// flow gets its export time. 0 means no limit, which suits readers of stored flows: these are
	// exported days later.
	MaxUptimeAge time.Duration
	// MaxOctets ends the decoding of flows once Result.Buf holds this many octets; the last flow
	// may exceed it. 0 means no limit. Read ignores it.
	MaxOctets int

	tmpl         Template // scratch for template records
	k            TemplateKey
	rec          record
	optionValues optionValues // of the current options record
	out          outcome
	head         []byte // the common beginning of all messages of a datagram
	pending      []Set  // data sets that precede their template
	ctx          context
	fast         [2]fastSet // of Plan.fast and Plan.fast6
	packed       window     // the fixed-length fields of a record that has variable-length fields
	variable     [][]byte   // the variable-length fields of that record, in record order
	slack        []byte     // a copy of a set with margins, see withSlack
	readable     bool       // the current call is Read or ReadSet
	limit        int        // MaxOctets, or math.MaxInt
	credit       int        // octets of data sets not yet spent on flows of small records
	last         int        // upper bound of flows in the Result after the current set

	factCredit int // octets of options data not yet spent on facts

	// path replaces the choice of records where tests compare the paths; nil outside of tests.
	path func(d *Decoder, b []byte, off int, p *Plan, r *Result)
}

// MinFlow is the least number of octets of data sets, set headers included, per flow. It bounds
// amplification: a flow message has about a hundred octets, a record may have one.
//
// Example: records of one octet, and a set of 4 + 1 400 octets. Without the bound it makes 1 400 flows
// of 100 octets each; with it, (1 404 + smallAllowance) / MinFlow = 183.
const MinFlow = 8

// MinFact is the least number of octets of options data per fact. Records beyond that are counted
// and not decoded; Errors names the set, with the cause record_too_small.
const MinFact = 8

// smallAllowance is the number of octets that a datagram is credited in addition to its data sets,
// so that a few small records are always decoded.
const smallAllowance = 8 * MinFlow

// MaxName is the maximum length, in octets, of a name from options data. A name is repeated in
// every flow that refers to it, so longer names are cut.
const MaxName = 255

// Map16 returns an address as 16 octets, IPv4 as v4-mapped.
func Map16(a netip.Addr) [16]byte { return a.As16() }
