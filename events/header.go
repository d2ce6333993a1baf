package events

import (
	"net/url"
	"strings"
	"unicode/utf8"
)

// CloudEvents' HTTP binding (3.1.3.2) percent-encodes the values of ce-*
// headers: the space, `"`, `%` and all that is not printable ASCII. The SDK
// neither encodes nor decodes.

// decodeHeader decodes a header's value. A value that is no valid encoding is used
// as it is: many senders do not encode.
func decodeHeader(value string) string {
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		value = unquote(value[1 : len(value)-1])
	}
	if !strings.Contains(value, "%") {
		return value
	}
	decoded, err := url.PathUnescape(value)
	if err != nil || !utf8.ValidString(decoded) {
		return value
	}
	return decoded
}

// unquote takes out the backslashes of a quoted string.
func unquote(value string) string {
	var out strings.Builder
	for i := 0; i < len(value); i++ {
		if value[i] == '\\' && i+1 < len(value) {
			i++
		}
		out.WriteByte(value[i])
	}
	return out.String()
}

const hexDigits = "0123456789ABCDEF"

func encodeHeader(value string) string {
	if !strings.ContainsFunc(value, encoded) {
		return value
	}
	var out strings.Builder
	for _, b := range []byte(value) {
		if encoded(rune(b)) {
			out.Write([]byte{'%', hexDigits[b>>4], hexDigits[b&15]})
		} else {
			out.WriteByte(b)
		}
	}
	return out.String()
}

func encoded(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '%' }
