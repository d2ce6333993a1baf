package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
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

// TestMakePush runs the command of the operators' page against a registry that
// wants a login.
func TestMakePush(t *testing.T) {
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "someone" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="images"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		images.ServeHTTP(w, r)
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	login := t.TempDir()
	config := fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, host, base64.StdEncoding.EncodeToString([]byte("someone:secret")))
	if err := os.WriteFile(filepath.Join(login, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", login)
	command := exec.CommandContext(t.Context(), "make", "-C", "../..", "push", "IMAGE="+host+"/ray-executor:1")
	if printed, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, printed)
	}
	ref, err := name.ParseReference(host + "/ray-executor:1")
	if err != nil {
		t.Fatal(err)
	}
	pushed, err := remote.Index(ref, remote.WithAuthFromKeychain(authn.DefaultKeychain))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(pushed); err != nil {
		t.Error(err)
	}
}
