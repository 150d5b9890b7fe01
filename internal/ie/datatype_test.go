package ie

import "testing"

// IANA's registry "IPFIX Information Element Data Types", by number.
func TestDataTypesAreThoseOfTheRegistry(t *testing.T) {
	for n, name := range []string{
		"octetArray", "unsigned8", "unsigned16", "unsigned32", "unsigned64", "signed8", "signed16", "signed32", "signed64",
		"float32", "float64", "boolean", "macAddress", "string", "dateTimeSeconds", "dateTimeMilliseconds",
		"dateTimeMicroseconds", "dateTimeNanoseconds", "ipv4Address", "ipv6Address", "basicList", "subTemplateList",
		"subTemplateMultiList",
	} {
		if got := DataType(uint32(n)); got != types[name] {
			t.Errorf("%d, %s: want type %d, got %d", n, name, types[name], got)
		}
	}
	for _, n := range []uint32{23, 255, 1 << 31} {
		if got := DataType(n); got != OctetArray {
			t.Errorf("%d: want octetArray, got %d", n, got)
		}
	}
}
