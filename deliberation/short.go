package deliberation

// An error repeats what a caller sent so that it is found again. It may be a
// megabyte: these are the most that is repeated, in characters.
const (
	maxEcho    = 64
	maxField   = 128
	maxMessage = 1024
)

// Short returns what an error repeats of a caller's words: their beginning.
func Short(words string) string { return Shorten(words, maxEcho) }

// Shorten cuts a text that is longer than so many characters.
func Shorten(text string, most int) string {
	characters := 0
	for place := range text {
		if characters == most {
			return text[:place] + "…"
		}
		characters++
	}
	return text
}
