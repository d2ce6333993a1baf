package standin

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"
)

const (
	// maxDepth ends schemas that refer to themselves.
	maxDepth = 16
	// maxLength bounds texts and lists that a schema asks for.
	maxLength = 1000
)

// responseFormat is OpenAI's way to ask for a form.
type responseFormat struct {
	Type       string `json:"type"`
	JSONSchema *struct {
		Schema json.RawMessage `json:"schema"`
	} `json:"json_schema"`
}

// structuredOutputs is vLLM's.
type structuredOutputs struct {
	JSON       json.RawMessage `json:"json"`
	JSONObject bool            `json:"json_object"`
	Regex      *string         `json:"regex"`
	Choice     []string        `json:"choice"`
}

// checkForm finds out which form is asked for, and writes a short answer of it.
func (r *chatRequest) checkForm() *apiError {
	var forms []func() (string, error)
	if f := r.ResponseFormat; f != nil {
		switch {
		case f.Type == "json_schema" && f.JSONSchema != nil:
			forms = append(forms, func() (string, error) { return fitSchema(f.JSONSchema.Schema) })
		case f.Type == "json_object":
			forms = append(forms, fitObject)
		case f.Type != "text":
			return validationError("response_format.type", "literal_error", "Input should be 'text', 'json_object' or 'json_schema'")
		}
	}
	if s := r.StructuredOutputs; s != nil {
		if s.JSON != nil {
			forms = append(forms, func() (string, error) { return fitSchema(s.JSON) })
		}
		if s.JSONObject {
			forms = append(forms, fitObject)
		}
		if s.Regex != nil {
			forms = append(forms, func() (string, error) { return fitRegex(*s.Regex) })
		}
		if len(s.Choice) > 0 {
			forms = append(forms, func() (string, error) { return s.Choice[0], nil })
		}
	}
	switch {
	case len(forms) == 0:
		return nil
	case len(forms) > 1:
		return badRequest("structured_outputs", "You can only use one kind of structured outputs constraint but multiple are specified.")
	}
	fit, err := forms[0]()
	if err != nil {
		return badRequest("structured_outputs", "Invalid grammar specification: "+err.Error())
	}
	r.fit = &fit
	return nil
}

func fitObject() (string, error) { return `{"proposal": "a stand-in's"}`, nil }

func fitSchema(text json.RawMessage) (string, error) {
	var root any
	if err := json.Unmarshal(text, &root); err != nil {
		return "", fmt.Errorf("the schema is no JSON: %w", err)
	}
	value, err := instance(root, root, 0)
	if err != nil {
		return "", err
	}
	fit, err := json.Marshal(value)
	return string(fit), err
}

// instance is a value for a schema: what most schemas that are asked of models
// use. It is not checked against the rest.
func instance(root, schema any, depth int) (any, error) {
	object, ok := schema.(map[string]any)
	if !ok || len(object) == 0 {
		return "a stand-in's", nil // true, or {}
	}
	if depth > maxDepth {
		return nil, nil //nolint:nilnil // JSON's null
	}
	if ref, ok := object["$ref"].(string); ok {
		target, err := resolve(root, ref)
		if err != nil {
			return nil, err
		}
		return instance(root, target, depth+1)
	}
	if value, ok := object["const"]; ok {
		return value, nil
	}
	if values, ok := object["enum"].([]any); ok && len(values) > 0 {
		return values[0], nil
	}
	for _, name := range []string{"anyOf", "oneOf", "allOf"} {
		if several, ok := object[name].([]any); ok && len(several) > 0 {
			return instance(root, several[0], depth+1)
		}
	}
	return ofType(root, object, depth)
}

func ofType(root any, schema map[string]any, depth int) (any, error) {
	switch typeOf(schema) {
	case "object":
		return objectOf(root, schema, depth)
	case "array":
		var values []any
		for range least(schema, "minItems") {
			value, err := instance(root, schema["items"], depth+1)
			if err != nil {
				return nil, err
			}
			values = append(values, value)
		}
		return append([]any{}, values...), nil
	case "integer", "number":
		return numberOf(schema), nil
	case "boolean":
		return true, nil
	case "null":
		return nil, nil //nolint:nilnil // JSON's null
	}
	if pattern, ok := schema["pattern"].(string); ok {
		return fitRegex(pattern)
	}
	return strings.Repeat("x", max(1, least(schema, "minLength"))), nil
}

func typeOf(schema map[string]any) string {
	kind := schema["type"]
	if several, ok := kind.([]any); ok && len(several) > 0 {
		kind = several[0]
	}
	if name, ok := kind.(string); ok {
		return name
	}
	for keyword, name := range map[string]string{"properties": "object", "required": "object", "items": "array"} {
		if _, ok := schema[keyword]; ok {
			return name
		}
	}
	return "string"
}

// objectOf has the required properties.
func objectOf(root any, schema map[string]any, depth int) (any, error) {
	properties, _ := schema["properties"].(map[string]any)
	required, _ := schema["required"].([]any)
	object := make(map[string]any, len(required))
	for _, name := range required {
		name, ok := name.(string)
		if !ok {
			return nil, fmt.Errorf("required: %v is no name", name)
		}
		value, err := instance(root, properties[name], depth+1)
		if err != nil {
			return nil, err
		}
		object[name] = value
	}
	return object, nil
}

func numberOf(schema map[string]any) float64 {
	value := number(schema, "minimum")
	if above, ok := schema["exclusiveMinimum"].(float64); ok {
		value = max(value, math.Floor(above)+1)
	}
	if most, ok := schema["maximum"].(float64); ok {
		value = min(value, most)
	}
	return value
}

// least is a least length, as far as an answer may be long.
func least(schema map[string]any, keyword string) int {
	return int(min(number(schema, keyword), maxLength))
}

func number(schema map[string]any, keyword string) float64 {
	value, _ := schema[keyword].(float64)
	return value
}

// resolve finds what a reference within the schema names.
func resolve(root any, ref string) (any, error) {
	path, ok := strings.CutPrefix(ref, "#")
	if !ok {
		return nil, fmt.Errorf("$ref %q leads out of the schema", ref)
	}
	found := root
	for name := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		if name == "" {
			continue
		}
		object, _ := found.(map[string]any)
		if found, ok = object[strings.NewReplacer("~1", "/", "~0", "~").Replace(name)]; !ok {
			return nil, fmt.Errorf("$ref %q leads nowhere", ref)
		}
	}
	return found, nil
}

func fitRegex(expression string) (string, error) {
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return "", err
	}
	return shortest(parsed), nil
}

// shortest is a short text that an expression matches.
func shortest(e *syntax.Regexp) string {
	switch e.Op {
	case syntax.OpLiteral:
		return string(e.Rune)
	case syntax.OpCharClass:
		return string(printable(e.Rune))
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return "x"
	case syntax.OpCapture, syntax.OpPlus, syntax.OpAlternate:
		return shortest(e.Sub[0])
	case syntax.OpRepeat:
		return strings.Repeat(shortest(e.Sub[0]), e.Min)
	case syntax.OpConcat:
		var text strings.Builder
		for _, part := range e.Sub {
			text.WriteString(shortest(part))
		}
		return text.String()
	default: // nothing is enough, or what stands around it decides
		return ""
	}
}

// printable is a rune of a class, given as pairs: one that can be read if there is one.
func printable(class []rune) rune {
	for pair := range slices.Chunk(class, 2) {
		for _, r := range []rune{'a', '0', pair[0], pair[1]} {
			if pair[0] <= r && r <= pair[1] && unicode.IsGraphic(r) {
				return r
			}
		}
	}
	return class[0]
}
