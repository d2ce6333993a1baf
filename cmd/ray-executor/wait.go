package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// sayEvery is how often a wait that goes on is told of.
	sayEvery = 10 * time.Second
	// serverPatience is how long awaitServer waits: the server connects to a
	// NATS that has answered before.
	serverPatience = time.Minute
)

// during does something that may take long, and says every ten seconds that it
// is still at it, and since when.
func during(say func(line string), still string, do func() error) error {
	started, ended := time.Now(), make(chan error, 1)
	go func() { ended <- do() }()
	ticker := time.NewTicker(sayEvery)
	defer ticker.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-ticker.C:
			say(fmt.Sprintf("%s, %.0f s", still, time.Since(started).Seconds()))
		}
	}
}

// awaitServer waits until a function server is ready.
func awaitServer(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, serverPatience)
	defer cancel()
	for {
		_, err := checkServer(ctx, url)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
