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
	own := ownPrefix(tenant)
	if tenant == "" || strings.HasPrefix(id, own) {
		return id // one that was derived already
	}
	return own + Digest(tenant, id)
}

// FreshID is NewID for a tenant's caller: sent again as an Idempotency-Key, it stays
// the same id.
func FreshID(tenant string) string {
	if tenant == "" {
		return NewID()
	}
	return ownPrefix(tenant) + NewID()
}

func ownPrefix(tenant string) string { return "t-" + Digest(tenant)[:16] + "-" }

// derivedID has the forms of the ids that doors derive.
var derivedID = regexp.MustCompile(`^(t-[a-z2-7]{16}-|(ce|key)-[a-z2-7]{32}$)`)

// MayName reports whether a tenant's caller may choose an id: none that a door
// derives for others, or a tenant could take the id of another's next event.
func MayName(tenant, id string) bool {
	return !derivedID.MatchString(id) || tenant != "" && strings.HasPrefix(id, ownPrefix(tenant))
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
