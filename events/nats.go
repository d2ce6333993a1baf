package events

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

// Headers of a CloudEvent in NATS binary mode.
const (
	headerSpec        = "ce-specversion"
	headerID          = "ce-id"
	headerType        = "ce-type"
	headerSource      = "ce-source"
	headerSubject     = "ce-subject"
	headerTime        = "ce-time"
	headerContentType = "content-type"
	headerTrace       = "ce-traceparent"
	// headerTimeout is an extension on requests: with it the deadline can be read
	// from the headers alone.
	headerTimeout = "ce-timeoutseconds"
	// headerTenant is an extension on requests with a tenant, for lists.
	headerTenant = "ce-tenant"
	// headerUsage is an extension on ends, for the statistics: the counts of the
	// Usage message in the order of its fields, separated by commas.
	headerUsage = "ce-usage"
	// headerModels is an extension on ends: the usage by model, as a query string of
	// the models' names and their counts. Few and short names have a place in it.
	headerModels = "ce-modelusage"
)

// Bounds of headerModels: a header has 64 KiB at most. What is above them is in
// headerUsage alone, and counts as deliberation.OtherLabel.
const (
	maxModels     = 16
	maxModelBytes = 128 // as encoded
)

// Message is a CloudEvent on NATS: the parts of a nats.Msg, without NATS.
type Message struct {
	Subject string
	Header  map[string][]string
	Data    []byte
}

// Encode writes a life-cycle message as the CloudEvent that the journal stores.
// traceParent may be empty.
func Encode(lifecycle proto.Message, source, traceParent string) (Message, error) {
	subject, eventID, err := place(lifecycle)
	if err != nil {
		return Message{}, err
	}
	data, err := MarshalStored(lifecycle)
	if err != nil {
		return Message{}, err
	}
	id := subject[strings.LastIndexByte(subject, '.')+1:]
	header := map[string][]string{
		headerSpec:        {"1.0"},
		headerID:          {eventID},
		headerType:        {Type(lifecycle)},
		headerSource:      {source},
		headerSubject:     {id},
		headerTime:        {time.Now().UTC().Format(time.RFC3339Nano)},
		headerContentType: {Protobuf},
	}
	if trace := validTrace(traceParent); trace != "" {
		header[headerTrace] = []string{trace}
	}
	if requested, ok := lifecycle.(*pb.DeliberationRequested); ok {
		header[headerTimeout] = []string{strconv.Itoa(int(requested.GetTimeoutSeconds()))}
		if tenant := requested.GetTenant(); tenant != "" {
			header[headerTenant] = []string{tenant}
		}
	}
	if usage := usageOf(lifecycle); usage != "" {
		header[headerUsage] = []string{usage}
	}
	if models := modelsOf(lifecycle); models != "" {
		header[headerModels] = []string{models}
	}
	return Message{Subject: subject, Header: header, Data: data}, nil
}

// usageOf returns the header of an end's usage; empty for other messages, and for
// an end without it.
func usageOf(lifecycle proto.Message) string {
	end, ok := lifecycle.(interface{ GetUsage() *pb.Usage })
	if !ok || end.GetUsage() == nil {
		return ""
	}
	return counts(end.GetUsage())
}

func counts(u *pb.Usage) string {
	return fmt.Sprintf("%d,%d,%d,%d,%d", u.GetPromptTokens(), u.GetCompletionTokens(), u.GetCachedTokens(), u.GetReasoningTokens(), u.GetRequests())
}

// modelsOf returns the header of an end's usage by model; empty for other messages, and
// for an end whose results have none. Results that were offloaded are not read.
func modelsOf(lifecycle proto.Message) string {
	end, ok := lifecycle.(interface {
		GetUsage() *pb.Usage
		GetResults() []*pb.DeliberationResult
	})
	if !ok {
		return ""
	}
	byModel := map[string][]*pb.DeliberationResult{}
	var models []string
	for _, result := range end.GetResults() {
		model := url.QueryEscape(result.GetMetadata()["model"])
		if result.GetUsage() == nil || model == "" || len(model) > maxModelBytes {
			continue
		}
		if byModel[model] == nil && len(models) == maxModels {
			continue
		}
		if byModel[model] == nil {
			models = append(models, model)
		}
		byModel[model] = append(byModel[model], result)
	}
	for i, model := range models {
		models[i] = model + "=" + counts(deliberation.UsageOf(byModel[model]))
	}
	return strings.Join(models, "&")
}

// place returns a life-cycle message's journal subject and event id. The ids
// are globally unique, and the same however often an event is sent.
func place(lifecycle proto.Message) (subject, eventID string, err error) {
	switch m := lifecycle.(type) {
	case *pb.DeliberationRequested:
		return Subject(deliberation.KindRequested, m.GetPool(), m.GetDeliberationId()), m.GetDeliberationId() + ".requested", nil
	case *pb.AgentCompleted:
		index := int(m.GetAgentIndex())
		return AgentSubject(index, m.GetDeliberationId()), fmt.Sprintf("%s.agent.%d", m.GetDeliberationId(), index), nil
	}
	end := deliberation.EndState(lifecycle)
	if !end.Ended() {
		return "", "", fmt.Errorf("%s is not written by Go", Type(lifecycle))
	}
	id := lifecycle.(interface{ GetDeliberationId() string }).GetDeliberationId()
	return Subject(deliberation.KindDone, string(end), id), DoneEventID(id), nil
}

// DoneEventID is the event id of a deliberation's end, in the journal and
// wherever the end is announced.
func DoneEventID(id string) string { return id + ".done" }

// Lifecycle reads a journal message back. An object reference in it is left
// to the journal.
func Lifecycle(header map[string][]string, data []byte) (proto.Message, error) {
	name := first(header, headerType)
	messageType, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name))
	if err != nil {
		return nil, fmt.Errorf("event type %q is unknown", name)
	}
	message := messageType.New().Interface()
	if err := UnmarshalStored(data, message); err != nil {
		return nil, err
	}
	return message, nil
}

// Timeout returns the time that a request's header allows.
func Timeout(header map[string][]string) time.Duration {
	seconds, err := strconv.Atoi(first(header, headerTimeout))
	if err != nil {
		seconds = deliberation.DefaultTimeoutSeconds
	}
	return time.Duration(seconds) * time.Second
}

// Tenant returns the tenant in a request's header; empty for none.
func Tenant(header map[string][]string) string {
	return strings.ToValidUTF8(first(header, headerTenant), "\ufffd")
}

// Usage returns the usage in an end's header; nil if it has none, or one that
// cannot be read: an older version wrote the end, or not ours.
func Usage(header map[string][]string) *pb.Usage { return parseCounts(first(header, headerUsage)) }

// ModelUsage returns the usage by model in an end's header, in no order, with what it
// lacks of the end's usage as deliberation.OtherLabel. A part that cannot be read is
// left out.
func ModelUsage(header map[string][]string) []*pb.StatsSnapshot_Model {
	rest := Usage(header)
	if rest == nil {
		return nil
	}
	named, _ := url.ParseQuery(first(header, headerModels)) // it also returns what it can read
	models := make([]*pb.StatsSnapshot_Model, 0, len(named))
	for model, values := range named {
		if usage := parseCounts(values[0]); usage != nil && len(models) < maxModels && utf8.ValidString(model) {
			models = append(models, &pb.StatsSnapshot_Model{Model: model, Usage: usage})
			rest = subtract(rest, usage)
		}
	}
	if rest.GetPromptTokens()+rest.GetCompletionTokens()+rest.GetRequests() > 0 {
		models = append(models, &pb.StatsSnapshot_Model{Model: deliberation.OtherLabel, Usage: rest})
	}
	return models
}

// subtract returns what is left of a usage, 0 at least.
func subtract(from, less *pb.Usage) *pb.Usage {
	return &pb.Usage{
		PromptTokens:     max(0, from.GetPromptTokens()-less.GetPromptTokens()),
		CompletionTokens: max(0, from.GetCompletionTokens()-less.GetCompletionTokens()),
		CachedTokens:     max(0, from.GetCachedTokens()-less.GetCachedTokens()),
		ReasoningTokens:  max(0, from.GetReasoningTokens()-less.GetReasoningTokens()),
		Requests:         max(0, from.GetRequests()-less.GetRequests()),
	}
}

// parseCounts reads the counts of a usage; nil if they cannot be read.
func parseCounts(text string) *pb.Usage {
	parts := strings.Split(text, ",")
	usage := &pb.Usage{}
	fields := []*int64{&usage.PromptTokens, &usage.CompletionTokens, &usage.CachedTokens, &usage.ReasoningTokens, &usage.Requests}
	if len(parts) != len(fields) {
		return nil
	}
	for i, field := range fields {
		count, err := strconv.ParseUint(parts[i], 10, 63)
		if err != nil {
			return nil
		}
		*field = int64(count)
	}
	return usage
}

// Trace returns a journal message's traceparent, empty where it has none.
func Trace(header map[string][]string) string { return first(header, headerTrace) }

// TraceID returns the trace id of a traceparent; empty if it has none.
func TraceID(traceParent string) string {
	if parts := strings.Split(validTrace(traceParent), "-"); len(parts) > 1 {
		return parts[1]
	}
	return ""
}

func first(header map[string][]string, key string) string {
	if values := header[key]; len(values) > 0 {
		return values[0]
	}
	return ""
}
