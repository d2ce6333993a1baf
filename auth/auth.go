// Package auth decides who calls, and what the caller may do.
//
// Check is the one check in front of all doors. A door asks it for the Caller of
// a request before it reads the body, and puts the Caller into the request's
// context. The operations then ask the Caller whether it may do what it wants.
// So no door can differ from another in whom it admits, and an operation that is
// called without a Caller is refused.
package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"

	"rayexecutor/deliberation"
)

// Scope is what a caller may do. The setting AUTH_KEYS names them.
type Scope string

// The scopes. Admin includes the others, for the deliberations of all tenants.
const (
	Submit Scope = "submit"
	Read   Scope = "read"
	Cancel Scope = "cancel"
	Admin  Scope = "admin"
)

var scopes = []Scope{Submit, Read, Cancel, Admin}

// Caller is who makes a call. Do not change one: calls share it.
type Caller struct {
	// Tenant owns what the caller submits. Empty without authentication.
	Tenant string
	Scopes []Scope
	// Pools are those that the caller may submit to; none: all.
	Pools []string

	digest [sha256.Size]byte // of the API key; zero for none
}

// Operator is the caller if nobody is authenticated: all is allowed.
var Operator = &Caller{Scopes: scopes}

// Admin reports whether the caller may act for all tenants.
func (c *Caller) Admin() bool { return slices.Contains(c.Scopes, Admin) }

// Sees reports whether the caller may know of a tenant's deliberations. Those
// without a tenant, from before or without authentication, only admin sees.
func (c *Caller) Sees(tenant string) bool {
	return c.Admin() || c.Tenant == tenant && tenant != ""
}

// May returns PermissionDenied unless the caller has a scope.
func (c *Caller) May(scope Scope) error {
	if c.Admin() || slices.Contains(c.Scopes, scope) {
		return nil
	}
	return denied("authorization", "these credentials lack the scope %s: use others, or ask the operator for it", scope)
}

// MaySubmitTo returns PermissionDenied unless the caller may submit to a pool.
func (c *Caller) MaySubmitTo(pool string) error {
	if len(c.Pools) == 0 || slices.Contains(c.Pools, pool) {
		return nil
	}
	return denied("pool", "these credentials are for %s only: name one of them, or ask the operator for this one", strings.Join(c.Pools, ", "))
}

func denied(field, format string, args ...any) error {
	return &deliberation.Error{Code: deliberation.PermissionDenied, Field: field, Message: fmt.Sprintf(format, args...)}
}

type contextKey struct{}

// With returns a context of a call that a caller makes.
func With(ctx context.Context, caller *Caller) context.Context {
	return context.WithValue(ctx, contextKey{}, caller)
}

// From returns the caller of a context, nil for none.
func From(ctx context.Context) *Caller {
	caller, _ := ctx.Value(contextKey{}).(*Caller)
	return caller
}

// Options configure New. They are the settings of the same names.
type Options struct {
	// Auth is none, keys, or empty: not set.
	Auth string
	// Keys is the file of API keys.
	Keys string
	// Exposed says that others than this machine reach the server, as in Kubernetes.
	Exposed bool
	// Origins are those of other sites whose pages may call.
	Origins []string
	Log     *slog.Logger
}

// Check finds the caller of a request. It is safe for concurrent use.
type Check struct {
	open  bool // everybody is the Operator
	local bool // but over the loopback interface only
	keys  *keyFile
	pages *http.CrossOriginProtection
}

// Open returns a check that admits everybody as the Operator.
func Open() *Check { return &Check{open: true} }

// New returns the check that the settings ask for. The error names the setting
// and what to do.
func New(options Options) (*Check, error) {
	check, err := byAuth(options)
	if err != nil {
		return nil, err
	}
	check.pages, err = trust(options.Origins)
	return check, err
}

func byAuth(options Options) (*Check, error) {
	switch options.Auth {
	case "none":
		return Open(), nil
	case "keys":
		if options.Keys == "" {
			return nil, errors.New("AUTH_KEYS: must name a file of API keys, because AUTH=keys")
		}
		keys, err := openKeys(options.Keys, options.Log)
		if err != nil {
			return nil, fmt.Errorf("AUTH_KEYS: %w", err)
		}
		return &Check{keys: keys}, nil
	case "":
		if options.Exposed {
			return nil, errExposed
		}
		return &Check{open: true, local: true}, nil
	default:
		return nil, fmt.Errorf("AUTH=%s: must be none or keys", options.Auth)
	}
}

var errExposed = errors.New("AUTH is not set, and in Kubernetes others can reach this server: " +
	"set AUTH=keys and AUTH_KEYS to a file of API keys, or AUTH=none if the network lets in only callers that may do everything")

var errNotLocal = denied("AUTH", "this server answers callers on its own machine only, by the name localhost or its address: on the server set "+
	"AUTH=keys and AUTH_KEYS to a file of API keys, or AUTH=none to let everybody do everything")

// Caller returns who makes a request: the caller that its context has already, or
// the one of its credentials. Unauthenticated: it has none, or none that are valid.
func (c *Check) Caller(r *http.Request) (*Caller, error) {
	if caller := From(r.Context()); caller != nil {
		return caller, nil
	}
	if err := c.checkPage(r); err != nil {
		return nil, err
	}
	if c.open {
		if c.local && !fromThisMachine(r) {
			return nil, errNotLocal
		}
		return Operator, nil
	}
	token, err := bearer(r.Header)
	if err != nil {
		return nil, err
	}
	if caller := c.keys.caller(token); caller != nil {
		return caller, nil
	}
	return nil, errUnknownKey
}

// Revocable reports whether a caller may lose its key while a call lasts.
func (c *Check) Revocable() bool { return c.keys != nil }

// Still returns a caller as the file of keys has it now, for calls that last; nil:
// the key is no longer there.
func (c *Check) Still(caller *Caller) *Caller {
	if c.keys == nil || caller == nil || caller.digest == [sha256.Size]byte{} {
		return caller
	}
	return c.keys.find(caller.digest)
}

// Default returns the caller of a call that came through no door. nil: nobody, so
// the call is refused.
func (c *Check) Default() *Caller {
	if c.open {
		return Operator
	}
	return nil
}

// fromThisMachine reports whether a request came to an address that only this
// machine reaches, and by its name. One that came over no connection was made by
// this process.
func fromThisMachine(r *http.Request) bool {
	address, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return true
	}
	tcp, ok := address.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback() && namesThisMachine(r)
}

var (
	// ErrMissing is the answer to a call without credentials.
	ErrMissing = unauthenticated("credentials are missing: send the header Authorization with the value Bearer and an API key")

	// ErrRemoved ends a call that lasts longer than its key.
	ErrRemoved = unauthenticated("these credentials are no longer valid: ask the operator for an API key")

	errMalformed  = unauthenticated("must be one header of the form Bearer and an API key")
	errUnknownKey = unauthenticated("these credentials are not valid here: ask the operator for an API key")
)

func unauthenticated(message string) error {
	return &deliberation.Error{Code: deliberation.Unauthenticated, Field: "authorization", Message: message}
}

// bearer returns the token of the Authorization header (RFC 6750).
func bearer(header http.Header) (string, error) {
	values := header.Values("Authorization")
	if len(values) == 0 {
		return "", ErrMissing
	}
	scheme, token, found := strings.Cut(values[0], " ")
	token = strings.TrimSpace(token)
	if len(values) > 1 || !found || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", errMalformed
	}
	return token, nil
}
