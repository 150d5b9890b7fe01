package source

import (
	"go/scanner"
	"go/token"
	"strings"
)

// codeLines gives the numbers of the lines that hold a token other than a comment, or a part of one.
func codeLines(path string, lines []string) map[int]bool {
	text := []byte(strings.Join(lines, "\n") + "\n")
	file := token.NewFileSet().AddFile(path, -1, len(text))
	var s scanner.Scanner
	s.Init(file, text, nil, 0)
	code := make(map[int]bool)
	for {
		pos, tok, lit := s.Scan()
		if tok == token.EOF {
			return code
		}
		if tok == token.SEMICOLON && lit == "\n" {
			continue
		}
		first := file.Line(pos)
		for n := first; n <= first+strings.Count(lit, "\n"); n++ {
			code[n] = true
		}
	}
}
