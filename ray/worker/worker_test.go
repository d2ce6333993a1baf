package worker_test

import (
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	rayexecutorv1 "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/ray/worker"
	"rayexecutor/tests/golden"
)

// contents unzips a package.
func contents(t *testing.T, pack worker.Package) map[string]string {
	t.Helper()
	archive, err := zip.NewReader(bytes.NewReader(pack.Zip), int64(len(pack.Zip)))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, file := range archive.File {
		reader, err := file.Open()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		files[file.Name] = string(data)
	}
	return files
}

// complete is the package with its wheel.
func complete(t *testing.T) worker.Package {
	t.Helper()
	pack, err := worker.New(false)
	if errors.Is(err, worker.ErrNoWheel) {
		t.Fatal("no wheel in ray/worker/wheels: run `make test`, which fetches it")
	}
	if err != nil {
		t.Fatal(err)
	}
	return pack
}

func TestPackageIsTheSameEachTime(t *testing.T) {
	t.Parallel()
	first, second := complete(t), complete(t)
	if !bytes.Equal(first.Zip, second.Zip) || first.Hash != second.Hash {
		t.Error("two packages of the same contents differ")
	}
	if want := "gcs://_ray_pkg_" + first.Hash[:32] + ".zip"; first.URI() != want || len(first.Hash) != 64 {
		t.Errorf("%s is not %s", first.URI(), want)
	}
	slim, err := worker.New(true)
	if err != nil || slim.Hash == first.Hash || len(slim.Zip) >= len(first.Zip) {
		t.Errorf("with pip: %v, %d bytes", err, len(slim.Zip))
	}
}

// The names of what is not ours, and where ours is: a file that goes missing,
// or one that should not travel, shows here.
func TestPackageNames(t *testing.T) {
	t.Parallel()
	var names strings.Builder
	archive, err := zip.NewReader(bytes.NewReader(complete(t).Zip), int64(len(complete(t).Zip)))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range archive.File {
		if !strings.HasPrefix(file.Name, "ray_executor_worker/") {
			names.WriteString(file.Name + "\n")
		}
		if file.Mode() != 0o644 || file.Method != zip.Store {
			t.Errorf("%s: mode %v, method %d", file.Name, file.Mode(), file.Method)
		}
	}
	golden.Check(t, "testdata/names.golden", []byte(names.String()))
	files := contents(t, complete(t))
	for _, name := range []string{"ray_executor_worker/__init__.py", "ray_executor_worker/app.py", worker.DescriptorsFile} {
		if _, there := files[name]; !there {
			t.Errorf("%s is missing", name)
		}
	}
}

// The bytes of a zip do not hang on the order of a map, the clock or Go's
// version.
func TestPackGolden(t *testing.T) {
	t.Parallel()
	pack, err := worker.Pack(map[string][]byte{"b.py": []byte("b"), "a/a.py": []byte("a"), "c.py": nil})
	if err != nil {
		t.Fatal(err)
	}
	const want = "249bf942da9925e4290ec0efc8d1b12998464646d00e135dd3e929f1e6fb3235"
	if pack.Hash != want {
		t.Errorf("hash %s, want %s", pack.Hash, want)
	}
}

func TestRequirement(t *testing.T) {
	t.Parallel()
	if got := worker.Requirement(); got != "nats-py==2.16.0" {
		t.Errorf("%q", got)
	}
}

func descriptors(t *testing.T) *descriptorpb.FileDescriptorSet {
	t.Helper()
	data, err := worker.Descriptors()
	if err != nil {
		t.Fatal(err)
	}
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(data, set); err != nil {
		t.Fatal(err)
	}
	return set
}

func TestDescriptorsStandAlone(t *testing.T) {
	t.Parallel()
	data, _ := worker.Descriptors()
	if bytes.Contains(data, []byte("validate")) || bytes.Contains(data, []byte("IGNORE")) {
		t.Error("something of buf.validate is left")
	}
	files := descriptors(t).GetFile()
	seen := make([]string, 0, len(files))
	for _, file := range files {
		for _, dependency := range file.GetDependency() {
			if !slices.Contains(seen, dependency) {
				t.Errorf("%s comes before %s", file.GetName(), dependency)
			}
		}
		seen = append(seen, file.GetName())
	}
	if _, err := protodesc.NewFiles(descriptors(t)); err != nil {
		t.Error(err)
	}
	again, _ := worker.Descriptors()
	if !bytes.Equal(data, again) {
		t.Error("two sets of the same files differ")
	}
}

// What a worker reads with these descriptors is what Go wrote.
func TestDescriptorsReadThePayloads(t *testing.T) {
	t.Parallel()
	files, err := protodesc.NewFiles(descriptors(t))
	if err != nil {
		t.Fatal(err)
	}
	wrote := &rayexecutorv1.DeliberationRequested{
		DeliberationId: "d", Request: &rayexecutorv1.ExecuteDeliberationRequest{
			Agents:      []*rayexecutorv1.Agent{{Id: "a"}},
			Constraints: &rayexecutorv1.TaskConstraints{MaxRetries: proto.Int32(0), Metadata: map[string]string{"k": "v"}},
		},
	}
	descriptor, err := files.FindDescriptorByName(wrote.ProtoReflect().Descriptor().FullName())
	if err != nil {
		t.Fatal(err)
	}
	data, err := proto.Marshal(wrote)
	if err != nil {
		t.Fatal(err)
	}
	read := dynamicpb.NewMessage(descriptor.(protoreflect.MessageDescriptor))
	if err := proto.Unmarshal(data, read); err != nil {
		t.Fatal(err)
	}
	if again, err := proto.Marshal(read); err != nil || !proto.Equal(wrote, reread(t, again)) || len(read.GetUnknown()) > 0 {
		t.Errorf("%v: %v", err, read)
	}
}

func reread(t *testing.T, data []byte) *rayexecutorv1.DeliberationRequested {
	t.Helper()
	message := &rayexecutorv1.DeliberationRequested{}
	if err := proto.Unmarshal(data, message); err != nil {
		t.Fatal(err)
	}
	return message
}

// Taking the rules out must not take them out of the running program.
func TestDescriptorsLeaveTheRulesAlone(t *testing.T) {
	t.Parallel()
	field := rayexecutorv1.File_ray_executor_v1_deliberation_proto.Messages().ByName("Agent").Fields().ByName("id")
	before := proto.Size(field.Options())
	descriptors(t)
	if after := proto.Size(field.Options()); before == 0 || after != before {
		t.Errorf("options of Agent.id: %d bytes before, %d after", before, after)
	}
}
