package deliberation

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"

	pb "rayexecutor/proto/ray_executor/v1"
)

// Defaults and limits of the contract.
const (
	DefaultPool           = "default"
	DefaultTimeoutSeconds = 300
	DefaultMaxRetries     = 3
	// MaxRequestBytes is the largest request, in protobuf.
	MaxRequestBytes = 1 << 20
)

// Rules checks requests and fills in defaults. Create it with NewRules. It is safe
// for concurrent use.
type Rules struct {
	pools      []string
	modelHosts []HostPattern
	modelURL   string
	model      string
	models     Models
	parameters []string
	validator  protovalidate.Validator
}

// Settings are the operator's settings for requests.
type Settings struct {
	// Pools are the declared pools' names.
	Pools []string
	// ModelHosts are the hosts that agents may call: `host`, `host:port` or
	// `*.domain`.
	ModelHosts []string
	// ModelURL and Model are used if a request names none.
	ModelURL string
	Model    string
	// Models are patterns of the models that callers may name; none: all.
	Models []string
	// Parameters are the keys that sampling.extra may hold.
	Parameters []string
}

// NewRules returns the rules for the operator's settings. The rules of single
// fields are in the proto files, and are compiled at their first use. None is
// written in CEL: the first one would load the parser's tables into every process.
func NewRules(settings Settings) (*Rules, error) {
	validator, err := protovalidate.New(protovalidate.WithFailFast())
	if err != nil {
		return nil, fmt.Errorf("compile the rules of the proto files: %w", err)
	}
	hosts := make([]HostPattern, len(settings.ModelHosts))
	for i, host := range settings.ModelHosts {
		if hosts[i], err = ParseHostPattern(host); err != nil {
			return nil, fmt.Errorf("MODEL_HOSTS: %w", err)
		}
	}
	return &Rules{
		pools: settings.Pools, modelHosts: hosts,
		modelURL: settings.ModelURL, model: settings.Model,
		models:     ParseModels(settings.Models),
		parameters: settings.Parameters,
		validator:  validator,
	}, nil
}

// Check checks a request against the rules in its proto file. The error is Invalid
// and names the first field at fault.
func (r *Rules) Check(request proto.Message) error {
	err := r.validator.Validate(request)
	if err == nil {
		return nil
	}
	violations, ok := errors.AsType[*protovalidate.ValidationError](err)
	if !ok || len(violations.Violations) == 0 {
		return fmt.Errorf("validate %s: %w", request.ProtoReflect().Descriptor().FullName(), err)
	}
	first := violations.Violations[0].Proto
	return Invalidf(protovalidate.FieldPathString(first.GetField()), "%s", wording(first.GetMessage()))
}

// wording replaces the patterns of the proto files by words.
func wording(message string) string {
	switch {
	case strings.Contains(message, `[^\s\p{Z}]`):
		return "must not be blank"
	case strings.Contains(message, `^[A-Za-z0-9_-]{1,64}$`):
		return "must be 1 to 64 characters of A-Z a-z 0-9 _ -"
	case strings.Contains(message, `^[A-Za-z0-9_.-]{1,64}$`):
		return "must be 1 to 64 characters of A-Z a-z 0-9 _ - ."
	case strings.Contains(message, `^[a-z]{1,32}$`):
		return "must be 1 to 32 characters of a-z"
	case strings.Contains(message, `^[a-z0-9-]{1,32}$`):
		return "must be 1 to 32 characters of a-z 0-9 -"
	default:
		return message
	}
}

// Accept checks a whole request and returns the record of its acceptance under an
// id: the request as it was sent, and beside it the values that are in force.
//
// The record is stored, and the workers read only the record. So a later change of
// the operator's defaults does not change an accepted deliberation.
func (r *Rules) Accept(id string, request *pb.ExecuteDeliberationRequest) (*pb.DeliberationRequested, error) {
	// The size comes first: the other checks take time in proportion to it.
	if size := proto.Size(request); size > MaxRequestBytes {
		return nil, &Error{
			Code: TooLarge, Field: "request",
			Message: fmt.Sprintf("is %d bytes; at most %d are taken: shorten the description, the templates or the metadata", size, MaxRequestBytes),
		}
	}
	if err := r.Check(request); err != nil {
		return nil, err
	}
	record := r.resolve(id, request)
	if err := r.checkRecord(record); err != nil {
		return nil, err
	}
	return record, nil
}

// resolve fills in the defaults. It changes nothing in the request itself, so that
// a repeated request compares equal.
func (r *Rules) resolve(id string, request *pb.ExecuteDeliberationRequest) *pb.DeliberationRequested {
	record := &pb.DeliberationRequested{
		DeliberationId: id,
		TaskId:         request.GetTaskId(),
		Request:        request,
		Pool:           request.GetPool(),
		TimeoutSeconds: request.GetConstraints().GetTimeoutSeconds(),
		MaxRetries:     DefaultMaxRetries,
		VllmUrl:        request.GetVllmUrl(),
		VllmModel:      request.GetVllmModel(),
	}
	// Absent and empty are the same, except for the retries: 0 retries are valid.
	if record.GetPool() == "" {
		record.Pool = DefaultPool
	}
	if record.GetTimeoutSeconds() == 0 {
		record.TimeoutSeconds = DefaultTimeoutSeconds
	}
	if constraints := request.GetConstraints(); constraints != nil && constraints.MaxRetries != nil {
		record.MaxRetries = constraints.GetMaxRetries()
	}
	if record.GetVllmUrl() == "" {
		record.VllmUrl = r.modelURL
	}
	record.VllmUrl = ModelBase(record.GetVllmUrl())
	if record.GetVllmModel() == "" {
		record.VllmModel = r.model
	}
	return record
}

// checkRecord checks what depends on the operator's settings or on several fields.
func (r *Rules) checkRecord(record *pb.DeliberationRequested) error {
	if err := checkWords(record.GetRequest()); err != nil {
		return err
	}
	if !slices.Contains(r.pools, record.GetPool()) {
		return Invalidf("pool", "%q is not declared; declared are: %s", record.GetPool(), strings.Join(r.pools, ", "))
	}
	if err := r.checkModelURL("vllm_url", record.GetVllmUrl()); err != nil {
		return err
	}
	if err := r.checkModel(record.GetRequest().GetVllmModel(), "vllm_model"); err != nil {
		return err
	}
	if err := r.checkSampling(record.GetRequest().GetSampling(), ""); err != nil {
		return err
	}
	if err := checkResponseFormat(record.GetRequest().GetResponseFormat()); err != nil {
		return err
	}
	if err := checkStrategy(record.GetRequest().GetStrategy()); err != nil {
		return err
	}
	return r.checkAgents(record)
}

func (r *Rules) checkAgents(record *pb.DeliberationRequested) error {
	metadata := record.GetRequest().GetConstraints().GetMetadata()
	ids := make(map[string]bool, len(record.GetRequest().GetAgents()))
	for i, agent := range record.GetRequest().GetAgents() {
		if ids[agent.GetId()] {
			return Invalidf("agents", "every id must be unique within the request: %q appears twice", agent.GetId())
		}
		ids[agent.GetId()] = true
		if agent.GetModel() == "" && record.GetVllmModel() == "" {
			return Invalidf(fmt.Sprintf("agents[%d].model", i), "is empty, and neither vllm_model nor the operator's VLLM_MODEL names one")
		}
		if err := r.checkModel(agent.GetModel(), "agents[%d].model", i); err != nil {
			return err
		}
		if err := CheckTemplate(agent.GetPromptTemplate(), metadata); err != nil {
			return Invalidf(fmt.Sprintf("agents[%d].prompt_template", i), "%s", err)
		}
		if err := CheckTemplate(agent.GetSystemPrompt(), metadata); err != nil {
			return Invalidf(fmt.Sprintf("agents[%d].system_prompt", i), "%s", err)
		}
		if err := r.checkSampling(agent.GetSampling(), "agents[%d].", i); err != nil {
			return err
		}
		if err := r.checkFallbacks(i, agent.GetFallbacks()); err != nil {
			return err
		}
	}
	// The most expensive check comes last.
	return checkPrompts(record.GetRequest())
}

func (r *Rules) checkFallbacks(agent int, fallbacks []*pb.ModelEndpoint) error {
	for i, fallback := range fallbacks {
		if err := r.checkModel(fallback.GetModel(), "agents[%d].fallbacks[%d].model", agent, i); err != nil {
			return err
		}
		if fallback.GetVllmUrl() == "" && fallback.GetModel() == "" {
			return Invalidf(fmt.Sprintf("agents[%d].fallbacks[%d]", agent, i), "must have a vllm_url, a model, or both")
		}
		if fallback.GetVllmUrl() == "" {
			continue // the request's, which is checked
		}
		if err := r.checkModelURL(fmt.Sprintf("agents[%d].fallbacks[%d].vllm_url", agent, i), ModelBase(fallback.GetVllmUrl())); err != nil {
			return err
		}
	}
	return nil
}

// checkWords rejects blank text. The pattern in the proto file does so too, for the
// blanks of RE2; here are all of Unicode, and invisible characters.
func checkWords(request *pb.ExecuteDeliberationRequest) error {
	for _, field := range []struct{ name, value string }{
		{"task_id", request.GetTaskId()},
		{"task_description", request.GetTaskDescription()},
		{"role", request.GetRole()},
	} {
		if strings.TrimFunc(field.value, invisible) == "" {
			return Invalidf(field.name, "must not be blank")
		}
	}
	return nil
}

// invisible matches separators, control and format characters.
func invisible(r rune) bool { return unicode.In(r, unicode.Z, unicode.Cc, unicode.Cf) }

// checkModelURL rejects URLs that are not allowed or not read alike by all parsers.
// The worker checks the host again, before each call.
func (r *Rules) checkModelURL(field, raw string) error {
	if raw == "" {
		return Invalidf(field, "is empty, and the operator's VLLM_URL names none")
	}
	// The URL comes from the caller, and the worker sends the operator's API key to
	// it. So only declared hosts are allowed.
	parsed, err := url.Parse(raw)
	switch {
	case err != nil || !plainHost(parsed):
		return Invalidf(field, "must be a URL such as http://vllm.svc:8000")
	case parsed.Scheme != "http" && parsed.Scheme != "https":
		return Invalidf(field, "must be http or https")
	case parsed.User != nil:
		return Invalidf(field, "must not carry a user or password; the operator's VLLM_API_KEY is sent to the hosts that MODEL_HOSTS allows")
	case parsed.RawQuery != "" || parsed.ForceQuery || parsed.Fragment != "" || strings.Contains(raw, "#"):
		return Invalidf(field, "must not carry a query or a fragment")
	case !slices.ContainsFunc(r.modelHosts, func(p HostPattern) bool { return p.Covers(parsed) }):
		return Invalidf(field, "host %q is not allowed; ask the operator to add it to MODEL_HOSTS", Short(parsed.Host))
	}
	if err := CheckModelPath(raw); err != nil {
		return Invalidf(field, "%s", err)
	}
	return nil
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?$`)

// plainHost reports whether every parser reads a URL's host alike: it is a DNS name
// or an IP address, with a valid port or none. Otherwise a URL might be checked for
// one host and sent to another.
func plainHost(target *url.URL) bool {
	_, notIP := netip.ParseAddr(target.Hostname())
	if notIP != nil && !hostName.MatchString(target.Hostname()) || strings.HasSuffix(target.Host, ":") {
		return false
	}
	port, err := strconv.Atoi(target.Port())
	return target.Port() == "" || err == nil && port > 0 && port <= 65535
}
