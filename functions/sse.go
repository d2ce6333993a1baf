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
	// sseHeartbeat is how often a quiet stream shows that it lives.
	sseHeartbeat = 15 * time.Second
	// sseRetry is what browsers are told to wait before they come back.
	sseRetry = time.Second
)

// stream answers a watch with server-sent events: the name of each is its
// message's, its data the message, its id the sequence. A browser that comes
// back when all was told gets 204, which ends its coming back.
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

// eventStream writes server-sent events.
type eventStream struct {
	ctx     context.Context
	w       http.ResponseWriter
	writing sync.Mutex
	stop    chan struct{} // nil until it is open
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

// eventOf is the life-cycle message that a watcher is sent.
func eventOf(event *pb.WatchDeliberationResponse) proto.Message {
	reflected := event.ProtoReflect()
	oneof := reflected.Descriptor().Oneofs().ByName("event")
	return reflected.Get(reflected.WhichOneof(oneof)).Message().Interface()
}

func (s *eventStream) open() error {
	header := s.w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Accel-Buffering", "no") // nginx would hold events back
	s.stop = make(chan struct{})
	s.beating.Go(s.beat)
	return s.write(fmt.Sprintf("retry: %d\n\n", sseRetry.Milliseconds()))
}

// beat writes a comment now and then, which keeps proxies from cutting a quiet
// stream.
func (s *eventStream) beat() {
	ticker := time.NewTicker(sseHeartbeat)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			_ = s.write(":\n\n") // whoever went away ends the watch
		case <-s.stop:
			return
		}
	}
}

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

func (s *eventStream) close() {
	if s.opened() {
		close(s.stop)
		s.beating.Wait()
	}
}
