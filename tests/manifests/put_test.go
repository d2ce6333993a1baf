package manifests

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// put sets a value in the manifest that id names; a ConfigMap's name ends in a
// digest, so there it is the settings'.
func put(t *testing.T, objects []map[string]any, id string, path []string, value any) {
	t.Helper()
	for _, object := range objects {
		metadata := object["metadata"].(map[string]any)
		name := fmt.Sprint(metadata["name"])
		settings := id == "ConfigMap" && object["kind"] == "ConfigMap" && strings.HasPrefix(name, "ray-executor-")
		if settings || fmt.Sprint(object["kind"], "/", name) == id {
			set(t, object, path, value)
			return
		}
	}
	t.Fatalf("no %s", id)
}

func set(t *testing.T, at any, path []string, value any) {
	t.Helper()
	switch at := at.(type) {
	case map[string]any:
		if len(path) == 1 {
			at[path[0]] = value
			return
		}
		set(t, at[path[0]], path[1:], value)
	case []any:
		i, err := strconv.Atoi(path[0])
		if err != nil || i >= len(at) {
			t.Fatalf("no %s", path[0])
		}
		set(t, at[i], path[1:], value)
	default:
		t.Fatalf("nothing at %s", path[0])
	}
}
