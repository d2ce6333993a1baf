package ray

import (
	"context"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	// heartbeatWait is how long running replicas may take to send a heartbeat. A
	// worker that reaches NATS sends one at once.
	heartbeatWait = time.Minute
	// heartbeatPoll is how often they are listened for.
	heartbeatPoll = 500 * time.Millisecond
	// logLooks is how often in that time a silent replica's log is looked at.
	logLooks = 6
	// logLines is how much of a log is read, in lines.
	logLines = 100
)

// listener waits for the heartbeats of a rollout's replicas.
type listener struct {
	*rollout

	heartbeats Heartbeats
	started    time.Time
	looked     time.Time // at a log
	// why the last look was not the last.
	why error
	// said is the reason that was reported last: of the silent replicas' log, or of NATS
	// here.
	said string
}

// awaitHeartbeats returns once each running replica has sent a heartbeat over
// NATS, else the reason. It does not wait if the journal has no bucket of heartbeats,
// or the worker is too old to send any.
func (d *rollout) awaitHeartbeats(ctx context.Context) error {
	if d.heartbeats == nil {
		return nil
	}
	now := time.Now()
	l := &listener{rollout: d, heartbeats: d.heartbeats, started: now, looked: now}
	bounded, cancel := context.WithTimeout(ctx, d.patience)
	defer cancel()
	_, err := backoff.Retry(bounded, func() (struct{}, error) { l.why = l.listen(bounded); return struct{}{}, l.why },
		backoff.WithBackOff(backoff.NewConstantBackOff(heartbeatPoll)), backoff.WithMaxElapsedTime(0))
	if err == nil {
		return nil
	}
	return l.why // the last look's, with its details
}

// listen asks once. Its error is permanent, unless waiting may help.
func (l *listener) listen(ctx context.Context) error {
	serve, err := l.client.instance(ctx)
	if err != nil {
		return l.keep(ctx, err)
	}
	app := serve.Applications[Application]
	if !app.sendsHeartbeats() {
		return nil
	}
	each, heard, err := l.heartbeats.Heartbeats(ctx)
	if err != nil {
		return l.keep(ctx, l.unseen(err))
	}
	if !heard {
		l.say("worker: whether it reaches NATS is not known, for the journal keeps no heartbeats: run `ray-executor deploy` without --only worker")
		return nil
	}
	silent, running := app.silent(each), len(app.running())
	if len(silent) == 0 && running > 0 {
		l.say("worker: %s, heard over NATS", replicas(running))
		return nil
	}
	return l.explain(ctx, silent, running)
}

// unseen says, once a reason, that heartbeats cannot be read here.
func (l *listener) unseen(err error) error {
	if said := err.Error(); said != l.said {
		l.said = said
		l.say("worker: its heartbeats cannot be read: %s", said)
	}
	return fmt.Errorf("cluster %q: the worker runs on Ray, but whether it reaches NATS cannot be seen from here: %w", l.client.Name(), err)
}

// keep is the error of a look that was cut off by ctx, or that of the look before.
func (l *listener) keep(ctx context.Context, err error) error {
	if ctx.Err() != nil && l.why != nil {
		return l.why
	}
	return err
}

// explain says what is known of silent replicas.
func (l *listener) explain(ctx context.Context, silent []replica, running int) error {
	if len(silent) == 0 {
		return fmt.Errorf("cluster %q: none of the worker's replicas runs any more", l.client.Name())
	}
	if time.Since(l.looked) > l.patience/logLooks {
		if l.looked.Equal(l.started) {
			l.say("worker: no heartbeat yet of %d of %s; waiting for at most %s", len(silent), replicas(running), l.patience)
		}
		l.looked = time.Now()
		if said := l.client.warnings(ctx, silent[0]); said != "" && said != l.said {
			l.said = said
			l.say("worker: its log says: %s", said)
		}
	}
	failure := fmt.Errorf("cluster %q: the worker is RUNNING on Ray, but no heartbeat of %d of %s has come over NATS within %s%s",
		l.client.Name(), len(silent), replicas(running), time.Since(l.started).Round(time.Second), l.advice(silent[0]))
	if remedyFor(l.said).permanent {
		return backoff.Permanent(failure)
	}
	return failure
}

// advice is what the log of a silent replica says, and what to do.
func (l *listener) advice(silent replica) string {
	where := fmt.Sprintf("%s on node %s", strings.TrimPrefix(silent.Log, "/"), silent.NodeIP)
	remedy := strings.ReplaceAll(remedyFor(l.said).do, "{url}", l.config.Args.NATSURL)
	if l.said == "" {
		return fmt.Sprintf(": %s; the replica's log (%s) says more", remedy, where)
	}
	return fmt.Sprintf(": its log (%s) says: %s: %s", where, l.said, remedy)
}

// remedy is what to do about what a worker's log says.
type remedy struct {
	says *regexp.Regexp
	do   string
	// permanent: no waiting helps.
	permanent bool
}

// remedies are looked through in their order; the last one fits everything.
var remedies = []remedy{
	{
		regexp.MustCompile(`(?i)refuses the login|authorization|authentication|permissions violation|does not allow`),
		"NATS refuses the login: set NATS_USER and NATS_PASSWORD, NATS_TOKEN or NATS_CREDS in the Ray nodes' environment", true,
	},
	{regexp.MustCompile(`is too old`), "WORKER_NATS_URL={url} leads to an older NATS: upgrade it", true},
	{regexp.MustCompile(`SettingError`), "set it right in the Ray nodes' environment, and restart Ray there", true},
	{
		regexp.MustCompile(`certificate|TLS|SSL`),
		"mend it by NATS_CA, NATS_CERT and NATS_KEY in the Ray nodes' environment, or by WORKER_NATS_URL={url}", true,
	},
	{
		regexp.MustCompile(`heartbeats are not stored|has no JetStream`),
		"WORKER_NATS_URL={url} is another NATS or another account than NATS_URL: the journal is not there", false,
	},
	{
		regexp.MustCompile(`cannot be|does not answer|Nobody listens|Refused|Timeout|gaierror|Unreachable`),
		"the Ray nodes cannot reach WORKER_NATS_URL={url}: set WORKER_NATS_URL to NATS as they see it", false,
	},
	{
		regexp.MustCompile(``),
		"the Ray nodes cannot reach WORKER_NATS_URL={url} (set it to NATS as they see it), or NATS refuses their login " +
			"(set NATS_USER and NATS_PASSWORD, NATS_TOKEN or NATS_CREDS in their environment)", false,
	},
}

func remedyFor(said string) remedy {
	return remedies[slices.IndexFunc(remedies, func(r remedy) bool { return r.says.MatchString(said) })]
}

// logLine is a line of a replica's log: level, date, time, its name, then the text.
var logLine = regexp.MustCompile(`^1?(?:WARNING|ERROR) \S+ \S+ \S+ \S+ (?:\S+:\d+ )?-- (.*)$`)

// warnings are the last two warnings of a replica's log, or nothing where there
// are none or the dashboard does not show it.
func (c *Client) warnings(ctx context.Context, of replica) string {
	query := url.Values{
		"node_id": {of.NodeID}, "filename": {strings.TrimPrefix(of.Log, "/")}, "lines": {strconv.Itoa(logLines)},
	}
	if of.NodeID == "" || of.Log == "" {
		return ""
	}
	body, err := c.do(ctx, get("/api/v0/logs/file?"+query.Encode()))
	if err != nil {
		return ""
	}
	return lastWarnings(string(body))
}

func lastWarnings(text string) string {
	var warnings []string
	for line := range strings.Lines(plainText(text)) {
		if match := logLine.FindStringSubmatch(strings.TrimSpace(line)); match != nil {
			warning := shorten(match[1])
			warnings = append(slices.DeleteFunc(warnings, func(w string) bool { return w == warning }), warning)
		}
	}
	// Sorted, so that two that take turns are one text.
	return strings.Join(slices.Sorted(slices.Values(warnings[max(0, len(warnings)-2):])), "; ")
}
