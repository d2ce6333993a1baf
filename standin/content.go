package standin

import (
	"regexp"
	"strings"
	"text/template"
	"unicode"
	"unicode/utf8"
)

// prompt is what the templates of content and reasoning may use.
type prompt struct {
	Model  string
	Role   string
	System string
	Last   string
	N      uint64
}

func newPrompt(model string, req *chatRequest, n uint64) prompt {
	system := req.last("system")
	return prompt{Model: model, Role: roleIn(system), System: system, Last: req.last("user"), N: n}
}

// maxQuote is how many runes of the task the default proposal quotes.
const maxQuote = 200

// proposal is the default content.
func (p prompt) proposal() string {
	task := firstLine(p.Last)
	var b strings.Builder
	b.Grow(512 + len(task))
	b.WriteString("Proposal of " + p.Model)
	if p.Role != "" {
		b.WriteString(" as " + p.Role)
	}
	b.WriteString("\n\n> " + task + "\n\n")
	b.WriteString("Analysis: the task is taken as it stands; what it leaves open is decided below.\n")
	b.WriteString("Approach: the smallest change that does it, behind the interface that is there.\n")
	b.WriteString("Implementation: a test that fails, the change, the test that passes, a note for operators.\n")
	b.WriteString("Risks: this is a stand-in's answer. No model has thought about it.\n")
	return b.String()
}

// render fills a template in; compile has tried it, so it does not fail.
func (p prompt) render(t *template.Template) string {
	var b strings.Builder
	if err := t.Execute(&b, p); err != nil {
		return "template: " + err.Error()
	}
	return b.String()
}

// whoPattern finds what a system message says the agent is.
var whoPattern = regexp.MustCompile(`(?i)\byou are (?:an? |the )?([^\n]+)`)

// roleIn is the role that a system message gives: what follows `expert` in
// the last sentence of the form `You are …`, else all of that sentence.
func roleIn(system string) string {
	found := whoPattern.FindAllStringSubmatch(system, -1)
	if len(found) == 0 {
		return ""
	}
	who, _, _ := strings.Cut(found[len(found)-1][1], ". ")
	who = strings.TrimRight(who, ". ")
	if _, role, ok := strings.Cut(who, "expert "); ok {
		who = role
	}
	return clip(who, maxQuote)
}

// firstLine is the first line that says something; a heading like `Task:`
// does not.
func firstLine(text string) string {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasSuffix(line, ":") {
			return clip(line, maxQuote)
		}
	}
	return clip(strings.TrimSpace(text), maxQuote)
}

// clip cuts text after so many runes.
func clip(text string, runes int) string {
	if len(text) <= runes {
		return text
	}
	for i := range text {
		if runes == 0 {
			return text[:i] + "…"
		}
		runes--
	}
	return text
}

// clipBytes cuts text after so many bytes, between runes.
func clipBytes(text string, limit int) (string, bool) {
	if len(text) <= limit {
		return text, false
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return strings.Clone(text[:limit]), true
}

// countTokens counts words.
func countTokens(text string) int {
	count, inWord := 0, false
	for _, r := range text {
		space := unicode.IsSpace(r)
		if !space && !inWord {
			count++
		}
		inWord = !space
	}
	return count
}

// cutTokens cuts text after so many words; 0 leaves it whole.
func cutTokens(text string, limit int) (string, bool) {
	if limit == 0 {
		return text, false
	}
	count, inWord := 0, false
	for i, r := range text {
		space := unicode.IsSpace(r)
		if !space && !inWord {
			if count == limit {
				return strings.TrimRightFunc(text[:i], unicode.IsSpace), true
			}
			count++
		}
		inWord = !space
	}
	return text, false
}

// chunks cuts text into at most so many pieces, between words where it can.
func chunks(text string, most int) []string {
	words := strings.SplitAfter(text, " ")
	if len(words) <= most {
		return words
	}
	pieces := make([]string, 0, most)
	for i := range most {
		pieces = append(pieces, strings.Join(words[i*len(words)/most:(i+1)*len(words)/most], ""))
	}
	return pieces
}
