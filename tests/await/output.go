package await

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
)

// Output collects what a process or a logger writes, for a test that reads it
// meanwhile. A child's output comes through a pipe, later than its answers over
// the network: a test waits for a line and does not read at once. The zero value
// is ready.
type Output struct {
	mu      sync.Mutex
	text    bytes.Buffer
	closed  bool
	changed chan struct{} // closed and replaced at each change
}

// Write implements [io.Writer].
func (o *Output) Write(data []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(data)
	o.change()
	return len(data), nil
}

// Close says that nothing more is written: who waits in Wait fails at once.
func (o *Output) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.change()
	return nil
}

func (o *Output) change() {
	if o.changed != nil {
		close(o.changed)
		o.changed = nil
	}
}

// String is what was written so far.
func (o *Output) String() string {
	text, _, _ := o.Watch()
	return text
}

// Watch returns what was written so far, whether that is all, and a channel
// that is closed at the next change.
func (o *Output) Watch() (text string, closed bool, changed <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.changed == nil {
		o.changed = make(chan struct{})
	}
	return o.text.String(), o.closed, o.changed
}

// Drain waits for Close. What a process that has ended printed last may still be
// in the pipe: whoever copies from there calls Close at its end.
func (o *Output) Drain() {
	for {
		_, closed, changed := o.Watch()
		if closed {
			return
		}
		<-changed
	}
}

// Wait returns the text as soon as it holds all words. It fails the test where
// the output is closed without them, or after Limit.
func (o *Output) Wait(tb testing.TB, words ...string) string {
	tb.Helper()
	return o.WaitFor(tb, Limit, words...)
}

// WaitFor is Wait with another limit.
func (o *Output) WaitFor(tb testing.TB, limit time.Duration, words ...string) string {
	tb.Helper()
	timeout := time.After(limit)
	for {
		text, closed, changed := o.Watch()
		missing := missing(text, words)
		if missing == "" {
			return text
		}
		if closed {
			tb.Fatalf("the output ended without %q:\n%s", missing, text)
		}
		select {
		case <-changed:
		case <-timeout:
			tb.Fatalf("no %q within %s:\n%s", missing, limit, text)
		}
	}
}

func missing(text string, words []string) string {
	for _, word := range words {
		if !strings.Contains(text, word) {
			return word
		}
	}
	return ""
}
