package report

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/pkg/flowpb"
)

// SetFields sets the fields of m from the members of a JSON object as this package prints it. Numbers must be
// json.Number. An integer may be a string, and in files of earlier versions all are numbers. Members that are not
// fields (names and readable values of elements) are ignored. The error names the field and its value.
func SetFields(m protoreflect.Message, members map[string]any) error {
	list := m.Descriptor().Fields()
	for i := range list.Len() {
		fd := list.Get(i)
		v, ok := members[string(fd.Name())]
		if !ok {
			continue
		}
		if err := setField(m, fd, v); err != nil {
			return fmt.Errorf("%s: %w", fd.Name(), err)
		}
	}
	return nil
}

func setField(m protoreflect.Message, fd protoreflect.FieldDescriptor, v any) error {
	if !fd.IsList() {
		x, err := fieldValue(m.NewField, fd, v)
		if err == nil {
			m.Set(fd, x)
		}
		return err
	}
	all, ok := v.([]any)
	if !ok {
		return fmt.Errorf("want a list, got %v", v)
	}
	list := m.Mutable(fd).List()
	for _, v := range all {
		x, err := fieldValue(func(protoreflect.FieldDescriptor) protoreflect.Value { return list.NewElement() }, fd, v)
		if err != nil {
			return err
		}
		list.Append(x)
	}
	return nil
}

// fieldValue parses a value of a field. empty must return a new, empty value of a message field.
func fieldValue(
	empty func(protoreflect.FieldDescriptor) protoreflect.Value, fd protoreflect.FieldDescriptor, v any,
) (protoreflect.Value, error) {
	text, isText := v.(string)
	switch fd.Kind() {
	case protoreflect.MessageKind:
		if members, ok := v.(map[string]any); ok {
			x := empty(fd)
			err := SetFields(x.Message(), members)
			if e, ok := x.Message().Interface().(*flowpb.Element); ok && members["type"] == nil {
				e.Name = "" // a name without a type comes from the registry, not from the exporter
			}
			return x, err
		}
	case protoreflect.BoolKind:
		if b, ok := v.(bool); ok {
			return protoreflect.ValueOfBool(b), nil
		}
	case protoreflect.StringKind:
		if isText {
			return protoreflect.ValueOfString(text), nil
		}
	case protoreflect.BytesKind:
		if isText {
			b, err := parseOctets(fd, text)
			return protoreflect.ValueOfBytes(b), err
		}
	case protoreflect.EnumKind:
		if e := fd.Enum().Values().ByName(protoreflect.Name(text)); isText && e != nil {
			return protoreflect.ValueOfEnum(e.Number()), nil
		}
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		if flowpb.FormOf(fd) == flowpb.MAC && isText {
			b, err := parseOctets(fd, text)
			return protoreflect.ValueOfUint64(bigEndian(b)), err
		}
	}
	if number, ok := v.(json.Number); ok {
		text, isText = number.String(), true
	}
	if isText {
		if x, ok := numberValue(fd.Kind(), text); ok {
			return x, nil
		}
	}
	return protoreflect.Value{}, fmt.Errorf("%v is no %v", v, fd.Kind())
}

// numberValue parses a decimal number as a value of a kind. It reports whether the kind is an integer or an enum, and
// holds the number.
func numberValue(kind protoreflect.Kind, number string) (v protoreflect.Value, ok bool) {
	switch kind {
	case protoreflect.EnumKind:
		n, err := strconv.ParseInt(number, 10, 32)
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(n)), err == nil
	case protoreflect.Int64Kind:
		n, err := strconv.ParseInt(number, 10, 64)
		return protoreflect.ValueOfInt64(n), err == nil
	case protoreflect.Uint32Kind:
		n, err := strconv.ParseUint(number, 10, 32)
		return protoreflect.ValueOfUint32(uint32(n)), err == nil
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		n, err := strconv.ParseUint(number, 10, 64)
		return protoreflect.ValueOfUint64(n), err == nil
	}
	return v, false
}

// parseMAC is the inverse of macText: octets of two hexadecimal digits, separated by colons. It also accepts
// hyphens (IEEE 802).
func parseMAC(s string) ([]byte, bool) {
	if len(s)%3 != 2 {
		return nil, false
	}
	for i := 2; i < len(s); i += 3 {
		if s[i] != ':' && s[i] != '-' {
			return nil, false
		}
	}
	b, err := hex.DecodeString(strings.NewReplacer(":", "", "-", "").Replace(s))
	return b, err == nil && len(b) == (len(s)+1)/3
}

// parseOctets is the inverse of scalarText for octets, which prints values that do not have the form of their
// field as hexadecimal text.
func parseOctets(fd protoreflect.FieldDescriptor, s string) ([]byte, error) {
	switch flowpb.FormOf(fd) {
	case flowpb.Address:
		if a, err := netip.ParseAddr(s); err == nil {
			return a.AsSlice(), nil
		}
	case flowpb.MAC:
		if b, ok := parseMAC(s); ok {
			return b, nil
		}
	}
	b, err := hex.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("%q is neither hex text nor a value of this field", s)
	}
	return b, nil
}
