package demo

import (
	"strings"
	"testing"
)

func TestDemoSaysWhatIsNotAsItShouldBe(t *testing.T) {
	s := summary{sent: 9, datagrams: 8, nameless: 2}
	err := s.check(0)
	for _, want := range []string{"8 of 9 datagrams arrived", "no flow", "no template", "no connections", "2 connections lack a name"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	good := summary{sent: 9, datagrams: 9, flows: 10, templates: 1, pairs: 2, oneSided: 1}
	if err := good.check(3); err != nil {
		t.Errorf("a good run: %v", err)
	}
}
