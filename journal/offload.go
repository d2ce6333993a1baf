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

	"rayexecutor/events"
)

// A message of the journal has at most a megabyte. An event that is larger is
// offloaded: the whole event is stored as an object, and the message has the
// object's name in `<field>_ref` in place of the bulky field. Objects are named by
// the digest of their content, so that storing one again is harmless and a damaged
// one is recognised.
//
// The object is stored before the message that refers to it. If the append then
// fails, the object remains without a reference until its age deletes it.

const (
	// headerBytes is reserved for a message's headers.
	headerBytes = 16 << 10
	// chunkBytes is the size of an object's parts, if the server takes as much.
	chunkBytes = 128 << 10
	// maxGuess bounds the buffer that is made for an object before it is read.
	maxGuess = 256 << 20
)

// maxData bounds the data of a message in bytes: the lower of the server's and our
// own limit, without the headers.
func (j *Journal) maxData() int { return min(int(j.conn.MaxPayload()), maxMessageBytes) - headerBytes }

// offloadIfLarge offloads a message that is too large for the journal, and returns
// any other as it is.
func (j *Journal) offloadIfLarge(ctx context.Context, message proto.Message) (proto.Message, error) {
	if proto.Size(message) <= j.maxData() {
		return message, nil
	}
	return j.Offload(ctx, message)
}

// Offload stores a message as an object and returns it without its bulky field,
// with the object's name in `<field>_ref`. A message without such a field, or with
// a reference already, is returned as it is. It is safe to repeat.
// LimitReached: the object store is full.
func (j *Journal) Offload(ctx context.Context, message proto.Message) (proto.Message, error) {
	bulky, ref := bulkyField(message)
	if bulky == nil || message.ProtoReflect().Has(ref) {
		return message, nil
	}
	data, err := events.MarshalStored(message)
	if err != nil {
		return nil, fmt.Errorf("for the object store: %w", err)
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

// inline reverses Offload: it reads the object and sets the bulky field. If the
// object has expired or is damaged, the reference remains and the log says so:
// the state of a deliberation is useful without its results.
func (j *Journal) inline(ctx context.Context, message proto.Message) error {
	bulky, ref := bulkyField(message)
	if bulky == nil {
		return nil
	}
	reflected := message.ProtoReflect()
	name := reflected.Get(ref).String()
	// A list needs the request for its summary, and no results.
	if name == "" || skipsResults(ctx) && bulky.Name() != "request" {
		return nil
	}
	data, err := j.getCounted(ctx, j.name(Results), name)
	whole := reflected.New().Interface()
	if err == nil {
		err = unpack(name, data, whole)
	}
	switch {
	case errors.Is(err, jetstream.ErrObjectNotFound):
		j.log.Warn("an object of the journal has expired", "object", name)
		return nil
	case errors.Is(err, errCorrupt):
		j.unreadable.note(j.log, "object "+name+" of "+j.name(Results), err)
		return nil
	case err != nil:
		return err
	}
	if whole.ProtoReflect().Has(bulky) { // a newer version may have it elsewhere; Set panics for what is unset
		reflected.Set(bulky, whole.ProtoReflect().Get(bulky))
	}
	reflected.Clear(ref)
	return nil
}

// errCorrupt is the error of an object whose content was changed.
var errCorrupt = errors.New("its content does not match its digest")

// unpack decodes an object after a check of its content against its name.
func unpack(name string, data []byte, into proto.Message) error {
	if objectName(data) != name {
		return errCorrupt
	}
	if err := events.UnmarshalStored(data, into); err != nil {
		return fmt.Errorf("%w: %w", errCorrupt, err)
	}
	return nil
}

// objectName is the digest of an object's content.
func objectName(data []byte) string {
	digest := sha256.Sum256(data)
	return "sha256-" + hex.EncodeToString(digest[:])
}

// bulkyField finds the pair `<field>` and `<field>_ref` of a message; nil if its
// type has none. A type has one such pair at most.
func bulkyField(message proto.Message) (bulky, ref protoreflect.FieldDescriptor) {
	fields := message.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if name, ok := strings.CutSuffix(string(fields.Get(i).Name()), "_ref"); ok {
			return fields.ByName(protoreflect.Name(name)), fields.Get(i)
		}
	}
	return nil, nil
}

// putObject stores an object. An existing one of the same name is left as it is:
// it has the same content, and storing it again would delete the parts that
// others are reading. It is safe to repeat.
func (j *Journal) putObject(ctx context.Context, bucket string, meta jetstream.ObjectMeta, data []byte) error {
	store, err := j.js.ObjectStore(ctx, bucket)
	if err != nil {
		return j.failed("reach the object store "+bucket, err)
	}
	switch complete, err := j.complete(ctx, store, meta.Name); {
	case err != nil:
		return j.failed("read an object's state", err)
	case complete:
		return nil
	}
	// A part must fit into a message of this server.
	meta.Opts = &jetstream.ObjectMetaOptions{ChunkSize: uint32(min(chunkBytes, j.conn.MaxPayload()))}
	if _, err := store.Put(ctx, meta, bytes.NewReader(data)); err != nil {
		return j.failed("store an object", err)
	}
	return nil
}

// complete reports whether an object exists with all its parts. A put that failed,
// because the bucket was full or the connection was lost, may leave the name
// without its parts; such an object must be stored again.
func (j *Journal) complete(ctx context.Context, store jetstream.ObjectStore, name string) (bool, error) {
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
	state, err := stream.Info(ctx, jetstream.WithSubjectFilter(parts))
	return err == nil && state.State.Subjects[parts] == uint64(info.Chunks), err
}

// getCounted reads an object for a caller: its size counts at the gate. Errors are
// those of getObject.
func (j *Journal) getCounted(ctx context.Context, bucket, name string) ([]byte, error) {
	store, err := j.js.ObjectStore(ctx, bucket)
	if err != nil {
		return nil, j.failed("reach the object store "+bucket, err)
	}
	if err := countObject(ctx, store, name); err != nil {
		return nil, err
	}
	return j.getObject(ctx, store, name)
}

// getObject reads an object. jetstream.ErrObjectNotFound: it has expired.
// errCorrupt: its parts were changed.
func (j *Journal) getObject(ctx context.Context, store jetstream.ObjectStore, name string) ([]byte, error) {
	// A replica may lag behind the writer of the object: "not found" counts only
	// after some attempts.
	data, err := backoff.Retry(ctx, func() ([]byte, error) {
		data, err := readObject(ctx, store, name)
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

// readObject reads an object into a buffer of its size.
func readObject(ctx context.Context, store jetstream.ObjectStore, name string) ([]byte, error) {
	object, err := store.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	defer object.Close()
	info, err := object.Info()
	if err != nil {
		return nil, err
	}
	buffer := bytes.NewBuffer(make([]byte, 0, min(info.Size, maxGuess)+bytes.MinRead))
	if _, err := buffer.ReadFrom(object); err != nil {
		return nil, err
	}
	return buffer.Bytes(), nil
}

// deleteObject deletes an object that nothing refers to any more; an empty name
// is none. A failure is harmless: the object's age deletes it later.
func (j *Journal) deleteObject(ctx context.Context, name string) {
	if name == "" {
		return
	}
	store, err := j.js.ObjectStore(ctx, j.name(Results))
	if err == nil {
		err = store.Delete(ctx, name)
	}
	if err != nil {
		j.log.Debug("could not delete an object", "object", name, "error", err)
	}
}
