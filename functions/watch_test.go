package functions_test

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"rayexecutor/deliberation"
	"rayexecutor/functions"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/sse"
)

// stage is the doors on a real journal, with a worker.
type stage struct {
	*doors
	nats   *journaltest.Server
	worker *journaltest.Worker
}

func openJournal(t *testing.T) *stage {
	t.Helper()
	nats := journaltest.Start(t)
	return &stage{
		doors: open(t, func(o *functions.Options) {
			o.Journal = journaltest.Connect(t, nats.URL)
			o.Log = slog.New(slog.DiscardHandler)
		}),
		nats: nats, worker: journaltest.NewWorker(t, nats.URL),
	}
}

// watcher is one door's way to watch.
type watcher struct {
	// next is the name of the next event and its sequence; empty at the end.
	next func() (name, sequence string)
	// ended is how the stream ended.
	ended func() error
}

// watchRPC watches by the generated client.
func (s *stage) watchRPC(t *testing.T, id string, after uint64, options ...connect.ClientOption) watcher {
	t.Helper()
	stream, err := s.client(options...).WatchDeliberation(t.Context(), &pb.WatchDeliberationRequest{DeliberationId: id, AfterSequence: after})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stream.Close() })
	return watcher{
		next: func() (string, string) {
			if !stream.Receive() {
				return "", ""
			}
			message := stream.Msg().ProtoReflect()
			event := message.WhichOneof(message.Descriptor().Oneofs().Get(0))
			return string(event.Message().Name()), string(rune('0' + stream.Msg().GetSequence()))
		},
		ended: stream.Err,
	}
}

// watchSSE watches as a browser does.
func (s *stage) watchSSE(t *testing.T, id string, after uint64) watcher {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/v1/deliberations/"+id+"/events?after_sequence=0", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if after > 0 {
		r.Header.Set("Last-Event-ID", string(rune('0'+after)))
	}
	response, err := s.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	if response.StatusCode != http.StatusNoContent && response.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("%d %v", response.StatusCode, response.Header)
	}
	next, stop := iter.Pull2(sse.Read(response.Body))
	t.Cleanup(stop)
	said := "" // the comment before the stream ended early
	return watcher{
		next: func() (name, sequence string) {
			for {
				event, err, more := next()
				if !more || err != nil {
					return "", ""
				}
				said = cmp.Or(event.Comment, said)
				if event.Data != "" {
					if !strings.Contains(event.Data, `"deliberation_id":"`+id+`"`) {
						t.Errorf("data: %s", event.Data)
					}
					return event.Name, event.ID
				}
			}
		},
		ended: func() error {
			if said != "" {
				return errors.New(said)
			}
			return nil
		},
	}
}

func (s *stage) watchers(t *testing.T, id string, after uint64) map[string]watcher {
	t.Helper()
	return map[string]watcher{
		"grpc": s.watchRPC(t, id, after, connect.WithGRPC()), "grpc-web": s.watchRPC(t, id, after, connect.WithGRPCWeb()),
		"connect": s.watchRPC(t, id, after), "sse": s.watchSSE(t, id, after),
	}
}

// TestWatchers see the same over each door, while it happens and again.
func TestWatchers(t *testing.T) {
	t.Parallel()
	s := openJournal(t)
	s.submit(t, "d")
	watchers := s.watchers(t, "d", 0) // the headers are here before the next event
	expect := func(name, sequence string) {
		t.Helper()
		for door, watcher := range watchers {
			if gotName, got := watcher.next(); gotName != name || got != sequence {
				t.Errorf("%s: got %q %q, want %q %q", door, gotName, got, name, sequence)
			}
		}
	}
	expect("DeliberationRequested", "1")
	if _, stored, err := s.worker.Started(t.Context(), "d", 1, time.Time{}, 0); err != nil || !stored {
		t.Fatal(stored, err)
	}
	expect("DeliberationStarted", "2")
	if stored, err := s.worker.Agent(t.Context(), "d", 0, "p"); err != nil || !stored {
		t.Fatal(stored, err)
	}
	expect("AgentCompleted", "3")
	late := s.watchers(t, "d", 3) // after all events so far, and open all the same
	if won, err := s.worker.Completed(t.Context(), "d"); err != nil || !won {
		t.Fatal(won, err)
	}
	expect("DeliberationCompleted", "4")
	expect("", "")
	watchers = late
	expect("DeliberationCompleted", "4")
	expect("", "")
	watchers = s.watchers(t, "d", 4)
	expect("", "")
}

// TestWatchersAreToldOfACut, by a server that stops or a NATS that went away,
// so that they come back.
func TestWatchersAreToldOfACut(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]func(*stage){
		"the server stops": func(s *stage) { s.Drain() },
		"NATS goes away":   func(s *stage) { s.nats.Stop() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openJournal(t)
			s.submit(t, "d")
			watchers := s.watchers(t, "d", 1)
			started := time.Now()
			cut(s)
			for door, watcher := range watchers {
				if name, _ := watcher.next(); name != "" {
					t.Errorf("%s: %s", door, name)
				}
				err := watcher.ended()
				refused, ok := errors.AsType[*connect.Error](err)
				if err == nil || ok && (refused.Code() != connect.CodeUnavailable || detailOf[*pb.Error](t, refused).GetCode() != "unavailable") {
					t.Errorf("%s: %v", door, err)
				}
			}
			if took := time.Since(started); took > time.Minute {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// TestAWatcherThatGoes is no failure.
func TestAWatcherThatGoes(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.submit(t, "d")
	ctx, cancel := context.WithCancel(t.Context())
	err := f.Watch(ctx, &pb.WatchDeliberationRequest{DeliberationId: "d"}, func(event *pb.WatchDeliberationResponse) error {
		if event != nil {
			cancel()
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	err = f.Watch(t.Context(), &pb.WatchDeliberationRequest{DeliberationId: "d"}, func(*pb.WatchDeliberationResponse) error {
		return errors.New("broken pipe")
	})
	if err != nil {
		t.Error(err)
	}
	err = f.Watch(t.Context(), &pb.WatchDeliberationRequest{DeliberationId: "*"}, nil)
	refused(t, err, deliberation.Invalid, "deliberation_id")
	if strings.Contains(f.logs.String(), "broken pipe") {
		t.Errorf("logged: %s", f.logs)
	}
}

// TestSSEHeartbeats keep a quiet stream alive.
func TestSSEHeartbeats(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setup(t)
		f.submit(t, "d")
		ctx, cancel := context.WithCancel(t.Context())
		got, ended := httptest.NewRecorder(), make(chan struct{})
		mux := http.NewServeMux()
		f.Mount(mux)
		go func() {
			defer close(ended)
			mux.ServeHTTP(got, httptest.NewRequestWithContext(ctx, http.MethodGet, "/v1/deliberations/d/events", http.NoBody))
		}()
		time.Sleep(46 * time.Second)
		cancel()
		<-ended
		body := got.Body.String()
		if strings.Count(body, ":\n\n") != 3 || !strings.HasPrefix(body, "retry: 1000\n\nid: 1\nevent: DeliberationRequested\ndata: {") || !got.Flushed {
			t.Errorf("got %q", body)
		}
	})
}
