package source

import (
	"math"
	"regexp"
	"strings"
	"unicode"
)

// A Phrase is a habit of language whose frequency is held to that of well-known Go code.
type Phrase struct {
	Name    string
	Pattern *regexp.Regexp // on prose in which each line break is one octet of white space
	Limit   float64        // per 1 000 words, or per 100 lines for PerLine
	PerLine bool
	AtLeast bool   // Limit is the least that comments must have, and documents need not
	Instead string // what to write
}

// Phrases are the habits that are counted. In five well-known trees "what" is 0 to 1.3 in 1 000 words of comments,
// "one" 0.9 to 3.9, tell 0 to 0.2, must and should 1.5 to 6.6, and "is how/what/who/when" 0.2 % of lines.
var Phrases = []Phrase{
	{
		Name: "what", Pattern: word(`what`), Limit: 2,
		Instead: `name the thing with a noun: "what was read" → "the octets read", "what is told" → "the report"`,
	},
	{
		Name: "one", Pattern: word(`ones?`), Limit: 4,
		Instead: `repeat the noun or write "a": "a new one" → "a new template", "one that waits" → "a waiting set"`,
	},
	{
		Name: "tell", Pattern: word(`tells?|told|telling`), Limit: 0.3,
		Instead: `write report, log, return, distinguish or determine, with its object`,
	},
	{
		Name: "is-how", Pattern: word(`(?:is|are|was|were)\s+(?:how|what|who|whom|whose|when|where|why)`), Limit: 0.3, PerLine: true,
		Instead: `begin with the name and a verb: "A mark is what is so of an entry" → "A mark flags an entry"`,
	},
	{
		Name: "must", Pattern: word(`must|should`), Limit: 1.5, AtLeast: true,
		Instead: `state contracts of callers and invariants with "must": "the caller must not modify key until done is called"`,
	},
}

func word(alternatives string) *regexp.Regexp {
	return regexp.MustCompile(`(?i)\b(?:` + alternatives + `)\b`)
}

// Allowed gives how often a phrase may occur in so many words and lines (AtLeast: must occur), to the nearest number.
func (p *Phrase) Allowed(words, lines int) int {
	if p.PerLine {
		return int(math.Round(p.Limit * float64(lines) / 100))
	}
	return int(math.Round(p.Limit * float64(words) / 1000))
}

// A Match is one occurrence of a phrase: the line of its first word, and its words.
type Match struct {
	Line int
	Text string
}

// Find gives the occurrences of the phrase in lines of prose. A phrase may go over the end of a line if the next line
// of prose follows it.
func (p *Phrase) Find(prose []Line) (out []Match) {
	for len(prose) > 0 {
		n := 1
		for n < len(prose) && prose[n].Number == prose[n-1].Number+1 {
			n++
		}
		var text strings.Builder
		starts := make([]int, n)
		for i, l := range prose[:n] {
			starts[i] = text.Len()
			text.WriteString(l.Text)
			text.WriteByte('\n')
		}
		line := 0
		for _, at := range p.Pattern.FindAllStringIndex(text.String(), -1) {
			for line+1 < n && starts[line+1] <= at[0] {
				line++
			}
			out = append(out, Match{prose[line].Number, strings.Join(strings.Fields(text.String()[at[0]:at[1]]), " ")})
		}
		prose = prose[n:]
	}
	return out
}

// Words counts the words of prose: what has a letter, between white space.
func Words(prose []Line) (n int) {
	for _, l := range prose {
		for w := range strings.FieldsSeq(l.Text) {
			if strings.ContainsFunc(w, unicode.IsLetter) {
				n++
			}
		}
	}
	return n
}
