// Package hostile has text that an attacker could send, and says whether output would reach a terminal
// unescaped.
package hostile

import (
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/pkg/flowpb"
)

// Text is a text that clears a screen, rings, sets a title, goes back in its line,
// begins another line, a cell and a field, turns the direction of writing (U+202E, U+2066)
// and has C1 controls (U+0085, U+009B) and invisible characters in it.
const Text = "a\x1b[2J\x1b]0;t\x07\r\nforged\t\x00\x08\x7f\u0085\u009b31m\u202eb\u2066c\u200bd\ufeff\u2028e\U000e0041=\"'\\"

// Octets is Text with octets that are not UTF-8: CSI of 8 bits.
const Octets = Text + "\x9b31m\xff"

// Unseen names the first character of s that a terminal would act on or not show, except for the characters
// of but. It returns "" if there is none. It does not use the code under test.
func Unseen(s, but string) string {
	for i, r := range s {
		switch {
		case strings.ContainsRune(but, r):
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\ufffd"):
			return fmt.Sprintf("octet %#02x", s[i])
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zl, unicode.Zp):
			return fmt.Sprintf("%U", r)
		}
	}
	return ""
}

// poison sets every text and every list of octets of m and of the messages in it, so
// that fields which come later are tried too.
func poison(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		var v protoreflect.Value
		switch fd.Kind() {
		case protoreflect.StringKind:
			v = protoreflect.ValueOfString(Text)
		case protoreflect.BytesKind:
			v = protoreflect.ValueOfBytes([]byte(Octets))
		case protoreflect.MessageKind:
			if depth > 3 || fd.IsMap() {
				continue
			}
			if fd.IsList() {
				x := m.Mutable(fd).List().AppendMutable()
				poison(x.Message(), depth+1)
			} else {
				poison(m.Mutable(fd).Message(), depth+1)
			}
			continue
		case protoreflect.EnumKind:
			v = protoreflect.ValueOfEnum(1)
		case protoreflect.BoolKind:
			v = protoreflect.ValueOfBool(true)
		case protoreflect.Uint32Kind:
			v = protoreflect.ValueOfUint32(82) // interfaceName, a text, where it is an element's id
		default:
			continue
		}
		if fd.IsList() {
			m.Mutable(fd).List().Append(v)
		} else {
			m.Set(fd, v)
		}
	}
}

// Messages returns a flow and a connection whose texts and octets are all hostile.
func Messages() (*flowpb.FlowMessage, *flowpb.Connection) {
	f, c := &flowpb.FlowMessage{}, &flowpb.Connection{}
	poison(f.ProtoReflect(), 0)
	poison(c.ProtoReflect(), 0)
	f.Type = flowpb.FlowMessage_IPFIX
	for _, e := range []*flowpb.Endpoint{c.GetInitiator(), c.GetResponder()} {
		e.Address = []byte{192, 0, 2, 1}
	}
	return f, c
}

// Clean reports an error of the test unless out has nothing in it that a terminal acts on. It must not have
// more than most lines, when most is not 0: otherwise a text from outside began a line.
func Clean(t testing.TB, what, out string, most int) {
	t.Helper()
	if bad := Unseen(out, "\n"); bad != "" {
		t.Errorf("%s: %s in %.2000q", what, bad, out)
	}
	if strings.Contains(out, "\nforged") || most > 0 && strings.Count(out, "\n") > most {
		t.Errorf("%s: a line that is none of ours: %q", what, out)
	}
}
