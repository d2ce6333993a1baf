package faults

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The marks between which docs/reliability.md tells of the last soak.
const (
	beginMark = "<!-- soak: written by `make soak` -->"
	endMark   = "<!-- end of soak -->"
)

// Document puts a run between the marks of a document.
func (e *Evidence) Document(plan Plan, v *Verdict, began time.Time, versions, document string) (string, error) {
	before, rest, ok1 := strings.Cut(document, beginMark)
	_, after, ok2 := strings.Cut(rest, endMark)
	if !ok1 || !ok2 {
		return "", fmt.Errorf("the document lacks the lines %s and %s", beginMark, endMark)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s\n%s, seed %d, %s of faults; %s.\n\n%s\n", before, beginMark,
		began.UTC().Format("2006-01-02 15:04 UTC"), plan.Seed, plan.Length, versions, e.table(v))
	fmt.Fprintf(&b, "%s\n%s%s", e.sums(v), endMark, after)
	return b.String(), nil
}

// Report tells how a run went.
func (e *Evidence) Report(plan Plan, v *Verdict) string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, %s, %d faults\n\n%s\n%s", plan.Seed, plan.Length, len(e.Windows), e.table(v), e.sums(v))
	for _, left := range plan.leftOut(e.Windows) {
		fmt.Fprintf(&b, "- Left out: %s: %s\n", left.kind, left.reason)
	}
	return b.String()
}

// sums is a run in numbers, in Markdown.
func (e *Evidence) sums(v *Verdict) string {
	var b strings.Builder
	fmt.Fprintf(&b, "- Deliberations: %d accepted, %d unanswered but stored, %d unanswered and not stored, %d refused\n", v.Accepted, v.Stored, v.Unheld, v.Refused)
	fmt.Fprintf(&b, "- Ends: %s; of these %d dead letters, %d at the deadline\n", counts(v.Ends), v.GivenUp, v.AtDeadline)
	fmt.Fprintf(&b, "- Attempts: %d. Agents: %d, of these asked again after an answer: %d, before one: %d\n", v.Attempts, v.Agents, v.AskedTwice, v.AskedAnew)
	fmt.Fprintf(&b, "- Announced more than once: %d. Lost: %d. Promises broken: %d\n", v.AnnouncedTwice, v.LostAll, len(v.Broken))
	fmt.Fprintf(&b, "- Evicted by age while no keeper ran: %d without an end (forgotten), %d ends that were not announced\n", v.Forgotten, v.Unheard)
	fmt.Fprintf(&b, "- Statistics of the two function servers, and recounted: %s\n", e.statistics(v))
	return b.String()
}

// statistics compares the statistics with the recount.
func (e *Evidence) statistics(v *Verdict) string {
	if !e.statsEqual(v.Recount) {
		return fmt.Sprintf("different: %v and %v", e.Stats, v.Recount)
	}
	return fmt.Sprintf("equal: %d deliberations, %d completed, %d failed, %d cancelled, %d forgotten", v.Recount.GetTotalDeliberations(),
		v.Recount.GetCompletedDeliberations(), v.Recount.GetFailedDeliberations(), v.Recount.GetCancelledDeliberations(),
		v.Recount.GetForgottenDeliberations())
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
			double := "–"
			if doubles(kind) {
				double = strconv.Itoa(v.Double[kind])
			}
			fmt.Fprintf(&b, "| %s | %d | %.0f | %d | %s |\n", kind, count[kind], total[kind].Seconds(), v.Lost[kind], double)
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
