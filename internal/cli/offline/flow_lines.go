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

// maxFieldNames is the number of unknown field names that are kept per file.
const maxFieldNames = 20

// fieldNames holds the first unknown field names of a file.
type fieldNames struct {
	names []string
	more  bool // names beyond maxFieldNames were dropped
}

// add records a name. Its cost is bounded by maxFieldNames, not by the number of names in the file.
func (n *fieldNames) add(name string) {
	switch {
	case slices.Contains(n.names, name):
	case len(n.names) < maxFieldNames:
		n.names = append(n.names, name)
	default:
		n.more = true
	}
}

// text formats the names for people.
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

// maxFieldName is the number of characters of a name that are shown.
const maxFieldName = 60

// flowLines reads a file of flows as JSON Lines, in the form of report.AppendFlowJSON or of the Python package
// netflow. A line in neither form is counted as an error; the following lines are still read.
func (o *Reader) flowLines(name string, lines *flowfile.Lines) error {
	var leftOut fieldNames
	defer func() {
		if len(leftOut.names) > 0 {
			o.printf("%s: fields that are not known were left out: %s", console.InputName(name), leftOut.text())
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
		if pynetflow.IsEntry(line) {
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
		if name == "-" { // standard input may be followed live: show each line at once
			if err := o.Out.Flush(); err != nil {
				return errOutput{err}
			}
		}
	}
}

// flowLine reads a line in the form of weir decode --json. Lines of templates, options data and errors are
// ignored, since their content is already in the fields of the flows.
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
	if err := o.consume(report.Origin{}, &decode.Result{Messages: []*flowpb.FlowMessage{m}}); err != nil {
		return errOutput{err}
	}
	return nil
}

// maxReason is the number of characters of an error that are shown.
const maxReason = 300

// badLine counts and reports a line that is not a flow.
func (o *Reader) badLine(at string, why error) error {
	text := at + ": " + console.Escape(console.Clip(why.Error(), maxReason)) // the error may quote a value of the line
	r := decode.Result{Errors: []wire.Error{{Cause: wire.BadLine, What: text}}}
	if o.count.Errors == 0 {
		o.printf("%s", text)
	}
	if err := o.consume(report.Origin{}, &r); err != nil {
		return errOutput{err}
	}
	return nil
}
