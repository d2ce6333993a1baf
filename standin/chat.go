package standin

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxChunks is in how many pieces a stream's content comes at most: each is a
// timer and a flush, and ten thousand streams may wait at once.
const maxChunks = 16

// Why an answer was given up.
var (
	errClientClosed = errors.New("the client went")
	errServerClosed = errors.New("the stand-in stopped")
)

// exchange is one request of a chat completion, and its answer.
type exchange struct {
	server *Server
	w      http.ResponseWriter
	r      *http.Request
	entry  *entry

	req       *chatRequest
	model     string
	behaviour Behaviour
	answer    answer
}

// chat answers POST /v1/chat/completions.
func (s *Server) chat(w http.ResponseWriter, r *http.Request) {
	x := &exchange{server: s, w: w, r: r, entry: s.record.begin()}
	defer x.log()
	if s.isClosed() {
		x.refuse(&apiError{Status: http.StatusServiceUnavailable, Type: typeInternal, Message: "the stand-in has stopped"})
		return
	}
	if fault := x.read(); fault != nil {
		x.refuse(fault)
		return
	}
	if err := x.respond(); err != nil {
		x.giveUp(err)
	}
}

// read reads the request and settles what is done with it.
func (x *exchange) read() *apiError {
	kind, _, err := mime.ParseMediaType(x.r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return &apiError{
			Status: http.StatusBadRequest, Type: typeValidation,
			Message: "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed",
		}
	}
	req, fault := decodeChat(http.MaxBytesReader(x.w, x.r.Body, maxBody))
	if fault != nil {
		return fault
	}
	s := x.server
	x.req, x.model = req, s.options.modelOf(req.Model)
	s.record.read(x.entry, x.model, req)
	if !s.options.serves(x.model) {
		return unknownModel(x.model, strings.Join(s.options.Models, ", "))
	}
	does, n := s.behaviours.next(x.model)
	x.behaviour = does.at(n)
	if most := x.behaviour.MaxQueued; most > 0 && s.record.running(x.model) > most {
		return overloaded(most)
	}
	if fault := req.checkLength(x.behaviour.MaxModelLen); fault != nil {
		return fault
	}
	x.answer = newAnswer(x, does, n)
	return nil
}

// respond does what the behaviour says.
func (x *exchange) respond() error {
	b := x.behaviour
	if b.Hang {
		return x.hang()
	}
	if b.Status != 0 && (b.Status != http.StatusOK || b.Body != "") {
		return x.respondStatus()
	}
	if x.req.Stream && !b.Malformed {
		return x.respondStream()
	}
	return x.respondWhole()
}

// hang waits for the client to go, or for the stand-in to stop.
func (x *exchange) hang() error {
	select {
	case <-x.r.Context().Done():
		return errClientClosed
	case <-x.server.draining:
		return errServerClosed
	}
}

// pause lets time pass.
func (x *exchange) pause(d time.Duration) error {
	if d <= 0 {
		return x.gone()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return x.gone()
	case <-x.r.Context().Done():
		return errClientClosed
	case <-x.server.closed:
		return errServerClosed
	}
}

// gone reports whether the client has closed the connection.
func (x *exchange) gone() error {
	if x.r.Context().Err() != nil {
		return errClientClosed
	}
	return nil
}

// respondStatus answers with the behaviour's status and body.
func (x *exchange) respondStatus() error {
	b := x.behaviour
	if err := x.pause(b.Delay); err != nil {
		return err
	}
	if b.RetryAfter != "" {
		x.w.Header().Set("Retry-After", b.RetryAfter)
	}
	body := []byte(b.Body)
	if b.Body == "" {
		body = defaultBody(b.Status)
	}
	x.answered(b.Status, "")
	writeBody(x.w, b.Status, body)
	return nil
}

func defaultBody(status int) []byte {
	fault := &apiError{Status: status, Type: typeBadRequest, Message: "the stand-in was told to answer " + strconv.Itoa(status)}
	if status >= http.StatusInternalServerError {
		fault.Type = typeInternal
	}
	body, err := json.Marshal(fault)
	if err != nil { // strings and a number: it cannot be
		panic(err)
	}
	return body
}

// respondWhole answers with the whole content at once.
func (x *exchange) respondWhole() error {
	if err := x.pause(x.behaviour.Delay); err != nil {
		return err
	}
	body := x.answer.whole()
	switch {
	case x.behaviour.Malformed:
		x.answered(http.StatusOK, "")
		writeBody(x.w, http.StatusOK, body[:len(body)/2])
	case x.behaviour.Cut:
		x.w.Header().Set("Content-Type", "application/json")
		x.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = x.w.Write(body[:len(body)/2])
		x.cut()
	default:
		x.answered(http.StatusOK, x.answer.finish)
		writeBody(x.w, http.StatusOK, body)
	}
	return nil
}

// respondStream answers with chunks, spread over the delay.
func (x *exchange) respondStream() error {
	events := x.answer.events()
	header := x.w.Header()
	header.Set("Content-Type", "text/event-stream; charset=utf-8")
	header.Set("Cache-Control", "no-cache")
	flush := http.NewResponseController(x.w).Flush
	_ = flush() // at once: the client then knows that it was taken
	each := x.behaviour.Delay / time.Duration(max(1, len(events)-1))
	for i, event := range events {
		if x.behaviour.Cut && i == (len(events)+1)/2 {
			x.cut()
		}
		if i > 0 && each > 0 {
			if err := x.pause(each); err != nil {
				return err
			}
		}
		if i == len(events)-1 {
			if err := x.gone(); err != nil {
				return err
			}
			x.answered(http.StatusOK, x.answer.finish)
		}
		if _, err := x.w.Write(event); err != nil {
			return errClientClosed
		}
		if each > 0 {
			_ = flush() // the next write returns the error
		}
	}
	return nil
}

// cut ends the connection in the middle of the body; it does not return.
func (x *exchange) cut() {
	_ = http.NewResponseController(x.w).Flush()
	x.server.record.end(x.entry, Cut, http.StatusOK, "")
	panic(http.ErrAbortHandler)
}

func (x *exchange) refuse(fault *apiError) {
	x.answered(fault.Status, "")
	fault.write(x.w)
}

// answered notes the answer before it is sent: whoever has it finds it in the
// record.
func (x *exchange) answered(status int, finish string) {
	x.server.record.end(x.entry, Answered, status, finish)
}

// giveUp ends a request that gets no answer.
func (x *exchange) giveUp(err error) {
	outcome := ServerClosed
	if errors.Is(err, errClientClosed) {
		outcome = ClientClosed
	}
	x.server.record.end(x.entry, outcome, 0, "")
	panic(http.ErrAbortHandler) // no answer at all, not an empty 200
}

func (x *exchange) log() {
	ctx := x.r.Context()
	if !x.server.log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	r := x.server.record.get(x.entry)
	x.server.log.DebugContext(ctx, "chat completion", "id", r.ID, "model", r.Model, "stream", r.Stream,
		"outcome", string(r.Outcome), "status", r.Status, "took", r.Ended.Sub(r.Time))
}

func (s *Server) isClosed() bool {
	select {
	case <-s.draining:
		return true
	default:
		return false
	}
}

// id is the answer's id, in vLLM's form.
func (x *exchange) id() string { return fmt.Sprintf("chatcmpl-%016x", x.entry.ID) }
