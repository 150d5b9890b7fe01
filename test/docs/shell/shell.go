// Package shell finds the blocks of commands in the documents. Its test runs those that
// are marked for it; test/docs requires a mark of each.
package shell

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// A Block is a fenced block of a document.
type Block struct {
	File     string // relative to the root of the repository
	Line     int    // of the opening fence, from 1
	Section  string // the heading of level 2 above it
	Language string
	Mark     string // the HTML comment in the line above the fence, without <!-- and -->
	Lines    []string
}

// String returns the place of the block: file and line.
func (b *Block) String() string { return fmt.Sprintf("%s:%d", b.File, b.Line) }

// Documents returns the Markdown files of the repository at root, relative to it.
func Documents(root string) (files []string, err error) {
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md", "test/*/*.md", "testdata/*/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			rel, err := filepath.Rel(root, f)
			if err != nil {
				return nil, err
			}
			files = append(files, rel)
		}
	}
	if len(files) < 20 {
		return nil, fmt.Errorf("%s: %d documents are not all", root, len(files))
	}
	return files, nil
}

// Blocks returns the fenced blocks of a document, and its lines outside them.
func Blocks(root, file string) (list []*Block, outside []string, err error) {
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		return nil, nil, err
	}
	var open *Block
	section, before := "", ""
	for i, line := range strings.Split(string(text), "\n") {
		trimmed := strings.TrimSpace(line)
		fence, isFence := strings.CutPrefix(trimmed, "```")
		switch {
		case isFence && open == nil:
			open = &Block{File: file, Line: i + 1, Section: section, Language: fence}
			if m, ok := strings.CutPrefix(before, "<!-- "); ok {
				open.Mark = strings.TrimSuffix(m, " -->")
			}
		case isFence:
			list, open = append(list, open), nil
		case open != nil:
			open.Lines = append(open.Lines, line)
		default:
			outside = append(outside, line)
		}
		if heading, ok := strings.CutPrefix(line, "## "); ok && open == nil {
			section = heading
		}
		before = trimmed
	}
	if open != nil {
		return nil, nil, fmt.Errorf("%s: the block does not end", open)
	}
	return list, outside, nil
}
