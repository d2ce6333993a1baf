package standin

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"
)

const (
	defaultAddress     = "127.0.0.1:8000"
	defaultRecord      = 10_000
	defaultRecordText  = 16 << 10
	defaultGrace       = 5 * time.Second
	maxRecord          = 1_000_000
	defaultModel       = "standin"
	maxModelNameLength = 256
)

// Options say what a Server serves. The zero value is good: any model, no key.
type Options struct {
	// Address is where Serve listens. Empty: 127.0.0.1:8000.
	Address string
	// Models are the models that exist; others get vLLM's 404. Empty: every
	// model exists.
	Models []string
	// APIKey is wanted as bearer token on everything but /health and
	// /metrics. Empty: none is.
	APIKey string
	// Default is what models do that have no behaviour of their own.
	Default Behaviour
	// Behaviours are what models do, by name.
	Behaviours map[string]Behaviour
	// Record is how many of the last requests are recorded; 0: 10,000.
	Record int
	// RecordText is how many bytes of each message are recorded; 0: 16 KiB.
	RecordText int
	// Grace is how long answers under way may take once Serve is to stop; 0:
	// 5 s. Hanging requests are ended at once.
	Grace time.Duration
	// Logger hears of starts, stops and, at debug level, of every request.
	// Nil: slog.Default.
	Logger *slog.Logger
}

// withDefaults is the options with what was left out.
func (o Options) withDefaults() Options {
	o.Address = cmp.Or(o.Address, defaultAddress)
	o.Record = cmp.Or(o.Record, defaultRecord)
	o.RecordText = cmp.Or(o.RecordText, defaultRecordText)
	o.Grace = cmp.Or(o.Grace, defaultGrace)
	o.Logger = cmp.Or(o.Logger, slog.Default())
	o.Models = slices.Clone(o.Models)
	return o
}

// validate returns everything that is wrong. The defaults must be filled in.
func (o Options) validate() error {
	var errs []error
	if _, _, err := net.SplitHostPort(o.Address); err != nil {
		errs = append(errs, fmt.Errorf("address %q: want host:port, for example %s", o.Address, defaultAddress))
	}
	if o.Record < 1 || o.Record > maxRecord {
		errs = append(errs, fmt.Errorf("record: %d is out of range, want 1 to %d requests", o.Record, maxRecord))
	}
	if o.RecordText < 1 {
		errs = append(errs, fmt.Errorf("record_text: %d is out of range, want at least 1 byte", o.RecordText))
	}
	if o.Grace < 0 {
		errs = append(errs, fmt.Errorf("grace: %v is negative, want 0 or more", o.Grace))
	}
	for i, model := range o.Models {
		if err := checkModelName(model); err != nil {
			errs = append(errs, fmt.Errorf("models[%d]: %w", i, err))
		}
	}
	errs = append(errs, o.validateBehaviours())
	return errors.Join(errs...)
}

func (o Options) validateBehaviours() error {
	var errs []error
	for model := range o.Behaviours {
		if err := o.checkServed(model); err != nil {
			errs = append(errs, fmt.Errorf("behaviours: %w", err))
		}
	}
	return errors.Join(errs...)
}

// checkServed returns why a model cannot have a behaviour of its own.
func (o Options) checkServed(model string) error {
	if err := checkModelName(model); err != nil {
		return err
	}
	if !o.serves(model) {
		return fmt.Errorf("model %q is not served: name one of %s, or add it to the models",
			model, strings.Join(o.Models, ", "))
	}
	return nil
}

// serves reports whether the model exists.
func (o Options) serves(model string) bool {
	return len(o.Models) == 0 || slices.Contains(o.Models, model)
}

// modelOf is the model that answers a request; vLLM too takes its own where
// none is named.
func (o Options) modelOf(named string) string {
	if named != "" {
		return named
	}
	if len(o.Models) > 0 {
		return o.Models[0]
	}
	return defaultModel
}

func checkModelName(model string) error {
	if model == "" || len(model) > maxModelNameLength {
		return fmt.Errorf("model name of %d bytes, want 1 to %d", len(model), maxModelNameLength)
	}
	return nil
}
