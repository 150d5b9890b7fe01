package query

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxKeys bounds the number of keys of a Grouping.
const maxKeys = 10

// A Key is a field by which an Aggregation groups.
type Key struct {
	Name string        // as written, without the length
	Bits int           // prefix length of addresses; 0: the whole address
	Step time.Duration // of the key time; 0: another key

	source, destination *Field // the second is nil for a key without sides
	none                []byte // value of a message without the field
}

// shortNames maps names of nfdump's and of daily use to properties and sides.
var shortNames = map[string]struct {
	property string
	side     Side
}{
	"srcip": {"ip", Source}, "dstip": {"ip", Destination}, "ip": {"ip", Either}, "host": {"ip", Either},
	"srcport": {"port", Source}, "dstport": {"port", Destination}, "port": {"port", Either},
	"srcas": {"as", Source}, "dstas": {"as", Destination}, "as": {"as", Either},
	"srcvlan": {"vlan", Source}, "dstvlan": {"vlan", Destination}, "vlan": {"vlan", Either},
	"srcmask": {"mask", Source}, "dstmask": {"mask", Destination}, "mask": {"mask", Either},
	"srcmac": {"mac", Source}, "dstmac": {"mac", Destination}, "mac": {"mac", Either},
	"srccountry": {"country", Source}, "dstcountry": {"country", Destination}, "country": {"country", Either},
	"inif": {"if", Source}, "outif": {"if", Destination}, "if": {"if", Either},
	"proto": {"proto", Source}, "tos": {"tos", Source}, "flags": {"flags", Source}, "service": {"service", Source},
	"app": {"app", Source}, "exporter": {"exporter", Source}, "router": {"exporter", Source}, "next": {"next ip", Source},
	"nhip": {"next ip", Source}, "state": {"state", Source}, "icmp-type": {"icmp-type", Source},
	"initiator": {"ip", Source}, "responder": {"ip", Destination},
}

// ParseGrouping parses a list of keys, FIELD[/LENGTH],…, for messages of schema. A FIELD is a property with or without
// a side (srcip, port), a field of the message, an Information Element, or time/STEP.
func ParseGrouping(schema *Schema, text string) (keys []Key, err error) {
	for name := range strings.SplitSeq(text, ",") {
		k, err := parseKey(schema, strings.TrimSpace(name))
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(keys, func(o Key) bool { return o.Name == k.Name }) {
			return nil, fmt.Errorf("%q is named twice", k.Name)
		}
		keys = append(keys, k)
	}
	if len(keys) > maxKeys {
		return nil, fmt.Errorf("%d fields: want at most %d", len(keys), maxKeys)
	}
	return keys, nil
}

func parseKey(schema *Schema, text string) (k Key, err error) {
	name, length, hasLength := strings.Cut(text, "/")
	k.Name = strings.Join(strings.Fields(name), " ")
	if k.Name == "" {
		return k, fmt.Errorf("%q: a field is missing", text)
	}
	if strings.EqualFold(k.Name, "time") {
		return k, k.parseStep(schema, length)
	}
	short := strings.ToLower(strings.ReplaceAll(k.Name, " ", ""))
	if base, ok := strings.CutSuffix(short, "ip4"); ok && hasLength { // nfdump's srcip4/24
		short = base + "ip"
	} else if base, ok := strings.CutSuffix(short, "ip6"); ok && hasLength {
		short = base + "ip"
	}
	if s, ok := shortNames[short]; ok {
		err = k.resolve(schema, s.property, s.side)
	} else if f, ok := schema.Lookup(k.Name); ok {
		k.source = f
	} else {
		err = fmt.Errorf("%q is no field of a %s", k.Name, schema.Name)
	}
	if err != nil || !hasLength {
		return k, err
	}
	most := 128
	n, err := strconv.ParseUint(length, 10, 8)
	if err != nil || n < 1 || int(n) > most || k.source.Kind != Address {
		return k, fmt.Errorf("%q: want a prefix length, 1 to %d, after an address only", text, most)
	}
	k.Bits = int(n)
	return k, nil
}

// parseStep makes k the key time, which is cut to multiples of a step.
func (k *Key) parseStep(schema *Schema, step string) (err error) {
	if k.Step, err = time.ParseDuration(step); err != nil || k.Step < time.Millisecond || k.Step > 366*24*time.Hour {
		return fmt.Errorf("%q: want time/STEP, such as time/1m", "time/"+step)
	}
	k.Name = "time"
	name := "time_flow_start_ns"
	if schema == Connections() {
		name = "start_unix_ns"
	}
	k.source = schema.fields[name]
	return nil
}

// resolve finds the fields of a property.
func (k *Key) resolve(schema *Schema, property string, side Side) error {
	e, ok := schema.ends[property]
	if !ok {
		return fmt.Errorf("a %s has no %s", schema.Name, k.Name)
	}
	lookup := func(names []string) *Field {
		f, _ := schema.Lookup(names[0])
		return f
	}
	switch {
	case side == Destination:
		k.source = lookup(e.destination)
	case side == Either && len(e.destination) > 0:
		k.source, k.destination = lookup(e.source), lookup(e.destination)
	default:
		k.source = lookup(e.source)
	}
	if property == "next ip" { // as nfdump
		k.none = make([]byte, 4)
	}
	return nil
}

// IsSided reports whether a message counts once for its source and once for its destination.
func (k *Key) IsSided() bool { return k.destination != nil }

// IsProtocol reports whether the values are numbers of IP protocols.
func (k *Key) IsProtocol() bool { return k.source.Name == "proto" || k.source.Name == "protocol" }

// append appends the value of a slot's field to the key of a group: numbers in 8 octets, others after their length.
func (k *Key) append(b []byte, r *Row, s Slot) []byte {
	switch s.Field.Kind {
	case Address:
		octets := r.Octets(s)
		if len(octets) == 0 {
			octets = k.none
		}
		return k.appendAddress(b, octets)
	case Text:
		if s.Field.text != nil {
			text := r.Text(s)
			return append(append(b, byte(min(len(text), 255))), text[:min(len(text), 255)]...)
		}
		fallthrough
	case Octets:
		octets := r.Octets(s)
		octets = octets[:min(len(octets), 255)]
		return append(append(b, byte(len(octets))), octets...)
	default:
	}
	n := r.Uint(s)
	if k.Step > 0 {
		n -= n % uint64(k.Step)
	}
	return binary.BigEndian.AppendUint64(b, n)
}

// appendAddress appends the address, or its network.
func (k *Key) appendAddress(b, octets []byte) []byte {
	a, ok := netip.AddrFromSlice(octets)
	if !ok {
		return append(b, 0)
	}
	if k.Bits > 0 && k.Bits < a.BitLen() {
		p, _ := a.Prefix(k.Bits) // Bits is less than the length of an address
		a = p.Addr()
	}
	if a.Is4() {
		four := a.As4()
		return append(append(b, 4), four[:]...)
	}
	sixteen := a.As16()
	return append(append(b, 16), sixteen[:]...)
}

// A KeyValue is the value of a key in a group.
type KeyValue struct {
	Kind   Kind
	Number uint64
	Octets []byte
	enum   protoreflect.EnumDescriptor
}

// split splits the key of a group into the values of its keys.
func split(keys []Key, group string) []KeyValue {
	values := make([]KeyValue, len(keys))
	for i := range keys {
		f := keys[i].source
		v := KeyValue{Kind: f.Kind, enum: f.enum}
		switch f.Kind {
		case Address, Text, Octets:
			n := int(group[0])
			v.Octets, group = []byte(group[1:1+n]), group[1+n:]
		default:
			v.Number, group = binary.BigEndian.Uint64([]byte(group[:8])), group[8:]
		}
		values[i] = v
	}
	return values
}

// IsNumber reports whether the value is a number in JSON.
func (v KeyValue) IsNumber() bool {
	return (v.Kind == Number || v.Kind == Signed) && v.enum == nil
}

// String returns the value as text: addresses in their usual form, times in RFC 3339, MAC addresses with colons, other
// octets in hexadecimal.
func (v KeyValue) String() string {
	switch v.Kind {
	case Address:
		a, ok := netip.AddrFromSlice(v.Octets)
		if !ok {
			return ""
		}
		return a.String()
	case Text:
		return string(v.Octets)
	case Octets:
		return hex.EncodeToString(v.Octets)
	case MAC:
		return formatMAC(v.Number)
	case Time:
		return time.Unix(0, int64(v.Number)).UTC().Format("2006-01-02T15:04:05.999999999Z")
	case Signed:
		return strconv.FormatInt(int64(v.Number), 10)
	case Number:
	}
	if v.enum != nil {
		if d := v.enum.Values().ByNumber(protoreflect.EnumNumber(v.Number)); d != nil {
			return string(d.Name())
		}
	}
	return strconv.FormatUint(v.Number, 10)
}
