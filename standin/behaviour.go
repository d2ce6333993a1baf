package standin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/template"
	"time"
)

// Fields that models put their reasoning in.
const (
	ReasoningContent = "reasoning_content" // what most clients look for
	Reasoning        = "reasoning"         // what vLLM 0.32 sends
)

// maxDelay bounds a delay: a typing error shall not look like a hang.
const maxDelay = 24 * time.Hour

// Behaviour is what a model does with a request. The zero value answers at
// once, with a short proposal that is always the same for the same request.
//
// At most one of Status, Empty, Malformed, Cut and Hang is set: that is the
// fault. Content and Reasoning are templates that may use {{.Model}},
// {{.Role}} (found in the system message), {{.System}}, {{.Last}} (the last
// user message) and {{.N}} (the how many-th request of this model it is, from
// 1).
type Behaviour struct {
	// Delay passes before the answer is complete. A stream starts at once and
	// spreads its chunks over it.
	Delay time.Duration
	// Status is answered in place of 200, with Body.
	Status int
	// Body goes with Status. Empty: an error in vLLM's shape.
	Body string
	// RetryAfter is the Retry-After header that goes with Status, as it
	// stands: seconds, a date, or nonsense.
	RetryAfter string
	// FailFirst confines the fault to the first so many requests after the
	// behaviour was set, counted by model. Without a fault it means status
	// 503. 0: the fault is for ever.
	FailFirst int
	// MaxQueued is vLLM's --max-num-queued-reqs: what comes while so many
	// requests of the model run is refused at once, with 503 and the error type
	// "Service Unavailable". 0: nothing is.
	MaxQueued int
	// MaxModelLen is vLLM's --max-model-len: a longer prompt, with max_tokens, is
	// refused with 400. A token is a word. 0: none is.
	MaxModelLen int
	// Content is the answer. Empty: a default proposal, or what response_format or
	// structured_outputs ask for.
	Content string
	// Reasoning is sent beside the content where it is set.
	Reasoning string
	// ReasoningField is what the reasoning is sent as: ReasoningContent, the
	// default, or Reasoning.
	ReasoningField string
	// FinishReason is answered if max_tokens did not cut the answer. Empty:
	// stop.
	FinishReason string
	// Empty answers with no content.
	Empty bool
	// Malformed answers with what is no JSON.
	Malformed bool
	// Cut closes the connection in the middle of the answer.
	Cut bool
	// Hang never answers: the client has to go.
	Hang bool
}

// behaviourJSON is a Behaviour on the wire.
type behaviourJSON struct {
	Delay          string `json:"delay,omitempty"`
	Status         int    `json:"status,omitempty"`
	Body           string `json:"body,omitempty"`
	RetryAfter     string `json:"retry_after,omitempty"`
	FailFirst      int    `json:"fail_first,omitempty"`
	MaxQueued      int    `json:"max_queued,omitempty"`
	MaxModelLen    int    `json:"max_model_len,omitempty"`
	Content        string `json:"content,omitempty"`
	Reasoning      string `json:"reasoning,omitempty"`
	ReasoningField string `json:"reasoning_field,omitempty"`
	FinishReason   string `json:"finish_reason,omitempty"`
	Empty          bool   `json:"empty,omitempty"`
	Malformed      bool   `json:"malformed,omitempty"`
	Cut            bool   `json:"cut,omitempty"`
	Hang           bool   `json:"hang,omitempty"`
}

// MarshalJSON writes the behaviour with snake_case names, the delay as 1.5s.
func (b Behaviour) MarshalJSON() ([]byte, error) {
	wire := behaviourJSON{
		Status: b.Status, Body: b.Body, RetryAfter: b.RetryAfter, FailFirst: b.FailFirst, MaxQueued: b.MaxQueued, MaxModelLen: b.MaxModelLen,
		Content: b.Content, Reasoning: b.Reasoning, ReasoningField: b.ReasoningField, FinishReason: b.FinishReason,
		Empty: b.Empty, Malformed: b.Malformed, Cut: b.Cut, Hang: b.Hang,
	}
	if b.Delay != 0 {
		wire.Delay = b.Delay.String()
	}
	return json.Marshal(wire)
}

// UnmarshalJSON reads what MarshalJSON writes; an unknown name is an error.
func (b *Behaviour) UnmarshalJSON(data []byte) error {
	var wire behaviourJSON
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&wire); err != nil {
		return err
	}
	*b = Behaviour{
		Status: wire.Status, Body: wire.Body, RetryAfter: wire.RetryAfter, FailFirst: wire.FailFirst, MaxQueued: wire.MaxQueued, MaxModelLen: wire.MaxModelLen,
		Content: wire.Content, Reasoning: wire.Reasoning, ReasoningField: wire.ReasoningField,
		FinishReason: wire.FinishReason,
		Empty:        wire.Empty, Malformed: wire.Malformed, Cut: wire.Cut, Hang: wire.Hang,
	}
	if wire.Delay == "" {
		return nil
	}
	delay, err := time.ParseDuration(wire.Delay)
	if err != nil {
		return fmt.Errorf("delay %q: want a duration like 250ms or 1.5s", wire.Delay)
	}
	b.Delay = delay
	return nil
}

// validate returns everything that is wrong.
func (b Behaviour) validate() error {
	var errs []error
	if b.Delay < 0 || b.Delay > maxDelay {
		errs = append(errs, fmt.Errorf("delay: %v is out of range, want 0 to %v", b.Delay, maxDelay))
	}
	if b.Status != 0 && (b.Status < 200 || b.Status > 599) {
		errs = append(errs, fmt.Errorf("status: %d is out of range, want 200 to 599", b.Status))
	}
	if b.Status == 0 && b.FailFirst == 0 && (b.Body != "" || b.RetryAfter != "") {
		errs = append(errs, errors.New("status: missing, body and retry_after go with it"))
	}
	if b.FailFirst < 0 {
		errs = append(errs, fmt.Errorf("fail_first: %d is negative, want 0 or more", b.FailFirst))
	}
	if b.MaxQueued < 0 {
		errs = append(errs, fmt.Errorf("max_queued: %d is negative, want 0 or more", b.MaxQueued))
	}
	if b.MaxModelLen < 0 {
		errs = append(errs, fmt.Errorf("max_model_len: %d is negative, want 0 or more", b.MaxModelLen))
	}
	if strings.ContainsAny(b.RetryAfter, "\r\n") {
		errs = append(errs, errors.New("retry_after: has a line break, want one line"))
	}
	switch b.ReasoningField {
	case "", ReasoningContent, Reasoning:
	default:
		errs = append(errs, fmt.Errorf("reasoning_field: %q, want %s or %s", b.ReasoningField, ReasoningContent, Reasoning))
	}
	if faults := b.faults(); len(faults) > 1 {
		errs = append(errs, fmt.Errorf("%s: only one of these can be set", strings.Join(faults, ", ")))
	}
	return errors.Join(errs...)
}

// faults are the names of the faults that are set.
func (b Behaviour) faults() []string {
	var names []string
	for _, fault := range []struct {
		name string
		set  bool
	}{
		{"status", b.Status != 0},
		{"empty", b.Empty},
		{"malformed", b.Malformed},
		{"cut", b.Cut},
		{"hang", b.Hang},
	} {
		if fault.set {
			names = append(names, fault.name)
		}
	}
	return names
}

// healthy is the behaviour without its fault.
func (b Behaviour) healthy() Behaviour {
	b.Status, b.Empty, b.Malformed, b.Cut, b.Hang = 0, false, false, false, false
	return b
}

// compiled is a behaviour that is ready to be used.
type compiled struct {
	Behaviour

	content   *template.Template // nil: the default
	reasoning *template.Template // nil: none
}

// compile checks a behaviour and gets it ready.
func compile(b Behaviour) (*compiled, error) {
	if err := b.validate(); err != nil {
		return nil, err
	}
	if b.FailFirst > 0 && len(b.faults()) == 0 {
		b.Status = http.StatusServiceUnavailable
	}
	if b.ReasoningField == "" {
		b.ReasoningField = ReasoningContent
	}
	if b.FinishReason == "" {
		b.FinishReason = "stop"
	}
	content, err := parseTemplate("content", b.Content)
	if err != nil {
		return nil, err
	}
	reasoning, err := parseTemplate("reasoning", b.Reasoning)
	if err != nil {
		return nil, err
	}
	return &compiled{Behaviour: b, content: content, reasoning: reasoning}, nil
}

// parseTemplate tries the template too: an unknown name shows only then.
func parseTemplate(field, text string) (*template.Template, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // no template is what it means
	}
	parsed, err := template.New(field).Parse(text)
	if err == nil {
		err = parsed.Execute(io.Discard, prompt{})
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w; it may use {{.Model}}, {{.Role}}, {{.System}}, {{.Last}} and {{.N}}", field, err)
	}
	return parsed, nil
}

// at is the behaviour for the n-th request.
func (c *compiled) at(n uint64) Behaviour {
	if c.FailFirst > 0 && n > uint64(c.FailFirst) {
		return c.healthy()
	}
	return c.Behaviour
}
