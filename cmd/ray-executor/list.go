// ray-executor list pages through the deliberations in the journal.

package main

import (
	"io"

	"github.com/spf13/cobra"

	pb "rayexecutor/proto/ray_executor/v1"
)

func (p program) listCommand() *cobra.Command {
	var request pb.ListDeliberationsRequest
	c := p.newCaller(&cobra.Command{
		Use:   "list",
		Short: "List deliberations, the newest first",
		Long: `List the deliberations in the journal, the newest first, one page per call. The
last line of a page names the flag for the next page.`,
		Example: `  ray-executor list --state running
  ray-executor list --task-id my-task --page-size 5 -o json`,
		Args: cobra.NoArgs,
	})
	c.Flags().StringVar(&request.State, "state", "", "only this `STATE`: queued, running, completed, failed or cancelled (default: all)")
	c.Flags().StringVar(&request.Pool, "pool", "", "only this `POOL` (default: all)")
	c.Flags().StringVar(&request.TaskId, "task-id", "", "only the task with this `NAME` (default: all)")
	c.Flags().StringArrayVarP(&request.Labels, "label", "l", nil, "only with this label, as `KEY=VALUE`; repeat the flag: only with all of them")
	c.Flags().Int32Var(&request.PageSize, "page-size", 50, "at most `N` deliberations, up to 200")
	c.Flags().StringVar(&request.PageToken, "page-token", "", "`TOKEN` of the page, from the last line of the page before")
	c.RunE = func(*cobra.Command, []string) error {
		client, err := c.dial()
		if err != nil {
			return err
		}
		list, err := client.Page(c.Context(), &request)
		if err != nil {
			return err
		}
		return c.show(list, func(w io.Writer) { writeList(w, list) })
	}
	return c.Command
}
