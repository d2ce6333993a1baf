package ray

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	// poll is how often the rollout is looked at.
	poll = time.Second
	// tolerated is how long the dashboard may fail to answer meanwhile.
	tolerated = 30 * time.Second
)

// errStarting means that nothing is wrong yet.
var errStarting = errors.New("not there yet")

// colour is a terminal escape sequence.
var colour = regexp.MustCompile(`\x1b\[[0-9;]*m`)

// wait returns once all replicas run, or says why they do not.
func (d *rollout) wait(ctx context.Context) error {
	watch := &watch{rollout: d, answered: time.Now()}
	_, err := backoff.Retry(ctx, func() (struct{}, error) { return struct{}{}, watch.look(ctx) },
		backoff.WithBackOff(backoff.NewConstantBackOff(poll)), backoff.WithMaxElapsedTime(0))
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("cluster %q: the worker does not run yet, %w: %s",
			d.client.Name(), context.Cause(ctx), watch.last)
	}
	return err
}

// watch follows a rollout.
type watch struct {
	*rollout

	// last is the line that was reported last.
	last     string
	answered time.Time
}

// look asks once. Its error is permanent, unless waiting may help.
func (w *watch) look(ctx context.Context) error {
	serve, err := w.client.instance(ctx)
	if err != nil {
		w.report(err.Error())
		if time.Since(w.answered) > tolerated {
			return backoff.Permanent(err)
		}
		return err
	}
	w.answered = time.Now()
	app, deployed := serve.Applications[Application]
	if !deployed || (given(app.Config) != nil && !w.same(app.Config)) {
		return backoff.Permanent(fmt.Errorf("cluster %q: someone else has just changed the Serve applications, "+
			"and the worker with them: find out who, then deploy again", w.client.Name()))
	}
	return w.judge(&app)
}

// judge returns how far the application is.
func (w *watch) judge(app *application) error {
	w.report(app.progress())
	_, complete := app.complete()
	switch {
	case complete:
		return nil
	case app.Status == statusDeployFailed:
		return backoff.Permanent(fmt.Errorf("cluster %q: the worker failed to deploy: %s", w.client.Name(), app.why()))
	}
	return errStarting
}

// report reports a line if it has changed.
func (w *watch) report(line string) {
	if line != w.last {
		w.last = line
		w.say("%s", line)
	}
}

// failed reports whether waiting alone will not make the application run.
func (a *application) failed() bool {
	return a.Status == statusDeployFailed || a.Status == "UNHEALTHY"
}

// progress is the application in a line, for example
// `worker: DEPLOYING, 1 of 2 replicas run`.
func (a *application) progress() string {
	line := "worker: " + a.Status
	if running, target := a.replicas(); target > 0 {
		line += fmt.Sprintf(", %d of %s", running, replicas(target))
	}
	if why := a.why(); why != "" {
		line += ": " + why
	}
	return line
}

// why is what Serve says of an application that does not run: its own message,
// those of its deployments and the states of their replicas.
func (a *application) why() string {
	var lines []string
	if a.Message != "" {
		lines = append(lines, gist(a.Message))
	}
	for _, name := range slices.Sorted(maps.Keys(a.Deployments)) {
		if deployment := a.Deployments[name]; deployment.Status != "HEALTHY" {
			lines = append(lines, deployment.why(name))
		}
	}
	return strings.Join(lines, "; ")
}

func (d *deployment) why(name string) string {
	states := map[string]int{}
	for _, replica := range d.Replicas {
		states[replica.State]++
	}
	parts := make([]string, 0, 1+len(states))
	parts = append(parts, name+" "+d.Status)
	for _, state := range slices.Sorted(maps.Keys(states)) {
		parts = append(parts, fmt.Sprintf("%d %s", states[state], state))
	}
	line := strings.Join(parts, ", ")
	if d.Message != "" {
		line += ": " + gist(d.Message)
	}
	return line
}

// gist is the informative part of a message that may carry a Python traceback: its
// first line and, where they differ, its last.
func gist(message string) string {
	lines := strings.FieldsFunc(plainText(message), func(r rune) bool { return r == '\n' || r == '\r' })
	lines = slices.DeleteFunc(lines, func(line string) bool { return strings.TrimSpace(line) == "" })
	if len(lines) == 0 {
		return ""
	}
	first, last := strings.TrimSpace(lines[0]), strings.TrimSpace(lines[len(lines)-1])
	if first == last {
		return shorten(first)
	}
	return shorten(first) + " " + shorten(last)
}

// plainText takes out the colours that Ray writes into its messages.
func plainText(text string) string { return colour.ReplaceAllString(text, "") }

func replicas(count int) string {
	if count == 1 {
		return "1 replica"
	}
	return fmt.Sprintf("%d replicas", count)
}
