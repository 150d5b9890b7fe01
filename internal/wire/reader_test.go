package wire

import (
	"errors"
	"testing"
)

func TestReads(t *testing.T) {
	tests := []struct {
		name  string
		in    string
		read  func(*Reader) int
		want  int
		off   int   // after the read
		cause Cause // "" = no failure
	}{
		{"uint8", "\x07", func(r *Reader) int { return int(r.Uint8("x")) }, 7, 1, ""},
		{"uint16 is in network order", "\x01\x02", func(r *Reader) int { return int(r.Uint16("x")) }, 258, 2, ""},
		{"uint32 is in network order", "\x00\x01\x00\x02", func(r *Reader) int { return int(r.Uint32("x")) }, 65538, 4, ""},
		{"uint16 of one octet is short", "\x01", func(r *Reader) int { return int(r.Uint16("x")) }, 0, 1, Short},
		{"a negative length is short", "\x01", func(r *Reader) int { return len(r.Next(-1, "x")) }, 0, 1, Short},
		{"variable length of one octet", "\x05", func(r *Reader) int { return r.VarLen("x") }, 5, 1, ""},
		{"variable length 254 is the last of one octet", "\xfe\x00\x01", func(r *Reader) int { return r.VarLen("x") }, 254, 1, ""},
		{"variable length of three octets", "\xff\x01\x00", func(r *Reader) int { return r.VarLen("x") }, 256, 3, ""},
		{"variable length cut after 255", "\xff\x01", func(r *Reader) int { return r.VarLen("x") }, 0, 2, Short},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := NewReader([]byte(tt.in))
			if got := tt.read(&r); got != tt.want {
				t.Errorf("want %d, got %d", tt.want, got)
			}
			if r.Off() != tt.off {
				t.Errorf("offset: want %d, got %d", tt.off, r.Off())
			}
			if tt.cause == "" && r.Err() != nil || tt.cause != "" && !errors.Is(r.Err(), tt.cause) {
				t.Errorf("cause: want %q, got %v", tt.cause, r.Err())
			}
		})
	}
}

func TestTheFirstFailureSticks(t *testing.T) {
	r := NewReader([]byte{1, 2, 3})
	r.Uint8("first")
	r.Uint32("second")
	r.Uint8("third")
	if want, got := "second at octet 1: short", r.Err().Error(); got != want {
		t.Errorf("want %q, got %q", want, got)
	}
}

func TestASubReaderKeepsAbsoluteOffsetsAndStaysWithinItsOctets(t *testing.T) {
	r := NewReader([]byte{0, 10, 20, 30, 40})
	r.Uint8("x")
	s := r.Sub(2, "sub")
	if got := s.Uint8("y"); got != 10 || s.Off() != 2 {
		t.Errorf("want 10 and offset 2, got %d and %d", got, s.Off())
	}
	s.Uint16("z")
	if want, got := "z at octet 2: short", s.Err().Error(); got != want {
		t.Errorf("want %q, got %q", want, got)
	}
	if got := r.Uint8("after"); got != 30 || r.Err() != nil {
		t.Errorf("the parent goes on behind the sub: want 30, got %d (%v)", got, r.Err())
	}
}

func FuzzReaderNeverLeavesItsOctets(f *testing.F) {
	f.Add([]byte{1, 2, 3, 255, 0, 9}, []byte{0, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, data, ops []byte) {
		r := NewReader(data)
		read := 0
		for _, op := range ops {
			before := r.Off()
			switch op % 5 {
			case 0:
				r.Uint8("a")
			case 1:
				r.Uint16("b")
			case 2:
				r.Uint32("c")
			case 3:
				s := r.Sub(r.VarLen("d"), "d")
				read += len(s.Rest())
			case 4:
				read += len(r.Next(int(op), "e"))
			}
			if r.Off() < before || r.Off() > len(data) || r.Len() < 0 {
				t.Fatalf("offset %d after %d of %d octets", r.Off(), before, len(data))
			}
		}
		if read > len(data) {
			t.Fatalf("%d octets read of %d", read, len(data))
		}
	})
}
