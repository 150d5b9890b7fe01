package report

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"weir/internal/cli/console"
	"weir/internal/decode"
	"weir/internal/weirtest/hostile"
	"weir/pkg/flowpb"
)

func FuzzPlain(f *testing.F) {
	f.Add(hostile.Text)
	f.Add(hostile.Octets)
	f.Fuzz(func(t *testing.T, s string) {
		for _, out := range []string{console.Escape(s), console.Quote(s), harmless(s), console.Clip(console.Escape(s), 5)} {
			if bad := hostile.Unseen(out, ""); bad != "" {
				t.Errorf("%q: %s in %q", s, bad, out)
			}
		}
		if bad := hostile.Unseen(console.EscapeLines(s), "\n\t"); bad != "" {
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

// A printer prints the records of datagrams.
type printer interface {
	Consume(Origin, *decode.Result) error
	Flush() error
}

func TestNoTextOfAMessageReachesTheTerminal(t *testing.T) {
	flow, connection := hostile.Messages()
	r := &decode.Result{Messages: []*flowpb.FlowMessage{flow}}
	text := &bytes.Buffer{}
	outputs := map[string]printer{
		"decode":        NewRecordText(text, nil),
		"decode --json": NewRecordJSON(text, nil),
	}
	for name, form := range map[string]Form{"flows": Brief, "flows -v": Wide, "flows --json": JSONLines} {
		outputs[name] = NewFlowPrinter(text, form, NewFilter(), 0, nil)
	}
	for name, o := range outputs {
		text.Reset()
		if err := o.Consume(Origin{}, r); err != nil {
			t.Fatal(err)
		}
		if err := o.Flush(); err != nil {
			t.Fatal(err)
		}
		if text.Len() < 20 {
			t.Errorf("%s: nothing printed", name)
		}
		hostile.Clean(t, name, text.String(), 2) // with a header
	}
	for name, form := range map[string]Form{"brief": Brief, "wide": Wide, "JSON": JSONLines, "CSV": CSV} {
		text.Reset()
		p := NewConnectionPrinter(text, form)
		p.Print([]*flowpb.Connection{connection})
		if text.Len() < 20 || p.Err() != nil {
			t.Errorf("connections, %s: nothing printed: %v", name, p.Err())
		}
		hostile.Clean(t, "connections, "+name, text.String(), 2)
	}
}

// The options data has a text element.
func TestNoTextOfOptionsDataReachesTheTerminal(t *testing.T) {
	r := &decode.Result{Options: []decode.OptionsRecord{{TemplateID: 256, Values: []decode.Value{
		{ID: 10, Scope: true, Octets: []byte{1}}, {ID: 82, Octets: []byte(hostile.Octets)}, {PEN: 9, ID: 12345, Octets: []byte(hostile.Octets)},
	}}}}
	for name, make := range map[string]func(io.Writer) printer{
		"text": func(w io.Writer) printer { return NewRecordText(w, nil) },
		"JSON": func(w io.Writer) printer { return NewRecordJSON(w, nil) },
	} {
		text := &bytes.Buffer{}
		o := make(text)
		if err := o.Consume(Origin{Header: decode.Header{Version: 10}}, r); err != nil {
			t.Fatal(err)
		}
		if err := o.Flush(); err != nil {
			t.Fatal(err)
		}
		hostile.Clean(t, "options data, "+name, text.String(), 1)
	}
}
