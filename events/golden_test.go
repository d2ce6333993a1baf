package events_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/structpb"

	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/golden"
)

// checkFile fails the test if bytes differ from their golden file.
func checkFile(t *testing.T, name string, got []byte) {
	t.Helper()
	golden.Check(t, filepath.Join("testdata", name), got)
}

// payloads returns one filled instance of every message in the package, by a
// name for its file; of a message with a oneof, one for each of its choices.
func payloads() map[string]proto.Message {
	found := map[string]proto.Message{}
	protoregistry.GlobalFiles.RangeFilesByPackage("ray_executor.v1", func(file protoreflect.FileDescriptor) bool {
		collect(found, file.Messages())
		return true
	})
	return found
}

func collect(found map[string]proto.Message, messages protoreflect.MessageDescriptors) {
	for i := range messages.Len() {
		descriptor := messages.Get(i)
		if descriptor.IsMapEntry() {
			continue
		}
		name := strings.TrimPrefix(string(descriptor.FullName()), "ray_executor.v1.")
		choices := []protoreflect.Name{""}
		if oneofs := descriptor.Oneofs(); oneofs.Len() > 0 && !oneofs.Get(0).IsSynthetic() {
			choices = choices[:0]
			for j := range oneofs.Get(0).Fields().Len() {
				choices = append(choices, oneofs.Get(0).Fields().Get(j).Name())
			}
		}
		for _, choice := range choices {
			found[strings.TrimSuffix(name+"."+string(choice), ".")] = filled(descriptor, choice)
		}
		collect(found, descriptor.Messages())
	}
}

func filled(descriptor protoreflect.MessageDescriptor, choice protoreflect.Name) proto.Message {
	messageType, err := protoregistry.GlobalTypes.FindMessageByName(descriptor.FullName())
	if err != nil {
		panic(err)
	}
	message := messageType.New()
	for i := range descriptor.Fields().Len() {
		field := descriptor.Fields().Get(i)
		oneof := field.ContainingOneof()
		if oneof == nil || oneof.IsSynthetic() || field.Name() == choice {
			fill(message, field)
		}
	}
	return message.Interface()
}

func fill(message protoreflect.Message, field protoreflect.FieldDescriptor) {
	switch {
	case field.IsMap():
		entries := message.Mutable(field).Map()
		for _, key := range []string{"error", "status"} {
			entries.Set(protoreflect.ValueOfString(key).MapKey(), protoreflect.ValueOfString("of "+key))
		}
	case field.IsList():
		list := message.Mutable(field).List()
		list.Append(value(field))
		list.Append(value(field))
	default:
		message.Set(field, value(field))
	}
}

// value follows from a field's name and number alone.
func value(field protoreflect.FieldDescriptor) protoreflect.Value {
	number := int64(field.Number())
	switch field.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(fmt.Sprintf("%s-%d", field.Name(), number))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(1000 + number))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(1<<33 + number)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(1<<63 + uint64(number))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(number) + 0.5)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(number) + 0.25)
	case protoreflect.MessageKind:
		if field.Message().FullName() == "google.protobuf.Struct" { // it is recursive
			of, err := structpb.NewStruct(map[string]any{"on": true, "most": 7})
			if err != nil {
				panic(err)
			}
			return protoreflect.ValueOfMessage(of.ProtoReflect())
		}
		return protoreflect.ValueOfMessage(filled(field.Message(), "").ProtoReflect())
	default:
		panic(fmt.Sprintf("no value for %s, a %s: teach the golden test", field.FullName(), field.Kind()))
	}
}

// TestPayloadsOnTheWire: a field that gets another number, name or type fails
// here, and would fail its callers.
func TestPayloadsOnTheWire(t *testing.T) {
	t.Parallel()
	known := payloads()
	if len(known) < 30 {
		t.Fatalf("only %d payloads were found", len(known))
	}
	for name, message := range known {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
			if err != nil {
				t.Fatal(err)
			}
			checkFile(t, "payloads/"+name+".binpb", wire)
			data, err := events.MarshalJSON(message)
			if err != nil {
				t.Fatal(err)
			}
			var indented bytes.Buffer
			if err := json.Indent(&indented, append(data, '\n'), "", "  "); err != nil {
				t.Fatal(err)
			}
			checkFile(t, "payloads/"+name+".json", indented.Bytes())

			fromWire, fromJSON := message.ProtoReflect().New().Interface(), message.ProtoReflect().New().Interface()
			if err := proto.Unmarshal(wire, fromWire); err != nil || !proto.Equal(fromWire, message) {
				t.Errorf("protobuf does not come back: %v", err)
			}
			if err := events.UnmarshalJSON(indented.Bytes(), fromJSON); err != nil || !proto.Equal(fromJSON, message) {
				t.Errorf("JSON does not come back: %v", err)
			}
			again := message.ProtoReflect().New().Interface()
			if err := events.UnmarshalJSON(camel(data), again); err != nil || !proto.Equal(again, message) {
				t.Errorf("lowerCamelCase does not come back: %v", err)
			}
		})
	}
}

func TestNoGoldenFileIsLeftOver(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/payloads/*")
	if err != nil {
		t.Fatal(err)
	}
	known := payloads()
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
		if known[name] == nil {
			t.Errorf("%s: no such message: removing one breaks its callers", file)
		}
	}
}

var snake = regexp.MustCompile(`"[a-z0-9_]+":`)

// camel writes the names in JSON as lowerCamelCase.
func camel(data []byte) []byte {
	return snake.ReplaceAllFunc(data, func(name []byte) []byte {
		parts := strings.Split(string(name), "_")
		for i := 1; i < len(parts); i++ {
			parts[i] = strings.ToUpper(parts[i][:1]) + parts[i][1:]
		}
		return []byte(strings.Join(parts, ""))
	})
}

func TestLifecycleOnNATS(t *testing.T) {
	t.Parallel()
	known := payloads()
	for _, name := range []string{
		"DeliberationRequested", "AgentCompleted", "DeliberationCompleted", "DeliberationFailed", "DeliberationCancelled",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			message, err := events.Encode(known[name], events.Source, trace)
			if err != nil {
				t.Fatal(err)
			}
			if message.Header["ce-time"] == nil {
				t.Error("no ce-time")
			}
			message.Header["ce-time"] = []string{"2026-01-02T12:00:00Z"}
			var text strings.Builder
			fmt.Fprintln(&text, message.Subject)
			for _, header := range slices.Sorted(maps.Keys(message.Header)) {
				fmt.Fprintf(&text, "%s: %s\n", header, strings.Join(message.Header[header], "|"))
			}
			checkFile(t, "nats/"+name+".txt", []byte(text.String()))

			back, err := events.Lifecycle(message.Header, message.Data)
			if err != nil || !proto.Equal(back, known[name]) {
				t.Errorf("does not come back: %v %v", back, err)
			}
			if events.Trace(message.Header) != trace {
				t.Error("the trace is lost")
			}
		})
	}
	if _, err := events.Encode(&pb.DeliberationStarted{}, events.Source, ""); err == nil {
		t.Error("a start is the worker's to write")
	}
}
