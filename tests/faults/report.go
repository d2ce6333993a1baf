package faults

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Report tells how a run went.
func (e *Evidence) Report(plan Plan, v *Verdict) string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, %s, %d faults\n\n%s\n", plan.Seed, plan.Length, len(e.Windows), e.table(v))
	fmt.Fprintf(&b, "deliberations: %d accepted, %d left open and not taken, %d refused\n", v.Accepted, v.Unheld, v.Refused)
	fmt.Fprintf(&b, "ends: %s; %d given up, %d at the deadline\n", counts(v.Ends), v.GivenUp, v.AtDeadline)
	fmt.Fprintf(&b, "attempts: %d; agents: %d, of these answered and asked again: %d\n", v.Attempts, v.Agents, v.AskedTwice)
	fmt.Fprintf(&b, "announced more than once: %d; lost: %d; promises broken: %d\n", v.AnnouncedTwice, v.LostAll, len(v.Broken))
	return b.String()
}

// table is the faults that were survived, in Markdown.
func (e *Evidence) table(v *Verdict) string {
	count, total := map[Kind]int{}, map[Kind]time.Duration{}
	for _, w := range e.Windows {
		count[w.Kind]++
		total[w.Kind] += w.Until.Sub(w.From)
	}
	var b strings.Builder
	b.WriteString("| fault | times | seconds, in all | lost | double |\n|---|---|---|---|---|\n")
	for _, kind := range kinds() {
		if count[kind] > 0 {
			fmt.Fprintf(&b, "| %s | %d | %.0f | %d | %d |\n", kind, count[kind], total[kind].Seconds(), v.Lost[kind], v.Double[kind])
		}
	}
	return b.String()
}

func counts(by map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(by)) {
		parts = append(parts, fmt.Sprintf("%d %s", by[name], name))
	}
	return strings.Join(parts, ", ")
}
