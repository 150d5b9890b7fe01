package ie

import "testing"

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
