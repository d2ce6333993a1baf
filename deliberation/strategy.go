package deliberation

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	pb "rayexecutor/proto/ray_executor/v1"
)

// Levels of a worker's features, as its heartbeats say. A worker runs a request of
// a level above its own as if it had no strategy.
const (
	LevelIndependent int32 = iota
	LevelVote
)

// LevelOf is the level that a worker needs for a request.
func LevelOf(request *pb.ExecuteDeliberationRequest) int32 {
	if request.GetStrategy().GetVote() != nil {
		return LevelVote
	}
	return LevelIndependent
}

// Compares reports whether a request's strategy compares the proposals.
func Compares(request *pb.ExecuteDeliberationRequest) bool {
	return LevelOf(request) > LevelIndependent
}

// checkStrategy checks what the rules in the proto file leave open.
func checkStrategy(strategy *pb.Strategy) error {
	switch answer := strategy.GetVote().GetAnswer().(type) {
	case *pb.Vote_JsonPointer:
		if !jsonPointer.MatchString(answer.JsonPointer) {
			return Invalidf("strategy.vote.json_pointer", "must be a JSON pointer (RFC 6901) such as /answer, or empty; ~ is written ~0, and / in a name ~1")
		}
	case *pb.Vote_Regex:
		if err := checkSharedRegex(answer.Regex); err != nil {
			return Invalidf("strategy.vote.regex", "%s", err)
		}
	}
	return nil
}

var jsonPointer = regexp.MustCompile(`^(/([^~/]|~[01])*)*$`)

// checkSharedRegex refuses an expression that RE2 does not read, or that Python
// does not read alike: the worker finds the answers with Python's re.
func checkSharedRegex(pattern string) error {
	if err := checkRegex(pattern); err != nil {
		return err
	}
	for i := 0; i < len(pattern); i++ {
		rest := pattern[i:]
		switch {
		case rest[0] == '\\':
			if strings.ContainsRune("pPzCQE", rune(pattern[i+1])) {
				return fmt.Errorf(`has \%c, which the worker's Python reads otherwise`, pattern[i+1])
			}
			i++ // RE2 refuses one at the end
		case namedClass.MatchString(rest):
			return errors.New("has a class such as [:alpha:], which the worker's Python reads otherwise; write a-zA-Z")
		case strings.HasPrefix(rest, "(?<"):
			return errors.New("has a group (?<name>, which the worker's Python does not read; write (?P<name>")
		case strings.HasPrefix(rest, "(?") && !sharedGroup.MatchString(rest) && (i > 0 || !leadingFlags.MatchString(rest)):
			return errors.New("has flags in its middle, or others than i, m and s, which the worker's Python does not read; write (?i:…)")
		}
	}
	return nil
}

var (
	// sharedGroup is the beginning of a group that both read.
	sharedGroup  = regexp.MustCompile(`^\(\?(P<|[ims]*:|[ims]*-[ims]+:)`)
	leadingFlags = regexp.MustCompile(`^\(\?[ims]+\)`)
	namedClass   = regexp.MustCompile(`^\[:\^?[a-z]+:\]`)
)
