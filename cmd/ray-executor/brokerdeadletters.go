// ray-executor broker-dead-letters receives the dead letters of a Knative
// broker and logs each one. They are events that no trigger accepted; a
// deliberation's dead letters are those of the command dead.

package main

import (
	"log/slog"
	"net/http"

	"github.com/cloudevents/sdk-go/v2/binding"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/oklog/run"
	"github.com/spf13/cobra"
)

// maxDeadLetter is above the largest event that the functions accept.
const maxDeadLetter = 4 << 20

func (p program) brokerDeadLettersCommand() *cobra.Command {
	return &cobra.Command{
		Use: "broker-dead-letters",
		// In manifests of the version before; a rolling upgrade changes the image first.
		Aliases: []string{"dead-letters"},
		Short:   "Receive the dead letters of a Knative broker and log each one",
		Long: `Receive the dead letters of a Knative broker: POST / on PORT with a CloudEvent.
The command logs each event in full, as one line, with the reason that Knative
gives (knativeerrorcode, knativeerrordata, knativeerrordest). The field "event" of
the line can be posted to the broker again.`,
		Example: `  PORT=8080 HOST=0.0.0.0 ray-executor broker-dead-letters`,
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			settings, log, err := p.load()
			if err != nil {
				return err
			}
			listeners, err := portSetting{"PORT", settings.Port}.listen(command.Context(), settings.BareHost)
			if err != nil {
				return err
			}
			server := newServer(brokerDeadLetters(log))
			var group run.Group
			for _, listener := range listeners {
				addServer(&group, server, listener, p.force)
			}
			group.Add(run.ContextHandler(command.Context()))
			return group.Run()
		},
	}
}

// brokerDeadLetters answers 202 once an event is in the log. It answers 400 to a
// request without an event, which the broker then drops: nobody could send it
// again.
func brokerDeadLetters(log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health/liveness", alive)
	mux.HandleFunc("GET /health/readiness", alive)
	mux.HandleFunc("POST /{$}", func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxDeadLetter)
		event, err := binding.ToEvent(r.Context(), cehttp.NewMessageFromHttpRequest(r))
		if err != nil {
			log.Warn("the request has no CloudEvent", "error", err)
			http.Error(w, "not a CloudEvent: send one in binary or structured mode", http.StatusBadRequest)
			return
		}
		log.Error("dead letter", "id", event.ID(), "type", event.Type(), "source", event.Source(), "event", event)
		w.WriteHeader(http.StatusAccepted)
	})
	return mux
}
