package services

import "testing"

func TestNamesAreThoseOfIANA(t *testing.T) {
	tests := []struct {
		name  string
		proto uint8
		port  uint16
		want  string
	}{
		{"https over TCP", 6, 443, "https"},
		{"https over UDP (QUIC)", 17, 443, "https"},
		{"domain over UDP", 17, 53, "domain"},
		{"ssh", 6, 22, "ssh"},
		{"the same port, another protocol", 17, 514, "syslog"},
		{"the same port, another protocol, TCP", 6, 514, "shell"},
		{"IPFIX over SCTP", 132, 4739, "ipfix"},
		{"first row of the table", 6, 1, "tcpmux"},
		{"S1AP over SCTP", 132, 36412, "s1-control"},
		{"UDP-Lite goes by UDP's names", 136, 5060, "sip"},
		{"DCCP goes by UDP's names", 33, 5060, "sip"},
		{"an ephemeral port has none", 6, 49152, ""},
		{"port 0 has none", 17, 0, ""},
		{"ICMP has no ports", 1, 8, ""},
		{"above the last row", 255, 65535, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Name(tt.proto, tt.port); got != tt.want {
				t.Errorf("Name(%d, %d) = %q, want %q", tt.proto, tt.port, got, tt.want)
			}
		})
	}
}

func TestTableIsInAscendingOrderOfUniqueKeys(t *testing.T) {
	for i := 1; i < len(table); i++ {
		if table[i-1].key >= table[i].key {
			t.Fatalf("row %d (%v) does not come after %v", i, table[i], table[i-1])
		}
	}
	if len(table) < 300 {
		t.Errorf("the table has %d rows, want some hundreds", len(table))
	}
}

func TestNamesAreServiceNames(t *testing.T) {
	// Lower-case letters, digits and '-' as RFC 6335 section 5.1 wants, and '_',
	// which a few old registrations have.
	for _, p := range table {
		for _, c := range p.name {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				t.Errorf("port %d: %q holds %q", p.key&0xffff, p.name, c)
			}
		}
	}
}

func TestLookupAllocatesNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { Name(6, 443); Name(17, 50000) }); n != 0 {
		t.Errorf("%v allocations a lookup, want 0", n)
	}
}
