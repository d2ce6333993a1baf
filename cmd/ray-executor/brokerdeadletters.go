package main

import (
	"log/slog"
	"net/http"

	"github.com/cloudevents/sdk-go/v2/binding"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/oklog/run"
	"github.com/spf13/cobra"
)

// maxDeadLetter is more than any event that the functions take.
const maxDeadLetter = 4 << 20

func (p program) brokerDeadLettersCommand() *cobra.Command {
	return &cobra.Command{
		Use: "broker-dead-letters",
		// In manifests of the version before; a rolling upgrade changes the image first.
		Aliases: []string{"dead-letters"},
		Short:   "Receive the dead letters of a Knative broker and log each one",
		Long: `Take a Knative broker's dead letters on PORT: POST / with a CloudEvent. Each is
logged whole, as one line, with what Knative says of why it is dead
(knativeerrorcode, knativeerrordata, knativeerrordest): whatever keeps the logs
keeps it, and "event" in it can be posted to the broker again.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			settings, log, err := p.load()
			if err != nil {
				return err
			}
			listeners, err := portSetting{"PORT", settings.Port}.listen(command.Context(), settings.Host)
			if err != nil {
				return err
			}
			server := newServer(deadLetters(log))
			var group run.Group
			for _, listener := range listeners {
				addServer(&group, server, listener, p.hurry)
			}
			group.Add(run.ContextHandler(command.Context()))
			return group.Run()
		},
	}
}

// deadLetters answers 400 to what is no event: nobody could send it again.
func deadLetters(log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health/liveness", alive)
	mux.HandleFunc("GET /health/readiness", alive)
	mux.HandleFunc("POST /{$}", func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxDeadLetter)
		event, err := binding.ToEvent(r.Context(), cehttp.NewMessageFromHttpRequest(r))
		if err != nil {
			log.Warn("not a CloudEvent", "error", err)
			http.Error(w, "not a CloudEvent", http.StatusBadRequest)
			return
		}
		log.Error("dead letter", "id", event.ID(), "type", event.Type(), "source", event.Source(), "event", event)
		w.WriteHeader(http.StatusAccepted)
	})
	return mux
}
