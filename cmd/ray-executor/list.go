// ray-executor list pages through the deliberations in the journal.

package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"rayexecutor/client"
	pb "rayexecutor/proto/ray_executor/v1"
)

func (p program) listCommand() *cobra.Command {
	var (
		request pb.ListDeliberationsRequest
		since   time.Duration
		all     bool
	)
	c := p.newCaller(&cobra.Command{
		Use:   "list",
		Short: "List deliberations, the newest first",
		Long: `List the deliberations in the journal, the newest first, one page per call. The
last line of a page names the flag for the next page. --all prints every page, and
--since every page down to that age; with -o json each page is one line.`,
		Example: `  ray-executor list --state running
  ray-executor list --state failed --since 24h
  ray-executor list --task-id my-task --page-size 5 -o json`,
		Args: cobra.NoArgs,
	})
	c.Flags().StringVar(&request.State, "state", "", "only this `STATE`: queued, running, completed, failed or cancelled (default: all)")
	complete(c.Command, "state", "queued", "running", "completed", "failed", "cancelled")
	c.Flags().StringVar(&request.Pool, "pool", "", "only this `POOL` (default: all)")
	c.Flags().StringVar(&request.TaskId, "task-id", "", "only the task with this `NAME` (default: all)")
	c.Flags().StringArrayVarP(&request.Labels, "label", "l", nil, "only with this label, as `KEY=VALUE`; repeat the flag: only with all of them")
	c.Flags().Int32Var(&request.PageSize, "page-size", 50, "at most `N` deliberations in a page, up to 200")
	c.Flags().StringVar(&request.PageToken, "page-token", "", "`TOKEN` of the page, from the last line of the page before")
	c.Flags().BoolVar(&all, "all", false, "print every page")
	c.Flags().DurationVar(&since, "since", 0, "print those submitted in the last `DURATION`, such as 90m")
	c.RunE = func(*cobra.Command, []string) error {
		if since < 0 {
			return usagef("--since=%v: must be above 0", since)
		}
		client, err := c.dial()
		if err != nil {
			return err
		}
		return c.list(client, &request, since, all || since > 0)
	}
	return c.Command
}

// list prints a page, or all pages down to an age; 0 for all ages.
func (c *caller) list(client *client.Client, request *pb.ListDeliberationsRequest, age time.Duration, all bool) error {
	now, printer := time.Now(), &printer{w: c.out, format: c.output}
	for first := true; first || all && request.GetPageToken() != ""; first = false {
		page, err := client.Page(c.Context(), request)
		if err != nil {
			return err
		}
		if age > 0 {
			cutAt(page, now.Add(-age))
		}
		request.PageToken = page.GetNextPageToken()
		if c.output != "text" {
			err = printer.encode(page)
		} else {
			writeList(c.text(), page, now, first, !all)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// cutAt ends a page, and the list, before the first deliberation submitted before
// a time: the list has the newest first.
func cutAt(page *pb.ListDeliberationsResponse, oldest time.Time) {
	for i, one := range page.GetDeliberations() {
		if one.GetSubmittedAt().AsTime().Before(oldest) {
			page.Deliberations, page.NextPageToken = page.GetDeliberations()[:i], ""
			return
		}
	}
}

// writeList writes a table, and how to get the next page.
func writeList(w io.Writer, page *pb.ListDeliberationsResponse, now time.Time, header, more bool) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if header {
		fmt.Fprintln(table, "DELIBERATION\tSTATE\tTASK\tPOOL\tAGENTS\tATTEMPTS\tAGE\tTOOK")
	}
	for _, one := range page.GetDeliberations() {
		took := "-"
		if one.GetEndedAt() != nil {
			took = between(one.GetSubmittedAt(), one.GetEndedAt())
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\n", one.GetDeliberationId(), one.GetStatus(), oneLine(one.GetTaskId()),
			one.GetPool(), one.GetAgents(), one.GetAttempts(), shortAge(now.Sub(one.GetSubmittedAt().AsTime())), took)
	}
	_ = table.Flush() // an error of the terminal or the pipe has no reader
	if more && page.GetNextPageToken() != "" {
		fmt.Fprintf(w, "next page: --page-token %s\n", page.GetNextPageToken())
	}
}

// shortAge writes an age in one unit, which a list needs no more exactly.
func shortAge(age time.Duration) string {
	switch age = max(age, 0); { // below 0: another clock
	case age < 2*time.Minute:
		return fmt.Sprintf("%ds", int(age.Seconds()))
	case age < 2*time.Hour:
		return fmt.Sprintf("%dm", int(age.Minutes()))
	case age < 48*time.Hour:
		return fmt.Sprintf("%dh", int(age.Hours()))
	default:
		return fmt.Sprintf("%dd", int(age.Hours()/24))
	}
}
