package deliberation

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"regexp"
	"strings"

	"github.com/google/uuid"
)

var idPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// ValidID reports whether id can stand for a deliberation: 1 to 64 characters
// of A-Z a-z 0-9 _ -, which is also what a token of a NATS subject may hold.
func ValidID(id string) bool { return idPattern.MatchString(id) }

// NewID returns a fresh id that sorts by the time it was made (UUID version 7).
func NewID() string { return uuid.Must(uuid.NewV7()).String() }

// DerivedID returns the id of the deliberation that a CloudEvent asks for when
// its data names none. It is a function of the event's source and id alone,
// which together identify an event: a redelivered one is the same
// deliberation.
func DerivedID(source, id string) string { return "ce-" + Digest(source, id) }

// RetryID returns the id under which a deliberation that was given up is
// submitted anew. It is a function of its id alone: submitting twice is one
// deliberation.
func RetryID(id string) string {
	if again := id + "-retry"; ValidID(again) {
		return again
	}
	return "retry-" + Digest(id)
}

// Digest returns a short name for a list of strings: 160 bits of SHA-256 over
// each one's length and bytes, in 32 characters of a-z 2-7.
func Digest(parts ...string) string {
	h := sha256.New()
	for _, part := range parts {
		_ = binary.Write(h, binary.BigEndian, uint64(len(part)))
		h.Write([]byte(part))
	}
	return strings.ToLower(base32.StdEncoding.EncodeToString(h.Sum(nil)[:20]))
}
