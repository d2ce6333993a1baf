package standin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
)

// vLLM's names for what went wrong.
const (
	typeValidation = "Bad Request"
	typeBadRequest = "BadRequestError"
	typeNotFound   = "NotFoundError"
	typeInternal   = "InternalServerError"
	typeOverloaded = "Service Unavailable"
)

// apiError is a refusal in vLLM's shape.
type apiError struct {
	Status  int
	Type    string
	Message string
	Param   string
}

// MarshalJSON writes {"error": {message, type, param, code}}.
func (e *apiError) MarshalJSON() ([]byte, error) {
	type inner struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    int     `json:"code"`
	}
	out := inner{Message: e.Message, Type: e.Type, Code: e.Status}
	if e.Param != "" {
		out.Param = &e.Param
	}
	return json.Marshal(map[string]inner{"error": out})
}

func (e *apiError) write(w http.ResponseWriter) {
	body, err := json.Marshal(e)
	if err != nil { // strings and a number: it cannot be
		panic(err)
	}
	writeBody(w, e.Status, body)
}

// badRequest is a parameter that is out of range.
func badRequest(param, text string) *apiError {
	if param != "" {
		text += " (parameter=" + param + ")"
	}
	return &apiError{Status: http.StatusBadRequest, Type: typeBadRequest, Message: text, Param: param}
}

// validationError is a body that is not of the right form.
func validationError(field, kind, text string) *apiError {
	where := "body"
	if field != "" {
		where += "." + field
	}
	return &apiError{
		Status: http.StatusBadRequest, Type: typeValidation, Param: where,
		Message: fmt.Sprintf("1 validation error:\n  {'type': '%s', 'loc': '%s', 'msg': '%s'}", kind, where, text),
	}
}

// invalidBody is what encoding/json found, in vLLM's words.
func invalidBody(err error) *apiError {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if wrong.Field == "" {
			return validationError("", "model_attributes_type", "Input should be a valid dictionary or object")
		}
		return validationError(wrong.Field, wrong.Type.Kind().String()+"_type",
			"Input should be a valid "+wrong.Type.Kind().String())
	}
	if wrong, ok := errors.AsType[*json.SyntaxError](err); ok {
		return validationError(strconv.FormatInt(wrong.Offset, 10), "json_invalid", "JSON decode error")
	}
	return validationError("messages", "value_error", err.Error())
}

// unknownModel is vLLM's 404.
func unknownModel(model string, aliases string) *apiError {
	return &apiError{
		Status: http.StatusNotFound, Type: typeNotFound, Param: "model",
		Message: fmt.Sprintf("The model `%s` does not exist. Valid aliases: %s.", model, aliases),
	}
}

// overloaded is vLLM's own admission control.
func overloaded(most int) *apiError {
	return &apiError{
		Status: http.StatusServiceUnavailable, Type: typeOverloaded,
		Message: fmt.Sprintf("The server is overloaded: %d requests are queued or running (max_num_queued_reqs). Please retry later.", most),
	}
}

// writeJSON answers with a value that can be marshalled.
func writeJSON(w http.ResponseWriter, status int, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		panic(err) // a fault of this package
	}
	writeBody(w, status, body)
}

func writeBody(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may be gone: the error has no reader
}

// Bodies that FastAPI sends, letter by letter.
const (
	bodyUnauthorized = `{"error":"Unauthorized"}`
	bodyNotFound     = `{"detail":"Not Found"}`
	bodyNotAllowed   = `{"detail":"Method Not Allowed"}`
)
