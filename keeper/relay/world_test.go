package relay_test

import (
	"testing"

	"github.com/nats-io/nats.go"

	"rayexecutor/journal/journaltest"
	"rayexecutor/keeper"
	"rayexecutor/keeper/keepertest"
)

func TestMain(m *testing.M) { journaltest.VerifyTestMain(m) }

type world struct{ keepertest.World }

func setup(t testing.TB) world {
	t.Helper()
	return world{keepertest.Setup(t)}
}

// announcements runs a keeper until the test ends, and returns what it announces.
func (w world) announcements(t *testing.T) <-chan *nats.Msg {
	t.Helper()
	announced := w.Subscribe(t, "orchestration.deliberation.*")
	keepertest.Run(t, keeper.New(w.Connect(t), keepertest.Quiet()))
	return announced
}
