package functions

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"rayexecutor/deliberation"
	"rayexecutor/events"
)

// saysJSON reports whether a request declares JSON, or has no body. A page of any
// site can send a body without a declaration, but not one of JSON.
func saysJSON(r *http.Request) bool {
	declared := r.Header.Get("Content-Type")
	media, _, err := mime.ParseMediaType(declared)
	return r.ContentLength == 0 || err == nil && media == events.JSON
}

// read makes the request message of a method from body, query and path. Path
// variables come last because they must agree with the body.
func (p *restPath) read(r *http.Request, method restMethod, into proto.Message) error {
	if method.body {
		if err := readBody(r, into); err != nil {
			return err
		}
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return deliberation.Invalidf("query", "cannot be read: percent-encode what is not a letter or digit")
	}
	if err := setAll(into.ProtoReflect(), query, method.body); err != nil {
		return err
	}
	return p.setVariables(into.ProtoReflect(), r.URL.EscapedPath())
}

// readBody reads a JSON body; an empty one is an empty request. Errors of the
// gate (too large, too slow) are coded already and pass unchanged.
func readBody(r *http.Request, into proto.Message) error {
	body, err := io.ReadAll(r.Body)
	if coded, ok := errors.AsType[*deliberation.Error](err); ok {
		return coded
	}
	if err != nil {
		return &deliberation.Error{Code: deliberation.Invalid, Field: "data", Message: "cannot be read to its end", Cause: err}
	}
	if len(body) == 0 {
		return nil
	}
	return events.UnmarshalJSON(body, into)
}

// setVariables sets the variables of the path. A body may repeat a value, but not
// contradict it: the caller's intent would be a guess.
func (p *restPath) setVariables(message protoreflect.Message, escaped string) error {
	values := p.match.FindStringSubmatch(escaped)
	for i, name := range p.match.SubexpNames() {
		if name == "" {
			continue
		}
		value, err := url.PathUnescape(values[i])
		field := fieldOf(message, name)
		if inRequest := message.Get(field).String(); err != nil || inRequest != "" && inRequest != value {
			return deliberation.Invalidf(name, "the path and the request name two")
		}
		if err := setField(message, field, value); err != nil {
			return err
		}
	}
	return nil
}
