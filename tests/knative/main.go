// Knative-sender sends events as Knative eventing does: by its own dispatcher,
// with a delivery spec as a Trigger or a Subscription has it. So it is seen,
// not assumed, what Knative retries, what goes to the dead-letter sink, and
// where the reply goes.
//
// It reads one delivery as JSON from stdin and prints what the dispatcher says
// of it. It is a module of its own: what Knative needs stays out of the
// project's.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	v1 "knative.dev/eventing/pkg/apis/duck/v1"
	"knative.dev/eventing/pkg/eventingtls"
	"knative.dev/eventing/pkg/kncloudevents"
	"knative.dev/pkg/apis"
	duckv1 "knative.dev/pkg/apis/duck/v1"
)

// delivery is an event and where it goes.
type delivery struct {
	Event event.Event `json:"event"`
	// Data goes into the event as it is, whatever its content type.
	Data       []byte          `json:"data"`
	Sink       string          `json:"sink"`
	Reply      string          `json:"reply"`
	DeadLetter string          `json:"dead_letter"`
	Spec       v1.DeliverySpec `json:"spec"`
}

// outcome is what the dispatcher says of the last request that it made.
type outcome struct {
	Status int    `json:"status"`
	Body   string `json:"body"`
	Error  string `json:"error,omitempty"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	var d delivery
	if err := json.NewDecoder(os.Stdin).Decode(&d); err != nil {
		return fmt.Errorf("read the delivery: %w", err)
	}
	d.Event.DataEncoded = d.Data
	options, err := d.options()
	if err != nil {
		return err
	}
	sink, err := addressable(d.Sink)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	info, err := kncloudevents.NewDispatcher(eventingtls.NewDefaultClientConfig(), nil).SendEvent(ctx, d.Event, *sink, options...)
	said := outcome{Status: info.ResponseCode, Body: string(info.ResponseBody)}
	if err != nil {
		said.Error = err.Error()
	}
	return json.NewEncoder(os.Stdout).Encode(said)
}

// options are what a Trigger's delivery spec makes of a dispatch.
func (d *delivery) options() ([]kncloudevents.SendOption, error) {
	retries, err := kncloudevents.RetryConfigFromDeliverySpec(d.Spec)
	if err != nil {
		return nil, err
	}
	options := []kncloudevents.SendOption{kncloudevents.WithRetryConfig(&retries), kncloudevents.WithEventFormat(d.Spec.Format)}
	for _, to := range []struct {
		url    string
		option func(*duckv1.Addressable) kncloudevents.SendOption
	}{{d.Reply, kncloudevents.WithReply}, {d.DeadLetter, kncloudevents.WithDeadLetterSink}} {
		if to.url == "" {
			continue
		}
		target, err := addressable(to.url)
		if err != nil {
			return nil, err
		}
		options = append(options, to.option(target))
	}
	return options, nil
}

func addressable(url string) (*duckv1.Addressable, error) {
	parsed, err := apis.ParseURL(url)
	if err != nil {
		return nil, err
	}
	return &duckv1.Addressable{URL: parsed}, nil
}
