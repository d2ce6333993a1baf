package deliberation_test

import (
	"strings"
	"testing"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

func TestResponseFormatIsChecked(t *testing.T) {
	t.Parallel()
	schema := func(text string) *pb.ResponseFormat {
		return &pb.ResponseFormat{Format: &pb.ResponseFormat_JsonSchema{JsonSchema: text}}
	}
	regex := func(text string) *pb.ResponseFormat {
		return &pb.ResponseFormat{Format: &pb.ResponseFormat_Regex{Regex: text}}
	}
	choice := func(values ...string) *pb.ResponseFormat {
		return &pb.ResponseFormat{Format: &pb.ResponseFormat_Choice{Choice: &pb.Choice{Values: values}}}
	}
	r := rules(t)
	for name, test := range map[string]struct {
		format *pb.ResponseFormat
		field  string // empty: accepted
		says   string
	}{
		"none":                   {nil, "", ""},
		"a format without form":  {&pb.ResponseFormat{}, "response_format.format", ""},
		"a schema":               {schema(`{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}`), "", ""},
		"a schema with $defs":    {schema(`{"$ref": "#/$defs/a", "$defs": {"a": {"type": "string", "pattern": "^a+$"}}}`), "", ""},
		"draft-07":               {schema(`{"$schema": "http://json-schema.org/draft-07/schema#", "type": "string"}`), "", ""},
		"true":                   {schema(`true`), "", ""},
		"no JSON":                {schema(`{"type": `), "response_format.json_schema", "is not JSON"},
		"two documents":          {schema(`{} {}`), "response_format.json_schema", "is not JSON"},
		"no schema":              {schema(`{"type": "strnig"}`), "response_format.json_schema", "is not a JSON schema"},
		"a number":               {schema(`7`), "response_format.json_schema", "is not a JSON schema"},
		"a reference to nothing": {schema(`{"$ref": "#/$defs/none"}`), "response_format.json_schema", "is not a JSON schema"},
		"a reference to a URL":   {schema(`{"$ref": "http://169.254.169.254/x"}`), "response_format.json_schema", "put the definition into $defs"},
		"a reference to a file":  {schema(`{"$ref": "file:///etc/passwd"}`), "response_format.json_schema", "put the definition into $defs"},
		"a lookahead":            {schema(`{"pattern": "(?=a)"}`), "response_format.json_schema", "is not a JSON schema"},
		"deep":                   {schema(strings.Repeat(`{"not":`, 70) + "{}" + strings.Repeat("}", 70)), "response_format.json_schema", "nests more than 64"},
		"too long":               {schema(`{"title": "` + strings.Repeat("x", 1<<16) + `"}`), "response_format.json_schema", ""},
		"an object":              {&pb.ResponseFormat{Format: &pb.ResponseFormat_JsonObject{JsonObject: true}}, "", ""},
		"no object":              {&pb.ResponseFormat{Format: &pb.ResponseFormat_JsonObject{}}, "response_format.json_object", ""},
		"a regex":                {regex(`yes|no`), "", ""},
		"a broken regex":         {regex(`(`), "response_format.regex", "RE2"},
		"a huge regex":           {regex(`((a{1000}){1000}){1000}`), "response_format.regex", "RE2"},
		"a choice":               {choice("yes", "no"), "", ""},
		"no choice":              {choice(), "response_format.choice.values", ""},
		"an empty choice":        {choice("yes", ""), "response_format.choice.values[1]", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := r.Accept("d", request(func(r *pb.ExecuteDeliberationRequest) { r.ResponseFormat = test.format }))
			if test.field == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || deliberation.AsError(err).Field != test.field || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v; want it refused for %s with %q", err, test.field, test.says)
			}
		})
	}
}

// A hostile schema costs the door about what its length does.
func TestHostileSchemasAreCheap(t *testing.T) {
	t.Parallel()
	doubling := `{"$ref": "#/$defs/a20", "$defs": {"a0": {}`
	for i := 1; i <= 20; i++ {
		doubling += strings.NewReplacer("N", string(rune('0'+i/10))+string(rune('0'+i%10)), "M", string(rune('0'+(i-1)/10))+string(rune('0'+(i-1)%10))).
			Replace(`, "aN": {"allOf": [{"$ref": "#/$defs/aM"}, {"$ref": "#/$defs/aM"}]}`)
	}
	doubling = strings.Replace(doubling, `"a0"`, `"a00"`, 1) + "}}"
	for name, text := range map[string]string{
		"doubling":  doubling,
		"itself":    `{"$ref": "#"}`,
		"patterns":  `{"allOf": [` + strings.Repeat(`{"pattern": "(a{1000}){900}"}, `, 1000) + `{}]}`,
		"many refs": `{"$defs": {"a": {}}, "allOf": [` + strings.Repeat(`{"$ref": "#/$defs/a"}, `, 2000) + `{}]}`,
	} {
		allocated := testing.Benchmark(func(b *testing.B) {
			for b.Loop() {
				_ = deliberation.CheckSchema(text)
			}
		}).AllocedBytesPerOp()
		if allocated > 64<<20 {
			t.Errorf("%s: %d bytes", name, allocated)
		}
		t.Logf("%s: %d bytes allocated, %v", name, allocated, deliberation.CheckSchema(text))
	}
}
