package journal_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
)

// The same settings log both sides in: ray/worker/tests reads them from the same
// vectors.
func TestLogins(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("\n s3cret \r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	users := journaltest.Start(t, func(o *server.Options) { o.Username, o.Password = "me", "s3cret" })
	tokens := journaltest.Start(t, func(o *server.Options) { o.Authorization = "s3cret" })
	wrong := journal.Secret{Value: "wrong"}
	for name, test := range map[string]struct {
		url   string
		login journal.Login
		works bool
	}{
		"user and password":   {users.URL, journal.Login{User: journal.Secret{Value: "me"}, Password: journal.Secret{Value: "s3cret"}}, true},
		"password in a file":  {users.URL, journal.Login{User: journal.Secret{Value: "me"}, Password: journal.Secret{Value: "x", File: file}}, true},
		"token":               {tokens.URL, journal.Login{Token: journal.Secret{Value: " s3cret "}}, true},
		"token in a file":     {tokens.URL, journal.Login{Token: journal.Secret{File: file}}, true},
		"none":                {users.URL, journal.Login{}, false},
		"a wrong one":         {users.URL, journal.Login{User: journal.Secret{Value: "me"}, Password: wrong}, false},
		"the URL comes first": {"nats://me:s3cret@" + users.URL[len("nats://"):], journal.Login{User: wrong, Token: wrong}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := journaltest.Undeployed(t, journal.Settings{URL: test.url, Login: test.login})
			if err := j.Reach(t.Context()); (err == nil) != test.works {
				t.Error(err)
			}
		})
	}
}
