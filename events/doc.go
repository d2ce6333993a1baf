// Package events converts between protobuf messages and CloudEvents, over HTTP and
// over NATS, and defines the journal's subjects.
//
// The type of an event is the full name of the message that it carries; its
// data is protobuf or proto3 JSON.
package events
