// Image makes the container image out of binaries, with no Docker engine: an
// OCI layout for all architectures, and for each a tarball as `ctr images
// import` and `docker load` take it. The same binaries are the same image, by
// digest. With -push it goes to a registry, with the login of Docker's
// configuration.
//
//	image -o dist/image -tag ray-executor:dev amd64=bin/amd64 arm64=bin/arm64
//
// It is a module of its own: what it needs stays out of the project's.
package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The user of the image: nobody that a node knows.
const user = 65532

// entrypoint is the one file of the image.
const entrypoint = "/ray-executor"

func main() {
	out := flag.String("o", "dist/image", "the `folder` to write to")
	tag := flag.String("tag", "ray-executor:dev", "the image's `name`")
	push := flag.Bool("push", false, "push it to the registry that -tag names")
	flag.Parse()
	if err := run(*out, *tag, *push, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(out, tag string, push bool, binaries []string) error {
	ref, err := name.NewTag(tag)
	if err != nil {
		return err
	}
	index := mutate.IndexMediaType(v1.ImageIndex(empty.Index), types.OCIImageIndex)
	for _, one := range binaries {
		arch, binary, _ := strings.Cut(one, "=")
		image, err := build(arch, binary)
		if err != nil {
			return fmt.Errorf("%s: %w", one, err)
		}
		if err := tarball.WriteToFile(filepath.Join(out, arch+".tar"), ref, image); err != nil {
			return err
		}
		if err := show(arch, image); err != nil {
			return err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	if err := write(filepath.Join(out, "oci"), tag, index); err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	if push {
		if err := remote.WriteIndex(ref, index, remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
			return err
		}
	}
	fmt.Printf("%s@%s\n", tag, digest)
	return nil
}

// build is one binary as an image: from scratch, for its certificate
// authorities are in it, and it writes no file.
func build(arch, binary string) (v1.Image, error) {
	data, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	packed, err := pack(data)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed)), nil }, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	image, err := mutate.Append(mutate.MediaType(empty.Image, types.OCIManifestSchema1), mutate.Addendum{
		Layer: layer, History: v1.History{CreatedBy: "tools/image", Created: v1.Time{Time: time.Unix(0, 0).UTC()}},
	})
	if err != nil {
		return nil, err
	}
	image = mutate.ConfigMediaType(image, types.OCIConfigJSON)
	return mutate.ConfigFile(image, config(arch, image))
}

func config(arch string, image v1.Image) *v1.ConfigFile {
	file, err := image.ConfigFile()
	if err != nil {
		panic(err) // it was made here
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = "linux", arch, v1.Time{Time: time.Unix(0, 0).UTC()}
	file.Config = v1.Config{
		Entrypoint: []string{entrypoint}, Cmd: []string{"serve"}, User: fmt.Sprintf("%d:%d", user, user),
		WorkingDir: "/", ExposedPorts: map[string]struct{}{"8080/tcp": {}},
		Labels: map[string]string{"org.opencontainers.image.title": "ray-executor"},
	}
	return file
}

// pack is a layer of one file, whose bytes depend on data alone.
func pack(data []byte) ([]byte, error) {
	var layer bytes.Buffer
	writer := tar.NewWriter(&layer)
	if err := writer.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: strings.TrimPrefix(entrypoint, "/"), Mode: 0o755, Size: int64(len(data)), Format: tar.FormatUSTAR,
	}); err != nil {
		return nil, err
	}
	if _, err := writer.Write(data); err != nil {
		return nil, err
	}
	if err := writer.Close(); err != nil {
		return nil, err
	}
	return layer.Bytes(), nil
}

// write replaces the layout at path.
func write(path, tag string, index v1.ImageIndex) error {
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	to, err := layout.Write(path, empty.Index)
	if err != nil {
		return err
	}
	return to.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag}))
}

// show prints what an image weighs on the wire and on a node's disk.
func show(arch string, image v1.Image) error {
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	packed, err := layers[0].Size()
	if err != nil {
		return err
	}
	reader, err := layers[0].Uncompressed()
	if err != nil {
		return err
	}
	unpacked, err := io.Copy(io.Discard, reader)
	if err != nil {
		return err
	}
	fmt.Printf("%-6s %5.1f MB compressed, %5.1f MB unpacked\n", arch, float64(packed)/1e6, float64(unpacked)/1e6)
	return nil
}
