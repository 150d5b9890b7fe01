package query

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"

	"weir/internal/services"
)

// A form says how the values of a property are written.
type form uint8

const (
	formNumber   form = iota
	formBare          // no value: ipv4
	formAddress       // an address; in lists also networks
	formHost          // an address, or the pattern of a name
	formNetwork       // ADDRESS/LENGTH or ADDRESS NETMASK
	formPort          // a number, a range, or the name of a service
	formProtocol      // a number or name
	formFlags         // letters, a number, or LETTERS/LETTERS
	formMAC
	formDuration // ms, or a number with a unit
	formRate     // bit/s
	formDirection
	formText      // the pattern of a text
	formInterface // a number, or the pattern of a name
)

// A property is something that a Compare compares. Fields and Information Elements that are not listed are properties,
// too, by their own names.
type property struct {
	form  form
	most  uint64 // greatest value of a number
	sided bool   // src, dst, in, out may stand before it
	doc   string
}

// properties are the properties by their names.
var properties = map[string]property{
	"ip":         {formAddress, 0, true, "address of an end"},
	"host":       {formHost, 0, true, "address of an end; connections: also the pattern of its DNS name"},
	"net":        {formNetwork, 0, true, "network of an end"},
	"port":       {formPort, math.MaxUint16, true, "port of an end"},
	"mask":       {formNumber, 128, true, "prefix length of an end's route"},
	"as":         {formNumber, math.MaxUint32, true, "number of an end's autonomous system"},
	"country":    {formText, 0, true, "country of an end, connections only"},
	"vlan":       {formNumber, math.MaxUint16, true, "VLAN on the source's or destination's side"},
	"mac":        {formMAC, 0, true, "MAC address of an end"},
	"if":         {formInterface, math.MaxUint32, true, "number of an interface, or the pattern of its name"},
	"vrf":        {formInterface, math.MaxUint32, true, "number of a VRF, or the pattern of its name"},
	"tos":        {formNumber, math.MaxUint8, true, "type of service"},
	"proto":      {formProtocol, math.MaxUint8, false, "IP protocol"},
	"flags":      {formFlags, math.MaxUint8, false, "TCP flags"},
	"icmp-type":  {formNumber, math.MaxUint8, false, "type of ICMP and ICMPv6"},
	"icmp-code":  {formNumber, math.MaxUint8, false, "code of ICMP and ICMPv6"},
	"packets":    {formNumber, math.MaxUint64, true, "packets as reported"},
	"octets":     {formNumber, math.MaxUint64, true, "octets as reported"},
	"flows":      {formNumber, math.MaxUint64, false, "flow records: 1, or those of a connection"},
	"duration":   {formDuration, math.MaxUint64, false, "time from start to end, ms"},
	"bps":        {formRate, math.MaxUint64, false, "bit/s"},
	"pps":        {formNumber, math.MaxUint64, false, "packets a second"},
	"bpp":        {formNumber, math.MaxUint64, false, "octets a packet"},
	"flowdir":    {formDirection, 1, false, "direction at the observation point"},
	"next ip":    {formAddress, 0, false, "next hop"},
	"bgpnext ip": {formAddress, 0, false, "BGP next hop"},
	"next as":    {formNumber, math.MaxUint32, false, "AS of the next hop"},
	"prev as":    {formNumber, math.MaxUint32, false, "AS before this one"},
	"exporter":   {formHost, 0, false, "address of the exporter, or the pattern of its name"},
	"service":    {formText, 0, false, "name of the service"},
	"app":        {formText, 0, false, "name of the application"},
	"state":      {formText, 0, false, "state of a TCP connection, connections only"},
	"ipv4":       {formBare, 0, false, "IPv4"},
	"ipv6":       {formBare, 0, false, "IPv6"},
	"sampled":    {formBare, 0, false, "from sampled packets"},
}

// synonyms maps other names of properties to theirs.
var synonyms = map[string]string{
	"bytes": "octets", "rate": "bps", "inet": "ipv4", "inet6": "ipv6", "address": "ip", "application": "app",
	"router": "exporter", "protocol": "proto", "next": "next ip", "bgpnext": "bgpnext ip", "icmptype": "icmp-type",
	"icmpcode": "icmp-code",
}

// protocolNumbers maps the names of IP protocols to their numbers.
var protocolNumbers = sync.OnceValue(func() map[string]uint64 {
	m := map[string]uint64{"icmp6": 58, "icmpv6": 58, "ipip": 94}
	for n := range uint32(256) {
		if name := services.Protocol(n); !strings.HasPrefix(name, "proto-") {
			m[name] = uint64(n)
		}
	}
	return m
})

// portsOf returns the ports of a service, by any protocol that has ports.
func portsOf(name string) (ports []Value) {
	for n := range uint64(math.MaxUint16 + 1) {
		for _, proto := range [...]uint8{6, 17, 132} {
			if strings.EqualFold(services.Name(proto, uint16(n)), name) {
				ports = append(ports, Value{Number: n, Last: n})
				break
			}
		}
	}
	return ports
}

const (
	flagsInOrder = "FSRPAUEC" // from the lowest bit
	allFlags     = 0x3f       // those of X: URG ACK PSH RST SYN FIN
	exactFlags   = math.MaxUint64
)

// parseFlags returns the TCP flags of letters.
func parseFlags(s string) (flags uint64, ok bool) {
	if s == "X" {
		return allFlags, true
	}
	for _, c := range s {
		i := strings.IndexRune(flagsInOrder, c)
		if i < 0 {
			return 0, false
		}
		flags |= 1 << i
	}
	return flags, s != ""
}

func flagLetters(flags uint64) string {
	var b strings.Builder
	for i := range len(flagsInOrder) {
		if flags>>i&1 != 0 {
			b.WriteByte(flagsInOrder[i])
		}
	}
	return b.String()
}

// A unit is a suffix of a number.
type unit struct {
	suffix string
	factor uint64
}

var (
	// powers are the suffixes of all numbers.
	powers = []unit{{"k", 1e3}, {"m", 1e6}, {"g", 1e9}, {"t", 1e12}}
	// durations are units of time, in ms. M is the suffix of a million, as everywhere.
	durations = append([]unit{{"ms", 1}, {"s", 1e3}, {"min", 60e3}, {"h", 3600e3}, {"d", 86400e3}}, powers...)
	rates     = append([]unit{
		{"kbps", 1e3}, {"mbps", 1e6}, {"gbps", 1e9}, {"tbps", 1e12}, {"bps", 1},
		{"kbit/s", 1e3}, {"mbit/s", 1e6}, {"gbit/s", 1e9}, {"tbit/s", 1e12}, {"bit/s", 1},
	}, powers...)
)

// parseNumber returns a number with an optional unit, at most most.
func parseNumber(s string, units []unit, most uint64) (uint64, error) {
	digits := 0
	for digits < len(s) && s[digits] >= '0' && s[digits] <= '9' {
		digits++
	}
	if digits == 0 {
		return 0, fmt.Errorf("%q is not a number", s)
	}
	n, err := strconv.ParseUint(s[:digits], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s does not fit into 64 bits", s[:digits])
	}
	factor := uint64(1)
	if suffix := s[digits:]; suffix != "" {
		factor = 0
		for _, u := range units {
			if strings.EqualFold(u.suffix, suffix) {
				factor = u.factor
				break
			}
		}
		if factor == 0 {
			return 0, fmt.Errorf("%q is not a unit: want %s", suffix, unitNames(units))
		}
	}
	if n > most/factor {
		return 0, fmt.Errorf("%s is out of range: want 0 to %d", s, most)
	}
	return n * factor, nil
}

func unitNames(units []unit) string {
	names := make([]string, len(units))
	for i, u := range units {
		names[i] = u.suffix
	}
	return strings.Join(names, ", ")
}
