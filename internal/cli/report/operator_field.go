package report

import (
	"math"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/internal/cli/console"
	"weir/internal/ie"
)

// An operatorValue is the value of a field that the operator added to FlowMessage (ELEMENTS_FILE).
type operatorValue struct {
	typ    ie.Type
	number uint64 // varints, and the bits of doubles
	octets []byte
}

// eachOperatorField calls f with the name and value of each field of m that the operator added. A field whose
// number ELEMENTS_FILE no longer has is named by that number.
func eachOperatorField(m protoreflect.Message, f func(name string, v operatorValue)) {
	for b := m.GetUnknown(); len(b) > 0; {
		n, typ, tagLen := protowire.ConsumeTag(b)
		if tagLen < 0 {
			return
		}
		whole := protowire.ConsumeFieldValue(n, typ, b[tagLen:])
		if whole < 0 {
			return
		}
		value := b[tagLen : tagLen+whole]
		b = b[tagLen+whole:]
		v := operatorValue{typ: ie.OctetArray}
		name := strconv.Itoa(int(n))
		if x, ok := ie.ExtendedField(int32(n)); ok {
			v.typ, name = x.Type, x.Name
		} else if typ == protowire.VarintType {
			v.typ = ie.Unsigned
		}
		switch typ {
		case protowire.VarintType:
			v.number, _ = protowire.ConsumeVarint(value)
		case protowire.Fixed64Type:
			v.number, _ = protowire.ConsumeFixed64(value)
		case protowire.BytesType:
			v.octets, _ = protowire.ConsumeBytes(value)
		default:
			v.octets = value
		}
		f(name, v)
	}
}

func (v operatorValue) json(j *jsonLine) {
	switch v.typ {
	case ie.Unsigned:
		j.uint(v.number)
	case ie.Seconds, ie.Milliseconds, ie.Microseconds, ie.Nanoseconds: // ns since the epoch
		j.text(strconv.FormatUint(v.number, 10))
	case ie.Signed:
		j.int(int64(v.number))
	case ie.Float:
		j.float(math.Float64frombits(v.number))
	case ie.Boolean:
		j.bool(v.number != 0)
	default:
		j.text(v.text())
	}
}

// String formats v for people; times are printed as instants.
func (v operatorValue) String() string {
	switch v.typ {
	case ie.Unsigned:
		return strconv.FormatUint(v.number, 10)
	case ie.Seconds, ie.Milliseconds, ie.Microseconds, ie.Nanoseconds:
		return timeText(time.Unix(0, int64(v.number)))
	case ie.Signed:
		return strconv.FormatInt(int64(v.number), 10)
	case ie.Float:
		return strconv.FormatFloat(math.Float64frombits(v.number), 'g', -1, 64)
	case ie.Boolean:
		return strconv.FormatBool(v.number != 0)
	}
	return console.Quote(v.text())
}

func (v operatorValue) text() string {
	switch v.typ {
	case ie.String:
		return string(v.octets)
	case ie.IPv4, ie.IPv6:
		return addressText(v.octets)
	case ie.MacAddress:
		var b [8]byte
		for i := range b {
			b[i] = byte(v.number >> (56 - 8*i))
		}
		return macText(b[2:])
	}
	return hexText(v.octets)
}
