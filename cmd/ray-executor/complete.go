// Completion of the values of flags, for `ray-executor completion`.

package main

import "github.com/spf13/cobra"

// complete offers values for a flag, and no file names.
func complete(command *cobra.Command, flag string, values ...string) {
	offer := cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
	if err := command.RegisterFlagCompletionFunc(flag, offer); err != nil {
		panic(err) // the flag does not exist
	}
}
