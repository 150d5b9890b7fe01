package cli

import (
	"strings"
	"testing"
)

// The datagrams are laid out by hand from RFC 7011 and RFC 6313.
func TestListsAreReadableInTextAndJSON(t *testing.T) {
	// The template set, then a basicList of two ports and a subTemplateList of two records.
	template := "000a002c" + "68e77800" + "00000001" + "00000100" + "0002001c" + "0100000200040001" + "00070002" + "01010002" + "0123ffff" + "0124ffff"
	data := "000a0028" + "68e77800" + "00000002" + "00000100" + "01010018" + "09" + "03" + "0007" + "0002" + "01bb" + "0050" + "09" + "04" + "0100" + "0601bb" + "110035"
	got := run(t, "", "decode", "--json", "--hex", template, "--hex", data)
	want := `"elements":[{"pen":0,"id":291,"name":"basicList","value":"030007000201bb0050","decoded":{"semantic":"allOf","values":[` +
		`{"pen":0,"id":7,"name":"sourceTransportPort","value":"01bb","decoded":443},{"pen":0,"id":7,"name":"sourceTransportPort","value":"0050","decoded":80}]}},` +
		`{"pen":0,"id":292,"name":"subTemplateList","value":"0401000601bb110035","decoded":{"semantic":"ordered","records":[` +
		`{"template_id":256,"fields":[{"pen":0,"id":4,"name":"protocolIdentifier","value":"06","decoded":6},{"pen":0,"id":7,"name":"sourceTransportPort","value":"01bb","decoded":443}]},` +
		`{"template_id":256,"fields":[{"pen":0,"id":4,"name":"protocolIdentifier","value":"11","decoded":17},{"pen":0,"id":7,"name":"sourceTransportPort","value":"0035","decoded":53}]}]}}]`
	if !strings.Contains(got.out, want) {
		t.Errorf("want %s\nin %s%s", want, got.out, got.errout)
	}
	got = run(t, "", "decode", "--hex", template, "--hex", data)
	want = "basicList=allOf[sourceTransportPort=443 sourceTransportPort=80] subTemplateList=ordered[{protocolIdentifier=6 sourceTransportPort=443}{protocolIdentifier=17 sourceTransportPort=53}]"
	if !strings.Contains(got.out, want) {
		t.Errorf("want %s\nin %s", want, got.out)
	}
}
