// Package flowfile writes and reads files of lines, uncompressed or compressed with gzip or zstd.
//
// A file is a sequence of blocks that are compressed independently: gzip members (RFC 1952 section 2.2) or zstd
// frames (RFC 8878 section 3.1). A file whose writer was killed can be read up to its last complete block.
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

// ErrCut reports a file that ends inside a block or line. The content before that block or line is intact.
var ErrCut = errors.New("the file is cut")

// maxWindow bounds the memory of a zstd decoder, in octets. A larger window of a frame is an error.
const maxWindow = 128 << 20

// Open returns a reader of the content of r, decompressed when r begins with the magic number of gzip or zstd. A
// compressed file that ends inside a block makes reads return io.ErrUnexpectedEOF.
func Open(r io.Reader) (*bufio.Reader, error) {
	br := bufio.NewReaderSize(r, 1<<16)
	head, _ := br.Peek(4) // a short file has fewer octets
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
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderMaxMemory(maxWindow), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		return bufio.NewReaderSize(z, 1<<16), nil
	}
	return br, nil
}

// IsLines reports whether r holds JSON Lines: its first octet after white space opens an object. It does not
// advance r.
func IsLines(r *bufio.Reader) bool {
	head, _ := r.Peek(512) // a short file has fewer octets
	return bytes.HasPrefix(bytes.TrimLeft(head, " \t\r\n"), []byte{'{'})
}

// MaxLine bounds the length of a line that is read, in octets.
const MaxLine = 16 << 20

// A Lines reads a file line by line.
type Lines struct {
	r    *bufio.Reader
	line []byte
	n    int
}

// NewLines returns the lines of r.
func NewLines(r *bufio.Reader) *Lines { return &Lines{r: r} }

// Number returns the number of the line that Next returned last, 1 for the first line.
func (l *Lines) Number() int { return l.n }

// Next returns the next line that is not empty, without its line end. The line is valid until the next call. At
// the end of the input Next returns io.EOF. For a last line without a line end, and for a compressed file that
// ends inside a block, it returns ErrCut.
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

// A codec encodes src as a block and appends it to dst.
type codec func(dst, src []byte) []byte

// codecOf returns the codec for the extension of a file name: zstd for .zst, gzip for .gz, otherwise no
// compression.
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
			_, _ = z.Write(src) // a write to a bytes.Buffer does not fail
			_ = z.Close()
			return b.Bytes()
		}, nil
	}
	return func(dst, src []byte) []byte { return append(dst, src...) }, nil
}
