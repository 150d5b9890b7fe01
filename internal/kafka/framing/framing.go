// Package framing encodes messages into Kafka records and decodes them. A record is a message in protobuf, or
// messages with their length before each of them (length-delimited protobuf), or a message in JSON. The first
// octets of a record identify its form, so readers need no setting.
package framing

import (
	"errors"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"weir/pkg/flowpb"
)

// Config selects the form of the records of a topic.
type Config struct {
	Format  string `env:"FORMAT" envDefault:"protobuf" unit:"protobuf or json" help:"encoding of messages: protobuf, or JSON (protobuf's JSON mapping with the field names of the .proto) for consumers without protobuf; JSON is slow and large"`
	Framing string `env:"FRAMING" envDefault:"single" unit:"single or delimited" help:"single: a record is one message; delimited: a record is a sequence of messages, each preceded by its length, as in goflow2 and ClickHouse's format Protobuf"`
}

// Validate reports all mistakes together, by variable and value.
func (c Config) Validate() error {
	var errs []error
	switch c.Format {
	case "", formatProtobuf, formatJSON:
	default:
		errs = append(errs, fmt.Errorf("FORMAT=%q: want protobuf or json", c.Format))
	}
	switch c.Framing {
	case "", framingSingle:
	case framingDelimited:
		if c.Format == formatJSON {
			errs = append(errs, errors.New("FRAMING=delimited with FORMAT=json: "+
				"JSON is one message a record, want FRAMING=single"))
		}
	default:
		errs = append(errs, fmt.Errorf("FRAMING=%q: want single or delimited", c.Framing))
	}
	return errors.Join(errs...)
}

const (
	formatProtobuf, formatJSON      = "protobuf", "json"
	framingSingle, framingDelimited = "single", "delimited"
)

// Delimited reports whether messages have their length before them.
func (c Config) Delimited() bool { return c.Framing == framingDelimited && c.Format != formatJSON }

// Plain reports whether a record is a message in protobuf without anything else.
func (c Config) Plain() bool { return !c.Delimited() && c.Format != formatJSON }

// Append appends message, of kind k in protobuf's wire format, to dst in the form of c. Only with Delimited may
// dst hold other messages.
func (c Config) Append(dst []byte, k Kind, message []byte) ([]byte, error) {
	switch {
	case c.Format == formatJSON:
		m := k.message()
		if err := proto.Unmarshal(message, m); err != nil {
			return dst, fmt.Errorf("%s: %w", k.name, err)
		}
		return appendJSON(dst, m.ProtoReflect()), nil
	case c.Delimited():
		return AppendDelimited(dst, message), nil
	}
	return append(dst, message...), nil
}

// AppendDelimited appends message with its length before it, as a varint.
func AppendDelimited(dst, message []byte) []byte {
	return append(protowire.AppendVarint(dst, uint64(len(message))), message...)
}

// A Kind is the message type of a topic. Encoders must write field 1 first and always: a record that begins with
// its tag is a single message. A length cannot be mistaken for the tag, since no message is that short.
type Kind struct {
	name    string
	first   byte // tag of field 1
	message func() proto.Message
}

// The kinds of messages.
var (
	Flows = Kind{
		"flow", 1<<3 | byte(protowire.VarintType),
		func() proto.Message { return &flowpb.FlowMessage{} },
	}
	Connections = Kind{
		"connection", 1<<3 | byte(protowire.BytesType),
		func() proto.Message { return &flowpb.Connection{} },
	}
)

// Each passes the messages of a record to take, in order, and returns their number. It stops at the first
// message that cannot be decoded.
func (k *Kind) Each(record []byte, take func(message []byte)) (n int, err error) {
	for {
		message, left, err := k.Next(record)
		if err != nil {
			return n, err
		}
		take(message)
		n++
		if record = left; len(record) == 0 {
			return n, nil
		}
	}
}

// Next returns the first message of a record, or of the rest of a record, in protobuf's wire format, and the
// rest after it, which is empty after the last. message aliases record, except for JSON. Next does not check the
// content of a protobuf message.
func (k *Kind) Next(record []byte) (message, left []byte, err error) {
	switch {
	case len(record) == 0:
		return nil, nil, fmt.Errorf("%s: an empty record", k.name)
	case record[0] == k.first:
		return record, nil, nil
	case len(record) > 1 && record[0] == '{' && record[1] == '"':
		m := k.message()
		if err := protojson.Unmarshal(record, m); err != nil {
			return nil, nil, fmt.Errorf("%s in JSON: %w", k.name, err)
		}
		message, err = proto.Marshal(m)
		return message, nil, err
	}
	n, used := protowire.ConsumeVarint(record)
	if used < 0 || n == 0 || n > math.MaxInt32 || int(n) > len(record)-used || record[used] != k.first {
		return nil, nil, fmt.Errorf("not a record of a %s: neither protobuf, with or without its length, nor JSON", k.name)
	}
	return record[used : used+int(n)], record[used+int(n):], nil
}
