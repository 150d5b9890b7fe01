// Package source reads a source tree for the tools that measure it: its Go files as syntax, and the prose of its
// comments and documents.
package source

import (
	"bufio"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A Kind is the part of a tree to which a file belongs.
type Kind int

// The kinds of files.
const (
	Product  Kind = iota // Go that is linked into a program
	Test                 // Go of tests, of their helpers and of tools
	Config               // proto, shell, Makefile, YAML
	Document             // Markdown
)

// String gives the kind in lower case.
func (k Kind) String() string { return [...]string{"product", "test", "config", "document"}[k] }

// A File is one file of the tree, without generated ones.
type File struct {
	Path    string // relative to the root, with slashes
	Kind    Kind
	Lines   []string
	Comment []Line    // Go, Config: text of comments. Document: text outside code and tables
	AST     *ast.File // of Go files, else nil

	Code, PureComment int // Go: lines with code, and lines with nothing but a comment

	tags map[int]bool // Go: numbers of lines with a struct tag
}

// Unbreakable reports whether the line n cannot be shortened by a line break, so that its columns do not count: it has
// a struct tag. reflect.StructTag allows no line break between keys, and a help text of a setting is part of the tag.
func (f *File) Unbreakable(n int) bool { return f.tags[n] }

// Package gives the directory of the file, "." for the root.
func (f *File) Package() string {
	if i := strings.LastIndexByte(f.Path, '/'); i >= 0 {
		return f.Path[:i]
	}
	return "."
}

// A Line is a line of prose. Text has neither comment markers nor code spans.
type Line struct {
	Number int
	Text   string
}

// A Tree is what Load read. Files are in the order of their paths.
type Tree struct {
	Root   string
	Module string // from go.mod, "" without one
	Fset   *token.FileSet
	Files  []*File
}

// skipped names directories that hold no source of the tree.
func skipped(name string) bool {
	return name == "testdata" || name == "vendor" || name == "node_modules" ||
		len(name) > 1 && strings.HasPrefix(name, ".") && name != ".ci"
}

// besides are the top directories whose Go is no part of a program, and the helpers of tests.
var besides = []string{"test/", "tests/", "tools/", "bench/", "docs/", "examples/", "internal/weirtest/"}

func kindOf(path string) (Kind, bool) {
	name := path[strings.LastIndexByte(path, '/')+1:]
	switch filepath.Ext(name) {
	case ".go":
		if strings.HasSuffix(name, "_test.go") || slices.ContainsFunc(besides, func(b string) bool { return strings.HasPrefix(path, b) }) {
			return Test, true
		}
		return Product, true
	case ".md":
		return Document, true
	case ".proto", ".sh", ".yml", ".yaml":
		return Config, true
	}
	return Config, name == "Makefile" || name == "Dockerfile"
}

// Load reads the tree below root. It leaves out generated Go, testdata and directories whose names begin with a dot,
// other than .ci. It fails on a Go file with a syntax error.
func Load(root string) (*Tree, error) {
	t := &Tree{Root: root, Fset: token.NewFileSet()}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path != root && skipped(d.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		kind, ok := kindOf(rel)
		if ok || filepath.Ext(rel) == "" || strings.HasPrefix(d.Name(), ".") {
			return t.read(path, rel, kind, ok)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if mod, err := os.ReadFile(filepath.Join(root, "go.mod")); err == nil {
		for line := range strings.Lines(string(mod)) {
			if m, ok := strings.CutPrefix(strings.TrimSpace(line), "module "); ok {
				t.Module = strings.Trim(m, `"`)
				break
			}
		}
	}
	slices.SortFunc(t.Files, func(a, b *File) int { return strings.Compare(a.Path, b.Path) })
	return t, nil
}

// read adds a file. One whose name does not give its kind is added if it is a shell script or YAML.
func (t *Tree) read(path, rel string, kind Kind, known bool) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !known && !isScript(text) && !strings.HasSuffix(rel, ".yml") {
		return nil
	}
	f := &File{Path: rel, Kind: kind, Lines: split(string(text))}
	switch {
	case filepath.Ext(rel) == ".go":
		f.AST, err = parser.ParseFile(t.Fset, path, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		if ast.IsGenerated(f.AST) {
			return nil
		}
		t.comments(f)
		t.findTags(f)
	case kind == Document:
		f.Comment = markdown(f.Lines)
	case filepath.Ext(rel) == ".proto":
		if f.Comment, err = slashes(path, text); err != nil {
			return err
		}
	default:
		f.Comment = hashes(f.Lines)
	}
	t.Files = append(t.Files, f)
	return nil
}

func isScript(text []byte) bool {
	first, _, _ := strings.Cut(string(text[:min(len(text), 100)]), "\n")
	return strings.HasPrefix(first, "#!") && strings.HasSuffix(strings.TrimSpace(first), "sh")
}

func split(text string) (lines []string) {
	s := bufio.NewScanner(strings.NewReader(text))
	s.Buffer(nil, len(text)+1)
	for s.Scan() {
		lines = append(lines, s.Text())
	}
	return lines
}

// comments counts the lines of a Go file and takes the text of its comments. Directives and nolint explanations are
// no prose.
func (t *Tree) comments(f *File) {
	code := codeLines(f.Path, f.Lines)
	pure := make(map[int]bool)
	for _, group := range f.AST.Comments {
		for _, c := range group.List {
			first, last := t.Fset.Position(c.Pos()).Line, t.Fset.Position(c.End()).Line
			for n := first; n <= last; n++ {
				if !code[n] {
					pure[n] = true
				}
			}
			if isDirective(c.Text) {
				continue
			}
			f.Comment = append(f.Comment, commentLines(c.Text, first)...)
		}
	}
	f.Code, f.PureComment = len(code), len(pure)
}

// findTags notes the lines of a Go file that have a struct tag.
func (t *Tree) findTags(f *File) {
	f.tags = map[int]bool{}
	ast.Inspect(f.AST, func(n ast.Node) bool {
		if field, ok := n.(*ast.Field); ok && field.Tag != nil {
			f.tags[t.Fset.Position(field.Tag.Pos()).Line] = true
		}
		return true
	})
}

func isDirective(text string) bool {
	body, ok := strings.CutPrefix(text, "//")
	if !ok || body == "" || body[0] == ' ' || body[0] == '\t' {
		return false
	}
	word, _, _ := strings.Cut(body, " ")
	return strings.Contains(word, ":") || strings.HasPrefix(word, "export")
}

// commentLines takes the markers off a // or /* */ comment that begins on the line first.
func commentLines(text string, first int) (out []Line) {
	if body, ok := strings.CutPrefix(text, "//"); ok {
		return []Line{{first, prose(body)}}
	}
	text = strings.TrimSuffix(strings.TrimPrefix(text, "/*"), "*/")
	for i, l := range strings.Split(text, "\n") {
		out = append(out, Line{first + i, prose(strings.TrimLeft(strings.TrimSpace(l), "*"))})
	}
	return out
}

// hashes takes the comments of shell, Make and YAML: lines that begin with #, and what follows " # ".
func hashes(lines []string) (out []Line) {
	for i, l := range lines {
		s := strings.TrimSpace(l)
		if strings.HasPrefix(s, "#!") {
			continue
		}
		if body, ok := strings.CutPrefix(s, "#"); ok {
			out = append(out, Line{i + 1, prose(strings.TrimLeft(body, "#"))})
		} else if at := strings.LastIndex(l, " # "); at >= 0 && balanced(l[:at]) {
			out = append(out, Line{i + 1, prose(l[at+3:])})
		}
	}
	return out
}

// balanced reports whether no quotation is open at the end of a line of shell, Make or YAML.
func balanced(s string) bool { return strings.Count(s, `"`)%2 == 0 && strings.Count(s, "'")%2 == 0 }

// markdown leaves out fenced and indented code, tables, and comments of one line.
func markdown(lines []string) (out []Line) {
	fence := ""
	blank := true // the line before
	for i, l := range lines {
		s := strings.TrimSpace(l)
		if fence != "" {
			if strings.HasPrefix(s, fence) {
				fence = ""
			}
			continue
		}
		if strings.HasPrefix(s, "```") || strings.HasPrefix(s, "~~~") {
			fence = s[:3]
			continue
		}
		indented := blank && (strings.HasPrefix(l, "    ") || strings.HasPrefix(l, "\t"))
		blank = s == "" || indented
		if s == "" || indented || IsTableRow(l) || strings.HasPrefix(s, "<!--") && strings.HasSuffix(s, "-->") {
			continue
		}
		out = append(out, Line{i + 1, prose(s)})
	}
	return out
}

// IsTableRow reports whether a line of Markdown is a row of a table.
func IsTableRow(line string) bool { return strings.HasPrefix(strings.TrimSpace(line), "|") }

// slashes takes the comments of a language with // and /* */ comments and double-quoted strings.
func slashes(path string, text []byte) (out []Line, err error) {
	src, line := string(text), 1
	for i := 0; i < len(src); {
		switch {
		case src[i] == '\n':
			line++
			i++
		case strings.HasPrefix(src[i:], "//"):
			end := i + strings.IndexByte(src[i:]+"\n", '\n')
			out = append(out, commentLines(src[i:end], line)...)
			i = end
		case strings.HasPrefix(src[i:], "/*"):
			n := strings.Index(src[i:], "*/")
			if n < 0 {
				return nil, fmt.Errorf("%s:%d: a comment without an end", path, line)
			}
			out = append(out, commentLines(src[i:i+n+2], line)...)
			line += strings.Count(src[i:i+n], "\n")
			i += n + 2
		case src[i] == '"':
			for i++; i < len(src) && src[i] != '"' && src[i] != '\n'; i++ {
				if src[i] == '\\' {
					i++
				}
			}
			if i < len(src) && src[i] == '"' {
				i++
			}
		default:
			i++
		}
	}
	return out, nil
}

// prose takes code spans, the targets of links and marks of emphasis out of a line.
func prose(s string) string {
	s = strings.TrimSpace(s)
	if strings.ContainsRune(s, '`') {
		var b strings.Builder
		for i, part := range strings.Split(s, "`") {
			if i%2 == 0 {
				b.WriteString(part)
			} else {
				b.WriteString("``")
			}
		}
		s = b.String()
	}
	for {
		i := strings.Index(s, "](")
		if i < 0 {
			return marks.Replace(s)
		}
		n := strings.IndexByte(s[i:], ')')
		if n < 0 {
			return marks.Replace(s[:i])
		}
		s = s[:i+1] + s[i+n+1:]
	}
}

var marks = strings.NewReplacer("[", "", "]", "", "*", "")
