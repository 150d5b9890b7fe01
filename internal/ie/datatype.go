package ie

// dataTypes are the types by number in IANA's registry of informationElementDataType (IE 339),
// which RFC 5610 section 3.1 defines and RFC 6313 extends.
var dataTypes = [...]Type{
	OctetArray, Unsigned, Unsigned, Unsigned, Unsigned, Signed, Signed, Signed, Signed, Float, Float, Boolean,
	MacAddress, String, Seconds, Milliseconds, Microseconds, Nanoseconds, IPv4, IPv6, List, List, List,
}

// DataType returns the type with number n of IANA's registry of informationElementDataType (IE
// 339); OctetArray if n is unassigned.
func DataType(n uint32) Type {
	if n < uint32(len(dataTypes)) {
		return dataTypes[n]
	}
	return OctetArray
}
