package flowpb

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// JSONString reports whether JSON has the value of an integer field as a string. The field decides, not the value:
// times in ns, hashes, and identifiers of 64 bits are strings, which every JSON parser keeps exactly. Counters, sums,
// rates and integers of 32 bits are numbers. The names of the schema distinguish them. A reader must accept both forms.
func JSONString(fd protoreflect.FieldDescriptor) bool {
	switch fd.Kind() {
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind,
		protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
	default:
		return false
	}
	name := string(fd.Name())
	return FormOf(fd) == MAC || name == "id" ||
		strings.HasSuffix(name, "_ns") || strings.HasSuffix(name, "_id") || strings.HasSuffix(name, "_hash")
}
