package deliberation

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	pb "rayexecutor/proto/ray_executor/v1"
)

var parameterName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// ourParameters are the keys of a chat completion's body that the worker writes
// itself, besides the fields of Sampling.
var ourParameters = []string{"messages", "model", "n", "response_format", "stream", "stream_options"}

// CheckParameter reports a name that MODEL_PARAMETERS cannot hold. Such a
// parameter would replace what the worker writes into the body.
func CheckParameter(name string) error {
	sampling := (&pb.Sampling{}).ProtoReflect().Descriptor().Fields()
	switch {
	case !parameterName.MatchString(name):
		return fmt.Errorf("%q: must be 1 to 64 characters of a-z 0-9 _, a letter first", Short(name))
	case slices.Contains(ourParameters, name):
		return fmt.Errorf("%q: the worker sets this parameter itself", name)
	case sampling.ByName(protoreflect.Name(name)) != nil:
		return fmt.Errorf("%q: callers may always set this parameter, as sampling.%s", name, name)
	}
	return nil
}

// checkExtra refuses a parameter in sampling.extra that the operator has not
// named. prefix is the path of the message that holds the sampling.
func (r *Rules) checkExtra(prefix string, sampling *pb.Sampling) error {
	for _, name := range slices.Sorted(maps.Keys(sampling.GetExtra().GetFields())) {
		if slices.Contains(r.parameters, name) {
			continue
		}
		allowed := "none is"
		if len(r.parameters) > 0 {
			allowed = "allowed are: " + strings.Join(r.parameters, ", ")
		}
		return Invalidf(prefix+"sampling.extra", "the parameter %q is not allowed (%s); ask the operator to add it to MODEL_PARAMETERS", Short(name), allowed)
	}
	return nil
}
