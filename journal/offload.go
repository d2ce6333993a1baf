package journal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// forHeaders is what headers may take of a message.
const forHeaders = 16 << 10

// chunkBytes is how an object is cut, where the server takes as much.
const chunkBytes = 128 << 10

// maxData is how much data a message takes at most, headers apart.
func (j *Journal) maxData() int { return min(int(j.conn.MaxPayload()), maxMessageBytes) - forHeaders }

// offloadIfLarge offloads a message that is too large for the journal.
func (j *Journal) offloadIfLarge(ctx context.Context, message proto.Message) (proto.Message, error) {
	if proto.Size(message) <= j.maxData() {
		return message, nil
	}
	return j.Offload(ctx, message)
}

// Offload stores a message as an object and returns it without its bulky
// field, with the object's name in `<field>_ref`. A message that has no such
// field, or is light already, comes back as it is.
func (j *Journal) Offload(ctx context.Context, message proto.Message) (proto.Message, error) {
	bulky, ref := bulkyField(message)
	if bulky == nil || message.ProtoReflect().Has(ref) {
		return message, nil
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	if err != nil {
		return nil, fmt.Errorf("marshal for the object store: %w", err)
	}
	name := objectName(data)
	if err := j.putObject(ctx, j.name(Results), jetstream.ObjectMeta{Name: name}, data); err != nil {
		return nil, err
	}
	light := proto.Clone(message)
	light.ProtoReflect().Clear(bulky)
	light.ProtoReflect().Set(ref, protoreflect.ValueOfString(name))
	return light, nil
}

// withoutBulk returns a message without its bulky field.
func withoutBulk(message proto.Message) proto.Message {
	light := proto.Clone(message)
	if bulky, _ := bulkyField(light); bulky != nil {
		light.ProtoReflect().Clear(bulky)
	}
	return light
}

// inline puts back what Offload took out. A message whose object is gone
// or not what was stored stays light: how a deliberation ended is worth telling
// without its results.
func (j *Journal) inline(ctx context.Context, message proto.Message) error {
	bulky, ref := bulkyField(message)
	if bulky == nil {
		return nil
	}
	reflected := message.ProtoReflect()
	name := reflected.Get(ref).String()
	if name == "" || skipsResults(ctx) && bulky.Name() != "request" {
		return nil
	}
	data, err := j.getObject(ctx, j.name(Results), name)
	whole := reflected.New().Interface()
	if err == nil {
		err = unpack(name, data, whole)
	}
	switch {
	case errors.Is(err, jetstream.ErrObjectNotFound):
		j.log.Warn("an object of the journal is gone", "object", name)
		return nil
	case errors.Is(err, errCorrupt):
		j.unreadable.note(j.log, "object "+name+" of "+j.name(Results), err)
		return nil
	case err != nil:
		return err
	}
	reflected.Set(bulky, whole.ProtoReflect().Get(bulky))
	reflected.Clear(ref)
	return nil
}

// errCorrupt says that an object is not what was stored.
var errCorrupt = errors.New("its content is not what its name says")

// unpack reads an object, whose name is the digest of its content.
func unpack(name string, data []byte, into proto.Message) error {
	if objectName(data) != name {
		return errCorrupt
	}
	if err := proto.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%w: %w", errCorrupt, err)
	}
	return nil
}

func objectName(data []byte) string {
	digest := sha256.Sum256(data)
	return "sha256-" + hex.EncodeToString(digest[:])
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

// putObject stores an object whose name says all of its content: one that is
// there is the same, and putting it again would pull it away from under its
// readers.
func (j *Journal) putObject(ctx context.Context, bucket string, meta jetstream.ObjectMeta, data []byte) error {
	store, err := j.js.ObjectStore(ctx, bucket)
	if err != nil {
		return j.failed("reach the object store "+bucket, err)
	}
	switch whole, err := j.whole(ctx, store, meta.Name); {
	case err != nil:
		return j.failed("look for an object", err)
	case whole:
		return nil
	}
	meta.Opts = &jetstream.ObjectMetaOptions{ChunkSize: uint32(min(chunkBytes, j.conn.MaxPayload()))}
	if _, err := store.Put(ctx, meta, bytes.NewReader(data)); err != nil {
		return j.failed("store an object", err)
	}
	return nil
}

// whole reports whether an object is there with all its parts. A put that
// failed, as the bucket was full or NATS went away, may have left its name alone.
func (j *Journal) whole(ctx context.Context, store jetstream.ObjectStore, name string) (bool, error) {
	info, err := store.GetInfo(ctx, name)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	stream, err := j.js.Stream(ctx, objectStream(info.Bucket))
	if err != nil {
		return false, err
	}
	parts := "$O." + info.Bucket + ".C." + info.NUID
	there, err := stream.Info(ctx, jetstream.WithSubjectFilter(parts))
	return err == nil && there.State.Subjects[parts] == uint64(info.Chunks), err
}

// getObject reads an object; jetstream.ErrObjectNotFound says that it is gone,
// errCorrupt that its parts are not what was stored.
func (j *Journal) getObject(ctx context.Context, bucket, name string) ([]byte, error) {
	store, err := j.js.ObjectStore(ctx, bucket)
	if err != nil {
		return nil, j.failed("reach the object store "+bucket, err)
	}
	if err := countObject(ctx, store, name); err != nil {
		return nil, err
	}
	// A replica may lag behind the object's writer.
	data, err := backoff.Retry(ctx, func() ([]byte, error) {
		data, err := store.GetBytes(ctx, name)
		if errors.Is(err, jetstream.ErrDigestMismatch) {
			err = errCorrupt
		}
		if err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) {
			err = backoff.Permanent(err)
		}
		return data, err
	}, backoff.WithBackOff(backoff.NewConstantBackOff(100*time.Millisecond)), backoff.WithMaxTries(4))
	if err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) && !errors.Is(err, errCorrupt) {
		err = j.failed("read the object "+name, err)
	}
	return data, err
}

// dropObject deletes an object that nobody names any more; an empty name is
// none. What cannot be deleted goes with its age.
func (j *Journal) dropObject(ctx context.Context, name string) {
	if name == "" {
		return
	}
	store, err := j.js.ObjectStore(ctx, j.name(Results))
	if err == nil {
		err = store.Delete(ctx, name)
	}
	if err != nil {
		j.log.Debug("delete an object", "object", name, "error", err)
	}
}
