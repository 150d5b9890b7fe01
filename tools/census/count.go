package main

import (
	"go/ast"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"weir/tools/source"
)

// A Function is a function or method of product code.
type Function struct {
	File       string
	Name       string // with its receiver's type: Type.Method
	Lines      int    // between the braces' lines, without pure comments
	Cyclomatic int
}

// Counts are the figures of a tree. Go files that a generator wrote count nowhere.
type Counts struct {
	Packages int // of product code
	Edges    int // pairs of packages of product code of which the first imports the second

	Density map[string]Density // by package of product code

	Functions   []Function // of product code
	Assignments []string   // places of assignments of three and more values to as many operands, product
	Named       []string   // functions of product code named by a preposition or a bare everyday verb

	Lines   [3]int // in product, tests, documents (outside tables)
	Over120 [3]int // of those that can be broken
	Over140 [3]int

	Words, ProseLines [2]int // in comments of Go, in documents
	Phrases           [2]map[string]int
}

// Density counts the lines of a package.
type Density struct{ Code, Comment int }

// Ratio gives comment lines ÷ code lines.
func (d Density) Ratio() float64 {
	if d.Code == 0 {
		return 0
	}
	return float64(d.Comment) / float64(d.Code)
}

// everyday are names that cannot be searched for: prepositions, pronouns, adverbs and verbs without an object that
// any code could do.
var everyday = strings.Fields(`
	about above after again ago all apart as aside at away back before behind below beside besides between beyond by
	down each every few for from here in inside into late less like more most near of off on once one ones other others
	ours out outside over own per rest same since some such than that there these they this those through till to
	together too toward towards under unless until up upon via whole whom whose with within without yet
	how what whatever when where which while who why
	ask asks be come comes do does done gave give given gives go goes gone got had has have is keep keeps kept knew
	know known knows leave leaves left look looks made make makes said say says see seen take taken takes tell tells
	thing things told turn turns turned use used uses want wanted wants went were`)

// Count measures a tree.
func Count(t *source.Tree) *Counts {
	c := &Counts{Density: map[string]Density{}, Phrases: [2]map[string]int{{}, {}}}
	packages, edges := map[string]bool{}, map[[2]string]bool{}
	for _, f := range t.Files {
		c.lines(f)
		c.prose(f)
		if f.AST == nil || f.Kind != source.Product {
			continue
		}
		dir := f.Package()
		packages[dir] = true
		d := c.Density[dir]
		c.Density[dir] = Density{d.Code + f.Code, d.Comment + f.PureComment}
		for _, i := range f.AST.Imports {
			path, _ := strconv.Unquote(i.Path.Value)
			if to, ok := strings.CutPrefix(path, t.Module+"/"); ok && t.Module != "" {
				edges[[2]string{dir, to}] = true
			}
		}
		c.functions(t.Fset, f)
	}
	c.Packages = len(packages)
	for e := range edges {
		if packages[e[1]] {
			c.Edges++
		}
	}
	return c
}

func (c *Counts) lines(f *source.File) {
	kind, ok := map[source.Kind]int{source.Product: 0, source.Test: 1, source.Document: 2}[f.Kind]
	if !ok {
		return
	}
	for i, l := range f.Lines {
		if f.Kind == source.Document && source.IsTableRow(l) {
			continue
		}
		c.Lines[kind]++
		if f.Unbreakable(i + 1) {
			continue
		}
		n := utf8.RuneCountInString(l)
		if n > 120 {
			c.Over120[kind]++
		}
		if n > 140 {
			c.Over140[kind]++
		}
	}
}

func (c *Counts) prose(f *source.File) {
	kind := 0
	switch {
	case f.Kind == source.Document:
		kind = 1
	case f.AST == nil:
		return
	}
	c.Words[kind] += source.Words(f.Comment)
	c.ProseLines[kind] += len(f.Comment)
	for _, p := range source.Phrases {
		c.Phrases[kind][p.Name] += len(p.Find(f.Comment))
	}
}

func (c *Counts) functions(fset *token.FileSet, f *source.File) {
	comments := map[int]bool{}
	for _, l := range f.Comment {
		if strings.HasPrefix(strings.TrimSpace(f.Lines[l.Number-1]), "//") {
			comments[l.Number] = true
		}
	}
	place := func(n ast.Node) string { return f.Path + ":" + strconv.Itoa(fset.Position(n.Pos()).Line) }
	for _, d := range f.AST.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		first, last := fset.Position(fn.Pos()).Line, fset.Position(fn.End()).Line
		lines := max(last-first-1, 0)
		for n := first + 1; n < last; n++ {
			if comments[n] {
				lines--
			}
		}
		c.Functions = append(c.Functions, Function{f.Path, nameOf(fn), lines, cyclomatic(fn)})
		if slices.Contains(everyday, lowerFirst(fn.Name.Name)) {
			c.Named = append(c.Named, place(fn)+" "+nameOf(fn))
		}
	}
	ast.Inspect(f.AST, func(n ast.Node) bool {
		if a, ok := n.(*ast.AssignStmt); ok && len(a.Lhs) >= 3 && len(a.Rhs) == len(a.Lhs) {
			c.Assignments = append(c.Assignments, place(a))
		}
		return true
	})
}

func lowerFirst(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToLower(r)) + s[n:]
}

func nameOf(fn *ast.FuncDecl) string {
	if fn.Recv == nil || len(fn.Recv.List) == 0 {
		return fn.Name.Name
	}
	typ := fn.Recv.List[0].Type
	for {
		switch t := typ.(type) {
		case *ast.StarExpr:
			typ = t.X
		case *ast.IndexExpr:
			typ = t.X
		case *ast.IndexListExpr:
			typ = t.X
		case *ast.Ident:
			return t.Name + "." + fn.Name.Name
		default:
			return fn.Name.Name
		}
	}
}

// cyclomatic counts as gocyclo does: one, and one for each if, for, case, && and ||.
func cyclomatic(fn *ast.FuncDecl) int {
	n := 1
	ast.Inspect(fn, func(node ast.Node) bool {
		switch x := node.(type) {
		case *ast.IfStmt, *ast.ForStmt, *ast.RangeStmt:
			n++
		case *ast.CaseClause:
			if x.List != nil {
				n++
			}
		case *ast.CommClause:
			if x.Comm != nil {
				n++
			}
		case *ast.BinaryExpr:
			if x.Op == token.LAND || x.Op == token.LOR {
				n++
			}
		}
		return true
	})
	return n
}
