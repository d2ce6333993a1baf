package journal_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	"rayexecutor/tests/await"
)

// advice is what to do about each trouble that NATS can be in; no other error
// has it.
var advice = map[string]string{
	"login":        "refuses the login: check NATS_CREDS, NATS_USER and NATS_PASSWORD, NATS_TOKEN, or the user and password in NATS_URL",
	"refused":      "cannot be reached: is it up?",
	"no host":      "check the host name",
	"creds file":   "NATS_CREDS: open ",
	"creds text":   "as `nsc generate creds` writes it",
	"ca file":      "NATS_CA: open ",
	"ca text":      "holds no certificate in PEM",
	"authority":    "name the authority's file",
	"other name":   "a certificate for other names",
	"expired":      "a certificate that is not valid",
	"client cert":  "asks for a client's certificate",
	"no tls":       "write nats:// in place of tls://",
	"not nats":     "does not speak NATS",
	"silent":       "does not answer: check the address",
	"old":          "2.12 or newer is needed",
	"no jetstream": "NATS has no JetStream",
	"account":      "the account has no JetStream",
	"denied":       "NATS does not allow it to this user",
	"room":         "JOURNAL_MAX_BYTES: ",
	"replicas":     "JOURNAL_REPLICAS: ",
	"sizes":        "switch max_bytes_required off",
	"streams":      "the account's limit of streams or consumers",
	"unlike":       "back it up, delete it",
	"taken":        "may have: give it other subjects",
	"name":         "set NATS_PREFIX, so that ours has another name",
}

// wantAdvice is what an error is to advise, and nothing else.
func wantAdvice(t *testing.T, err error, which string) {
	t.Helper()
	if err == nil {
		t.Fatal("it works")
	}
	for name, text := range advice {
		if strings.Contains(err.Error(), text) != (name == which) {
			t.Errorf("%q is the advice on %q, not on %q", err, name, which)
		}
	}
}

// deployTo deploys to a NATS as the command does.
func deployTo(t *testing.T, settings journal.Settings, change ...func(*journal.Layout)) error {
	t.Helper()
	settings.Log, settings.Name = slog.New(slog.DiscardHandler), t.Name()
	j, err := journal.Connect(settings)
	if err != nil {
		return err
	}
	defer j.Close()
	layout := journaltest.Layout()
	for _, alter := range change {
		alter(&layout)
	}
	return j.Deploy(t.Context(), layout)
}

// configured starts a server with a configuration file.
func configured(t *testing.T, config string) *journaltest.Server {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return journaltest.Start(t, func(options *server.Options) {
		store := options.StoreDir
		if err := options.ProcessConfigFile(path); err != nil {
			t.Fatal(err)
		}
		options.JetStream, options.StoreDir = true, store
		options.Host, options.Port, options.NoLog, options.NoSigs = "127.0.0.1", server.RANDOM_PORT, true, true
	})
}

// as is a URL with a user, who has the password p.
func as(user string, s *journaltest.Server) string {
	return strings.Replace(s.URL, "nats://", "nats://"+user+":p@", 1)
}

const accounts = `
accounts {
  WITHOUT { users: [{user: without, password: p}] }
  LIMITED { jetstream: {max_streams: 2}, users: [{user: limited, password: p}] }
  SIZED { jetstream: {max_bytes_required: true}, users: [{user: sized, password: p}] }
  SMALL { jetstream: {max_file: 1M}, users: [{user: small, password: p}] }
  WITH { jetstream: enabled, users: [
    {user: all, password: p}
    {user: maker, password: p, permissions: {publish: {deny: "$JS.API.STREAM.CREATE.>"}}}
    {user: nobody, password: p, permissions: {publish: {deny: "$JS.API.>"}}}
  ]}
}`

// An error of streams or permissions is returned at once, and says what to do.
func TestDeployRefused(t *testing.T) {
	t.Parallel()
	s := configured(t, accounts)
	small := journaltest.Start(t, func(options *server.Options) { options.JetStreamMaxStore = 1 << 20 })
	bytes := func(n int64) func(*journal.Layout) { return func(layout *journal.Layout) { layout.MaxBytes = n } }
	for name, test := range map[string]struct {
		url    string
		advice string
		change func(*journal.Layout)
	}{
		"account without JetStream": {as("without", s), "account", bytes(-1)},
		"server without JetStream":  {journaltest.Start(t, func(options *server.Options) { options.JetStream = false }).URL, "no jetstream", bytes(-1)},
		"may make no stream":        {as("maker", s), "denied", bytes(-1)},
		"may use no JetStream":      {as("nobody", s), "denied", bytes(-1)},
		"few streams":               {as("limited", s), "streams", bytes(-1)},
		"sizes":                     {as("sized", s), "sizes", bytes(-1)},
		"no room on the server":     {small.URL, "room", bytes(8 << 30)},
		"no room in the account":    {as("small", s), "room", bytes(8 << 30)},
		"one server":                {as("all", s), "replicas", func(layout *journal.Layout) { layout.Replicas = 3 }},
		"password":                  {strings.Replace(as("all", s), ":p@", ":q@", 1), "login", bytes(-1)},
		"user":                      {as("stranger", s), "login", bytes(-1)},
		"no user":                   {s.URL, "login", bytes(-1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			started := time.Now()
			err := deployTo(t, journal.Settings{URL: test.url}, test.change)
			wantAdvice(t, err, test.advice)
			if !journal.Permanent(err) {
				t.Errorf("%v is not permanent", err)
			}
			if took := time.Since(started); took > 9*time.Second { // an error that is not permanent is returned after ten
				t.Errorf("it took %s to say so", took)
			}
		})
	}
}

// TestLeastPermissions are those that docs/operating.md names.
func TestLeastPermissions(t *testing.T) {
	t.Parallel()
	s := configured(t, `authorization { users: [{user: least, password: p, permissions: {
  publish: ["$JS.API.>", "$O.>", "$KV.>", "deliberation.>", "orchestration.deliberation.*", "agent.response.>", "ray-executor.>", "$JS.ACK.>", "$JS.FC.>"]
  subscribe: ["_INBOX.>", "deliberation.>"]
}}] }`)
	s.URL = as("least", s)
	w := world{server: s, worker: journaltest.NewWorker(t, s.URL), Journal: journaltest.Connect(t, s.URL, func(layout *journal.Layout) {
		layout.AgentResponses, layout.Relay = true, true
	})}
	w.accept(t, "d1", 2)
	w.wantEnd(t, "d1", 2<<20)
	for _, subject := range []string{"orchestration.deliberation.completed", "agent.response.failed"} {
		if err := w.Announce(t.Context(), subject, "id", nil, nil); err != nil {
			t.Error(err)
		}
	}
	w.keepUndelivered(t, "d1", "refused", 1)
	if list := w.undelivered(t, "d1"); len(list) != 1 {
		t.Errorf("stored is %v", list)
	}
	if _, saved, err := w.SaveSnapshot(t.Context(), journaltest.Snapshot(t, deliberation.NewLedger(nil)), 0); err != nil || !saved {
		t.Errorf("no snapshot: %v", err)
	}
	if err := w.CatchUp(t.Context(), deliberation.NewLedger(nil)); err != nil {
		t.Error(err)
	}
	must[[]journal.DeadLetterSummary](t)(w.ListDeadLetters(t.Context()))
}

func TestTooManyReplicas(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes three servers")
	}
	servers := journaltest.Cluster(t, 3)
	err := deployTo(t, journal.Settings{URL: servers[0].URL}, func(layout *journal.Layout) { layout.Replicas = 5 })
	wantAdvice(t, err, "replicas")
}

// Reach waits for a NATS that cannot be reached, but not for long.
func TestReachRetries(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ url, advice string }{
		"nobody listens": {"nats://127.0.0.1:1", "refused"},
		"no such host":   {"nats://nowhere.invalid:4222", "no host"},
		"not NATS":       {"nats://" + speaking(t, "HTTP/1.1 400 Bad Request\r\n\r\n"), "not nats"},
		"silent":         {"nats://" + speaking(t, ""), "silent"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			started := time.Now()
			err := deployTo(t, journal.Settings{URL: test.url})
			wantAdvice(t, err, test.advice)
			if took := time.Since(started); journal.Permanent(err) || took < 9*time.Second || took > await.Limit {
				t.Errorf("after %s, permanent %v", took, journal.Permanent(err))
			}
		})
	}
}

func TestReachFailsAtOnceOnOldServer(t *testing.T) {
	t.Parallel()
	err := deployTo(t, journal.Settings{URL: "nats://" + pretend(t, "2.11.9")})
	if wantAdvice(t, err, "old"); !journal.Permanent(err) {
		t.Errorf("%v is not permanent", err)
	}
}

func TestNATSFiles(t *testing.T) {
	t.Parallel()
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("nothing of the kind"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := configured(t, `authorization { users: [{nkey: "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"}] }`)
	for which, settings := range map[string]journal.Settings{
		"creds file": {Creds: text + "-not"}, "creds text": {Creds: text},
		"ca file": {CA: text + "-not"}, "ca text": {CA: text},
	} {
		settings.URL = s.URL
		wantAdvice(t, deployTo(t, settings), which)
	}
}

func TestTLSErrors(t *testing.T) {
	t.Parallel()
	good, other, expired := certificate(t, "127.0.0.1", time.Hour), certificate(t, "10.1.1.1", time.Hour), certificate(t, "127.0.0.1", -time.Hour)
	with := func(file, more string) string {
		return configured(t, fmt.Sprintf("tls { cert_file: %q, key_file: %q, %s }", file, file, more)).URL
	}
	for which, settings := range map[string]journal.Settings{
		"authority":   {URL: with(good, "")},
		"other name":  {URL: with(other, ""), CA: other},
		"expired":     {URL: with(expired, ""), CA: expired},
		"client cert": {URL: with(good, fmt.Sprintf("verify: true, ca_file: %q", good)), CA: good},
		"no tls":      {URL: strings.Replace(journaltest.Start(t).URL, "nats://", "tls://", 1)},
	} {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			err := deployTo(t, settings)
			if wantAdvice(t, err, which); !journal.Permanent(err) {
				t.Errorf("%v is not permanent", err)
			}
		})
	}
	if err := deployTo(t, journal.Settings{URL: with(good, ""), CA: good}); err != nil {
		t.Errorf("with the right authority: %v", err)
	}
}

// certificate makes a file with a certificate for an address, and its key.
func certificate(t *testing.T, address string, valid time.Duration) string {
	t.Helper()
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.ParseIP(address)},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(valid),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key))
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	private := must[[]byte](t)(x509.MarshalPKCS8PrivateKey(key))
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
	path := filepath.Join(t.TempDir(), "both.pem")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// speaking is a server that says one thing to each client.
func speaking(t *testing.T, text string) string {
	t.Helper()
	listener := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte(text))
			t.Cleanup(func() { conn.Close() })
		}
	}()
	return listener.Addr().String()
}
