package conformance_test

import (
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rayexecutor/tests/golden"
	"rayexecutor/tests/system"
)

// A page is the run as docs/conformance.md shows it.
type page struct {
	doors []door
	lines []line
}

// A line is a row of the table, or the name of a section.
type line struct {
	name    string
	section bool
	passed  map[string]bool
}

func newPage(doors []door) *page { return &page{doors: doors} }

func (p *page) section(name string) {
	p.lines = append(p.lines, line{name: name, section: true})
}

func (p *page) row(name string) {
	if slices.ContainsFunc(p.lines, func(l line) bool { return l.name == name }) {
		panic("two rows are named " + name)
	}
	p.lines = append(p.lines, line{name: name, passed: make(map[string]bool)})
}

func (p *page) mark(row string, f door, passed bool) {
	for _, line := range p.lines {
		if line.name == row {
			line.passed[f.name()] = passed
		}
	}
}

const preamble = `# Conformance

Every case at every door, with the same outcome expected of each. The run writes this page
(` + "`go test ./tests/conformance -update`" + `), and fails when it is stale. ✓ passed; – the case is not about this door.
`

func (p *page) render() string {
	var out strings.Builder
	out.WriteString(preamble)
	for _, line := range p.lines {
		if line.section {
			fmt.Fprintf(&out, "\n## %s\n\n| case |", line.name)
			for _, f := range p.doors {
				fmt.Fprintf(&out, " %s |", f.name())
			}
			fmt.Fprintf(&out, "\n|---|%s\n", strings.Repeat(":-:|", len(p.doors)))
			continue
		}
		fmt.Fprintf(&out, "| %s |", line.name)
		for _, f := range p.doors {
			fmt.Fprintf(&out, " %s |", line.sign(f))
		}
		out.WriteByte('\n')
	}
	return out.String()
}

func (l *line) sign(f door) string {
	switch passed, ran := l.passed[f.name()]; {
	case !ran:
		return "–"
	case passed:
		return "✓"
	default:
		return "✗"
	}
}

// compare holds the run against the page that is committed.
func (p *page) compare(t *testing.T) {
	t.Helper()
	if selected := flag.Lookup("test.run").Value.String(); strings.Contains(selected, "/") {
		return // a part of the run is no page
	}
	golden.Check(t, filepath.Join(system.Root(), "docs", "conformance.md"), []byte(p.render()))
}
