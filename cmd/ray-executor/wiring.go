// How the commands are wired to NATS, Ray and each other. Start here to see
// what a command talks to: every connection of this program is made in this
// file, from the settings that settings.go has read.

package main

import (
	"context"
	"log/slog"
	"time"

	function "rayexecutor"
	"rayexecutor/config"
	"rayexecutor/journal"
	"rayexecutor/keeper/relay"
	"rayexecutor/ray"
)

// doctorWait bounds how long one call of doctor waits for NATS.
const doctorWait = 3 * time.Second

// connectJournal returns the journal for a part of the service, such as the keeper.
// It does not wait for NATS: the connection is made, and made again after a
// loss, in the background.
func connectJournal(settings config.Config, part string, log *slog.Logger) (*journal.Journal, error) {
	return journal.Connect(function.NATS(settings, part, log))
}

// reach is connectJournal for a command with a user who waits. It returns when NATS has
// answered, or soon with the reason why it cannot be reached.
func reach(ctx context.Context, settings config.Config, part string, log *slog.Logger) (*journal.Journal, error) {
	journal, err := connectJournal(settings, part, log)
	if err != nil {
		return nil, err
	}
	if err := journal.Reach(ctx); err != nil {
		journal.Close()
		return nil, err
	}
	return journal, nil
}

// connectDoctor is connectJournal with a short wait: a check must end soon.
func connectDoctor(settings config.Config, log *slog.Logger) (*journal.Journal, error) {
	reached := function.NATS(settings, "doctor", log)
	reached.Wait = doctorWait
	return journal.Connect(reached)
}

// connectFleet returns the Ray clusters of the settings. Their state includes
// the heartbeats that the workers write to the journal.
func connectFleet(settings config.Config, heartbeats ray.Heartbeats) (*ray.Fleet, error) {
	fleet, err := function.Fleet(settings)
	if err != nil {
		return nil, err
	}
	fleet.Hear(heartbeats)
	return fleet, nil
}

var errNoSink = usagef("K_SINK is not set: set it to the URL that ends are posted to")

// connectRelay returns a relay from the journal to K_SINK. The caller closes the
// journal after it.
func connectRelay(settings config.Config, log *slog.Logger) (*journal.Journal, *relay.Relay, error) {
	if settings.Sink == "" {
		return nil, nil, errNoSink
	}
	sink, err := relay.NewSink(relay.SinkOptions{
		URL: settings.Sink, Extensions: settings.SinkExtensions(), CACerts: settings.SinkCACerts,
	})
	if err != nil {
		return nil, nil, err
	}
	journal, err := connectJournal(settings, "relay", log)
	if err != nil {
		return nil, nil, err
	}
	options := relay.Options{Patience: settings.RelayPatience, Layout: layoutOf(settings)}
	return journal, relay.New(journal, sink, options, log), nil
}

// layoutOf returns the streams and consumers that the settings ask for. deploy
// creates all of them; a relay creates its own if they do not exist.
func layoutOf(settings config.Config) journal.Layout {
	layout := journal.Layout{
		Replicas: settings.JournalReplicas, MaxAge: settings.JournalMaxAge, MaxBytes: settings.JournalMaxBytes, MaxMessages: settings.JournalMaxMessages,
		AgentResponses: settings.AgentResponses, Relay: settings.Sink != "",
	}
	for _, pool := range settings.PoolsEverywhere() {
		layout.Pools = append(layout.Pools, journal.Pool(pool))
	}
	return layout
}
