package deliberation

// An error quotes what the caller sent, which may be a megabyte. These limits bound
// the quotes, in characters.
const (
	maxEcho    = 64
	maxField   = 128
	maxMessage = 1024
)

// Short returns the beginning of a caller's text, for an error.
func Short(words string) string { return Shorten(words, maxEcho) }

// Shorten cuts a text after so many characters. It never cuts inside a character.
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
