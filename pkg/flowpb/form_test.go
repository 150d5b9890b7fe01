package flowpb_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"weir/pkg/flowpb"
)

// The schema's comments are the oracle: an address has 4 or 16 octets, a MAC address is called MAC.
func TestFormsOfFieldsAreThoseThatTheSchemaDescribes(t *testing.T) {
	declaration := regexp.MustCompile(`^\s*(?:repeated |optional )?(\w+) (\w+) = \d+;`)
	address := regexp.MustCompile(`([Aa]ddress|Segments|Exporter).*\b(4|16) octets`)
	seen := 0
	for _, file := range []string{"flow.proto", "connection.proto"} {
		text, err := os.ReadFile(filepath.Join("../../proto/weir/v1", file))
		if err != nil {
			t.Fatal(err)
		}
		message, comment := "", ""
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSpace(line)
			if name, ok := strings.CutPrefix(line, "message "); ok {
				message = strings.TrimSuffix(name, " {")
			}
			if c, ok := strings.CutPrefix(line, "//"); ok {
				comment += c
				continue
			}
			m := declaration.FindStringSubmatch(line)
			said := comment
			comment = ""
			if m == nil {
				continue
			}
			d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName("weir.v1." + message + "." + m[2]))
			if err != nil {
				continue // an enum value
			}
			want := flowpb.Plain
			switch {
			case m[1] == "bytes" && address.MatchString(said):
				want = flowpb.Address
			case (m[1] == "bytes" || m[1] == "uint64") && strings.Contains(said, "MAC"):
				want = flowpb.MAC
			}
			if got := flowpb.FormOf(d.(protoreflect.FieldDescriptor)); got != want {
				t.Errorf("%s: want form %d, got %d; comment:%s", d.FullName(), want, got, said)
			}
			if want != flowpb.Plain {
				seen++
			}
		}
	}
	if seen < 15 {
		t.Errorf("the schema describes %d addresses: the test does not read it", seen)
	}
}
