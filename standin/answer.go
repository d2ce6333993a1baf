package standin

import (
	"encoding/json"
)

// answer is what the model says.
type answer struct {
	id      string
	model   string
	created int64

	content   string
	reasoning string
	field     string // what the reasoning is sent as
	finish    string
	usage     usage
	wantUsage bool // at the end of a stream
}

type usage struct {
	Prompt     int `json:"prompt_tokens"`
	Total      int `json:"total_tokens"`
	Completion int `json:"completion_tokens"`
}

func newAnswer(x *exchange, does *compiled, n uint64) answer {
	p := newPrompt(x.model, x.req, n)
	a := answer{
		id: x.id(), model: x.model, created: x.entry.Time.Unix(),
		field: does.ReasoningField, finish: does.FinishReason, wantUsage: x.req.wantsUsage(),
	}
	if does.reasoning != nil {
		a.reasoning = p.render(does.reasoning)
	}
	if !x.behaviour.Empty {
		a.content = contentOf(p, does, x.req.fit)
	}
	if short, cut := cutTokens(a.content, x.req.maxTokens()); cut {
		a.content, a.finish = short, "length"
	}
	completion := countTokens(a.content) + countTokens(a.reasoning)
	prompt := x.req.promptTokens()
	a.usage = usage{Prompt: prompt, Completion: completion, Total: prompt + completion}
	return a
}

func contentOf(p prompt, does *compiled, fit *string) string {
	switch {
	case does.content != nil:
		return p.render(does.content)
	case fit != nil:
		return *fit
	}
	return p.proposal()
}

// said is a message, or the delta of a chunk.
type said struct {
	Role             string  `json:"role,omitempty"`
	Content          *string `json:"content,omitempty"`
	ReasoningContent string  `json:"reasoning_content,omitempty"`
	Reasoning        string  `json:"reasoning,omitempty"`
}

func (a *answer) saying(role string, content *string, reasoning string) *said {
	s := &said{Role: role, Content: content}
	if a.field == Reasoning {
		s.Reasoning = reasoning
	} else {
		s.ReasoningContent = reasoning
	}
	return s
}

type choice struct {
	Index        int     `json:"index"`
	Message      *said   `json:"message,omitempty"`
	Delta        *said   `json:"delta,omitempty"`
	FinishReason *string `json:"finish_reason"`
}

type completion struct {
	ID      string   `json:"id"`
	Object  string   `json:"object"`
	Created int64    `json:"created"`
	Model   string   `json:"model"`
	Choices []choice `json:"choices"`
	Usage   *usage   `json:"usage,omitempty"`
}

// whole is the answer in one piece.
func (a *answer) whole() []byte {
	return marshal(completion{
		ID: a.id, Object: "chat.completion", Created: a.created, Model: a.model, Usage: &a.usage,
		Choices: []choice{{Message: a.saying("assistant", &a.content, a.reasoning), FinishReason: &a.finish}},
	})
}

// events is the answer as a stream's events: the role first, then reasoning
// and content in pieces, the last of them with the finish reason, then the
// usage where it is wanted and [DONE].
func (a *answer) events() [][]byte {
	empty := ""
	deltas := []*said{a.saying("assistant", &empty, "")}
	if a.reasoning != "" {
		deltas = append(deltas, a.saying("", nil, a.reasoning))
	}
	for _, piece := range chunks(a.content, maxChunks) {
		deltas = append(deltas, a.saying("", &piece, ""))
	}
	events := make([][]byte, 0, len(deltas)+1)
	for i, delta := range deltas {
		c := choice{Delta: delta}
		if i == len(deltas)-1 {
			c.FinishReason = &a.finish
		}
		events = append(events, a.event([]choice{c}, nil))
	}
	var last []byte
	if a.wantUsage {
		last = a.event([]choice{}, &a.usage)
	}
	return append(events, append(last, "data: [DONE]\n\n"...))
}

func (a *answer) event(choices []choice, u *usage) []byte {
	body := marshal(completion{
		ID: a.id, Object: "chat.completion.chunk", Created: a.created, Model: a.model, Choices: choices, Usage: u,
	})
	event := make([]byte, 0, len(body)+8)
	event = append(event, "data: "...)
	event = append(event, body...)
	return append(event, "\n\n"...)
}

func marshal(c completion) []byte {
	body, err := json.Marshal(c)
	if err != nil { // strings and numbers: it cannot be
		panic(err)
	}
	return body
}
