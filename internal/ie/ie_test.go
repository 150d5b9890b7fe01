package ie

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// Expected values: IANA's registry and RFC 5103 section 6.
func TestElements(t *testing.T) {
	tests := []struct {
		name string
		pen  uint32
		id   uint16
		want Element
		ok   bool
	}{
		{"octetDeltaCount", 0, 1, Element{0, 1, Unsigned, "octetDeltaCount", "octets"}, true},
		{"sourceIPv4Address", 0, 8, Element{0, 8, IPv4, "sourceIPv4Address", ""}, true},
		{"flowStartMilliseconds", 0, 152, Element{0, 152, Milliseconds, "flowStartMilliseconds", "milliseconds"}, true},
		{"a reverse element has its forward element's type", Reverse, 1, Element{Reverse, 1, Unsigned, "reverseOctetDeltaCount", "octets"}, true},
		{"subTemplateList is a list", 0, 292, Element{0, 292, List, "subTemplateList", ""}, true},
		{"CERT's reverse element: id with bit 14", 6871, 16398, Element{6871, 16398, Unsigned, "reverseInitialTCPFlags", ""}, true},
		{"CERT's reverse of nothing", 6871, 16384, Element{}, false},
		{"nProbe's", 35632, 119, Element{35632, 119, String, "L7_PROTO_NAME", ""}, true},
		{"Barracuda's", 10704, 8, Element{10704, 8, IPv4, "bindIPv4Address", ""}, true},
		{"Viptela's", 41916, 4321, Element{41916, 4321, Unsigned, "viptelaVPNId", ""}, true},
		{"element 0 is reserved", 0, 0, Element{}, false},
		{"an unknown enterprise has none", 4242, 1, Element{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := Lookup(tt.pen, tt.id)
			if ok != tt.ok || got != tt.want && tt.want.Units != "" || got.Name != tt.want.Name || got.Type != tt.want.Type {
				t.Errorf("want %+v %v, got %+v %v", tt.want, tt.ok, got, ok)
			}
		})
	}
}

func TestTheTableIsInOrderSoThatLookupFindsEveryRow(t *testing.T) {
	for i := range elements {
		e := &elements[i]
		if got, ok := Lookup(e.PEN, e.ID); !ok || got != *e {
			t.Fatalf("want %+v, got %+v %v", *e, got, ok)
		}
	}
}

func TestV9TypesAreIANAsElseTheirOwn(t *testing.T) {
	if e, ok := LookupV9(8); !ok || e.Name != "sourceIPv4Address" {
		t.Errorf("type 8: got %+v %v", e, ok)
	}
	if e, ok := LookupV9(56701); !ok {
		t.Errorf("PAN-OS application, type 56701: got %+v %v", e, ok)
	}
}

// nProbe's guide has both numbers: [NFv9 57590][IPFIX 35632.118] L7_PROTO.
func TestV9TypesFrom57472OnAreNProbes(t *testing.T) {
	for typ, want := range map[uint16]string{57590: "L7_PROTO", 57591: "L7_PROTO_NAME", 57597: "APPL_LATENCY_MS", 58509: "L4_SRV_PORT_MAP"} {
		if e, ok := LookupV9(typ); !ok || e.Name != want || e.ID != typ || e.PEN != 0 {
			t.Errorf("type %d: want %s, got %+v %v", typ, want, e, ok)
		}
	}
	if e, ok := LookupV9(57472); ok {
		t.Errorf("type 57472: want none, got %+v", e)
	}
	if e, ok := Lookup(0, 57590); ok {
		t.Errorf("IPFIX 0/57590: want none, got %+v", e)
	}
}

// docs/elements.md lists the enterprises that are known.
func TestEveryEnterpriseIsInTheDocument(t *testing.T) {
	doc, err := os.ReadFile("../../docs/elements.md")
	if err != nil {
		t.Fatal(err)
	}
	for i := range elements {
		pen := elements[i].PEN
		if pen == 0 || pen >= V9Cisco || i > 0 && elements[i-1].PEN == pen {
			continue
		}
		if !strings.Contains(string(doc), "\n| "+strconv.Itoa(int(pen))+" | ") {
			t.Errorf("docs/elements.md has no row for enterprise %d", pen)
		}
	}
}

func FuzzParseExtensions(f *testing.F) {
	f.Add("55555\t7\tqueueDepth\tunsigned32\t1001\n# remark\n0\t40000\tuser\tstring\r\n")
	f.Add("1\t2\t\t\t")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := ParseExtensions(text)
		for _, x := range list {
			if err == nil && (x.ID == 0 || x.Name == "" || x.Field != 0 && x.Field < FirstField) {
				t.Errorf("accepted: %+v", x)
			}
		}
	})
}
