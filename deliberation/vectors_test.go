package deliberation_test

import (
	"net/url"
	"testing"

	"rayexecutor/deliberation"
	"rayexecutor/tests/vectors"
)

func TestHostVectors(t *testing.T) {
	t.Parallel()
	for _, v := range vectors.Read[struct {
		Pattern        string
		Covers, Leaves []string
		Error          bool
	}](t, "hosts.json") {
		pattern, err := deliberation.ParseHostPattern(v.Pattern)
		if (err != nil) != v.Error {
			t.Errorf("%q: %v", v.Pattern, err)
			continue
		}
		for want, urls := range map[bool][]string{true: v.Covers, false: v.Leaves} {
			for _, raw := range urls {
				target, err := url.Parse(raw)
				if err != nil || pattern.Covers(target) != want {
					t.Errorf("%q covers %s: %v, %v", v.Pattern, raw, !want, err)
				}
			}
		}
	}
}

// The worker fills what is accepted here; what is refused here never gets to it.
func TestTemplateVectors(t *testing.T) {
	t.Parallel()
	for _, v := range vectors.Read[struct {
		Template string
		Error    bool
	}](t, "templates.json") {
		metadata := map[string]string{"key": "v", "nested": "{role}"}
		if err := deliberation.CheckTemplate(v.Template, metadata); (err != nil) != v.Error {
			t.Errorf("%q: %v", v.Template, err)
		}
	}
}
