package offline

import (
	"fmt"
	"strings"
	"testing"
)

// A file of the Python collector may have a new unknown field name in each line. The kept names must be bounded,
// so that each line has the same cost.
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
