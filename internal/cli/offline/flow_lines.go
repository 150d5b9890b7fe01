package offline

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"weir/internal/cli/capture"
	"weir/internal/cli/console"
	"weir/internal/cli/flowfile"
	"weir/internal/cli/pynetflow"
	"weir/internal/cli/report"
	"weir/internal/decode"
	"weir/internal/wire"
	"weir/pkg/flowpb"
)

// maxFieldNames is how many names of unknown fields are kept of a file.
const maxFieldNames = 20

// fieldNames are the first names of fields that a file has and nobody knows.
type fieldNames struct {
	names []string
	more  bool // than are kept
}

// add takes a name; its cost does not depend on how many there were before.
func (n *fieldNames) add(name string) {
	switch {
	case slices.Contains(n.names, name):
	case len(n.names) < maxFieldNames:
		n.names = append(n.names, name)
	default:
		n.more = true
	}
}

// text is the names for people.
func (n *fieldNames) text() string {
	var b strings.Builder
	for i, name := range n.names {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(console.Quote(console.Clip(name, maxFieldName)))
	}
	if n.more {
		b.WriteString(", and others")
	}
	return b.String()
}

// maxFieldName is how much of a name is shown, characters.
const maxFieldName = 60

// flowLines reads a file of flows as JSON Lines: those that jsonLine writes, and
// those of the Python collector. A line that is neither is an error, and the others
// are read.
func (o *Reader) flowLines(name string, lines *flowfile.Lines) error {
	var leftOut fieldNames
	defer func() {
		if len(leftOut.names) > 0 {
			o.say("%s: fields that are not known were left out: %s", console.InputName(name), leftOut.text())
		}
	}()
	for {
		line, err := lines.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		at := fmt.Sprintf("line %d of %s", lines.Number(), console.InputName(name))
		if pynetflow.Is(line) {
			e, err := pynetflow.Parse(line)
			if err != nil {
				if err := o.badLine(at, err); err != nil {
					return err
				}
				continue
			}
			for _, field := range e.LeftOut {
				leftOut.add(field)
			}
			for _, payload := range e.Datagrams {
				if err := o.Datagram(&capture.Datagram{Src: e.From, Time: e.Received.UnixNano(), Payload: payload}); err != nil {
					return errOutput{err}
				}
			}
			continue
		}
		if err := o.flowLine(at, line); err != nil {
			return err
		}
		if name == "-" { // someone may watch the lines as they come
			if err := o.Out.Flush(); err != nil {
				return errOutput{err}
			}
		}
	}
}

// flowLine takes a line of ours; those of templates, options data and errors say
// nothing that the flows do not.
func (o *Reader) flowLine(at string, line []byte) error {
	var members map[string]any
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	err := d.Decode(&members)
	if kind, ok := members["record"]; err == nil && ok && kind != "flow" {
		return nil
	}
	m := &flowpb.FlowMessage{}
	if err == nil {
		err = report.SetFields(m.ProtoReflect(), members)
	}
	if err == nil && m.GetType() == flowpb.FlowMessage_FLOWUNKNOWN {
		err = errors.New(`it has no "type": is this a file of flows?`)
	}
	if err != nil {
		return o.badLine(at, err)
	}
	o.now = max(o.now, int64(m.GetTimeReceivedNs()))
	if err := o.take(report.Origin{}, &decode.Result{Messages: []*flowpb.FlowMessage{m}}); err != nil {
		return errOutput{err}
	}
	return nil
}

// maxReason is how much of what is wrong with a line is said, characters.
const maxReason = 300

// badLine counts a line that is no flow.
func (o *Reader) badLine(at string, why error) error {
	text := at + ": " + console.Escape(console.Clip(why.Error(), maxReason)) // a value of the line may be in it
	r := decode.Result{Errors: []wire.Error{{Cause: wire.BadLine, What: text}}}
	if o.count.Errors == 0 {
		o.say("%s", text)
	}
	if err := o.take(report.Origin{}, &r); err != nil {
		return errOutput{err}
	}
	return nil
}
