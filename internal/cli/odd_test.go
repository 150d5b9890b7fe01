package cli

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"

	"weir/internal/weirtest/captures"
)

func itoa(n int) string { return strconv.Itoa(n) }

// odd lists the required results of the unusual inputs: flows, options, templates and undecoded sets, the causes
// of errors in order, and substrings that the output must contain.
var odd = map[string]struct {
	flows, options, templates, undecoded int
	causes                               string
	parts                                []string
}{
	"E1":  {causes: "short"},
	"E2":  {causes: "short"},
	"E4":  {causes: "short"},
	"E5":  {flows: 1, parts: []string{`"src_addr":"1.1.1.1"`}},
	"E6":  {causes: "short"},
	"E7":  {},
	"E9":  {flows: 1, causes: "truncated"},
	"E10": {flows: 30, causes: "truncated"},
	"E12": {flows: 1, parts: []string{`"type":"NETFLOW_V7"`}},
	"E13": {causes: "unknown_version"},
	"V1":  {causes: "bad_length", parts: []string{`"what":"set length"`}},
	"V2":  {causes: "bad_length bad_length bad_length"},
	"V4":  {undecoded: 1, causes: "bad_template"},
	"V5":  {undecoded: 1, causes: "bad_template"},
	"V7":  {undecoded: 1, causes: "truncated"},
	"V8":  {causes: "bad_template"},
	"V9b": {flows: 1, templates: 1},
	"V9c": {flows: 1, templates: 1},
	"V10": {flows: 1, templates: 1, parts: []string{
		`"src_addr":"10.0.0.1"`,
		`"name":"flowEndMilliseconds","value":"000000000000006f","decoded":111`,
		`"name":"flowStartMicroseconds","value":"00000000000000de","decoded":222`,
	}},
	"V11":  {flows: 1, templates: 1, parts: []string{`"bytes":111,`, `"name":"octetDeltaCount","value":"000000de","decoded":222`}},
	"V12b": {flows: 4, templates: 1, parts: []string{`"proto":6,`, `"proto":17,`, `"proto":1,`, `"proto":58,`}},
	"V13":  {flows: 1, templates: 1},
	"V14":  {flows: 1, templates: 1, parts: []string{`"interface_name":"eth0"`, `"src_mac":"00:11:22:33:44:55"`, `"user_name":"alice"`}},
	"V15":  {flows: 1, templates: 1, parts: []string{`"10.0.0.1"`, `"10.0.0.2"`}},
	"V17":  {options: 1, templates: 1, parts: []string{`"values":{"samplingAlgorithm":2,"samplingInterval":1}`}},
	"V18": {options: 2, templates: 1, parts: []string{
		`"scope":{"interface":7},"values":{"samplingInterval":100}`,
		`"scope":{"interface":8},"values":{"samplingInterval":200}`,
	}},
	"V20": {undecoded: 1, causes: "bad_template"},
	"V21": {options: 1, templates: 1, causes: "truncated"},
	"V23": {causes: "bad_template"},
	"V24": {flows: 1, templates: 2, parts: []string{`"src_addr":"10.0.0.2","dst_addr":"10.0.0.1"`}},
	"V26": {flows: 1, templates: 1, undecoded: 1},
	"V27": {flows: 1, templates: 1, undecoded: 1},
	"V29": {},
	"V30": {causes: "reserved_set"},
	"I1":  {causes: "bad_length", parts: []string{`"what":"set length"`}},
	"I1b": {causes: "bad_length"},
	"I2":  {flows: 1, templates: 1, causes: "withdrawal"}, // over UDP it is ignored and counted as an error
	"I2b": {flows: 1, templates: 2, causes: "withdrawal"},
	"I2d": {flows: 1, templates: 1, causes: "withdrawal"},
	"I3":  {flows: 1, templates: 1, parts: []string{`"pen":9,"id":12235,`, `"value":"00000005"`}},
	"I4":  {flows: 1, templates: 1, parts: []string{`"bytes":100,`, `"reverse_bytes":200`}},
	"I5":  {flows: 1, templates: 1, parts: []string{`"interface_name":"eth0"`}},
	"I6":  {flows: 2, templates: 2, parts: []string{`"bytes":258,`}},
	"I7":  {flows: 1, templates: 1, parts: []string{`"id":500,`, `"value":"0a000001"`}},
	"I8":  {flows: 1, templates: 1, parts: []string{`"decoded":false`}},
	"I9":  {flows: 1, templates: 1, parts: []string{`"decoded":-2`}},
	"I10": {flows: 1, templates: 1, parts: []string{`"sampling_rate":2,`, `"decoded":0.25`}}, // probability 0.5 is 1 in 2
	"I11": {flows: 1, templates: 1, parts: []string{`"interface_name":"eth0"`, "\uFFFD"}},
	"I13": {flows: 1, templates: 1, parts: []string{`"value":"00010203"`}},
	"I14": {flows: 1, templates: 1, parts: []string{`"src_addr":"10.0.0.1"`, `"decoded":"10.0.0.2"`}},
	"I16": {flows: 1, templates: 1, undecoded: 1},
	"I17": {templates: 1, causes: "truncated"},
	"I18": {causes: "reserved_set"}, "I18b": {causes: "reserved_set"},
	"I20": {flows: 4, templates: 1},
	"I21": {undecoded: 1, causes: "bad_template"},
	"I23": {options: 1, templates: 1, parts: []string{`"scope":{"observationDomainId":7},"values":{"exportedMessageTotalCount":99}`}},
	"I24": {causes: "bad_template"},
	"I26": {flows: 1, templates: 1, parts: []string{`"value":"010203"`}},
	"I27": {causes: "bad_template"},
}

func TestOddInputs(t *testing.T) {
	b, err := os.ReadFile(captures.Shared(t, "inputs/odd_inputs.json"))
	if err != nil {
		t.Fatal(err)
	}
	var inputs []struct {
		ID       string   `json:"id"`
		Title    string   `json:"title"`
		Packets  []string `json:"packets_hex"`
		Required string   `json:"required"`
	}
	if err := json.Unmarshal(b, &inputs); err != nil {
		t.Fatal(err)
	}
	for _, in := range inputs {
		t.Run(in.ID+" "+in.Title, func(t *testing.T) {
			want, ok := odd[in.ID]
			if !ok {
				t.Fatalf("no outcome for it here; required: %s", in.Required)
			}
			args := []string{"decode", "--json"}
			for _, p := range in.Packets {
				args = append(args, "--hex", p)
			}
			got := run(t, "", args...)
			causes := strings.Fields(want.causes)
			last := "datagrams=" + itoa(len(in.Packets)) + " flows=" + itoa(want.flows) + " options=" + itoa(want.options) +
				" templates=" + itoa(want.templates) + " undecoded=" + itoa(want.undecoded) + " errors=" + itoa(len(causes))
			if got.last() != last || got.code != 0 {
				t.Errorf("required: %s\nwant %s\n got %s (exit code %d)", in.Required, last, got.last(), got.code)
			}
			rest := got.out
			for _, c := range causes {
				_, after, found := strings.Cut(rest, `"cause":"`+c+`"`)
				if !found {
					t.Errorf("want causes %q, got %s", causes, got.out)
				}
				rest = after
			}
			for _, p := range want.parts {
				if !strings.Contains(got.out, p) {
					t.Errorf("want %s in %s", p, got.out)
				}
			}
		})
	}
}
