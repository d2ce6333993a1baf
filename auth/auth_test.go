package auth_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rayexecutor/auth"
	"rayexecutor/deliberation"
)

const secret = "a key that nobody guesses"

func digest(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// keysFile is a file with one key, secret.
func keysFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.yaml")
	write(t, path, "keys:\n  - {tenant: payments, sha256: "+digest(secret)+", scopes: [submit, read], pools: [default]}\n")
	return path
}

func check(t *testing.T, options auth.Options) *auth.Check {
	t.Helper()
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	made, err := auth.New(options)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// from is a request that came to an address, with Authorization headers.
func from(t *testing.T, address string, headers ...string) *http.Request {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "http://localhost:8080/", nil)
	for _, header := range headers {
		r.Header.Add("Authorization", header)
	}
	if address == "" {
		return r
	}
	return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.ParseIP(address), Port: 8080}))
}

func code(err error) deliberation.Code {
	if err == nil {
		return ""
	}
	coded, ok := errors.AsType[*deliberation.Error](err)
	if !ok {
		return "not coded"
	}
	return coded.Code
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	keys := check(t, auth.Options{Auth: "keys", Keys: keysFile(t)})
	for header, want := range map[string]deliberation.Code{
		"Bearer " + secret:         "",
		"bearer " + secret:         "",
		"Bearer  " + secret + " ":  "",
		"Bearer":                   deliberation.Unauthenticated,
		"Bearer ":                  deliberation.Unauthenticated,
		"Basic " + secret:          deliberation.Unauthenticated,
		secret:                     deliberation.Unauthenticated,
		"Bearer " + secret[1:]:     deliberation.Unauthenticated,
		"Bearer " + digest(secret): deliberation.Unauthenticated,
	} {
		caller, err := keys.Caller(from(t, "10.0.0.1", header))
		if code(err) != want || (want == "") != (caller != nil) {
			t.Errorf("%q: %v, %v", header, caller, err)
		}
		if caller != nil && (caller.Tenant != "payments" || caller.Admin()) {
			t.Errorf("%q is %+v", header, caller)
		}
	}
	if _, err := keys.Caller(from(t, "127.0.0.1")); code(err) != deliberation.Unauthenticated {
		t.Errorf("without credentials, over the loopback: %v", err)
	}
	if _, err := keys.Caller(from(t, "", "Bearer "+secret, "Bearer "+secret)); code(err) != deliberation.Unauthenticated {
		t.Errorf("with two headers: %v", err)
	}
	if keys.Default() != nil {
		t.Error("a call that came through no door has a caller")
	}
}

func TestScopesAndPools(t *testing.T) {
	t.Parallel()
	caller := &auth.Caller{Scopes: []auth.Scope{auth.Read}, Pools: []string{"gpu", "default"}}
	if caller.May(auth.Read) != nil || code(caller.May(auth.Submit)) != deliberation.PermissionDenied || code(caller.May(auth.Cancel)) != deliberation.PermissionDenied {
		t.Error("read allows more or less than to read")
	}
	if caller.MaySubmitTo("gpu") != nil || code(caller.MaySubmitTo("other")) != deliberation.PermissionDenied {
		t.Error("pools allow more or less than they name")
	}
	admin := &auth.Caller{Scopes: []auth.Scope{auth.Admin}}
	if admin.May(auth.Submit) != nil || admin.May(auth.Cancel) != nil || admin.MaySubmitTo("any") != nil {
		t.Error("admin lacks a scope")
	}
}

// TestNotSet: only this machine is answered, and in a cluster the start is refused.
func TestNotSet(t *testing.T) {
	t.Parallel()
	unset := check(t, auth.Options{})
	for address, want := range map[string]deliberation.Code{
		"127.0.0.1": "", "127.9.9.9": "", "::1": "", "": "",
		"10.0.0.1": deliberation.PermissionDenied, "::ffff:10.0.0.1": deliberation.PermissionDenied, "fe80::1": deliberation.PermissionDenied,
	} {
		if _, err := unset.Caller(from(t, address)); code(err) != want {
			t.Errorf("over %q: %v", address, err)
		}
	}
	none := check(t, auth.Options{Auth: "none", Exposed: true})
	if caller, err := none.Caller(from(t, "10.0.0.1")); err != nil || caller != auth.Operator {
		t.Errorf("AUTH=none: %v, %v", caller, err)
	}
	if _, err := auth.New(auth.Options{Exposed: true}); err == nil || !strings.Contains(err.Error(), "AUTH=keys") || !strings.Contains(err.Error(), "AUTH=none") {
		t.Errorf("in a cluster: %v", err)
	}
}

// TestMalformedFiles: each is refused with the place and the reason, and no text of
// the digest is repeated.
func TestMalformedFiles(t *testing.T) {
	t.Parallel()
	good := digest("x")
	entry := func(fields string) string { return "keys: [{" + fields + "}]" }
	for content, says := range map[string]string{
		"":                          "must be YAML",
		"- a":                       "must be YAML",
		"keys: []":                  "has 0 keys",
		"tenants: {}":               "must be YAML",
		entry("tenant: a, hash: b"): "must be YAML",
		entry("sha256: " + good + ", scopes: [read]"):                                                                                "keys[0].tenant",
		entry("tenant: 'a b', sha256: " + good + ", scopes: [read]"):                                                                 "keys[0].tenant",
		entry("tenant: a, sha256: plaintext-key, scopes: [read]"):                                                                    "keys[0].sha256: must be the SHA-256",
		entry("tenant: a, sha256: " + good[2:] + ", scopes: [read]"):                                                                 "keys[0].sha256: must be the SHA-256",
		entry("tenant: a, sha256: " + digest("") + ", scopes: [read]"):                                                               "is that of an empty key",
		entry("tenant: a, sha256: " + good):                                                                                          "keys[0].scopes",
		entry("tenant: a, sha256: " + good + ", scopes: [write]"):                                                                    `"write" must be submit`,
		entry("tenant: a, sha256: " + good + ", scopes: [read], pools: [A]"):                                                         `"A" must be`,
		entry("tenant: a, sha256: " + good + ", scopes: [read]}, {tenant: b, sha256: " + strings.ToUpper(good) + ", scopes: [read]"): "keys[1].sha256: is that of keys[0]",
		"keys:\n" + strings.Repeat("- {tenant: a}\n", 1001):                                                                          "has 1001 keys",
		strings.Repeat("#", 1<<20+1):                                                                                                 "at most 1 MiB",
	} {
		path := filepath.Join(t.TempDir(), "keys.yaml")
		write(t, path, content)
		_, err := auth.New(auth.Options{Auth: "keys", Keys: path})
		if err == nil || !strings.Contains(err.Error(), says) || !strings.HasPrefix(err.Error(), "AUTH_KEYS: ") || strings.Contains(err.Error(), "plaintext-key") {
			t.Errorf("%.80q: %v, not %q", content, err, says)
		}
	}
	for _, options := range []auth.Options{{Auth: "keys"}, {Auth: "keys", Keys: "/nowhere"}, {Auth: "password"}} {
		if _, err := auth.New(options); err == nil {
			t.Errorf("%+v is accepted", options)
		}
	}
}

// TestTheFileIsReadAgain: a new key is valid after a second, and a removed one no
// longer. A broken file changes nothing and is logged once.
func TestTheFileIsReadAgain(t *testing.T) {
	t.Parallel()
	path := keysFile(t)
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		keys := check(t, auth.Options{Auth: "keys", Keys: path, Log: slog.New(slog.NewTextHandler(&logged, nil))})
		valid := func(key string) bool {
			time.Sleep(time.Second)
			_, err := keys.Caller(from(t, "", "Bearer "+key))
			return err == nil
		}
		write(t, path, fmt.Sprintf("keys: [{tenant: b, sha256: %s, scopes: [read]}]", digest("new")))
		if valid(secret) || !valid("new") {
			t.Error("the new file is not in force")
		}
		write(t, path, "keys: [{")
		if !valid("new") || valid(secret) || !valid("new") {
			t.Error("a broken file changes the keys")
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if !valid("new") {
			t.Error("a missing file changes the keys")
		}
		write(t, path, fmt.Sprintf("keys: [{tenant: b, sha256: %s, scopes: [read]}]", digest(secret)))
		if valid("new") || !valid(secret) {
			t.Error("the mended file is not in force")
		}
		if broken := strings.Count(logged.String(), "level=ERROR"); broken != 2 {
			t.Errorf("the broken file and the missing file are logged %d times:\n%s", broken, &logged)
		}
	})
}
