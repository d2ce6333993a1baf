package events

import (
	"strconv"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

// cannotBeRead replaces a text that cannot be decoded.
const cannotBeRead = "the journal's message cannot be read"

// Stored decodes a journal message. If it cannot be decoded, or does not match its
// subject, the event has only what the subject and the headers say, and unread is
// the reason. So a history still has its request, or its end. The event is nil if
// the subject is not one of the journal's.
func Stored(subject string, header map[string][]string, data []byte) (event proto.Message, unread error) {
	event, unread = Lifecycle(header, data)
	kind, qualifier, id, ok := ParseSubject(subject)
	bare := bare(kind, qualifier, id, header)
	if !ok || bare == nil {
		return nil, unread
	}
	if unread == nil {
		unread = checkSubject(event, bare, id)
	}
	if unread != nil {
		return bare, unread
	}
	return event, nil
}

// checkSubject is an error unless an event has the type and the id of its subject.
func checkSubject(event, bare proto.Message, id string) error {
	about, ok := event.(interface{ GetDeliberationId() string })
	if !ok || event.ProtoReflect().Descriptor() != bare.ProtoReflect().Descriptor() || about.GetDeliberationId() != id {
		return errMisplaced
	}
	return nil
}

type misplacedError struct{}

func (misplacedError) Error() string { return "its event is not the one that its subject names" }

var errMisplaced misplacedError

// bare is the event that a subject names, without its content; nil if it names none.
func bare(kind deliberation.Kind, qualifier, id string, header map[string][]string) proto.Message {
	switch kind {
	case deliberation.KindRequested:
		return &pb.DeliberationRequested{DeliberationId: id, Pool: qualifier, TimeoutSeconds: int32(Timeout(header).Seconds())}
	case deliberation.KindStarted:
		return &pb.DeliberationStarted{DeliberationId: id, Attempt: 1}
	case deliberation.KindAgent:
		index, err := strconv.ParseInt(qualifier, 10, 32)
		if err != nil {
			return nil
		}
		return &pb.AgentCompleted{DeliberationId: id, AgentIndex: int32(index), Result: &pb.DeliberationResult{
			Metadata: map[string]string{"status": "failed", "error_type": string(deliberation.Damaged), "error": cannotBeRead},
		}}
	case deliberation.KindDone:
		return bareEnd(deliberation.State(qualifier), id)
	default:
		return nil
	}
}

func bareEnd(end deliberation.State, id string) proto.Message {
	switch end {
	case deliberation.Completed:
		return &pb.DeliberationCompleted{DeliberationId: id}
	case deliberation.Failed:
		return &pb.DeliberationFailed{DeliberationId: id, ErrorMessage: cannotBeRead}
	case deliberation.Cancelled:
		return &pb.DeliberationCancelled{DeliberationId: id, Reason: cannotBeRead}
	default:
		return nil
	}
}

// Shorten returns a message whose own texts take no more than so many bytes
// each: what cannot be sent otherwise. The deliberation's id and names of
// objects stay.
func Shorten(message proto.Message, most int) proto.Message {
	short := proto.Clone(message)
	reflected := short.ProtoReflect()
	reflected.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		if field.Kind() == protoreflect.StringKind && !field.IsList() && !field.IsMap() && field.Name() != "deliberation_id" {
			reflected.Set(field, protoreflect.ValueOfString(Cut(value.String(), most)))
		}
		return true
	})
	return short
}

// Cut returns a text that takes no more than so many bytes, with a mark at its
// end where it is cut.
func Cut(text string, most int) string {
	const mark = "…"
	if len(text) <= most {
		return text
	}
	end := max(0, most-len(mark))
	for end > 0 && text[end]&0xC0 == 0x80 { // within a character
		end--
	}
	return text[:end] + mark
}
