package system

import "regexp"

var blocks = regexp.MustCompile("(?s)```sh\n(.*?)```")

// Commands are the blocks of a document, or of a section, that are to be run as
// they stand.
func Commands(text string) []string {
	var commands []string
	for _, block := range blocks.FindAllStringSubmatch(text, -1) {
		commands = append(commands, block[1])
	}
	return commands
}
