package journal

import (
	"os"
	"strings"

	"github.com/nats-io/nats.go"
)

// Secret is a value, or the file that it is in. The file comes first, and is read
// at each connect, so that one that was rotated is used; spaces at both ends are no
// part of it. The worker's settings.py reads it the same way.
type Secret struct{ Value, File string }

// set reports whether there is one.
func (s Secret) set() bool { return s.Value != "" || s.File != "" }

// read returns the value, empty where the file cannot be read: NATS refuses the
// login then, and is asked again.
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

// options are nats.go's. A user or token in the URL comes first, as with the
// worker.
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
