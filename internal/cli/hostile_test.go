package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"weir/internal/decode"
	"weir/internal/weirtest/hostile"
	"weir/pkg/flowpb"
)

func FuzzPlain(f *testing.F) {
	f.Add(hostile.Text)
	f.Add(hostile.Octets)
	f.Fuzz(func(t *testing.T, s string) {
		for _, out := range []string{plain(s), quoted(s), harmless(s), clip(plain(s), 5)} {
			if bad := hostile.Unseen(out, ""); bad != "" {
				t.Errorf("%q: %s in %q", s, bad, out)
			}
		}
		if bad := hostile.Unseen(printable(s), "\n\t"); bad != "" {
			t.Errorf("%q: %s", s, bad)
		}
		var j jsonLine
		j.text(s)
		var back string
		if err := json.Unmarshal(j, &back); err != nil || back != strings.ToValidUTF8(s, "\ufffd") && utf8.ValidString(s) || hostile.Unseen(string(j), "") != "" {
			t.Errorf("%q: JSON %q is %q, %v", s, j, back, err)
		}
	})
}

// A printer is what prints records of datagrams.
type printer interface {
	take(origin, *decode.Result) error
	flush() error
}

func TestNoTextOfAMessageReachesTheTerminal(t *testing.T) {
	flow, connection := hostile.Messages()
	r := &decode.Result{Messages: []*flowpb.FlowMessage{flow}}
	text, lines := &bytes.Buffer{}, 1
	outputs := map[string]printer{
		"decode":        newDecodeText(text, nil),
		"decode --json": newDecodeJSON(text, nil),
	}
	for name, form := range map[string]outputForm{"flows": asBrief, "flows -v": asWide, "flows --json": asJSONLines} {
		outputs[name] = newFlowPrinter(text, form, newFilter(), 0, nil)
	}
	for name, o := range outputs {
		text.Reset()
		lines = 2 // with a head
		if err := o.take(origin{}, r); err != nil {
			t.Fatal(err)
		}
		if err := o.flush(); err != nil {
			t.Fatal(err)
		}
		if text.Len() < 20 {
			t.Errorf("%s: nothing printed", name)
		}
		hostile.Clean(t, name, text.String(), lines)
	}
	for name, form := range map[string]outputForm{"brief": asBrief, "wide": asWide, "JSON": asJSONLines, "CSV": asCSV} {
		text.Reset()
		p := newLivePrinter(text, form)
		p.print([]*flowpb.Connection{connection})
		if text.Len() < 20 || p.err() != nil {
			t.Errorf("connections, %s: nothing printed: %v", name, p.err())
		}
		hostile.Clean(t, "connections, "+name, text.String(), 2)
	}
}

// Options data: a text of an element that has one.
func TestNoTextOfOptionsDataReachesTheTerminal(t *testing.T) {
	r := &decode.Result{Options: []decode.OptionsRecord{{TemplateID: 256, Values: []decode.Value{
		{ID: 10, Scope: true, Octets: []byte{1}}, {ID: 82, Octets: []byte(hostile.Octets)}, {PEN: 9, ID: 12345, Octets: []byte(hostile.Octets)},
	}}}}
	for name, make := range map[string]func(io.Writer) printer{
		"text": func(w io.Writer) printer { return newDecodeText(w, nil) },
		"JSON": func(w io.Writer) printer { return newDecodeJSON(w, nil) },
	} {
		text := &bytes.Buffer{}
		o := make(text)
		if err := o.take(origin{header: decode.Header{Version: 10}}, r); err != nil {
			t.Fatal(err)
		}
		if err := o.flush(); err != nil {
			t.Fatal(err)
		}
		hostile.Clean(t, "options data, "+name, text.String(), 1)
	}
}
