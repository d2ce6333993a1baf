// Command bench measures the system against what a user would pick instead and
// against the limit, all on this machine in one run, and writes what it found
// to docs/benchmarks.md.
//
// Each subject is a file: accept.go, whole.go (end to end), waiting.go,
// stored.go, cold.go, fanout.go. What is compared runs in turns (A B C A B C …),
// so that whatever else the machine does hits all alike; each turn is one
// figure, and what is told is their median and their range. Where a latency is
// told, the load is open: requests are due on a fixed schedule, whether or not
// earlier ones were answered, and latency counts from when a request was due.
package main
