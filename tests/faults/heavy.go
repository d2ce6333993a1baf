package faults

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	pb "rayexecutor/proto/ray_executor/v1"
)

const (
	// floodCallers submit at the same time, each as fast as it is answered.
	floodCallers = 16
	// floodTimeout is long enough for the workers to run what a flood leaves.
	floodTimeout = 2 * time.Minute
	// backlogSize deliberations are stored, and become overdue together.
	backlogSize = 100_000
	// backlogTimeout is longer than it takes to store them.
	backlogTimeout = 90 * time.Second
	// backlogTime bounds how long a backlog delays ends.
	backlogTime = 12 * time.Minute
	// backlogPool has no workers.
	backlogPool = "backlog"
	// backlogWriters store at the same time.
	backlogWriters = 128
)

// flood submits as fast as the function servers answer, and sends bodies that
// they must refuse. 429 is fine. What is accepted is checked like any other
// deliberation.
func (r *run) flood(f Fault) heal {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, f.For)
		defer cancel()
		body, err := hostileBody()
		if err != nil {
			return err
		}
		var callers sync.WaitGroup
		var submitted, refused, wrong, answered atomic.Int64 // answered is the last wrong status
		for caller := range floodCallers {
			callers.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					// A call that has begun is finished: its outcome is evidence.
					r.submit(r.ctx, Ask{
						ID: fmt.Sprintf("f%d-flood-%d-%d-%d", r.plan.Seed, f.Which, caller, i), Models: []string{Quick},
						Timeout: floodTimeout, Server: caller % 2, Impatient: true,
					})
					submitted.Add(1)
				}
			})
		}
		for i := range r.rig.urls {
			callers.Go(func() {
				for ctx.Err() == nil {
					switch status := r.sendHostile(ctx, r.rig.urls[i], body); status {
					case 0: // the server is away
						sleep(ctx, 100*time.Millisecond)
					case http.StatusRequestEntityTooLarge, http.StatusTooManyRequests, http.StatusServiceUnavailable:
						refused.Add(1)
					default:
						wrong.Add(1)
						answered.Store(int64(status))
					}
				}
			})
		}
		callers.Wait()
		r.notef("  flood: %d submits, %d hostile bodies refused", submitted.Load(), refused.Load())
		if wrong.Load() > 0 {
			return fmt.Errorf("%d hostile bodies were answered %d", wrong.Load(), answered.Load())
		}
		return nil
	}
}

// hostileBody is 8 MiB of JSON in a few kilobytes of gzip.
func hostileBody() ([]byte, error) {
	var body bytes.Buffer
	w := gzip.NewWriter(&body)
	_, err1 := w.Write([]byte(`{"agents":[`))
	_, err2 := w.Write(bytes.Repeat([]byte("{},"), 3<<20))
	_, err3 := w.Write([]byte("{}]}"))
	err := errors.Join(err1, err2, err3, w.Close())
	return body.Bytes(), err
}

// sendHostile returns the status, 0 where there was no answer.
func (r *run) sendHostile(ctx context.Context, url string, body []byte) int {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/deliberations", bytes.NewReader(body))
	if err != nil {
		return 0
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Content-Encoding", "gzip")
	response, err := r.client.Do(request)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode
}

// backlog stores many deliberations for a pool without workers, past all doors.
// It heals when the keepers have ended all of them at their deadlines.
func (r *run) backlog(f Fault) heal {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, backlogTime)
		defer cancel()
		events, err := r.connect("backlog")
		if err != nil {
			return err
		}
		defer events.Close()
		began := time.Now()
		err = r.storeAll(ctx, events, backlogSize, func(i int) Ask {
			return Ask{
				ID: fmt.Sprintf("f%d-backlog-%d-%d", r.plan.Seed, f.Which, i), Models: []string{Quick}, Timeout: backlogTimeout, Backlog: true,
			}
		})
		if err != nil {
			return fmt.Errorf("store the backlog: %w", err)
		}
		r.notef("  backlog: %d stored in %s", backlogSize, time.Since(began).Round(time.Second))
		var ledger *deliberation.Ledger
		err = until(ctx, "the statistics are read", func(ctx context.Context) error {
			ledger, _, err = events.Ledger(ctx)
			return err
		})
		if err != nil {
			return err
		}
		// All of it: what is left would be evicted if Expire comes next.
		return until(ctx, "the backlog has ended", func(ctx context.Context) error {
			if err := events.CatchUp(ctx, ledger); err != nil {
				return err
			}
			if open := ledger.Oldest(backlogSize, ofBacklog); len(open) > 0 {
				return fmt.Errorf("%d are open", len(open))
			}
			return nil
		})
	}
}

func ofBacklog(open deliberation.Open) bool { return open.Pool == backlogPool }

// connect connects to the journal past all doors.
func (r *run) connect(name string) (*journal.Journal, error) {
	return journal.Connect(journal.Settings{URL: r.rig.nats.urls(), Name: name, Log: slog.New(slog.DiscardHandler)})
}

// storeAll stores n requests, backlogWriters at the same time.
func (r *run) storeAll(ctx context.Context, events *journal.Journal, n int, ask func(i int) Ask) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(backlogWriters)
	for i := range n {
		group.Go(func() error { return r.store(ctx, events, ask(i)) })
	}
	return group.Wait()
}

// store stores a request until the journal confirms it.
func (r *run) store(ctx context.Context, events *journal.Journal, ask Ask) error {
	request := ask.request()
	record := &pb.DeliberationRequested{
		DeliberationId: ask.ID, TaskId: request.GetTaskId(), Request: request, Pool: backlogPool, TimeoutSeconds: int32(ask.Timeout.Seconds()),
		MaxRetries: deliberation.DefaultMaxRetries, VllmUrl: r.rig.toModel.addresses("http://")[0],
	}
	outcome := &Outcome{Ask: ask}
	err := until(ctx, ask.ID+" is stored", func(ctx context.Context) error {
		_, err := events.Accept(ctx, record, "")
		outcome.Unknown = outcome.Unknown || err != nil
		return err
	})
	outcome.Accepted = err == nil
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outcomes[ask.ID] = outcome
	return err
}
