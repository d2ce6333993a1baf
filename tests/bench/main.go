package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"rayexecutor/tests/system"
)

// subjects are what can be measured, in the order in which it is done: what
// needs Ray first, so that the rest has the machine for itself.
var subjects = []struct {
	name    string
	measure func(*bench, context.Context) (*section, error)
}{
	{"accept", (*bench).accept},
	{"e2e", (*bench).whole},
	{"waiting", (*bench).waiting},
	{"stored", (*bench).stored},
	{"cold", (*bench).cold},
	{"fanout", (*bench).fanout},
}

// bench is one run.
type bench struct {
	out    string // where the document goes
	dir    string // where everything else does
	rounds int
	// brisk makes each turn shorter, to try the bench itself out.
	brisk   bool
	begun   time.Time
	commit  string // before the run writes its plots
	targets []target
	ray     *rig // nil until a subject needs it
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	if len(os.Args) == 3 && os.Args[1] == answerArg {
		return answerAlone(os.Args[2])
	}
	b := &bench{begun: time.Now()}
	only := flag.String("subjects", "", "which `subjects`, separated by commas; empty for all, and only then the document is written")
	flag.StringVar(&b.out, "out", filepath.Join(system.Root(), "docs"), "the `folder` of the document")
	flag.IntVar(&b.rounds, "rounds", 3, "`turns` of everything that is compared")
	flag.BoolVar(&b.brisk, "brisk", false, "shorter turns: to try the bench out, not for figures")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if b.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if *only != "" {
		b.out = b.dir // its plots go with it
	}
	b.commit = printed("git", "-C", system.Root(), "describe", "--always", "--dirty", "--exclude", "*")
	sections, err := b.measure(ctx, *only)
	document := b.document(sections)
	fmt.Fprintln(os.Stdout, document)
	if *only != "" || len(sections) == 0 {
		return err
	}
	return errors.Join(err, os.WriteFile(filepath.Join(b.out, "benchmarks.md"), []byte(document), 0o644))
}

// measure measures the chosen subjects.
func (b *bench) measure(ctx context.Context, only string) (sections []*section, err error) {
	defer func() { err = errors.Join(err, b.closeRay()) }()
	var failed []error
	chosen := map[string]bool{}
	for _, name := range strings.FieldsFunc(only, func(r rune) bool { return r == ',' || r == ' ' }) {
		chosen[name] = true
	}
	for _, subject := range subjects {
		if len(chosen) > 0 && !chosen[subject.name] {
			continue
		}
		if subject.name == "stored" { // from here on without Ray
			if err := b.closeRay(); err != nil {
				return nil, err
			}
		}
		b.sayf("--- %s", subject.name)
		found, failure := subject.measure(b, ctx)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if failure != nil {
			// What the others found is not lost for it.
			b.sayf("%s failed: %v", subject.name, failure)
			failed = append(failed, fmt.Errorf("%s: %w", subject.name, failure))
			continue
		}
		sections = append(sections, found)
	}
	return sections, errors.Join(failed...)
}

// say prints how it goes.
func (b *bench) sayf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%5.0fs  %s\n", time.Since(b.begun).Seconds(), fmt.Sprintf(format, args...))
}

// turn is how long one turn of a subject lasts.
func (b *bench) turn(seconds float64) time.Duration {
	if b.brisk {
		seconds = max(0.5, seconds/4)
	}
	return time.Duration(seconds * float64(time.Second))
}

// machine tells what it ran on, and with which versions.
func (b *bench) machine() string {
	var facts section
	row := func(name, value string) []string { return []string{name, strings.TrimSpace(value)} }
	python := filepath.Join(system.Venv(), "bin", "python")
	versions := printed(python, "-c", "import sys, importlib.metadata as m\n"+
		"print('Python', sys.version.split()[0] + ',', ', '.join(n + ' ' + m.version(n) for n in ('ray', 'aiohttp', 'uvloop', 'fastapi', 'uvicorn')))")
	facts.table(
		row("machine", fmt.Sprintf("%d cores of %s, %s of memory", runtime.NumCPU(), after("/proc/cpuinfo", "model name"), after("/proc/meminfo", "MemTotal"))),
		row("kernel", printed("uname", "-sr")),
		row("Go", runtime.Version()),
		row("NATS", printed(filepath.Join(system.Root(), ".tools", "nats-server"), "--version")),
		row("Python", versions),
		row("commit", b.commit),
		row("made", fmt.Sprintf("%s, in %.0f minutes, %d rounds", b.begun.UTC().Format("2006-01-02"), time.Since(b.begun).Minutes(), b.rounds)),
	)
	return facts.parts[0] + "\n\nEverything, the load too, shares these cores, and the disk is the machine's own.\n"
}

// printed is what a command prints, or "unknown".
func printed(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return "unknown"
	}
	return string(bytes.TrimSpace(out))
}

// after is what a file in /proc says after a name.
func after(path, name string) string {
	data, _ := os.ReadFile(path)
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(strings.TrimLeft(rest, " \t:"))
		}
	}
	return "unknown"
}
