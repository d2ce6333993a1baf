package client_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"rayexecutor/client"
	pb "rayexecutor/proto/ray_executor/v1"
)

type stream = connect.ServerStream[pb.WatchDeliberationResponse]

// send sends events with the sequences.
func send(t *testing.T, to *stream, sequences ...uint64) {
	t.Helper()
	for _, sequence := range sequences {
		if err := to.Send(&pb.WatchDeliberationResponse{Sequence: sequence}); err != nil {
			t.Error(err)
		}
	}
}

// TestAWatchResumes after the last event: over a cut, an error of a server that
// stops, and a stream without a sign of life.
func TestAWatchResumes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var from []uint64
		s := &service{watch: func(ctx context.Context, request *pb.WatchDeliberationRequest, to *stream) error {
			from = append(from, request.GetAfterSequence())
			switch len(from) {
			case 1:
				send(t, to, 1, 2)
				panic("cut")
			case 2:
				send(t, to, 5)
				return busy(connect.CodeUnavailable, 1)
			case 3:
				if err := to.Send(nil); err != nil {
					return err
				}
				<-ctx.Done()
				return ctx.Err()
			default:
				send(t, to, 8)
				return nil
			}
		}}
		var seen []uint64
		for event, err := range dial(t, s, client.Options{}).Watch(t.Context(), "d", 0) {
			if err != nil {
				t.Fatal(err)
			}
			seen = append(seen, event.GetSequence())
		}
		if !slices.Equal(seen, []uint64{1, 2, 5, 8}) || !slices.Equal(from, []uint64{0, 2, 5, 5}) {
			t.Errorf("it yielded %v, from %v", seen, from)
		}
	})
}

// TestAWatchEnds with an error that no other stream can avoid, or when the server
// does not come back.
func TestAWatchEnds(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fails          error
		code           client.Code
		shortest, most time.Duration
	}{
		"unknown id": {fails: connect.NewError(connect.CodeNotFound, errors.New("no such")), code: client.NotFound},
		"no streams": {code: client.Unimplemented},
		"gone":       {fails: busy(connect.CodeUnavailable, 1), code: client.Unavailable, shortest: 2 * time.Minute, most: 123 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &service{}
				if test.fails != nil {
					s.watch = func(context.Context, *pb.WatchDeliberationRequest, *stream) error { return test.fails }
				}
				began, items := time.Now(), 0
				for event, err := range dial(t, s, client.Options{}).Watch(t.Context(), "d", 0) {
					items++
					if failed, ok := errors.AsType[*client.Error](err); event != nil || !ok || failed.Code != test.code || failed.DeliberationID != "d" {
						t.Errorf("%v, %#v", event, err)
					}
				}
				if took := time.Since(began); items != 1 || took < test.shortest || took > test.most {
					t.Errorf("%d items after %v", items, took)
				}
			})
		})
	}
}

// TestAServerThatComesAndGoes is followed as long as it comes back.
func TestAServerThatComesAndGoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		streams := 0
		s := &service{watch: func(_ context.Context, _ *pb.WatchDeliberationRequest, to *stream) error {
			if streams++; streams == 100 {
				return nil
			}
			if streams%2 == 0 {
				return busy(connect.CodeUnavailable, 30)
			}
			if err := to.Send(nil); err != nil {
				return err
			}
			time.Sleep(10 * time.Second) // of the bubble's clock
			return busy(connect.CodeUnavailable, 1)
		}}
		for _, err := range dial(t, s, client.Options{}).Watch(t.Context(), "d", 0) {
			t.Error(err)
		}
		if streams != 100 {
			t.Errorf("%d streams", streams)
		}
	})
}

// TestLeavingAWatch closes the stream.
func TestLeavingAWatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		closed := false
		s := &service{watch: func(ctx context.Context, _ *pb.WatchDeliberationRequest, to *stream) error {
			send(t, to, 1)
			<-ctx.Done()
			closed = true
			return ctx.Err()
		}}
		for range dial(t, s, client.Options{}).Watch(t.Context(), "d", 0) {
			break
		}
		synctest.Wait()
		if !closed {
			t.Error("the stream is open")
		}
	})
}

// TestWaitWithoutStreams asks for the status, as on AWS Lambda.
func TestWaitWithoutStreams(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		s := &service{status: func() (*pb.GetDeliberationStatusResponse, error) {
			if asked++; asked < 10 {
				return &pb.GetDeliberationStatusResponse{Status: "running"}, nil
			}
			return &pb.GetDeliberationStatusResponse{Status: "completed"}, nil
		}}
		c := dial(t, s, client.Options{})
		if ended, err := c.Wait(t.Context(), "d"); err != nil || ended.GetStatus() != "completed" {
			t.Error(ended, err)
		}
		asked = -1000
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := c.Wait(ctx, "d"); client.CodeOf(err) != client.DeadlineExceeded || !strings.Contains(err.Error(), "d has not ended: it is running") || asked < -1000 || asked > -985 {
			t.Errorf("after %d questions: %v", asked+1000, err)
		}
	})
}

// TestFollow shows each event and returns the end.
func TestFollow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &service{
			watch: func(_ context.Context, _ *pb.WatchDeliberationRequest, to *stream) error {
				send(t, to, 3, 4)
				return nil
			},
			status: func() (*pb.GetDeliberationStatusResponse, error) {
				return &pb.GetDeliberationStatusResponse{Status: "failed"}, nil
			},
		}
		var seen []uint64
		ended, err := dial(t, s, client.Options{}).Follow(t.Context(), "d", func(event *pb.WatchDeliberationResponse) {
			seen = append(seen, event.GetSequence())
		})
		if err != nil || ended.GetStatus() != "failed" || !slices.Equal(seen, []uint64{3, 4}) {
			t.Errorf("%v, %v, %v", ended, err, seen)
		}
	})
}
