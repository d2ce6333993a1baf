package journal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// spillAbove is the size from which a message's bulky part goes to the object
// store: what the server takes is 1 MiB, headers included.
const spillAbove = 900 << 10

// spill lightens a message that is too large for the journal.
func (j *Journal) spill(ctx context.Context, message proto.Message) (proto.Message, error) {
	if proto.Size(message) <= spillAbove {
		return message, nil
	}
	return j.Lighten(ctx, message)
}

// Lighten stores a message as an object and returns it without its bulky
// field, with the object's name in `<field>_ref`. A message that has no such
// field comes back as it is.
func (j *Journal) Lighten(ctx context.Context, message proto.Message) (proto.Message, error) {
	bulky, ref := bulkyField(message)
	if bulky == nil {
		return message, nil
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	if err != nil {
		return nil, fmt.Errorf("marshal for the object store: %w", err)
	}
	digest := sha256.Sum256(data)
	name := "sha256-" + hex.EncodeToString(digest[:])
	if err := j.putObject(ctx, name, data); err != nil {
		return nil, err
	}
	light := proto.Clone(message)
	light.ProtoReflect().Clear(bulky)
	light.ProtoReflect().Set(ref, protoreflect.ValueOfString(name))
	return light, nil
}

// restore puts back what Lighten took out.
func (j *Journal) restore(ctx context.Context, message proto.Message) error {
	bulky, ref := bulkyField(message)
	if bulky == nil {
		return nil
	}
	reflected := message.ProtoReflect()
	name := reflected.Get(ref).String()
	if name == "" {
		return nil
	}
	data, err := j.getObject(ctx, name)
	if err != nil {
		return err
	}
	whole := reflected.New().Interface()
	if err := proto.Unmarshal(data, whole); err != nil {
		return fmt.Errorf("read the object %s: %w", name, err)
	}
	reflected.Set(bulky, whole.ProtoReflect().Get(bulky))
	reflected.Clear(ref)
	return nil
}

// bulkyField finds the pair `<field>` and `<field>_ref` of a message.
func bulkyField(message proto.Message) (bulky, ref protoreflect.FieldDescriptor) {
	fields := message.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if name, ok := strings.CutSuffix(string(fields.Get(i).Name()), "_ref"); ok {
			return fields.ByName(protoreflect.Name(name)), fields.Get(i)
		}
	}
	return nil, nil
}

func (j *Journal) putObject(ctx context.Context, name string, data []byte) error {
	store, err := j.js.ObjectStore(ctx, Results)
	if err != nil {
		return j.failed("reach the object store "+Results, err)
	}
	// The name is the content's digest: an object that is there is the same,
	// and putting it again would pull it away from under its readers.
	if _, err := store.GetInfo(ctx, name); err == nil {
		return nil
	}
	if _, err := store.Put(ctx, jetstream.ObjectMeta{Name: name}, bytes.NewReader(data)); err != nil {
		return j.failed("store an object", err)
	}
	return nil
}

func (j *Journal) getObject(ctx context.Context, name string) ([]byte, error) {
	store, err := j.js.ObjectStore(ctx, Results)
	if err != nil {
		return nil, j.failed("reach the object store "+Results, err)
	}
	data, err := store.GetBytes(ctx, name)
	if err != nil {
		return nil, j.failed("read the object "+name, err)
	}
	return data, nil
}
