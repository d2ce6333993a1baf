package events

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"rayexecutor/deliberation"
)

// Journal subjects are `deliberation.<kind>.<qualifier>.<deliberation_id>`.
const (
	// JournalSubjects covers all of them.
	JournalSubjects = "deliberation.*.*.*"
	// DoneSubjects covers the ends.
	DoneSubjects = "deliberation.done.*.*"
	// RequestedSubjects covers the requests of all pools.
	RequestedSubjects = "deliberation.requested.*.*"
	// AnnouncementSubjects covers the announced ends, which the Orchestrator reads.
	AnnouncementSubjects = "orchestration.deliberation.*"

	// ResponseSubjects covers the responses of single agents, which Orchestrators of
	// the Python service read: ResponseCompleted or ResponseFailed.
	ResponseSubjects  = "agent.response.>"
	ResponseCompleted = "agent.response.completed"
	ResponseFailed    = "agent.response.failed"
	// ResponseReview and ResponseExtraction are those of ResponseCompleted that belong
	// to the backlog review: its consumers read no other subject.
	ResponseReview     = ResponseCompleted + ".backlog-review.role"
	ResponseExtraction = ResponseCompleted + ".task-extraction"
)

// ResponseSubject returns the subject of an agent's response, by its event type and
// the task: the Python service chooses alike. Task ids of the backlog review are
// `ceremony-…:role-…` and `…:task-extraction`.
func ResponseSubject(eventType, taskID, taskType string) string {
	switch {
	case eventType != ResponseCompleted:
		return eventType
	case taskType == "TASK_EXTRACTION" || strings.HasSuffix(taskID, ":task-extraction"):
		return ResponseExtraction
	case taskType == "BACKLOG_REVIEW_ROLE" || strings.HasPrefix(taskID, "ceremony-") && strings.Contains(taskID, ":role-"):
		return ResponseReview
	default:
		return eventType
	}
}

// Subject returns the journal subject of an event.
func Subject(kind deliberation.Kind, qualifier, id string) string {
	return "deliberation." + string(kind) + "." + qualifier + "." + id
}

// AgentSubject returns the subject of the agent at a place in the request.
func AgentSubject(index int, id string) string {
	return Subject(deliberation.KindAgent, strconv.Itoa(index), id)
}

// HistorySubject covers all events of one deliberation. Every writer of a request
// names this wildcard in its compare-and-set.
func HistorySubject(id string) string { return Subject("*", "*", id) }

// EndSubject covers one deliberation's end. Every writer of an end names this
// wildcard in its compare-and-set, in exactly this form: the server tracks
// messages in flight by that string.
func EndSubject(id string) string { return Subject(deliberation.KindDone, "*", id) }

// PoolSubject covers the requests of one pool.
func PoolSubject(pool string) string { return Subject(deliberation.KindRequested, pool, "*") }

// AnnouncementSubject is the subject on which an end is announced.
func AnnouncementSubject(end deliberation.State) string {
	return "orchestration.deliberation." + string(end)
}

// ParseSubject takes a journal subject apart; ok is false for any other.
func ParseSubject(subject string) (kind deliberation.Kind, qualifier, id string, ok bool) {
	tokens := strings.Split(subject, ".")
	if !utf8.ValidString(subject) || len(tokens) != 4 || tokens[0] != "deliberation" || tokens[2] == "" || tokens[3] == "" {
		return "", "", "", false
	}
	kind = deliberation.Kind(tokens[1])
	switch kind {
	case deliberation.KindRequested, deliberation.KindStarted, deliberation.KindAgent, deliberation.KindDone:
		return kind, tokens[2], tokens[3], true
	default:
		return "", "", "", false
	}
}
