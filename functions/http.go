package functions

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/cloudevents/sdk-go/v2/event"
	"golang.org/x/sync/errgroup"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/gate"
	pb "rayexecutor/proto/ray_executor/v1"
)

const (
	// maxReplies is the most that the replies of a batch have, in bytes of data;
	// those of shortReply are not refused for it.
	maxReplies = 8 << 20
	shortReply = 4 << 10
	// together is how many submissions of a batch are under way at once.
	together = 64
)

// submission is the event type of a submission.
var submission = events.Type((*pb.ExecuteDeliberationRequest)(nil))

// Mount puts every door on its routes: CloudEvents, the RPCs and the JSON API,
// which also answers for paths that there are not.
func (f *Functions) Mount(mux *http.ServeMux) {
	mux.Handle("/{$}", f.door(f))
	f.mountRPC(mux)
	f.mountREST(mux)
}

// door puts the gate in front of what answers over HTTP.
func (f *Functions) door(behind http.Handler) http.Handler {
	return f.gate.Before(&gate.Door{
		Handler: behind, MaxBody: gate.MaxBody,
		Refuse: func(w http.ResponseWriter, r *http.Request, err error) { f.refuse(w, r, "", err) },
	})
}

// ServeHTTP takes CloudEvents over HTTP, in binary, structured and batch mode.
func (f *Functions) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		refuseMethod(w, http.MethodPost)
		return
	}
	requests, mode, err := events.FromRequest(r)
	if err != nil {
		f.refuse(w, r, "", err)
		return
	}
	replies, err := f.answerAll(r.Context(), requests, mode)
	if err != nil {
		WriteError(w, err)
		return
	}
	if err := events.WriteReplies(w, mode, replies); err != nil {
		f.log.Debug("the caller went away", "error", err)
	}
}

// answerAll answers events in order, but for submissions in a row: those are
// under way together, and which of two that share an id comes first is open.
func (f *Functions) answerAll(ctx context.Context, requests []event.Event, mode events.Mode) ([]event.Event, error) {
	replies, left := make([]event.Event, len(requests)), maxReplies
	for from := 0; from < len(requests); {
		to := from + 1
		for to < len(requests) && isSubmission(&requests[from]) && isSubmission(&requests[to]) {
			to++
		}
		if err := f.answerTogether(ctx, requests[from:to], replies[from:to], mode); err != nil {
			return nil, err
		}
		if mode.IsBatch() {
			var err error
			if left, err = fit(ctx, requests[from:to], replies[from:to], left); err != nil {
				return nil, err
			}
		}
		from = to
	}
	return replies, nil
}

// fit counts the replies of a batch. One that no longer fits is refused in its
// place, for good: in a batch of its own it would fit. What is short always
// does, so that a submission that was accepted is told so.
func fit(ctx context.Context, requests, replies []event.Event, left int) (int, error) {
	for i := range replies {
		size := len(replies[i].Data())
		if size <= shortReply {
			left -= size
			continue
		}
		err := error(errReplies)
		if size <= left {
			err = gate.Take(ctx, size)
		}
		switch {
		case err == nil:
			left -= size
		case deliberation.AsError(err).Code != deliberation.TooLarge:
			return left, err
		default:
			refused, err := refusal(&requests[i], errReplies)
			if err != nil {
				return left, err
			}
			replies[i] = *refused
		}
	}
	return left, nil
}

var errReplies = &deliberation.Error{
	Code: deliberation.TooLarge, Field: "request",
	Message: "the replies of its batch are above 8 MiB: ask for this in another batch, or alone",
}

func (f *Functions) answerTogether(ctx context.Context, requests, replies []event.Event, mode events.Mode) (err error) {
	if len(requests) == 1 { // by far the most
		replies[0], err = f.answer(ctx, requests[0], mode)
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(together)
	for i := range requests {
		group.Go(func() (err error) {
			replies[i], err = f.answer(ctx, requests[i], mode)
			return err
		})
	}
	return group.Wait()
}

func isSubmission(e *event.Event) bool { return e.Type() == submission }

// answer answers one event. What could not be taken for want of a dependency
// or by a limit refuses a batch whole: repeating it is safe, as each event is
// the same deliberation again. Any other refusal takes its place among the
// replies.
func (f *Functions) answer(ctx context.Context, request event.Event, mode events.Mode) (event.Event, error) {
	reply, err := f.Handle(ctx, request)
	if err != nil {
		coded := deliberation.AsError(err)
		if !mode.IsBatch() || retryable(coded.Code) {
			return event.Event{}, coded
		}
		if reply, err = refusal(&request, coded); err != nil {
			return event.Event{}, err
		}
	}
	return *reply, nil
}

// refusal is the reply, within a batch, to an event that was refused.
func refusal(request *event.Event, coded *deliberation.Error) (*event.Event, error) {
	return events.Reply(request, asMessage(coded), coded.DeliberationID)
}

// problem is an error as application/problem+json (RFC 9457).
type problem struct {
	Type           string `json:"type"`
	Title          string `json:"title"`
	Status         int    `json:"status"`
	Detail         string `json:"detail"`
	Code           string `json:"code"`
	Field          string `json:"field,omitempty"`
	DeliberationID string `json:"deliberation_id,omitempty"`
}

// refuse answers a request that did not come to its operation.
func (f *Functions) refuse(w http.ResponseWriter, r *http.Request, operation string, err error) {
	f.metrics.observe(operation, err, 0)
	f.logFailure(r.Context(), operation, err)
	WriteError(w, err)
}

// refuseMethod answers a method that a path does not take.
func refuseMethod(w http.ResponseWriter, allowed string) {
	w.Header().Set("Allow", allowed)
	writeProblem(w, http.StatusMethodNotAllowed, "Method not allowed",
		deliberation.Invalidf("method", "this path takes %s", allowed))
}

// WriteError answers an HTTP request with an error, by the table.
func WriteError(w http.ResponseWriter, err error) {
	coded := deliberation.AsError(err)
	answer := answers[coded.Code]
	if retryable(coded.Code) {
		w.Header().Set("Retry-After", retryAfter(coded))
	}
	writeProblem(w, answer.status, answer.title, coded)
}

func writeProblem(w http.ResponseWriter, status int, title string, coded *deliberation.Error) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	// The status is out: a caller who went away learns nothing more.
	_ = json.NewEncoder(w).Encode(problem{ //nolint:errchkjson // strings alone
		Type: "about:blank", Title: title, Status: status, Detail: coded.Error(),
		Code: string(coded.Code), Field: coded.Field, DeliberationID: coded.DeliberationID,
	})
}
