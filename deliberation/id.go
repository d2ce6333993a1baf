package deliberation

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"regexp"
	"strings"

	"github.com/google/uuid"
)

// idPattern also bounds subjects: an id is one token of each.
var idPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// ValidID reports whether a string is a valid id: 1 to 64 characters of
// A-Z a-z 0-9 _ -. All of them are allowed in a token of a NATS subject.
func ValidID(id string) bool { return idPattern.MatchString(id) }

// NewID returns a fresh id that sorts by the time it was made (UUID version 7).
func NewID() string { return uuid.Must(uuid.NewV7()).String() }

// DerivedID returns the id of the deliberation that a CloudEvent requests, if its
// data has none. It depends only on the event's source and id, which together
// identify an event. So a redelivered event requests the same deliberation.
func DerivedID(source, id string) string { return "ce-" + Digest(source, id) }

// TenantID returns the id in place of one that a door derived for a tenant's
// caller: two tenants whose events, or Idempotency-Keys, are equal have two
// deliberations. Without a tenant it is the id itself.
func TenantID(tenant, id string) string {
	if tenant == "" {
		return id
	}
	return "t-" + Digest(tenant, id)
}

// RetryID returns the id under which a dead letter is submitted again. It depends
// only on the dead letter's id: submitting it twice creates one deliberation.
func RetryID(id string) string {
	if again := id + "-retry"; ValidID(again) {
		return again
	}
	return "retry-" + Digest(id)
}

// Digest returns a short name for a list of strings: 160 bits of SHA-256 over
// each one's length and bytes, in 32 characters of a-z 2-7. The lengths keep
// ("ab", "c") and ("a", "bc") apart.
func Digest(parts ...string) string {
	h := sha256.New()
	for _, part := range parts {
		_ = binary.Write(h, binary.BigEndian, uint64(len(part)))
		h.Write([]byte(part))
	}
	return strings.ToLower(base32.StdEncoding.EncodeToString(h.Sum(nil)[:20]))
}
