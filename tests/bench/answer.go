package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"rayexecutor/tests/freeport"
	"rayexecutor/tests/system"
)

// answerArg has this program answer HTTP on an address, and do nothing else: a
// door by net/http at its cheapest, in a process of its own as ours is.
const answerArg = "answer"

func answerAlone(address string) error {
	answer := make([]byte, 64) // about what a receipt is
	return http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			w.Header().Set("Content-Type", "application/protobuf")
			_, _ = w.Write(answer)
		}
	}))
}

// startAnswering starts such a process; the second result stops it.
func startAnswering(ctx context.Context) (url string, stop func(), err error) {
	port, err := freeport.Take()
	if err != nil {
		return "", nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	command := system.Command(os.Environ(), self, answerArg, address)
	command.Stderr = os.Stderr
	if err := command.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = command.Process.Kill()
		_ = command.Wait() // killed
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			return "http://" + address, stop, conn.Close()
		}
		select {
		case <-ctx.Done():
			stop()
			return "", nil, fmt.Errorf("nothing answers: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
