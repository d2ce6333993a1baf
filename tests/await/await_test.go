package await_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rayexecutor/tests/await"
)

var errNotYet = errors.New("not yet")

func TestUntil(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		err := await.Until(t.Context(), "the third call", func() error {
			if calls++; calls < 3 {
				return errNotYet
			}
			return nil
		})
		if err != nil || calls != 3 {
			t.Errorf("%v after %d calls", err, calls)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err = await.Until(ctx, "a miracle", func() error { return errNotYet })
		if !errors.Is(err, errNotYet) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "a miracle") {
			t.Error(err)
		}
	})
}

// failing is a test that fails: Fatalf ends its goroutine.
type failing struct {
	*testing.T
	failure chan string
}

func (f failing) Fatalf(format string, args ...any) {
	f.failure <- format
	_ = args
	select {}
}

func TestWaitReadsWhatComesLater(t *testing.T) {
	t.Parallel()
	var output await.Output
	go func() {
		for _, text := range []string{"ser", "ving on 1", "\nready\n"} {
			_, _ = output.Write([]byte(text))
		}
	}()
	if text := output.Wait(t, "serving", "ready"); text != "serving on 1\nready\n" || text != output.String() {
		t.Errorf("read %q", text)
	}
}

func TestWaitFails(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*await.Output){
		"ended":  func(output *await.Output) { _ = output.Close() },
		"within": func(*await.Output) {},
	} {
		var output await.Output
		_, _ = output.Write([]byte("a line\n"))
		f := failing{t, make(chan string)}
		end(&output)
		go output.WaitFor(f, 50*time.Millisecond, "line", "another")
		if failure := <-f.failure; !strings.Contains(failure, name) {
			t.Errorf("%s: it fails with %q", name, failure)
		}
	}
}
