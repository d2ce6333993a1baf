package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// series is one figure a round.
type series []float64

func (s series) median() float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	if middle := len(sorted) / 2; len(sorted)%2 == 1 {
		return sorted[middle]
	} else {
		return (sorted[middle-1] + sorted[middle]) / 2
	}
}

// String is the median and the range over the rounds.
func (s series) String() string {
	if len(s) == 0 {
		return "–"
	}
	if len(s) == 1 {
		return number(s[0])
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.median()), number(slices.Min(s)), number(slices.Max(s)))
}

// number is a figure with three digits that count.
func number(value float64) string {
	switch size := math.Abs(value); {
	case math.IsNaN(value):
		return "–"
	case size >= 1000:
		digits := fmt.Sprintf("%.0f", value)
		for at := len(digits) - 3; at > 0 && digits[at-1] != '-'; at -= 3 {
			digits = digits[:at] + "," + digits[at:]
		}
		return digits
	case size >= 100:
		return fmt.Sprintf("%.0f", value)
	case size >= 10:
		return fmt.Sprintf("%.1f", value)
	default:
		return fmt.Sprintf("%.2f", value)
	}
}

// figures collects series by name, in the order in which they first came.
type figures struct {
	names  []string
	values map[string]series
}

func (f *figures) add(name string, value float64) {
	if f.values == nil {
		f.values = make(map[string]series)
	}
	if _, known := f.values[name]; !known {
		f.names = append(f.names, name)
	}
	f.values[name] = append(f.values[name], value)
}

func (f *figures) of(name string) series { return f.values[name] }

// section is what one subject found.
type section struct {
	title string
	parts []string
}

func (s *section) textf(format string, args ...any) {
	s.parts = append(s.parts, fmt.Sprintf(format, args...))
}

// plot shows an SVG that was written beside the document.
func (s *section) plot(name, title string) { s.textf("![%s](benchmarks/%s.svg)", title, name) }

// table adds a table in Markdown.
func (s *section) table(rows ...[]string) {
	var out strings.Builder
	for i, row := range rows {
		out.WriteString("| " + strings.Join(row, " | ") + " |\n")
		if i == 0 {
			out.WriteString("|" + strings.Repeat("---|", len(row)) + "\n")
		}
	}
	s.parts = append(s.parts, strings.TrimSuffix(out.String(), "\n"))
}

func (s *section) String() string {
	return "## " + s.title + "\n\n" + strings.Join(s.parts, "\n\n") + "\n"
}

// target is something that the issue wants.
type target struct {
	what, wanted, found string
	reached             bool
}

// want notes a target, and prints how it stands.
func (b *bench) want(what, wanted, found string, reached bool) {
	b.targets = append(b.targets, target{what, wanted, found, reached})
	b.sayf("target: %s: %s; wanted %s: %s", what, found, wanted, verdict(reached))
}

func verdict(reached bool) string {
	if reached {
		return "reached"
	}
	return "**missed**"
}

// document is the whole of docs/benchmarks.md.
func (b *bench) document(sections []*section) string {
	var out strings.Builder
	out.WriteString("# Benchmarks\n\nWritten by `make bench` (tests/bench), from one run; medians over the rounds, with their range in brackets.\n\n")
	out.WriteString(b.machine() + "\n")
	summary := &section{title: "Targets"}
	rows := [][]string{{"target", "wanted", "found", ""}}
	for _, t := range b.targets {
		rows = append(rows, []string{t.what, t.wanted, t.found, verdict(t.reached)})
	}
	summary.table(rows...)
	out.WriteString(summary.String())
	for _, one := range sections {
		out.WriteString("\n" + one.String())
	}
	out.WriteString("\nWhy the figures are what they are, and what to try next: [performance.md](performance.md).\n")
	return out.String()
}
