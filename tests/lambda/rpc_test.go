package lambda_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/rpc"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/lambda/messages"

	"rayexecutor/tests/await"
	"rayexecutor/tests/freeport"
	"rayexecutor/tests/system"
)

// rpcEntry is aws-lambda-go's own entry for local runs. The program that is
// shipped leaves it out, so one is built that has it.
type rpcEntry struct {
	logger
	client *rpc.Client
}

func launchRPC(tb testing.TB, environ []string) rpcEntry {
	tb.Helper()
	program := filepath.Join(tb.TempDir(), "bootstrap")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", program, "./cmd/lambda")
	build.Dir = system.Root()
	if printed, err := build.CombinedOutput(); err != nil {
		tb.Fatalf("%v\n%s", err, printed)
	}
	address := freeport.Address(tb)
	port := address[strings.LastIndexByte(address, ':')+1:]
	command, out := run(tb, append(environ, "_LAMBDA_SERVER_PORT="+port), program)
	tb.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait() // killed
	})
	var client *rpc.Client
	await.NoError(tb, "the function to listen", func() (err error) {
		client, err = rpc.Dial("tcp", address)
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
	tb.Cleanup(func() { client.Close() })
	return rpcEntry{logger{out}, client}
}

func (r rpcEntry) invoke(_ context.Context, payload []byte) ([]byte, error) {
	deadline := time.Now().Add(timeout)
	request := messages.InvokeRequest{
		Payload: payload, RequestId: "invocation",
		Deadline: messages.InvokeRequest_Timestamp{Seconds: deadline.Unix(), Nanos: int64(deadline.Nanosecond())},
	}
	var response messages.InvokeResponse
	if err := r.client.Call("Function.Invoke", &request, &response); err != nil {
		return nil, err
	}
	if response.Error != nil {
		return json.Marshal(map[string]string{"errorMessage": response.Error.Message})
	}
	return response.Payload, nil
}
