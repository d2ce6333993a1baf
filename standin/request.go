package standin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
)

// maxBody bounds what is read of a request.
const maxBody = 32 << 20

// chatRequest is the part of a chat completion's request that is looked at.
type chatRequest struct {
	Model               string         `json:"model"`
	Messages            []message      `json:"messages"`
	Stream              bool           `json:"stream"`
	StreamOptions       *streamOptions `json:"stream_options"`
	MaxTokens           *int           `json:"max_tokens"`
	MaxCompletionTokens *int           `json:"max_completion_tokens"`
	Temperature         *float64       `json:"temperature"`
	TopP                *float64       `json:"top_p"`
	N                   *int           `json:"n"`

	ResponseFormat    *responseFormat    `json:"response_format"`
	StructuredOutputs *structuredOutputs `json:"structured_outputs"`
	// fit is an answer of the form that is asked for; nil if none is.
	fit *string
}

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

type message struct {
	Role    string  `json:"role"`
	Content content `json:"content"`
}

// content is a message's text, which comes as a string or as parts.
type content string

// UnmarshalJSON reads a string, null, or parts, whose texts are joined.
func (c *content) UnmarshalJSON(data []byte) error {
	if len(data) == 0 || data[0] != '[' {
		var text *string
		if err := json.Unmarshal(data, &text); err != nil {
			return errors.New("content: want a string or a list of parts")
		}
		if text != nil {
			*c = content(*text)
		}
		return nil
	}
	var parts []struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	if err := json.Unmarshal(data, &parts); err != nil {
		return errors.New("content: want parts with type and text")
	}
	var all strings.Builder
	for i, part := range parts {
		if part.Type != "text" {
			return fmt.Errorf("content[%d].type: %q is not served by the stand-in, only text", i, part.Type)
		}
		all.WriteString(part.Text)
	}
	*c = content(all.String())
	return nil
}

// decodeChat reads a chat request. What is wrong with it comes back as vLLM
// would put it.
func decodeChat(body io.Reader) (*chatRequest, *apiError) {
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, unreadable(err)
	}
	var req chatRequest
	if err := json.Unmarshal(data, &req); err != nil {
		return nil, invalidBody(err)
	}
	if fault := req.check(); fault != nil {
		return nil, fault
	}
	return &req, nil
}

// check returns the first parameter that is out of range.
func (r *chatRequest) check() *apiError {
	if r.Messages == nil {
		return validationError("messages", "missing", "Field required")
	}
	if len(r.Messages) == 0 {
		return badRequest("", "Cannot apply chat template to an empty conversation. Provide at least one message.")
	}
	for i, m := range r.Messages {
		if m.Role == "" {
			return validationError(fmt.Sprintf("messages.%d.role", i), "missing", "Field required")
		}
	}
	if fault := r.checkParameters(); fault != nil {
		return fault
	}
	return r.checkForm()
}

// checkLength refuses what does not fit the model's context, in vLLM's words.
func (r *chatRequest) checkLength(most int) *apiError {
	length, answer := r.promptTokens(), r.maxTokens()
	switch {
	case most == 0:
		return nil
	case length > most:
		return badRequest("input_tokens", fmt.Sprintf("This model's maximum context length is %d tokens. "+
			"However, your request has %d input tokens. Please reduce the length of the input messages.", most, length))
	case length+answer > most:
		return badRequest("max_tokens", fmt.Sprintf("'max_tokens' or 'max_completion_tokens' is too large: %d. "+
			"This model's maximum context length is %d tokens and your request has %d input tokens.", answer, most, length))
	}
	return nil
}

func (r *chatRequest) checkParameters() *apiError {
	switch {
	case r.StreamOptions != nil && !r.Stream:
		return badRequest("stream_options", "Stream options can only be defined when `stream=True`.")
	case r.MaxTokens != nil && *r.MaxTokens < 1:
		return badRequest("max_tokens", fmt.Sprintf("max_tokens must be at least 1, got %d.", *r.MaxTokens))
	case r.MaxCompletionTokens != nil && *r.MaxCompletionTokens < 1:
		return badRequest("max_completion_tokens",
			fmt.Sprintf("max_completion_tokens must be at least 1, got %d.", *r.MaxCompletionTokens))
	case r.Temperature != nil && *r.Temperature < 0:
		return badRequest("temperature", fmt.Sprintf("temperature must be non-negative, got %v.", *r.Temperature))
	case r.TopP != nil && (*r.TopP <= 0 || *r.TopP > 1):
		return badRequest("top_p", fmt.Sprintf("top_p must be in (0, 1], got %v.", *r.TopP))
	case r.N != nil && *r.N < 1:
		return badRequest("n", fmt.Sprintf("n must be at least 1, got %d.", *r.N))
	case r.N != nil && *r.N > 1:
		return badRequest("n", fmt.Sprintf("the stand-in gives one choice: n must be 1, got %d.", *r.N))
	}
	return nil
}

// last is the last message of a role.
func (r *chatRequest) last(role string) string {
	for _, m := range slices.Backward(r.Messages) {
		if m.Role == role {
			return string(m.Content)
		}
	}
	return ""
}

// maxTokens is how long the answer may be; 0: as long as it is.
func (r *chatRequest) maxTokens() int {
	switch {
	case r.MaxCompletionTokens != nil:
		return *r.MaxCompletionTokens
	case r.MaxTokens != nil:
		return *r.MaxTokens
	}
	return 0
}

// wantsUsage reports whether a stream ends with the token counts.
func (r *chatRequest) wantsUsage() bool {
	return r.StreamOptions != nil && r.StreamOptions.IncludeUsage
}

// promptTokens counts words: the stand-in's tokens.
func (r *chatRequest) promptTokens() int {
	count := 0
	for _, m := range r.Messages {
		count += 1 + countTokens(string(m.Content))
	}
	return count
}

// unreadable is the error for a body that could not be read.
func unreadable(err error) *apiError {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &apiError{
			Status: http.StatusRequestEntityTooLarge, Type: typeBadRequest,
			Message: fmt.Sprintf("the request is larger than %d bytes", maxBody),
		}
	}
	return badRequest("", "the request could not be read: "+err.Error())
}
