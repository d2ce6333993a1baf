package deliberation

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

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

// maxStop is how many characters a text in sampling.stop has at most.
const maxStop = 256

// checkSampling checks what the rules in the proto file leave open. path, a
// format, and its args are the path of the message that holds the sampling.
func (r *Rules) checkSampling(sampling *pb.Sampling, path string, args ...any) error {
	if sampling == nil {
		return nil
	}
	path = fmt.Sprintf(path, args...) + "sampling."
	if err := checkTexts(path+"stop", sampling.GetStop(), maxStop); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(sampling.GetExtra().GetFields())) {
		if slices.Contains(r.parameters, name) {
			continue
		}
		allowed := "none is"
		if len(r.parameters) > 0 {
			allowed = "allowed are: " + strings.Join(r.parameters, ", ")
		}
		return Invalidf(path+"extra", "the parameter %q is not allowed (%s); ask the operator to add it to MODEL_PARAMETERS", Short(name), allowed)
	}
	return nil
}

// checkTexts checks the items of a list of texts. A rule for items in the proto
// file would be the first that protovalidate checks with CEL, whose environment
// takes 1.5 MB and 5 ms.
func checkTexts(field string, texts []string, most int) error {
	for i, text := range texts {
		if length := utf8.RuneCountInString(text); length == 0 || length > most {
			return Invalidf(fmt.Sprintf("%s[%d]", field, i), "must be 1 to %d characters", most)
		}
	}
	return nil
}
