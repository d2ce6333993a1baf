// Command lambda is the functions on AWS Lambda: the `bootstrap` of a custom
// runtime (provided.al2023). FUNCTIONS narrows what it serves; docs/lambda.md
// says how to deploy it.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	awslambda "github.com/aws/aws-lambda-go/lambda"

	function "rayexecutor"
	"rayexecutor/config"
	"rayexecutor/lambda"
)

func main() {
	settings, err := config.Load(os.Environ())
	if err != nil {
		fmt.Fprintln(os.Stderr, "ray-executor:", err)
		os.Exit(1)
	}
	if settings.Auth == "" {
		settings.Auth = "none" // nothing reaches a Lambda function but what IAM lets in
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: settings.LogLevel}))
	served := start(settings, log)
	// Asking for SIGTERM makes Lambda announce the end, which it else does not.
	awslambda.StartWithOptions(lambda.NewHost(served, log).Invoke, awslambda.WithEnableSIGTERM(func() {
		_ = served.function.Stop(context.Background()) // it closes, and cannot fail
		os.Exit(0)
	}))
}

// starting is a function whose start continues while the runtime registers:
// dialling NATS can wait, the first invocation cannot.
type starting struct {
	function *function.Function
	started  chan struct{}
}

// start begins to start. Settings that are no good end the process, which
// Lambda reports with what was logged.
func start(settings config.Config, log *slog.Logger) *starting {
	s := &starting{function: function.New(), started: make(chan struct{})}
	go func() {
		if err := s.function.StartWith(settings, log); err != nil {
			log.Error("cannot start", "error", err)
			os.Exit(1)
		}
		close(s.started)
	}()
	return s
}

// Handle implements lambda.Function.
func (s *starting) Handle(w http.ResponseWriter, r *http.Request) { s.function.Handle(w, r) }

// Wake implements lambda.Function.
func (s *starting) Wake(ctx context.Context, idle time.Duration) error {
	select {
	case <-s.started:
		return s.function.Wake(ctx, idle)
	case <-ctx.Done():
		return fmt.Errorf("start: %w", ctx.Err())
	}
}
