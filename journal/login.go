package journal

import (
	"os"
	"strings"

	"github.com/nats-io/nats.go"
)

// Secret is a value, or a file that holds it. The file takes precedence. It is read
// at each connect, so that a rotated secret is used, and spaces at both ends are
// ignored. The worker's settings.py reads it in the same way.
type Secret struct{ Value, File string }

// set reports whether the secret has a value or a file.
func (s Secret) set() bool { return s.Value != "" || s.File != "" }

// read returns the value; empty if the file cannot be read. NATS then refuses the
// login, and the client tries again later.
func (s Secret) read() string {
	if s.File == "" {
		return strings.TrimSpace(s.Value)
	}
	data, err := os.ReadFile(s.File)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// Login is a user and password, or a token, or a client's certificate.
type Login struct {
	User, Password, Token Secret
	// Cert and Key are files in PEM; both or none.
	Cert, Key string
}

// options are those of nats.go. A user or token in the URL takes precedence, as in
// the worker.
func (l Login) options(url string) []nats.Option {
	var options []nats.Option
	if l.Cert != "" {
		options = append(options, nats.ClientCert(l.Cert, l.Key))
	}
	if strings.Contains(url, "@") {
		return options
	}
	if l.User.set() {
		options = append(options, nats.UserInfoHandler(func() (user, password string) { return l.User.read(), l.Password.read() }))
	}
	if l.Token.set() {
		options = append(options, nats.TokenHandler(l.Token.read))
	}
	return options
}
