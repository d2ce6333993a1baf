package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

const tag = "dev.local/ray-executor:test"

// made returns the folder with an image of two binaries.
func made(t *testing.T) string {
	t.Helper()
	out := t.TempDir()
	var binaries []string
	for _, arch := range []string{"amd64", "arm64"} {
		path := filepath.Join(out, "bin-"+arch)
		if err := os.WriteFile(path, []byte("a program for "+arch), 0o700); err != nil {
			t.Fatal(err)
		}
		binaries = append(binaries, arch+"="+path)
	}
	if err := run(out, tag, false, binaries); err != nil {
		t.Fatal(err)
	}
	return out
}

// inLayout returns what the folder's OCI layout holds.
func inLayout(t *testing.T, out string) v1.ImageIndex {
	t.Helper()
	index, err := layout.ImageIndexFromPath(filepath.Join(out, "oci"))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		t.Fatal(manifest, err)
	}
	inner, err := index.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return inner
}

func TestTheLayoutIsWhole(t *testing.T) {
	t.Parallel()
	index := inLayout(t, made(t))
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var platforms []string
	for _, one := range manifest.Manifests {
		platforms = append(platforms, one.Platform.String())
	}
	if len(platforms) != 2 || platforms[0] != "linux/amd64" || platforms[1] != "linux/arm64" {
		t.Error(platforms)
	}
}

func TestTheTarballRunsAsNobody(t *testing.T) {
	t.Parallel()
	image, err := tarball.ImageFromPath(filepath.Join(made(t), "arm64.tar"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(image); err != nil {
		t.Error(err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if file.Architecture != "arm64" || file.Config.User != "65532:65532" || file.Config.Entrypoint[0] != entrypoint {
		t.Errorf("%+v", file)
	}
	content, err := io.ReadAll(mutate.Extract(image))
	if err != nil || !bytes.Contains(content, []byte("a program for arm64")) {
		t.Error("the binary is not in it", err)
	}
}

func TestTheSameBinariesAreTheSameImage(t *testing.T) {
	t.Parallel()
	one, err := inLayout(t, made(t)).Digest()
	if err != nil {
		t.Fatal(err)
	}
	other, err := inLayout(t, made(t)).Digest()
	if err != nil || one != other {
		t.Error(one, other, err)
	}
}

func TestABinaryThatIsMissing(t *testing.T) {
	t.Parallel()
	if err := run(t.TempDir(), tag, false, []string{"amd64=/nowhere"}); err == nil {
		t.Error("made an image of nothing")
	}
}
