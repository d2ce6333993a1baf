// Package worker is what runs on a Ray cluster: the Python package below
// ray_executor_worker, made into the one file that deploy uploads.
//
// The file is a zip with the package, the protobuf descriptors that it makes
// its message classes from, and nats-py, so that a cluster needs nothing but
// Ray. Its bytes depend on its contents alone: the same contents have the same
// name on every cluster, and a new name makes Ray Serve roll the replicas.
package worker

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// DescriptorsFile is where the package carries Descriptors.
const DescriptorsFile = "ray_executor_worker/descriptors.binpb"

// maxWheelFile bounds one unpacked file of a wheel, in bytes.
const maxWheelFile = 16 << 20

//go:embed ray_executor_worker/*.py requirements.txt all:wheels
var embedded embed.FS

// ErrNoWheel says that this binary was built without nats-py.
var ErrNoWheel = errors.New("this binary carries no nats-py: run `make build`, " +
	"or set WORKER_PIP=true where the Ray nodes can install it themselves")

// pinned finds the requirement at the start of a line of requirements.txt.
var pinned = regexp.MustCompile(`(?m)^nats-py==\S+`)

// Package is a zip that Ray takes as a working directory.
type Package struct {
	// Zip is the file itself.
	Zip []byte
	// Hash is the SHA-256 of Zip, in hexadecimal.
	Hash string
}

// Name is the package's name in Ray's store.
func (p Package) Name() string { return "_ray_pkg_" + p.Hash[:32] + ".zip" }

// URI is the package as a runtime_env's working_dir.
func (p Package) URI() string { return "gcs://" + p.Name() }

// New makes the package that this binary carries. With pip the Ray nodes
// install nats-py themselves, and it is left out; without, a binary that was
// built without it returns ErrNoWheel.
func New(pip bool) (Package, error) {
	files, err := sources()
	if err != nil {
		return Package{}, err
	}
	if !pip {
		if err := addWheel(files, embedded); err != nil {
			return Package{}, err
		}
	}
	return Pack(files)
}

// Requirement is the worker's own dependency as pip reads it, for example
// `nats-py==2.16.0`.
func Requirement() string {
	text, err := embedded.ReadFile("requirements.txt")
	if err != nil {
		panic(err) // it is embedded
	}
	return string(pinned.Find(text))
}

// Pack zips files, given by their slash-separated paths. The order, the times
// and the modes are fixed, and nothing is compressed: the bytes depend on the
// files alone, and not on Go's version either.
func Pack(files map[string][]byte) (Package, error) {
	var buffer bytes.Buffer
	writer := zip.NewWriter(&buffer)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := add(writer, name, files[name]); err != nil {
			return Package{}, fmt.Errorf("pack %s: %w", name, err)
		}
	}
	if err := writer.Close(); err != nil {
		return Package{}, fmt.Errorf("pack: %w", err)
	}
	sum := sha256.Sum256(buffer.Bytes())
	return Package{Zip: buffer.Bytes(), Hash: hex.EncodeToString(sum[:])}, nil
}

func add(writer *zip.Writer, name string, data []byte) error {
	header := &zip.FileHeader{Name: name, Method: zip.Store}
	header.SetMode(0o644)
	file, err := writer.CreateHeader(header)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return err
}

// sources are the Python files and the descriptors.
func sources() (map[string][]byte, error) {
	files := map[string][]byte{}
	names, err := fs.Glob(embedded, "ray_executor_worker/*.py")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if files[name], err = embedded.ReadFile(name); err != nil {
			return nil, err
		}
	}
	if files[DescriptorsFile], err = Descriptors(); err != nil {
		return nil, err
	}
	return files, nil
}

// addWheel unpacks the pinned wheel out of wheels/.
func addWheel(files map[string][]byte, from fs.FS) error {
	name, err := wheel(from)
	if err != nil {
		return err
	}
	data, err := fs.ReadFile(from, name)
	if err != nil {
		return err
	}
	archive, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return fmt.Errorf("%s: %w: run `make build` again", name, err)
	}
	for _, file := range archive.File {
		if file.Mode().IsDir() {
			continue
		}
		if files[path.Clean(file.Name)], err = unpack(file); err != nil {
			return fmt.Errorf("%s: %s: %w: run `make build` again", name, file.Name, err)
		}
	}
	return nil
}

// wheel finds the one wheel of the pinned version.
func wheel(from fs.FS) (string, error) {
	version := strings.TrimPrefix(Requirement(), "nats-py==")
	names, err := fs.Glob(from, "wheels/nats_py-"+version+"-*.whl")
	if err != nil {
		return "", err
	}
	if len(names) == 0 {
		return "", ErrNoWheel
	}
	return names[0], nil
}

func unpack(file *zip.File) ([]byte, error) {
	if !fs.ValidPath(path.Clean(file.Name)) {
		return nil, errors.New("its path leads out of the package")
	}
	if file.UncompressedSize64 > maxWheelFile {
		return nil, fmt.Errorf("larger than %d bytes", maxWheelFile)
	}
	reader, err := file.Open()
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(reader)
	return data, errors.Join(err, reader.Close())
}
