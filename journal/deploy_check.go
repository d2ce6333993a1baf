package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// check compares what is required with the streams that exist, and returns what
// is to be created or updated. It fails if one requirement could not be created,
// or would take the subjects or the name of another owner. It changes nothing.
func (j *Journal) check(ctx context.Context, required []requirement) ([]requirement, error) {
	var missing []requirement
	for _, one := range required {
		others, ours, err := j.find(ctx, one)
		if err != nil {
			return nil, err
		}
		if ours != nil {
			if why := unchangeable(ours.Config, one.stream); why != "" {
				return nil, conflict(one, ours, why+", which no update changes: back it up, delete it and deploy again")
			}
		}
		subjects, err := one.uncovered(others)
		if err != nil {
			return nil, err
		}
		if len(subjects) > 0 {
			missing = append(missing, one.withSubjects(j, subjects))
		}
	}
	return missing, nil
}

// find returns our own stream for a requirement, nil if there is none, and the
// other streams that have its name or some of its subjects.
func (j *Journal) find(ctx context.Context, required requirement) (others []*jetstream.StreamInfo, ours *jetstream.StreamInfo, err error) {
	names := []string{required.stream.Name}
	for _, subject := range required.stream.Subjects {
		lister := j.js.StreamNames(ctx, jetstream.WithStreamListSubject(subject))
		for name := range lister.Name() {
			names = append(names, name)
		}
		if err := lister.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
			return nil, nil, j.failed("list the streams that have "+subject, err)
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		stream, err := j.js.Stream(ctx, name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
		case err != nil:
			return nil, nil, j.failed("read the stream "+name, err)
		case required.owns(stream.CachedInfo().Config):
			ours = stream.CachedInfo()
		default:
			others = append(others, stream.CachedInfo())
		}
	}
	return others, ours, nil
}

// owns reports whether a stream is ours rather than another owner's of the same
// name. The subjects say so for a stream that only we can have. A shared stream
// is ours only by its description, because the fleet's has the same subjects.
func (r requirement) owns(stream jetstream.StreamConfig) bool {
	if stream.Name != r.stream.Name {
		return false
	}
	if r.shared != nil {
		return stream.Description == r.stream.Description
	}
	return slices.ContainsFunc(stream.Subjects, func(subject string) bool {
		return slices.Contains(r.stream.Subjects, subject)
	})
}

// unchangeable says which setting of an existing stream the server refuses to
// update to what is required; empty if there is none.
func unchangeable(existing, required jetstream.StreamConfig) string {
	switch {
	case existing.Storage != required.Storage:
		return fmt.Sprintf("is stored in %s, not in %s", strings.ToLower(existing.Storage.String()), strings.ToLower(required.Storage.String()))
	case existing.Retention == jetstream.WorkQueuePolicy:
		return "is a work queue"
	case existing.Sealed:
		return "is sealed"
	default:
		return ""
	}
}

// uncovered returns the subjects that our own stream must have: all, or those
// that no other stream stores. None: other streams store them all.
func (r requirement) uncovered(others []*jetstream.StreamInfo) ([]string, error) {
	if len(others) == 0 {
		return r.stream.Subjects, nil
	}
	if r.shared == nil {
		return nil, r.errTaken(others[0])
	}
	var uncovered []string
	for _, subject := range r.shared {
		at := slices.IndexFunc(others, func(other *jetstream.StreamInfo) bool { return covers(other.Config, subject) })
		if at < 0 {
			uncovered = append(uncovered, subject)
			continue
		}
		if why := unfit(others[at]); why != "" {
			return nil, conflict(r, others[at], why)
		}
	}
	if len(uncovered) == 0 {
		return nil, nil
	}
	return uncovered, r.checkPartial(others, uncovered)
}

// errTaken is the error if another stream has the name or the subjects of a
// stream that only we can have.
func (r requirement) errTaken(other *jetstream.StreamInfo) error {
	if other.Config.Name == r.stream.Name {
		return conflict(r, other, "has another owner: set NATS_PREFIX, so that ours has another name")
	}
	return conflict(r, other, "takes what only the "+r.what+" may have: give it other subjects, or use another NATS account for the ray-executor")
}

// checkPartial is an error if our stream cannot have the uncovered subjects
// alone: its name is taken, or listeners need all subjects in one stream.
func (r requirement) checkPartial(others []*jetstream.StreamInfo, uncovered []string) error {
	at := slices.IndexFunc(others, func(other *jetstream.StreamInfo) bool { return other.Config.Name == r.stream.Name })
	switch {
	case at >= 0:
		return conflict(r, others[at], "has another owner and does not store "+strings.Join(uncovered, ", ")+": add the subjects to it, or set NATS_PREFIX, so that ours has another name")
	case !r.partial:
		return conflict(r, others[0], "stores a part of that, and not "+strings.Join(uncovered, ", ")+": add the subjects to it, or give it other ones")
	default:
		return nil
	}
}

// withSubjects returns a shared requirement with fewer subjects.
func (r requirement) withSubjects(j *Journal, subjects []string) requirement {
	if r.shared == nil {
		return r
	}
	config := r.stream
	config.Subjects = subjects
	return j.requireStream(config)
}

// conflict is the error that names a conflicting stream and what to do about it.
func conflict(required requirement, other *jetstream.StreamInfo, text string) error {
	subjects := "no subjects"
	if len(other.Config.Subjects) > 0 {
		subjects = "the subjects " + strings.Join(other.Config.Subjects, ", ")
	}
	return permanently("NATS_URL", fmt.Sprintf("cannot create the %s with the subjects %s, and has created nothing: the stream %s, with %s, %s",
		required.what, strings.Join(required.stream.Subjects, ", "), other.Config.Name, subjects, text), nil)
}

// unfit says why a stream of another owner cannot store announcements; empty if
// it can. A publish to such a stream would fail for good.
func unfit(other *jetstream.StreamInfo) string {
	config, state := other.Config, other.State
	full := config.MaxBytes > 0 && int64(state.Bytes) >= config.MaxBytes || config.MaxMsgs > 0 && int64(state.Msgs) >= config.MaxMsgs
	switch {
	case config.Sealed:
		return "covers it, but is sealed: give it other subjects"
	case config.NoAck:
		return "covers it, but acknowledges nothing (no_ack): switch that off, or give it other subjects"
	case config.MaxMsgSize > 0 && config.MaxMsgSize < maxMessageBytes:
		return fmt.Sprintf("covers it, but takes only messages of %d bytes: raise its max_msg_size to %d", config.MaxMsgSize, maxMessageBytes)
	case config.Discard == jetstream.DiscardNew && config.DiscardNewPerSubject:
		return "covers it, but takes no more once a subject has its messages: switch discard_new_per_subject off"
	case config.Discard == jetstream.DiscardNew && full:
		return "covers it, but is full and discards what is new: make room in it, or let it discard what is old"
	default:
		return ""
	}
}

// covers reports whether a stream stores a subject, which has no wildcards. `*`
// matches one token, `>` one or more at the end.
func covers(stream jetstream.StreamConfig, subject string) bool {
	return slices.ContainsFunc(stream.Subjects, func(pattern string) bool {
		tokens := strings.Split(subject, ".")
		for i, token := range strings.Split(pattern, ".") {
			if token == ">" {
				return i < len(tokens)
			}
			if i >= len(tokens) || token != "*" && token != tokens[i] {
				return false
			}
		}
		return len(tokens) == len(strings.Split(pattern, "."))
	})
}
