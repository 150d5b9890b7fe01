// Package flowfile writes and reads files of lines: plain, or compressed with
// gzip or zstd.
//
// What is written is a sequence of blocks, each compressed as a whole: a gzip
// member (RFC 1952 section 2.2) or a zstd frame (RFC 8878 section 3.1). A file
// whose writer was killed reads up to its last whole block.
package flowfile

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// ErrCut is the end of a file in the middle of a block or line; what came before
// was sound.
var ErrCut = errors.New("the file is cut")

// maxWindow bounds the memory that a zstd frame may ask for, octets.
const maxWindow = 128 << 20

// Open returns what r holds, decompressed when it begins as gzip or zstd does.
// The end of a compressed file in the middle of something is io.ErrUnexpectedEOF
// to whoever reads.
func Open(r io.Reader) (*bufio.Reader, error) {
	br := bufio.NewReaderSize(r, 1<<16)
	head, _ := br.Peek(4) // fewer: a short file
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(br)
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("gzip header: %w", ErrCut)
		}
		if err != nil {
			return nil, fmt.Errorf("gzip header: %w", err)
		}
		return bufio.NewReaderSize(z, 1<<16), nil
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxWindow), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		return bufio.NewReaderSize(z, 1<<16), nil
	}
	return br, nil
}

// IsLines reports whether r holds JSON Lines: its first octet beside white space
// opens an object. It reads nothing.
func IsLines(r *bufio.Reader) bool {
	head, _ := r.Peek(512) // fewer: a short file
	return bytes.HasPrefix(bytes.TrimLeft(head, " \t\r\n"), []byte{'{'})
}

// MaxLine is the longest line that is read, octets.
const MaxLine = 16 << 20

// A Lines reads lines one after the other.
type Lines struct {
	r    *bufio.Reader
	line []byte
	n    int
}

// NewLines returns the lines of r.
func NewLines(r *bufio.Reader) *Lines { return &Lines{r: r} }

// Number is that of the line that Next returned last, 1 for the first.
func (l *Lines) Number() int { return l.n }

// Next returns the next line that is not empty, without its end; it is valid until
// the next call. At the end of the input it returns io.EOF. A last line without an
// end is none: ErrCut, as is the end of a compressed file inside a block.
func (l *Lines) Next() ([]byte, error) {
	for {
		l.line = l.line[:0]
		for more := true; more; {
			part, err := l.r.ReadSlice('\n')
			switch {
			case errors.Is(err, bufio.ErrBufferFull):
			case errors.Is(err, io.EOF) && len(l.line)+len(part) == 0:
				return nil, io.EOF
			case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
				return nil, fmt.Errorf("%w in line %d; the lines before it were read", ErrCut, l.n+1)
			case err != nil:
				return nil, fmt.Errorf("line %d: %w", l.n+1, err)
			default:
				more = false
			}
			if len(l.line)+len(part) > MaxLine {
				return nil, fmt.Errorf("line %d is longer than %d MiB", l.n+1, MaxLine>>20)
			}
			l.line = append(l.line, part...)
		}
		l.n++
		if line := bytes.TrimSpace(l.line); len(line) > 0 {
			return line, nil
		}
	}
}

// A codec makes a block of octets.
type codec func(dst, src []byte) []byte

// codecOf is what a file's name asks for: .zst, .gz, else nothing.
func codecOf(path string) (codec, error) {
	switch {
	case strings.HasSuffix(path, ".zst"):
		z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		return func(dst, src []byte) []byte { return z.EncodeAll(src, dst) }, nil
	case strings.HasSuffix(path, ".gz"):
		return func(dst, src []byte) []byte {
			b := bytes.NewBuffer(dst)
			z := gzip.NewWriter(b)
			_, _ = z.Write(src) // a buffer takes everything
			_ = z.Close()
			return b.Bytes()
		}, nil
	}
	return func(dst, src []byte) []byte { return append(dst, src...) }, nil
}
