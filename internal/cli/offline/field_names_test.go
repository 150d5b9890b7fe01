package offline

import (
	"fmt"
	"strings"
	"testing"
)

// A file of the Python collector names fields that nobody knows: as many as lines. What
// is kept of them has a bound, so that each costs the same.
func TestNamesOfUnknownFieldsAreBounded(t *testing.T) {
	var n fieldNames
	for i := range 100_000 {
		n.add(fmt.Sprintf("name_%d", i))
		n.add("name_0")
	}
	if len(n.names) != maxFieldNames || cap(n.names) > 2*maxFieldNames || !strings.HasSuffix(n.text(), "name_19, and others") {
		t.Errorf("want the first %d names, got %d: %s", maxFieldNames, len(n.names), n.text())
	}
}
