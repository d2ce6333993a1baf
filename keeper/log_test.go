package keeper_test

import (
	"log/slog"
	"strings"
	"testing"

	"rayexecutor/journal/journaltest"
	"rayexecutor/tests/await"
)

// An end that is announced has one line with its ids, without what agents said.
func TestAnAnnouncementIsLoggedWithoutProposals(t *testing.T) {
	t.Parallel()
	w := setup(t)
	out := &await.Output{}
	stop := w.keep(t, slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	const secret = "what-the-agent-said"
	w.Submit(t, "d", 1, 300)
	w.Complete(t, "d", journaltest.Result(0, secret))
	log := out.Wait(t, `"announced"`)
	stop()
	if want := `"deliberation":"d","end":"completed","trace":"0af7651916cd43dd8448eb211c80319c"`; strings.Count(log, want) != 1 {
		t.Errorf("the log lacks %s: %s", want, log)
	}
	if strings.Contains(out.String(), secret) {
		t.Errorf("the log has a proposal: %s", out)
	}
}
