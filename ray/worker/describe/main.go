// Command describe writes the payloads' descriptors to a file, for tests of
// the Python worker: go run ./ray/worker/describe PATH.
package main

import (
	"log"
	"os"

	"rayexecutor/ray/worker"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: describe PATH")
	}
	descriptors, err := worker.Descriptors()
	if err == nil {
		err = os.WriteFile(os.Args[1], descriptors, 0o600) //nolint:gosec // its caller says where
	}
	if err != nil {
		log.Fatal(err)
	}
}
