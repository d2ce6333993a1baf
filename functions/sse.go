package functions

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/gate"
	pb "rayexecutor/proto/ray_executor/v1"
)

const (
	// sseHeartbeat is the interval of comments on an idle stream. Proxies cut one
	// that is idle for 30 to 60 s by default (nginx: 60 s).
	sseHeartbeat = 15 * time.Second
	// sseRetry is the pause after which browsers reconnect.
	sseRetry = time.Second
)

// stream answers a watch with server-sent events. The name of an event is that of
// its message, its data the message, its id the sequence. So a browser that
// reconnects resumes with Last-Event-ID, without gap or repeat. After the end it is
// answered 204, on which browsers stop reconnecting.
//
// An error before the first byte is a problem document. After it the status is
// sent already: a comment has the reason, and the browser reconnects.
func (f *Functions) stream(w http.ResponseWriter, r *http.Request, request proto.Message) {
	watch := request.(*pb.WatchDeliberationRequest)
	if seen := r.Header.Get("Last-Event-ID"); seen != "" {
		sequence, err := strconv.ParseUint(seen, 10, 64)
		if err != nil {
			f.refuse(w, r, "watch", deliberation.Invalidf("Last-Event-ID", "must be the id of an event, unchanged"))
			return
		}
		watch.AfterSequence = sequence
	}
	sent := &eventStream{ctx: r.Context(), w: w}
	err := f.Watch(r.Context(), watch, sent.send)
	sent.close()
	switch {
	case sent.opened() && err != nil:
		_ = sent.write(": " + deliberation.AsError(err).Error() + "\n\n")
	case err != nil:
		WriteError(w, err)
	case !sent.opened():
		w.WriteHeader(http.StatusNoContent)
	}
}

// eventStream writes server-sent events. Events and heartbeats come from two
// goroutines, and a ResponseWriter takes one at a time: hence the lock.
type eventStream struct {
	ctx     context.Context
	w       http.ResponseWriter
	writing sync.Mutex
	stop    chan struct{} // ends the heartbeats; nil until the stream is open
	beating sync.WaitGroup
}

func (s *eventStream) opened() bool { return s.stop != nil }

// send writes an event; nil opens the stream.
func (s *eventStream) send(event *pb.WatchDeliberationResponse) error {
	if event == nil {
		return s.open()
	}
	message := eventOf(event)
	data, err := events.MarshalJSON(message)
	if err != nil {
		return err
	}
	return s.write(fmt.Sprintf("id: %d\nevent: %s\ndata: %s\n\n", event.GetSequence(), message.ProtoReflect().Descriptor().Name(), data))
}

// eventOf returns the life-cycle message inside an event: the one field that is set
// of the oneof "event".
func eventOf(event *pb.WatchDeliberationResponse) proto.Message {
	reflected := event.ProtoReflect()
	oneof := reflected.Descriptor().Oneofs().ByName("event")
	return reflected.Get(reflected.WhichOneof(oneof)).Message().Interface()
}

// open sends the headers and the retry interval, and starts the heartbeats. It is
// called before the first event: a browser fires its open event then, and a caller
// knows that the id exists.
func (s *eventStream) open() error {
	header := s.w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Accel-Buffering", "no") // nginx would hold events back
	s.stop = make(chan struct{})
	s.beating.Go(s.beat)
	return s.write(fmt.Sprintf("retry: %d\n\n", sseRetry.Milliseconds()))
}

// beat writes a comment in each interval, so that proxies do not cut the stream as
// idle. It also finds a connection that was lost without a reset.
func (s *eventStream) beat() {
	ticker := time.NewTicker(sseHeartbeat)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			_ = s.write(":\n\n") // a failed write ends the request's context, and that the watch
		case <-s.stop:
			return
		}
	}
}

// write writes one event or comment whole. gate.Send cuts a reader that does not
// read: its buffers would grow until the deliberation ends.
func (s *eventStream) write(text string) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return gate.Send(s.ctx, func() error { return s.writeNow(text) })
}

func (s *eventStream) writeNow(text string) error {
	if _, err := s.w.Write([]byte(text)); err != nil {
		return fmt.Errorf("write an event: %w", err)
	}
	err := http.NewResponseController(s.w).Flush()
	if errors.Is(err, http.ErrNotSupported) {
		return nil // the host has nothing to flush
	}
	return err
}

// close stops the heartbeats and waits for the last one: after a handler returns,
// its ResponseWriter must not be used.
func (s *eventStream) close() {
	if s.opened() {
		close(s.stop)
		s.beating.Wait()
	}
}
