package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// survey looks at the streams that are there, and returns the needs that are to
// be made. It fails where one of them could not be made, or would take what
// belongs to somebody else, before anything is made.
//
// A need that only listeners read is met by whichever streams have its
// subjects: publishing goes by subject.
func (j *Journal) survey(ctx context.Context, needs []need) ([]need, error) {
	var missing []need
	for _, need := range needs {
		others, ours, err := j.found(ctx, need)
		if err != nil {
			return nil, err
		}
		if ours != nil {
			if why := unchangeable(ours.Config, need.stream); why != "" {
				return nil, conflict(need, ours, why+", which no update changes: back it up, delete it and deploy again")
			}
		}
		subjects, err := need.left(others)
		if err != nil {
			return nil, err
		}
		if len(subjects) > 0 {
			missing = append(missing, need.on(j, subjects))
		}
	}
	return missing, nil
}

// found returns the need's own stream, nil where there is none, and the others
// that have its name or a part of its subjects.
func (j *Journal) found(ctx context.Context, need need) (others []*jetstream.StreamInfo, ours *jetstream.StreamInfo, err error) {
	names := []string{need.stream.Name}
	for _, subject := range need.stream.Subjects {
		lister := j.js.StreamNames(ctx, jetstream.WithStreamListSubject(subject))
		for name := range lister.Name() {
			names = append(names, name)
		}
		if err := lister.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
			return nil, nil, j.failed("look for streams that have "+subject, err)
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		stream, err := j.js.Stream(ctx, name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
		case err != nil:
			return nil, nil, j.failed("look at the stream "+name, err)
		case need.owns(stream.CachedInfo().Config):
			ours = stream.CachedInfo()
		default:
			others = append(others, stream.CachedInfo())
		}
	}
	return others, ours, nil
}

// owns tells the need's own stream from one of somebody else with its name.
// What listeners read is ours only by its description: the fleet may have the
// same.
func (n need) owns(stream jetstream.StreamConfig) bool {
	if stream.Name != n.stream.Name {
		return false
	}
	if n.kept != nil {
		return stream.Description == n.stream.Description
	}
	return slices.ContainsFunc(stream.Subjects, func(subject string) bool {
		return slices.Contains(n.stream.Subjects, subject)
	})
}

// unchangeable says what of a stream the server refuses to change to what is
// needed; empty where it can.
func unchangeable(there, needed jetstream.StreamConfig) string {
	switch {
	case there.Storage != needed.Storage:
		return fmt.Sprintf("is stored in %s, not in %s", strings.ToLower(there.Storage.String()), strings.ToLower(needed.Storage.String()))
	case there.Retention == jetstream.WorkQueuePolicy:
		return "is a work queue"
	case there.Sealed:
		return "is sealed"
	default:
		return ""
	}
}

// left returns the subjects that the need's own stream is to have, besides what
// other streams keep; none where they keep it all.
func (n need) left(others []*jetstream.StreamInfo) ([]string, error) {
	if len(others) == 0 {
		return n.stream.Subjects, nil
	}
	if n.kept == nil {
		return nil, n.taken(others[0])
	}
	var left []string
	for _, subject := range n.kept {
		at := slices.IndexFunc(others, func(other *jetstream.StreamInfo) bool { return covers(other.Config, subject) })
		if at < 0 {
			left = append(left, subject)
			continue
		}
		if why := unfit(others[at]); why != "" {
			return nil, conflict(n, others[at], why)
		}
	}
	if len(left) == 0 {
		return nil, nil
	}
	return left, n.partly(others, left)
}

// taken is the error where only the need's own stream will do.
func (n need) taken(other *jetstream.StreamInfo) error {
	if other.Config.Name == n.stream.Name {
		return conflict(n, other, "is somebody else's: set NATS_PREFIX, so that ours has another name")
	}
	return conflict(n, other, "takes what only the "+n.what+" may have: give it other subjects, or use another NATS account for the ray-executor")
}

// partly is the error where other streams have some subjects, and ours cannot
// have those that are left.
func (n need) partly(others []*jetstream.StreamInfo, left []string) error {
	at := slices.IndexFunc(others, func(other *jetstream.StreamInfo) bool { return other.Config.Name == n.stream.Name })
	switch {
	case at >= 0:
		return conflict(n, others[at], "is somebody else's and does not keep "+strings.Join(left, ", ")+": add the subjects to it, or set NATS_PREFIX, so that ours has another name")
	case !n.rest:
		return conflict(n, others[0], "keeps a part of that, and not "+strings.Join(left, ", ")+": add the subjects to it, or give it other ones")
	default:
		return nil
	}
}

// on returns the need with fewer subjects.
func (n need) on(j *Journal, subjects []string) need {
	if n.kept == nil {
		return n
	}
	config := n.stream
	config.Subjects = subjects
	return j.streamNeed(config)
}

// conflict says that a stream stands in a need's way, and what to do.
func conflict(need need, other *jetstream.StreamInfo, text string) error {
	subjects := "no subjects"
	if len(other.Config.Subjects) > 0 {
		subjects = "the subjects " + strings.Join(other.Config.Subjects, ", ")
	}
	return permanently("NATS_URL", fmt.Sprintf("cannot make the %s with the subjects %s, and has made nothing: the stream %s, with %s, %s",
		need.what, strings.Join(need.stream.Subjects, ", "), other.Config.Name, subjects, text), nil)
}

// unfit says why a stream of somebody else cannot keep what listeners hear;
// empty where it can.
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

// covers reports whether a stream stores a subject, which has no wildcards.
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
