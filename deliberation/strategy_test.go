package deliberation_test

import (
	"math"
	"strings"
	"testing"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

func TestStrategyIsChecked(t *testing.T) {
	t.Parallel()
	vote := func(v *pb.Vote) *pb.Strategy { return &pb.Strategy{Kind: &pb.Strategy_Vote{Vote: v}} }
	regex := func(text string) *pb.Strategy { return vote(&pb.Vote{Answer: &pb.Vote_Regex{Regex: text}}) }
	pointer := func(text string) *pb.Strategy {
		return vote(&pb.Vote{Answer: &pb.Vote_JsonPointer{JsonPointer: text}})
	}
	const inRegex, inPointer = "strategy.vote.regex", "strategy.vote.json_pointer"
	r := rules(t)
	for name, test := range map[string]struct {
		strategy *pb.Strategy
		field    string // empty: accepted
		says     string
	}{
		"none":                  {nil, "", ""},
		"a strategy of no kind": {&pb.Strategy{}, "strategy.kind", ""},
		"independent":           {&pb.Strategy{Kind: &pb.Strategy_Independent{}}, "", ""},
		"vote":                  {vote(&pb.Vote{StopAtMajority: true}), "", ""},
		"a pointer":             {pointer("/a~1b/0/~0"), "", ""},
		"the whole document":    {pointer(""), "", ""},
		"no slash":              {pointer("answer"), inPointer, "RFC 6901"},
		"a bare tilde":          {pointer("/a~b"), inPointer, "RFC 6901"},
		"a long pointer":        {pointer("/" + strings.Repeat("x", 1024)), inPointer, ""},
		"a regex":               {regex(`(?i)answer:\s*(?P<it>\d+|[a-c]{1,3})(?:$)`), "", ""},
		"flags of a group":      {regex(`a(?i-s:b)`), "", ""},
		"an escaped bracket":    {regex(`\[:alpha\]\\p`), "", ""},
		"an empty regex":        {regex(""), inRegex, ""},
		"a broken regex":        {regex(`(`), inRegex, "RE2"},
		"a lookahead":           {regex(`(?=a)`), inRegex, "RE2"},
		"a back reference":      {regex(`(a)\1`), inRegex, "RE2"},
		"a huge regex":          {regex(`((a{1000}){1000}){1000}`), inRegex, "RE2"},
		"a long regex":          {regex(strings.Repeat("x", 4097)), inRegex, ""},
		"a Unicode class":       {regex(`\p{Greek}`), inRegex, "Python"},
		"a POSIX class":         {regex(`[[:alpha:]]`), inRegex, "Python"},
		"the end of the text":   {regex(`a\z`), inRegex, "Python"},
		"a quoted text":         {regex(`\Qa.b\E`), inRegex, "Python"},
		"a group of Go's":       {regex(`(?<it>a)`), inRegex, "(?P<name>"},
		"flags in the middle":   {regex(`a(?i)b`), inRegex, "flags"},
		"ungreedy":              {regex(`(?U)a+`), inRegex, "flags"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := r.Accept("d", request(func(r *pb.ExecuteDeliberationRequest) { r.Strategy = test.strategy }))
			if test.field == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if coded := deliberation.AsError(err); err == nil || coded.Code != deliberation.Invalid || coded.Field != test.field ||
				!strings.Contains(coded.Message, test.says) {
				t.Errorf("got %v, want %s with %q", err, test.field, test.says)
			}
		})
	}
}

func TestWeightIsChecked(t *testing.T) {
	t.Parallel()
	r := rules(t)
	for weight, fits := range map[float32]bool{
		0: true, 0.5: true, 1e6: true, -1: false, 2e6: false,
		float32(math.Inf(1)): false, float32(math.NaN()): false,
	} {
		_, err := r.Accept("d", request(func(r *pb.ExecuteDeliberationRequest) { r.Agents[1].Weight = weight }))
		if fits != (err == nil) || err != nil && deliberation.AsError(err).Field != "agents[1].weight" {
			t.Errorf("%v: %v", weight, err)
		}
	}
}
