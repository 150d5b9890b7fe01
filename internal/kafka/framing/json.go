package framing

import (
	"encoding/base64"
	"encoding/json"
	"strconv"

	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/pkg/flowpb"
)

// appendJSON appends m in protobuf's JSON mapping with the names of the .proto file, except that
// flowpb.JSONString decides which integers of 64 bits are strings. protojson reads both forms. Fields that the schema
// does not have are left out.
func appendJSON(dst []byte, m protoreflect.Message) []byte {
	dst = append(dst, '{')
	first := true
	list := m.Descriptor().Fields()
	for i := range list.Len() {
		fd := list.Get(i)
		if !m.Has(fd) {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(append(append(dst, '"'), fd.Name()...), `":`...)
		if !fd.IsList() {
			dst = appendJSONValue(dst, fd, m.Get(fd))
			continue
		}
		dst = append(dst, '[')
		values := m.Get(fd).List()
		for k := range values.Len() {
			if k > 0 {
				dst = append(dst, ',')
			}
			dst = appendJSONValue(dst, fd, values.Get(k))
		}
		dst = append(dst, ']')
	}
	return append(dst, '}')
}

func appendJSONValue(dst []byte, fd protoreflect.FieldDescriptor, v protoreflect.Value) []byte {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		return appendJSON(dst, v.Message())
	case protoreflect.BoolKind:
		return strconv.AppendBool(dst, v.Bool())
	case protoreflect.StringKind:
		text, err := json.Marshal(v.String())
		if err != nil {
			panic(err) // cannot happen: a string always marshals
		}
		return append(dst, text...)
	case protoreflect.BytesKind:
		dst = append(dst, '"')
		return append(base64.StdEncoding.AppendEncode(dst, v.Bytes()), '"')
	case protoreflect.EnumKind:
		if e := fd.Enum().Values().ByNumber(v.Enum()); e != nil {
			return append(append(append(dst, '"'), e.Name()...), '"')
		}
		return strconv.AppendInt(dst, int64(v.Enum()), 10)
	}
	quoted := flowpb.JSONString(fd)
	if quoted {
		dst = append(dst, '"')
	}
	switch fd.Kind() {
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind:
		dst = strconv.AppendUint(dst, v.Uint(), 10)
	default: // the schema has no floating-point fields
		dst = strconv.AppendInt(dst, v.Int(), 10)
	}
	if quoted {
		dst = append(dst, '"')
	}
	return dst
}
