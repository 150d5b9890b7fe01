// Package framing puts messages into Kafka records, and takes them out again: one
// a record as plain protobuf, with its length before it (and then several in one
// record, if wanted), or as JSON. A record tells by its first octets which it is.
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

// Config is the form of the records of a topic.
type Config struct {
	Format  string `env:"FORMAT" envDefault:"protobuf" unit:"protobuf or json" help:"what a record holds: protobuf, or JSON (protobuf's JSON form with the names of the .proto), for consumers without protobuf; JSON is slow and large"`
	Framing string `env:"FRAMING" envDefault:"single" unit:"single or delimited" help:"single: a record is one message; delimited: each message has its length before it, as goflow2 and ClickHouse's format Protobuf want it"`
}

// Validate reports every mistake at once, by variable and value.
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
			errs = append(errs, errors.New("FRAMING=delimited with FORMAT=json: JSON is one message a record, want FRAMING=single"))
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

// Delimited tells whether messages have their length before them.
func (c Config) Delimited() bool { return c.Framing == framingDelimited && c.Format != formatJSON }

// Plain tells whether a record is a message as it is.
func (c Config) Plain() bool { return !c.Delimited() && c.Format != formatJSON }

// Append appends a message, which is of kind k and in protobuf's wire format, as
// one of a record.
func (c Config) Append(dst []byte, k Kind, message []byte) ([]byte, error) {
	switch {
	case c.Format == formatJSON:
		m := k.message()
		if err := proto.Unmarshal(message, m); err != nil {
			return dst, fmt.Errorf("%s: %w", k.name, err)
		}
		return protojson.MarshalOptions{UseProtoNames: true}.MarshalAppend(dst, m)
	case c.Delimited():
		return AppendDelimited(dst, message), nil
	}
	return append(dst, message...), nil
}

// AppendDelimited appends a message with its length before it.
func AppendDelimited(dst, message []byte) []byte {
	return append(protowire.AppendVarint(dst, uint64(len(message))), message...)
}

// A Kind is what the messages of a topic are. Its first field is always written
// first: a record that begins with it is one message. A length never looks like
// it, since no message is that short.
type Kind struct {
	name    string
	first   byte // tag of field 1
	message func() proto.Message
}

// The kinds.
var (
	Flows       = Kind{"flow", 1<<3 | byte(protowire.VarintType), func() proto.Message { return &flowpb.FlowMessage{} }}
	Connections = Kind{"connection", 1<<3 | byte(protowire.BytesType), func() proto.Message { return &flowpb.Connection{} }}
)

// Each hands the messages of a record to take, one after the other, and returns how
// many there were; what follows one that cannot be read is not looked at.
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

// Next takes the first message of a record, or of what is left of one, in
// protobuf's wire format; nothing is left after the last. It does not look into
// what is no JSON.
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
