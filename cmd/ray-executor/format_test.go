package main

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// FuzzYAML converts JSON to YAML that has the same values.
func FuzzYAML(f *testing.F) {
	f.Add("a", "b")
	for _, text := range []string{
		"", "true", "no", "12", "0x1", "1e3", "null", "~", "2026-01-02", "a: b", "- a", "# a", " a ", "a\nb\n", "\n", "\ta", "'", `"`, "\\", "é😀", "\x01", "\u2028", "{a}", "[a]", "&a", "*a", "!a", "|", ">", "%", "@", "`", "=", "<<", "-", "---",
	} {
		f.Add(text, text)
	}
	f.Fuzz(func(t *testing.T, key, value string) {
		line, err := json.Marshal(map[string]any{key: value, "list": []any{value, 1.5, nil, true}, "empty": map[string]any{}})
		if err != nil {
			t.Fatal(err)
		}
		var want, got any
		if err := json.Unmarshal(line, &want); err != nil {
			t.Fatal(err)
		}
		text, err := yamlOf(line)
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(text, &got); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s\n%s\n%#v", line, text, got)
		}
	})
}

func TestFormats(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	p := printer{w: &out, format: "yaml"}
	for range 2 {
		if err := p.encode(map[string]any{"id": "12", "list": []string{"a"}}); err != nil {
			t.Fatal(err)
		}
	}
	if want := "id: \"12\"\nlist:\n    - a\n---\nid: \"12\"\nlist:\n    - a\n"; out.String() != want {
		t.Errorf("printed %q", &out)
	}
}
