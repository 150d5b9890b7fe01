package topics

import (
	"testing"

	"weir/pkg/flowpb"
)

func TestADefinitionOfAnElementIsListedByItsNumbers(t *testing.T) {
	f := &flowpb.Fact{What: flowpb.Fact_WHAT_ELEMENT_DEFINITION, Id: 4242<<16 | 17, Number: 3, Text: "queueDepth"}
	if got, want := factText(f), `element_definition 4242/17: "queueDepth", type 3`; got != want {
		t.Errorf("want %s, got %s", want, got)
	}
}
