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
	// maxReplies bounds the data of a batch's replies, in bytes: a batch of status
	// requests is small, and its replies could have gigabytes.
	maxReplies = 8 << 20
	// shortReply is the size of a reply that is sent even above maxReplies. Receipts
	// and errors are shorter.
	shortReply = 4 << 10
	// submitsAtOnce bounds the submissions of one batch that run at the same time.
	// Each is one round trip to NATS; the others of a large batch wait for a place.
	submitsAtOnce = 64
)

// submission is the event type of a submission.
var submission = events.Type((*pb.ExecuteDeliberationRequest)(nil))

// Mount adds every door to a mux: CloudEvents, the RPCs and the JSON API, which
// also answers unknown paths. Each route is behind the check of the caller, except
// gRPC's health service, which probes call, and behind the gate.
func (f *Functions) Mount(mux *http.ServeMux) {
	mux.Handle("/{$}", f.door(f))
	f.mountRPC(mux)
	f.mountREST(mux)
}

// door puts the check of the caller and the gate in front of a handler.
func (f *Functions) door(behind http.Handler) http.Handler {
	return f.gate.Before(&gate.Door{
		Handler: behind, Admit: f.admit, MaxBody: gate.MaxBody,
		Refuse: func(w http.ResponseWriter, r *http.Request, err error) { f.refuse(w, r, "", err) },
	})
}

// ServeHTTP answers CloudEvents over HTTP, in binary, structured and batch mode. A
// reply has the mode of its request. The status is for the sender, such as a
// Knative broker: 2xx acknowledges, and the table in answer.go says what is
// retried.
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
		f.log.Debug("the caller has disconnected", "error", err)
	}
}

// answerAll answers events in order; replies have the same order. Only consecutive
// submissions run at the same time: they are most of what batches hold, and each
// waits for NATS. Other events see the effect of those before them. If two
// submissions of a batch share an id, either may be the first.
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

// fit counts the replies of a batch against what is left of maxReplies, and against
// the memory of the gate. A reply that does not fit is replaced by a permanent
// refusal: repeating the batch cannot help, a batch of its own would. Short replies
// always fit, so the receipt of an accepted submission is never lost.
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

// answerTogether answers events at the same time. The first error that refuses the
// whole batch stops the rest.
func (f *Functions) answerTogether(ctx context.Context, requests, replies []event.Event, mode events.Mode) (err error) {
	if len(requests) == 1 { // the usual case needs no goroutine
		replies[0], err = f.answer(ctx, requests[0], mode)
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(submitsAtOnce)
	for i := range requests {
		group.Go(func() (err error) {
			replies[i], err = f.answer(ctx, requests[i], mode)
			return err
		})
	}
	return group.Wait()
}

func isSubmission(e *event.Event) bool { return e.Type() == submission }

// answer answers one event. In a batch, a retryable error refuses the whole batch,
// because a sender can only repeat all of it. That is safe: each event leads to the
// same deliberation as before. A permanent error is a reply in the event's place,
// or one bad event would block the good ones for ever.
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

// refusal returns the reply to an event of a batch that was refused: an event of
// type ray_executor.v1.Error.
func refusal(request *event.Event, coded *deliberation.Error) (*event.Event, error) {
	return events.Reply(request, asMessage(coded), coded.DeliberationID)
}

// problem is an error as application/problem+json (RFC 9457). Code, Field and
// DeliberationID are extensions, the same as in ray_executor.v1.Error.
type problem struct {
	Type           string `json:"type"`
	Title          string `json:"title"`
	Status         int    `json:"status"`
	Detail         string `json:"detail"`
	Code           string `json:"code"`
	Field          string `json:"field,omitempty"`
	DeliberationID string `json:"deliberation_id,omitempty"`
}

// refuse answers a request that failed before its operation, such as one that
// cannot be decoded. counted has not seen it, so it is counted and logged here.
func (f *Functions) refuse(w http.ResponseWriter, r *http.Request, operation string, err error) {
	f.metrics.observe(operation, err, 0)
	f.logFailure(r.Context(), operation, err)
	WriteError(w, err)
}

// refuseMethod answers 405, with the methods that the path has.
func refuseMethod(w http.ResponseWriter, allowed string) {
	w.Header().Set("Allow", allowed)
	writeProblem(w, http.StatusMethodNotAllowed, "Method not allowed",
		deliberation.Invalidf("method", "this path takes %s", allowed))
}

// WriteError answers an HTTP request with an error: a problem document with the
// status of the table, and Retry-After if a retry may succeed. An error that is not
// coded is Internal, without its text.
func WriteError(w http.ResponseWriter, err error) {
	coded := deliberation.AsError(err)
	answer := answers[coded.Code]
	if retryable(coded.Code) {
		w.Header().Set("Retry-After", retryAfter(coded))
	}
	challenge(w, coded)
	writeProblem(w, answer.status, answer.title, coded)
}

func writeProblem(w http.ResponseWriter, status int, title string, coded *deliberation.Error) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	// An error here is a lost connection: the status has been sent.
	_ = json.NewEncoder(w).Encode(problem{ //nolint:errchkjson // strings alone
		Type: "about:blank", Title: title, Status: status, Detail: coded.Error(),
		Code: string(coded.Code), Field: coded.Field, DeliberationID: coded.DeliberationID,
	})
}
