package standin_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"rayexecutor/standin"
)

// asking is the body of a request with one more field.
func asking(field string) string { return strings.TrimSuffix(body, "}") + ", " + field + "}" }

func TestForms(t *testing.T) {
	t.Parallel()
	_, web := setup(t, standin.Options{})
	for asked, want := range map[string]string{
		`"response_format": {"type": "json_object"}`: `^\{.*\}$`,
		`"response_format": {"type": "text"}`:        `^Proposal of m1`,
		`"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": {
			"type": "object", "required": ["ok", "n", "list", "word", "who", "any", "neg"], "properties": {
				"ok": {"type": "boolean"}, "n": {"type": "integer", "exclusiveMinimum": 3},
				"list": {"items": {"enum": ["red", "blue"]}, "minItems": 2}, "word": {"type": "string", "minLength": 3},
				"who": {"$ref": "#/$defs/person"}, "any": {"anyOf": [{"type": "null"}, {"type": "string"}]}, "neg": {"type": "number", "maximum": -1}},
			"$defs": {"person": {"required": ["name"], "properties": {"name": {"const": "Ada"}, "friend": {"$ref": "#/$defs/person"}}}}}}}`: //
		`^\{"any":null,"list":\["red","red"\],"n":4,"neg":-1,"ok":true,"who":\{"name":"Ada"\},"word":"xxx"\}$`,
		`"structured_outputs": {"json": {"type": ["string", "null"], "pattern": "^a{2}$"}}`:             `^"aa"$`,
		`"structured_outputs": {"json": {"required": ["self"], "properties": {"self": {"$ref": "#"}}}}`: `null`,
		`"structured_outputs": {"choice": ["yes", "no"]}`:                                               `^yes$`,
		`"structured_outputs": {"regex": "(cat|dog)-[0-9]{2}[^a-z]?x+.*"}`:                              `^cat-00x$`,
	} {
		got := do(t, web, "POST", path, asking(asked))
		if got.status != 200 {
			t.Errorf("%s: %d %s", asked, got.status, got.body)
			continue
		}
		content, _ := parse(t, got.body).message("content").(string)
		if !regexp.MustCompile(want).MatchString(content) {
			t.Errorf("%s: got %s", asked, content)
		}
		if strings.HasPrefix(content, "{") && !json.Valid([]byte(content)) {
			t.Errorf("%s: %s is no JSON", asked, content)
		}
	}
	for asked, want := range map[string]string{
		`"structured_outputs": {"choice": ["yes"], "regex": "a"}`:                             "only use one kind",
		`"structured_outputs": {"regex": "("}`:                                                "Invalid grammar",
		`"structured_outputs": {"json": {"$ref": "http://elsewhere"}}`:                        "leads out of the schema",
		`"structured_outputs": {"json": {"$ref": "#/$defs/none"}}`:                            "leads nowhere",
		`"response_format": {"type": "xml"}`:                                                  "response_format.type",
		`"response_format": {"type": "json_object"}, "structured_outputs": {"choice": ["a"]}`: "only use one kind",
	} {
		if got := do(t, web, "POST", path, asking(asked)); got.status != 400 || !strings.Contains(got.body, want) {
			t.Errorf("%s: %d %s", asked, got.status, got.body)
		}
	}
}

func TestMaxModelLen(t *testing.T) {
	t.Parallel()
	s, web := setup(t, standin.Options{})
	set(t, s, "m1", standin.Behaviour{MaxModelLen: 3})
	if got := do(t, web, "POST", path, body); got.status != 400 || !strings.Contains(got.body, "maximum context length is 3 tokens") {
		t.Errorf("a prompt that is too long: %d %s", got.status, got.body)
	}
	set(t, s, "m1", standin.Behaviour{MaxModelLen: 1000})
	if got := do(t, web, "POST", path, asking(`"max_tokens": 1000`)); got.status != 400 || !strings.Contains(got.body, "is too large: 1000") {
		t.Errorf("a prompt and max_tokens: %d %s", got.status, got.body)
	}
	if got := do(t, web, "POST", path, asking(`"max_tokens": 5`)); got.status != 200 {
		t.Errorf("what fits: %d %s", got.status, got.body)
	}
}
