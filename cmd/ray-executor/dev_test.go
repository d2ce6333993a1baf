//go:build !image

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
)

// What is wrong is reported before anything starts, each with its own advice.
func TestDevLooksBeforeItStarts(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := strconv.Itoa(portOf(taken))
	next := strconv.Itoa(portSetting{port: portOf(taken)}.another())
	for setting, says := range map[string]string{
		"PORT=" + port:                     "PORT=" + next + " make run",
		"POOLS=Not A Pool":                 "POOLS",
		"NATS_CREDS=nowhere":               "NATS_CREDS: stat ",
		"VLLM_API_KEY_FILE=nowhere":        "name a file that can be read",
		"RAY_CLUSTERS=nowhere":             "RAY_CLUSTERS",
		"JOURNAL_MAX_BYTES=99999999999999": "set JOURNAL_MAX_BYTES lower",
		"PORT=0":                           "--venv: /nowhere has no Ray",
		"HOST=192.0.2.1":                   "0.0.0.0 for all",
	} {
		environ := []string{"PORT=0", "GRPC_PORT=0", setting}
		printed, err := runProgram(t.Context(), environ, "dev", "--venv", "/nowhere", "--data", filepath.Join(t.TempDir(), "data"))
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, which lacks %q", setting, err, says)
		}
		if printed != "" {
			t.Errorf("%s: it started something:\n%s", setting, printed)
		}
	}
}

// The environment of Ray's processes does not depend on the working directory, nor
// on whether the environment says it or the file.
func TestPathsForTheWorker(t *testing.T) {
	t.Chdir(t.TempDir())
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"key": "", "ca": "", "ray-executor.env": "NATS_CA=ca\nVLLM_API_KEY=k\nRAY_AUTH_TOKEN=t\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := &dev{program: program{environ: []string{"NATS_KEY=./key", "NATS_CERT=./key", "NATS_USER=u", "PATH=relative"}}, venv: "venv", data: "data"}
	if err := d.readSettings(); err != nil {
		t.Fatal(err)
	}
	want := []string{"NATS_CA=" + here + "/ca", "NATS_CERT=" + here + "/key", "NATS_KEY=" + here + "/key", "NATS_USER=u", "VLLM_API_KEY=k"}
	if got := workerEnvironment(d.given); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if d.venv != here+"/venv" || d.data != here+"/data" {
		t.Errorf("%s, %s", d.venv, d.data)
	}
}

// The key is no other command's business.
func TestWhatConcernsOtherCommands(t *testing.T) {
	t.Parallel()
	got := sharedSettings(map[string]string{
		"NATS_URL": "nats://a", "VLLM_API_KEY": "k", "PORT": "1", "HOST": "::", "LOG_LEVEL": "DEBUG", "HOME": "/root", "RAY_AUTH_TOKEN": "t", "POOLS": "",
	}, "http://s")
	if len(got) != 3 || got["NATS_URL"] != "nats://a" || got["RAY_AUTH_TOKEN"] != "t" || got[devServer] != "http://s" {
		t.Errorf("%v", got)
	}
}

// Two that start at once get a port each, and the journal's earlier limits do
// not keep it from starting.
func TestEmbeddedNATS(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	store := t.TempDir()
	for _, bytes := range []int64{8 << 30, devJournal} {
		server, err := runNATS(t.Context(), store, portOf(taken))
		if err != nil {
			t.Fatal(err)
		}
		layout := journal.Layout{Replicas: 1, MaxAge: 48 * time.Hour, MaxBytes: bytes, AgentResponses: true, Relay: true}
		if err := journaltest.Undeployed(t, journal.Settings{URL: server.ClientURL()}).Deploy(t.Context(), layout); err != nil {
			t.Errorf("%d bytes: %v", bytes, err)
		}
		_, _, err = server.JetStreamReservedResources()
		if err != nil {
			t.Error(err)
		}
		stopNATS(server)
	}
	if _, err := tryNATS(t.Context(), store, portOf(taken)); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("its port is taken: %v", err)
	}
	file := filepath.Join(store, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := runNATS(t.Context(), file, 0); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("its folder is a file: %v", err)
	}
}

// The streams may never outgrow what was held against the disk.
func TestJournalDisk(t *testing.T) {
	t.Parallel()
	server, err := runNATS(t.Context(), t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer stopNATS(server)
	layout := journal.Layout{Replicas: 1, MaxAge: 48 * time.Hour, MaxBytes: devJournal, Relay: true}
	if err := journaltest.Undeployed(t, journal.Settings{URL: server.ClientURL()}).Deploy(t.Context(), layout); err != nil {
		t.Fatal(err)
	}
	if _, reserved, err := server.JetStreamReservedResources(); err != nil || reserved > journalDisk(devJournal) {
		t.Errorf("%d bytes are reserved, and %d were looked for: %v", reserved, journalDisk(devJournal), err)
	}
	if need := journalDisk(devJournal) + rayDisk; need > 1_000_000_000 {
		t.Errorf("dev needs %d bytes of free disk", need)
	}
}

func TestALongWaitIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var said []string
		err := during(func(line string) { said = append(said, line) }, "Ray is still starting", func() error {
			time.Sleep(25 * time.Second)
			return errUnhealthy
		})
		if fmt.Sprint(said) != "[Ray is still starting, 10 s Ray is still starting, 20 s]" || err != errUnhealthy { //nolint:errorlint // the same one
			t.Errorf("%q, %v", said, err)
		}
	})
}

func TestProgressOfADeliberation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var printed strings.Builder
		progress := newProgress(&printed, true)
		submitted := time.Now()
		progress.still() // before the first event
		progress.show(&pb.WatchDeliberationResponse{
			Status: "queued", Time: timestamppb.New(submitted), Event: &pb.WatchDeliberationResponse_Requested{Requested: &pb.DeliberationRequested{}},
		})
		stop := progress.tick()
		time.Sleep(2*reportEvery + time.Second) // of the bubble's clock
		stop()
		for attempt := range 2 {
			progress.show(&pb.WatchDeliberationResponse{
				Status: "running", Time: timestamppb.New(submitted.Add(time.Minute)),
				Event: &pb.WatchDeliberationResponse_Started{Started: &pb.DeliberationStarted{Attempt: int32(attempt + 1)}},
			})
		}
		if want := "  queued\n  still queued, 10 s\n  still queued, 20 s\n  running after 1m0s in the queue\n  running, attempt 2, after 1m0s\n"; printed.String() != want {
			t.Errorf("printed %q", printed.String())
		}
	})
}
