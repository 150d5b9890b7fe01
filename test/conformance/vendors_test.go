package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"weir/internal/cli"
	"weir/internal/weirtest/tsv"
)

const (
	vendorsDocument = "../../docs/vendors.md"
	vendorsMark     = "<!-- vendors: written by go test ./test/conformance -update -->"
	// maxRawNames bounds the raw elements that a row names.
	maxRawNames = 16
)

// An element is an Information Element under the name that weir decode prints.
type element struct {
	PEN  uint32 `json:"pen"`
	ID   uint16 `json:"id"`
	Name string `json:"name"`
}

func (e element) String() string {
	number := strconv.Itoa(int(e.ID))
	if e.PEN != 0 {
		number = fmt.Sprintf("%d/%d", e.PEN, e.ID)
	}
	if e.Name == "" {
		return number
	}
	return e.Name + " (" + number + ")"
}

// A decodedLine holds the fields of a line of weir decode --json that the table needs.
type decodedLine struct {
	Record   string    // template, flow, options or error
	Version  int       // of a template
	Options  bool      // an options template
	Fields   []element // of a template
	Elements []element // of a flow: elements without a field of their own in FlowMessage
	Type     string    // of a flow: the export protocol
	TimeFrom string    `json:"time_source"`
	RateFrom string    `json:"sampling_source"`
}

// A vendorRow sums up the captures of one vendor.
type vendorRow struct {
	captures, flows, options int
	versions, times, rates   map[string]bool
	exported                 map[element]bool // elements of the data templates, in captures with flows
	raw                      map[element]bool // elements left in FlowMessage.elements
}

func newVendorRow() *vendorRow {
	return &vendorRow{
		versions: map[string]bool{}, times: map[string]bool{}, rates: map[string]bool{},
		exported: map[element]bool{}, raw: map[element]bool{},
	}
}

// add decodes a capture into the row.
func (v *vendorRow) add(t *testing.T, file string) {
	t.Helper()
	var out, errOut bytes.Buffer
	if code := cli.Main([]string{"decode", "--json", file}, strings.NewReader(""), &out, &errOut); code != 0 {
		t.Fatalf("%s: exit code %d: %s", file, code, &errOut)
	}
	v.captures++
	before := v.flows
	templates := map[element]bool{}
	for line := range bytes.Lines(out.Bytes()) {
		var d decodedLine
		if err := json.Unmarshal(line, &d); err != nil {
			t.Fatalf("%s: %v in %s", file, err, line)
		}
		if d.Record == "template" && !d.Options {
			for _, e := range d.Fields {
				templates[e] = true
			}
		}
		v.addLine(&d)
	}
	if v.flows > before {
		maps.Copy(v.exported, templates)
	}
}

func (v *vendorRow) addLine(d *decodedLine) {
	switch d.Record {
	case "template":
		v.versions[map[int]string{9: "v9", 10: "IPFIX"}[d.Version]] = true
	case "options":
		v.options++
	case "flow":
		v.flows++
		v.versions[strings.Replace(d.Type, "NETFLOW_V", "v", 1)] = true
		for _, e := range d.Elements {
			v.raw[e] = true
		}
		v.times[words(d.TimeFrom, "TIME_SOURCE_")] = true
		v.rates[words(d.RateFrom, "SAMPLING_SOURCE_")] = true
	}
}

// words converts the name of an enum value to text, for example TIME_SOURCE_INIT_UPTIME to "init uptime".
func words(name, prefix string) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, prefix), "_", " "))
}

func (v *vendorRow) cells() []string {
	typed := 0
	for e := range v.exported {
		if !v.raw[e] {
			typed++
		}
	}
	return []string{
		strconv.Itoa(v.captures), list(v.versions), fmt.Sprintf("%d + %d", v.flows, v.options),
		strconv.Itoa(typed), v.rawNames(), list(v.times), list(v.rates),
	}
}

func (v *vendorRow) rawNames() string {
	if v.flows == 0 {
		return "no flows"
	}
	all := slices.SortedFunc(maps.Keys(v.raw), func(a, b element) int {
		if a.PEN != b.PEN {
			return int(a.PEN) - int(b.PEN)
		}
		return int(a.ID) - int(b.ID)
	})
	var names []string
	for _, e := range all[:min(len(all), maxRawNames)] {
		names = append(names, e.String())
	}
	if more := len(all) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}

func list(set map[string]bool) string {
	delete(set, "")
	return strings.Join(slices.Sorted(maps.Keys(set)), ", ")
}

// Every vendor of the table must have a section in docs/vendors.md, and its row must agree with the output
// of weir decode for the vendor's captures.
func TestTheVendorsPageSaysWhatTheCorpusHolds(t *testing.T) {
	vendors := tsv.Read(t, "testdata/vendors.tsv")
	text, err := os.ReadFile(vendorsDocument)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range vendors {
		if heading := "\n### " + v.At("vendor") + "\n"; !strings.Contains(string(text), heading) {
			t.Errorf("%s: want a section %q", vendorsDocument, strings.TrimSpace(heading))
		}
	}
	const index = "../../../shared/corpus/INDEX.tsv"
	if _, err := os.Stat(index); err != nil {
		t.Skipf("SKIPPED: no corpus: %v", err)
	}
	var table strings.Builder
	table.WriteString("\n| vendor | captures | versions | flows + options records | elements with a field | elements left raw | times from | sampling rate from |\n" +
		"|---|--:|---|--:|--:|---|---|---|\n")
	owner := map[string]string{}
	for _, v := range vendors {
		row := newVendorRow()
		for _, name := range capturesOf(t, tsv.Read(t, index), v.At("captures")) {
			if was := owner[name]; was != "" {
				t.Errorf("testdata/vendors.tsv: capture %s is listed for %s and for %s", name, was, v.At("vendor"))
			}
			owner[name] = v.At("vendor")
			row.add(t, filepath.Join(filepath.Dir(index), "pcap", name+".pcap"))
		}
		fmt.Fprintf(&table, "| %s | %s |\n", v.At("vendor"), strings.Join(row.cells(), " | "))
	}
	table.WriteString("\n")
	betweenIn(t, vendorsDocument, vendorsMark, table.String())
}

// capturesOf returns the names of the index that match any of the patterns (as path.Match, separated by spaces).
// A pattern without a match fails the test.
func capturesOf(t *testing.T, index []tsv.Row, patterns string) (names []string) {
	t.Helper()
	for pattern := range strings.FieldsSeq(patterns) {
		found := false
		for _, r := range index {
			name := strings.TrimSuffix(filepath.Base(r.At("file")), ".pcap")
			if ok, err := path.Match(pattern, name); err != nil {
				t.Fatal(err)
			} else if ok {
				found = true
				names = append(names, name)
			}
		}
		if !found {
			t.Errorf("testdata/vendors.tsv: no capture matches %s", pattern)
		}
	}
	return names
}
