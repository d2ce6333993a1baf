package main

import (
	"archive/zip"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The test's own program contains what it imports.
func TestAProgramsModulesAndGoAreListed(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run(&out, []string{program}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "\nGo 1.") || !strings.Contains(out.String(), "Copyright 2009 The Go Authors.") {
		t.Errorf("Go's licence is missing:\n%.500s", out.String())
	}
}

func TestAWheelsLicence(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files map[string]string
		want  string
		fails bool
	}{
		"licence":           {files: map[string]string{"a-1.dist-info/LICENSE": "free", "a/__init__.py": ""}, want: "free"},
		"licences folder":   {files: map[string]string{"a-1.dist-info/licenses/LICENSE.txt": "free", "a-1.dist-info/licenses/NOTICE": "by A"}, want: "by A"},
		"none":              {files: map[string]string{"a/LICENSE.py": "", "a-1.dist-info/METADATA": ""}, fails: true},
		"of something else": {files: map[string]string{"a/vendored/LICENSE": "other"}, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "a-1-py3-none-any.whl")
			var content bytes.Buffer
			archive := zip.NewWriter(&content)
			for path, text := range c.files {
				entry, err := archive.Create(path)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := entry.Write([]byte(text)); err != nil {
					t.Fatal(err)
				}
			}
			if err := archive.Close(); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, content.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			err := run(&out, []string{file})
			if (err != nil) != c.fails || !strings.Contains(out.String(), c.want) {
				t.Errorf("error %v, output %q", err, out.String())
			}
		})
	}
}
