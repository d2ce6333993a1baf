package journal

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go/jetstream"
)

// Responses is the stream that keeps the agents' responses where the fleet has
// none that does.
const Responses = "AGENT_RESPONSES"

// responsesDescription also tells our stream from one of the fleet's that has
// the same name.
const responsesDescription = "What Orchestrators of the Python service hear of each agent, from the ray-executor."

// dropResponder takes the Responder's consumer away, so that it starts afresh
// when it is wanted again.
func (j *Journal) dropResponder(ctx context.Context) error {
	err := j.js.DeleteConsumer(ctx, j.name(Stream), Responder.consumer)
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return j.refused("take away the consumer "+Responder.consumer, err)
	}
	return nil
}
