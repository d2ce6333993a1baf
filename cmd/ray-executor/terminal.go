package main

import (
	"bytes"
	"io"
	"strings"
	"unicode"
)

// terminal writes text for people. It shows control characters in place of
// sending them: a caller's task id or a model's proposal must not move the
// cursor, change the window's title, or reorder what is read. Machine-readable
// output is written without it.
type terminal struct{ w io.Writer }

func (t terminal) Write(text []byte) (int, error) {
	if _, err := t.w.Write(bytes.Map(printable, text)); err != nil {
		return 0, err
	}
	return len(text), nil
}

// printable replaces control characters by their pictures (Unicode's block U+2400),
// and those that have none, or that change the direction of text, by U+FFFD.
func printable(r rune) rune {
	if r == '\n' || r == '\t' {
		return r
	}
	return picture(r)
}

// picture is printable, for line breaks and tabs too.
func picture(r rune) rune {
	switch {
	case r < ' ':
		return r + 0x2400
	case r == 0x7f:
		return 0x2421
	case unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r):
		return unicode.ReplacementChar
	default:
		return r
	}
}

// oneLine keeps a caller's text in its cell or line: a line break in it would look
// like another deliberation.
func oneLine(text string) string {
	return strings.Map(picture, text)
}

// text is the output of a command as text.
func (p program) text() io.Writer { return terminal{p.out} }
