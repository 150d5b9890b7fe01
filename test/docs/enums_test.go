package docs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/pkg/flowpb"
)

// docs/connections.md must explain every value of the enumerations in a connection.
func TestConnectionsDocumentExplainsEveryEnumValue(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/connections.md"))
	if err != nil {
		t.Fatal(err)
	}
	for prefix, enum := range map[string]protoreflect.EnumDescriptor{
		"QUALITY_":           flowpb.Quality(0).Descriptor(),
		"CONN_STATE_":        flowpb.ConnState(0).Descriptor(),
		"EMIT_REASON_":       flowpb.EmitReason(0).Descriptor(),
		"DIRECTION_METHOD_":  flowpb.DirectionMethod(0).Descriptor(),
		"NAME_STATUS_":       flowpb.NameStatus(0).Descriptor(),
		"NAME_SOURCE_":       flowpb.NameSource(0).Descriptor(),
		"NETWORK_DIRECTION_": flowpb.NetworkDirection(0).Descriptor(),
	} {
		for i := range enum.Values().Len() {
			v := enum.Values().Get(i)
			if v.Number() == 0 {
				continue
			}
			name := strings.TrimPrefix(string(v.Name()), prefix)
			if !strings.Contains(string(text), "`"+name+"`") {
				t.Errorf("docs/connections.md does not explain `%s` of %s", name, enum.Name())
			}
		}
	}
}
