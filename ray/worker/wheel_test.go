package worker

import (
	"archive/zip"
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/fstest"
)

const wheelName = "wheels/nats_py-2.16.0-py3-none-any.whl"

func zipped(t *testing.T, names ...string) *fstest.MapFile {
	t.Helper()
	var buffer bytes.Buffer
	writer := zip.NewWriter(&buffer)
	for _, name := range names {
		if _, err := writer.Create(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return &fstest.MapFile{Data: buffer.Bytes()}
}

func TestWheel(t *testing.T) {
	t.Parallel()
	files := map[string][]byte{}
	err := addWheel(files, fstest.MapFS{
		wheelName: zipped(t, "nats/", "nats/__init__.py"),
		// Left there by an earlier version's build.
		"wheels/nats_py-2.15.0-py3-none-any.whl": zipped(t, "old.py"),
	})
	if _, there := files["nats/__init__.py"]; err != nil || !there || len(files) != 1 {
		t.Errorf("%v, %v", err, files)
	}
}

func TestNoWheel(t *testing.T) {
	t.Parallel()
	err := addWheel(map[string][]byte{}, fstest.MapFS{"wheels/README.md": {}, "wheels/nats_py-2.15.0-py3-none-any.whl": {}})
	if !errors.Is(err, ErrNoWheel) || !strings.Contains(err.Error(), "make build") || !strings.Contains(err.Error(), "WORKER_PIP=true") {
		t.Error(err)
	}
}

func TestBadWheel(t *testing.T) {
	t.Parallel()
	for what, file := range map[string]*fstest.MapFile{
		"a zip": {Data: []byte("<html>")}, "a path within": zipped(t, "../evil.py"),
	} {
		if err := addWheel(map[string][]byte{}, fstest.MapFS{wheelName: file}); err == nil || !strings.Contains(err.Error(), "make build") {
			t.Errorf("what is not %s: %v", what, err)
		}
	}
}
