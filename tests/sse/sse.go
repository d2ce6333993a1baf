// Package sse reads server-sent events (HTML, section 9.2) in tests, as a browser
// would: fields until an empty line, and comments.
package sse

import (
	"bufio"
	"io"
	"iter"
	"strings"
)

// Event is one event. A comment between two events is an event with only a
// Comment.
type Event struct {
	ID, Name, Data, Comment string
}

// Read yields the events of a stream until it ends, or with an error if it is cut.
func Read(stream io.Reader) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		lines := bufio.NewScanner(stream)
		lines.Buffer(nil, 4<<20)
		var event Event
		for lines.Scan() {
			if lines.Text() == "" {
				if event != (Event{}) && !yield(event, nil) {
					return
				}
				event = Event{}
				continue
			}
			name, value, _ := strings.Cut(lines.Text(), ":")
			value = strings.TrimPrefix(value, " ")
			switch name {
			case "id":
				event.ID = value
			case "event":
				event.Name = value
			case "data":
				event.Data += value
			case "":
				event.Comment = value
			}
		}
		if err := lines.Err(); err != nil {
			yield(Event{}, err)
		}
	}
}
