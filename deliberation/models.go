package deliberation

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Models are the patterns of the models that callers may name: `*` stands for any
// text, also for none. No patterns: every model.
type Models []*regexp.Regexp

// ParseModels parses patterns. It cannot fail: every other character than `*`
// stands for itself.
func ParseModels(patterns []string) Models {
	models := make(Models, len(patterns))
	for i, pattern := range patterns {
		models[i] = regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, "(?s:.*)") + "$")
	}
	return models
}

// Allows reports whether callers may name a model.
func (m Models) Allows(model string) bool {
	return len(m) == 0 || slices.ContainsFunc(m, func(pattern *regexp.Regexp) bool { return pattern.MatchString(model) })
}

// checkModel refuses a model that a caller names and the operator does not allow. No
// name, or that of the operator's default, is allowed. The field is a format, which
// is filled only for a refusal.
func (r *Rules) checkModel(model, field string, places ...int) error {
	if model == "" || model == r.model || r.models.Allows(model) {
		return nil
	}
	for _, place := range places {
		field = strings.Replace(field, "%d", strconv.Itoa(place), 1)
	}
	return Invalidf(field, "the model %q is not allowed; ask the operator to add it to MODELS", Short(model))
}
