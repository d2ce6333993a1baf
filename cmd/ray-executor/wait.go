// Waits that may take long, with a line of progress every ten seconds.

package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// reportEvery is the pause between the reports of a long wait.
	reportEvery = 10 * time.Second
	// serverTimeout bounds awaitServer. The server's NATS has answered before.
	serverTimeout = time.Minute
)

// during runs do. While it lasts, it reports every ten seconds what is still in
// progress, and for how long.
func during(report func(line string), inProgress string, do func() error) error {
	started, ended := time.Now(), make(chan error, 1)
	go func() { ended <- do() }()
	ticker := time.NewTicker(reportEvery)
	defer ticker.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-ticker.C:
			report(fmt.Sprintf("%s, %.0f s", inProgress, time.Since(started).Seconds()))
		}
	}
}

// awaitServer waits until a function server is ready. Its error has the last
// reason why the server was not.
func awaitServer(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, serverTimeout)
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
