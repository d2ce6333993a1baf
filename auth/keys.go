package auth

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.yaml.in/yaml/v3"
)

const (
	// maxKeys bounds the keys of a file: a call compares its own with each.
	maxKeys = 1000
	// maxFile bounds the file in bytes.
	maxFile = 1 << 20
	// reread is the interval in which the file is read again. A key that is taken out
	// of it is refused after that time.
	reread = time.Second
)

// key is a Caller and the digest of its API key.
type key struct {
	digest [sha256.Size]byte
	caller *Caller
}

// keyFile is the file AUTH_KEYS and what it said last.
type keyFile struct {
	path string
	log  *slog.Logger
	keys atomic.Pointer[[]key]
	next atomic.Int64 // when it is read again, in Unix nanoseconds

	reading sync.Mutex
	content []byte // as read last
	failed  string // why the last reading failed, as logged
}

// openKeys reads a file of keys.
func openKeys(path string, log *slog.Logger) (*keyFile, error) {
	f := &keyFile{path: path, log: log}
	content, err := readFile(path)
	if err != nil {
		return nil, err
	}
	if err := f.take(content); err != nil {
		return nil, err
	}
	if len(*f.keys.Load()) == 0 { // later it is how an operator removes the last key
		return nil, fmt.Errorf("%s: has 0 keys: must have 1 to %d", path, maxKeys)
	}
	return f, nil
}

// take replaces the keys by those of a file's content.
func (f *keyFile) take(content []byte) error {
	keys, err := parseKeys(content)
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	f.content = content
	f.keys.Store(&keys)
	f.next.Store(time.Now().Add(reread).UnixNano())
	return nil
}

// caller returns the caller of an API key, nil for none. Digests are compared in
// constant time, and each of them, so that the time shows nothing of the keys.
func (f *keyFile) caller(token string) *Caller { return f.find(sha256.Sum256([]byte(token))) }

func (f *keyFile) find(digest [sha256.Size]byte) (caller *Caller) {
	f.refresh()
	for _, one := range *f.keys.Load() {
		if subtle.ConstantTimeCompare(one.digest[:], digest[:]) == 1 {
			caller = one.caller
		}
	}
	return caller
}

// refresh reads the file again if the interval has passed. A file that is broken
// leaves the keys as they are: an operator's mistake must not lock everybody out.
// Calls wait for it, so that a removed key is refused after a pause too.
func (f *keyFile) refresh() {
	if time.Now().UnixNano() < f.next.Load() {
		return
	}
	f.reading.Lock()
	defer f.reading.Unlock()
	if time.Now().UnixNano() < f.next.Load() {
		return
	}
	content, err := readFile(f.path)
	switch {
	case err != nil:
	case bytes.Equal(content, f.content):
		f.failed = ""
	default:
		if err = f.take(content); err == nil {
			f.failed = ""
			f.log.Info("read AUTH_KEYS again", "file", f.path, "keys", len(*f.keys.Load()))
		}
	}
	if err != nil && err.Error() != f.failed {
		f.failed = err.Error()
		f.log.Error("AUTH_KEYS cannot be read; the keys of before remain in force", "reason", err)
	}
	f.next.Store(time.Now().Add(reread).UnixNano())
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: name a file that can be read", err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(content) > maxFile {
		return nil, fmt.Errorf("%s: must be at most 1 MiB", path)
	}
	return content, nil
}

// entry is a key as it is in the file.
type entry struct {
	Tenant string   `yaml:"tenant"`
	SHA256 string   `yaml:"sha256"`
	Scopes []Scope  `yaml:"scopes"`
	Pools  []string `yaml:"pools"`
}

// parseKeys reads keys. Its errors quote no digest: it might be a key that was
// put there in its place.
func parseKeys(content []byte) ([]key, error) {
	var file struct {
		Keys *[]entry `yaml:"keys"`
	}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		return nil, errors.New("must be YAML of the form `keys: [{tenant: …, sha256: …, scopes: [submit, read, cancel], pools: [default]}]`, without other fields")
	}
	if file.Keys == nil { // not `keys: []`, which admits nobody
		return nil, fmt.Errorf("has 0 keys: must have 1 to %d", maxKeys)
	}
	entries := *file.Keys
	if len(entries) > maxKeys {
		return nil, fmt.Errorf("has %d keys: must have 1 to %d", len(entries), maxKeys)
	}
	keys := make([]key, len(entries))
	for i := range entries {
		var err error
		if keys[i], err = entries[i].key(); err != nil {
			return nil, fmt.Errorf("keys[%d].%w", i, err)
		}
		for before := range i {
			if keys[before].digest == keys[i].digest {
				return nil, fmt.Errorf("keys[%d].sha256: is that of keys[%d] too: a key has one entry", i, before)
			}
		}
	}
	return keys, nil
}

var (
	tenantName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)
	poolName   = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)
)

func (e *entry) key() (key, error) {
	digest, err := hex.DecodeString(e.SHA256)
	switch {
	case !tenantName.MatchString(e.Tenant):
		return key{}, errors.New("tenant: must be 1 to 64 characters of A-Z a-z 0-9 _ . - and begin with a letter or digit")
	case err != nil || len(digest) != sha256.Size:
		return key{}, errors.New("sha256: must be the SHA-256 of the key, 64 hexadecimal digits: printf %s \"$KEY\" | sha256sum")
	case [sha256.Size]byte(digest) == sha256.Sum256(nil):
		return key{}, errors.New("sha256: is that of an empty key")
	case len(e.Scopes) == 0:
		return key{}, errors.New("scopes: must name at least one of submit, read, cancel, admin")
	}
	for _, scope := range e.Scopes {
		if !slices.Contains(scopes, scope) {
			return key{}, fmt.Errorf("scopes: %q must be submit, read, cancel or admin", string(scope))
		}
	}
	for _, pool := range e.Pools {
		if !poolName.MatchString(pool) {
			return key{}, fmt.Errorf("pools: %q must be 1 to 32 characters of a-z 0-9 -", pool)
		}
	}
	sum := [sha256.Size]byte(digest)
	return key{sum, &Caller{Tenant: e.Tenant, Scopes: e.Scopes, Pools: e.Pools, digest: sum}}, nil
}
