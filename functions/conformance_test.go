package functions_test

import (
	"context"
	"testing"
	"time"

	"rayexecutor/functions"
	suite "rayexecutor/functions/journaltest"
	"rayexecutor/journal/journaltest"
)

// TestJournalInMemory and TestJournalOnJetStream run one suite, so that the tests
// that use the first say something of the second.
func TestJournalInMemory(t *testing.T) {
	t.Parallel()
	suite.Run(t, func(testing.TB) suite.Journal {
		m := &memory{}
		return suite.Journal{
			Journal: m,
			Start:   func(_ context.Context, id string) error { m.start(id); return nil },
			Agent: func(_ context.Context, id string, index int, proposal string) error {
				m.agent(id, index, proposal)
				return nil
			},
			Stop: func() { m.set(away) },
		}
	})
}

func TestJournalOnJetStream(t *testing.T) {
	t.Parallel()
	suite.Run(t, func(tb testing.TB) suite.Journal {
		server := journaltest.Start(tb)
		worker := journaltest.NewWorker(tb, server.URL)
		return suite.Journal{
			Journal: journaltest.Connect(tb, server.URL),
			Start: func(ctx context.Context, id string) error {
				_, _, err := worker.Started(ctx, id, 1, time.Time{}, 0)
				return err
			},
			Agent: func(ctx context.Context, id string, index int, proposal string) error {
				_, err := worker.Agent(ctx, id, index, proposal)
				return err
			},
			Stop: server.Stop,
		}
	})
}

var _ functions.Journal = (*memory)(nil)
