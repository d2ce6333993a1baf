package deliberation

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp/syntax"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"

	pb "rayexecutor/proto/ray_executor/v1"
)

// maxSchemaDepth is how deep a JSON schema nests.
const maxSchemaDepth = 64

// maxChoice is how many characters a choice has at most.
const maxChoice = 1024

// checkResponseFormat refuses a schema or an expression that no answer could be
// checked against. Answers are checked by the worker.
func checkResponseFormat(format *pb.ResponseFormat) error {
	switch format.GetFormat().(type) {
	case *pb.ResponseFormat_JsonSchema:
		if err := CheckSchema(format.GetJsonSchema()); err != nil {
			return Invalidf("response_format.json_schema", "%s", err)
		}
	case *pb.ResponseFormat_Regex:
		if err := checkRegex(format.GetRegex()); err != nil {
			return Invalidf("response_format.regex", "%s", err)
		}
	case *pb.ResponseFormat_Choice:
		return checkTexts("response_format.choice.values", format.GetChoice().GetValues(), maxChoice)
	}
	return nil
}

// schemaCheck lets one schema be checked at a time: 64 KiB of references take
// 20 MB while they are.
var schemaCheck sync.Mutex

// CheckSchema reports what keeps a text from being a JSON schema. It loads
// nothing: a reference to another document is an error.
func CheckSchema(text string) error {
	if err := checkDepth(text); err != nil {
		return err
	}
	schemaCheck.Lock()
	defer schemaCheck.Unlock()
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		return fmt.Errorf("is not JSON: %s", Short(err.Error()))
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(noLoader{})
	compiler.UseRegexpEngine(parsed)
	const name = "urn:response_format"
	if err := compiler.AddResource(name, document); err != nil {
		return fmt.Errorf("is not a JSON schema: %s", Short(err.Error()))
	}
	if _, err := compiler.Compile(name); err != nil {
		return fmt.Errorf("is not a JSON schema: %s", schemaError(err))
	}
	return nil
}

// schemaError is the library's error in one line, without our name of the document.
func schemaError(err error) string {
	if invalid, ok := errors.AsType[*jsonschema.SchemaValidationError](err); ok {
		err = invalid.Err
	}
	if loading, ok := errors.AsType[*jsonschema.LoadURLError](err); ok {
		return loading.Err.Error()
	}
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	return Short(strings.ReplaceAll(lines[len(lines)-1], "urn:response_format", ""))
}

func checkDepth(text string) error {
	decoder := json.NewDecoder(strings.NewReader(text))
	for depth := 0; ; {
		token, err := decoder.Token()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("is not JSON: %s", Short(err.Error()))
		case token == json.Delim('{') || token == json.Delim('['):
			depth++
		case token == json.Delim('}') || token == json.Delim(']'):
			depth--
		}
		if depth > maxSchemaDepth {
			return fmt.Errorf("nests more than %d levels", maxSchemaDepth)
		}
	}
}

// noLoader refuses references to other documents: a caller chooses them.
type noLoader struct{}

// Load is called for each document that a schema refers to.
func (noLoader) Load(url string) (any, error) { return nil, foreignError(url) }

// foreignError is a reference to the document of that URL.
type foreignError string

func (e foreignError) Error() string {
	return "it refers to " + Short(string(e)) + "; put the definition into $defs"
}

// checkRegex refuses what RE2 cannot parse. Its error says so to a caller.
func checkRegex(pattern string) error {
	if _, err := syntax.Parse(pattern, syntax.Perl); err != nil {
		return fmt.Errorf("is not a regular expression in RE2's syntax: %s", Short(err.Error()))
	}
	return nil
}

// parsed accepts what RE2 can parse. It compiles nothing, because a short
// pattern can compile to a hundred megabytes.
func parsed(pattern string) (jsonschema.Regexp, error) {
	_, err := syntax.Parse(pattern, syntax.Perl)
	return uncompiled(pattern), err
}

type uncompiled string

// MatchString is for instances, of which there are none here but schemas.
func (uncompiled) MatchString(string) bool { return true }

// String is the pattern.
func (u uncompiled) String() string { return string(u) }
