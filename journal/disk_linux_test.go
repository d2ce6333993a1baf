package journal_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	"rayexecutor/tests/await"
)

// withOwnMounts runs a test again in a process that may mount, which takes
// neither root nor cleaning up: what it mounts nobody else sees, and goes with
// it. It reports whether this is that process.
func withOwnMounts(t *testing.T) bool {
	t.Helper()
	const marker = "TEST_WITH_OWN_MOUNTS"
	if os.Getenv(marker) != "" {
		return true
	}
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	command.Env = append(os.Environ(), marker+"=1")
	command.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		command.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		command.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		command.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	if printed, err := command.CombinedOutput(); err != nil || !strings.Contains(string(printed), "--- PASS: "+t.Name()) {
		t.Errorf("in a process with mounts of its own: %v\n%s", err, printed)
	}
	return false
}

// fillDisk leaves no byte on it; removing the file mends that.
func fillDisk(t *testing.T, dir string) (file string) {
	t.Helper()
	file = filepath.Join(dir, "filler")
	filler, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	for _, size := range []int{64 << 10, 1} {
		for err = nil; err == nil; {
			_, err = filler.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	return file
}

// TestDiskFull, then read-only: both errors say what to do, nothing is
// half-done, and what was accepted ends when the disk is mended.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	if !withOwnMounts(t) {
		return
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	start := func(options *server.Options) { options.StoreDir, options.JetStreamMaxStore = dir, 1<<40 }
	s := journaltest.Start(t, start)
	journaltest.Connect(t, s.URL)
	w := world{server: s, Journal: journaltest.Undeployed(t, journal.Settings{URL: s.URL, Wait: time.Second})}
	await.True(t, "the connection", func() bool { return w.Ready(t.Context()) == nil })
	for _, id := range []string{"d1", "d2"} {
		w.accept(t, id, 2)
	}

	filler := fillDisk(t, dir)
	_, err := w.Accept(t.Context(), large("lost", 100<<10), "")
	if refused := wantCode(t, err, deliberation.Unavailable); !strings.Contains(refused.Message, "its disk is full") || refused.RetryAfter <= 0 {
		t.Errorf("%q does not say what to do", refused.Message)
	}
	w.wantBoth(t, "d1", status("queued")) // it is still read
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	s.Restart()
	await.True(t, "the journal", func() bool { _, err := w.ReadLeader(t.Context(), "d1"); return err == nil })
	w.wantBoth(t, "lost", status("not_found"))
	w.wantEnd(t, "d1", 10<<10)

	// A server does not start on a disk that is read-only.
	s.Stop()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	options := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, JetStream: true}
	start(options)
	if readOnly, err := server.NewServer(options); err == nil {
		readOnly.Start()
		if readOnly.ReadyForConnections(time.Second) {
			t.Error("it takes connections on a read-only store")
		}
		readOnly.Shutdown()
	}
	_, err = w.Accept(t.Context(), journaltest.Record("refused", 1, 300), "")
	wantCode(t, err, deliberation.Unavailable)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	s.Restart()
	await.True(t, "the journal", func() bool { _, err := w.ReadLeader(t.Context(), "d2"); return err == nil })
	w.wantEnd(t, "d2", 10<<10)
	w.wantBoth(t, "refused", status("not_found"))
}
