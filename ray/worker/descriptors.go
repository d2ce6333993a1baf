package worker

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	rayexecutorv1 "rayexecutor/proto/ray_executor/v1"
)

// Descriptors is the serialized google.protobuf.FileDescriptorSet of the
// payloads, each file after those that it imports. The rules of
// buf/validate/validate.proto and the routes of google/api/annotations.proto
// are taken out: they are the door's, and a cluster need not know them.
func Descriptors() ([]byte, error) {
	set := &descriptorpb.FileDescriptorSet{}
	for _, file := range described() {
		set.File = append(set.File, Plain(file))
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("descriptors of the payloads: %w", err)
	}
	return data, nil
}

// described are the files in the order of their imports.
func described() []protoreflect.FileDescriptor {
	return []protoreflect.FileDescriptor{
		timestamppb.File_google_protobuf_timestamp_proto,
		durationpb.File_google_protobuf_duration_proto,
		structpb.File_google_protobuf_struct_proto,
		rayexecutorv1.File_ray_executor_v1_deliberation_proto,
		rayexecutorv1.File_ray_executor_v1_events_proto,
		rayexecutorv1.File_ray_executor_v1_service_proto,
	}
}

// Plain is a file without the door's options.
func Plain(file protoreflect.FileDescriptor) *descriptorpb.FileDescriptorProto {
	// A clone: options are shared with the registered descriptors.
	clean := proto.CloneOf(protodesc.ToFileDescriptorProto(file))
	clean.Dependency = slices.DeleteFunc(clean.GetDependency(), func(path string) bool {
		return strings.HasPrefix(path, "buf/") || strings.HasPrefix(path, "google/api/")
	})
	clearExtensions(clean.ProtoReflect())
	return clean
}

// clearExtensions clears extensions, known and unknown, in a message and in
// all below it.
func clearExtensions(message protoreflect.Message) {
	message.SetUnknown(nil)
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsExtension():
			message.Clear(field)
		case field.Message() == nil: // a scalar
		case field.IsList():
			for i := range value.List().Len() {
				clearExtensions(value.List().Get(i).Message())
			}
		default:
			clearExtensions(value.Message())
		}
		return true
	})
}
