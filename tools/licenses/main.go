// Command licenses prints the licences of everything that programs and Python
// wheels contain: of Go itself, of each Go module that a program was built
// from, and of each wheel. A module or wheel without a licence is an error.
//
//	go run ./tools/licenses bin/ray-executor ray/worker/wheels/*.whl
package main

import (
	"archive/zip"
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

// texts are the files of a module or wheel that its licence asks to pass on.
var texts = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)([-.].*)?$`)

// maxText is the largest licence file that is read, in bytes: far above the
// longest one known, and small against memory.
const maxText = 1 << 20

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: licenses (PROGRAM | WHEEL.whl)...")
		os.Exit(2)
	}
	if err := run(os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "licenses:", err)
		os.Exit(1)
	}
}

// run writes one section for each module and wheel, in the order of their names.
func run(to io.Writer, files []string) error {
	sections := make(map[string]string)
	var programs []string
	for _, file := range files {
		if filepath.Ext(file) != ".whl" {
			programs = append(programs, file)
			continue
		}
		text, err := wheel(file)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		sections[strings.TrimSuffix(filepath.Base(file), ".whl")] = text
	}
	modules, err := modules(programs)
	if err != nil {
		return err
	}
	maps.Copy(sections, modules)
	for _, name := range slices.Sorted(maps.Keys(sections)) {
		rule := strings.Repeat("=", 80)
		if _, err := fmt.Fprintf(to, "%s\n%s\n%s\n\n%s\n", rule, name, rule, sections[name]); err != nil {
			return err
		}
	}
	return nil
}

// modules are the licences of the modules that programs were built from, by
// module and version.
func modules(programs []string) (map[string]string, error) {
	found := make(map[string]string)
	download := []string{"mod", "download", "-json"}
	for _, program := range programs {
		info, err := buildinfo.ReadFile(program)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", program, err)
		}
		for _, module := range info.Deps {
			if module.Replace != nil {
				module = module.Replace
			}
			download = append(download, module.Path+"@"+module.Version)
		}
	}
	if len(programs) > 0 {
		text, err := folder(runtime.GOROOT()) //nolint:staticcheck // `go run` sets it, and nothing else runs this
		if err != nil {
			return nil, err
		}
		found["Go "+strings.TrimPrefix(runtime.Version(), "go")] = text
	}
	if len(download) == 3 {
		return found, nil
	}
	command := exec.CommandContext(context.Background(), "go", download...) //nolint:gosec // modules that the programs were built from
	command.Stderr = os.Stderr
	out, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("go mod download: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(out))
	for {
		var module struct{ Path, Version, Dir string }
		if err := decoder.Decode(&module); errors.Is(err, io.EOF) { //nolint:musttag // the go command writes these names
			return found, nil
		} else if err != nil {
			return nil, err
		}
		text, err := folder(module.Dir)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", module.Path, err)
		}
		found[module.Path+" "+module.Version] = text
	}
}

// folder is the text of the licence files directly in a folder.
func folder(dir string) (string, error) {
	files := os.DirFS(dir)
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return "", err
	}
	var names []string
	for _, entry := range entries {
		if !entry.IsDir() && texts.MatchString(entry.Name()) {
			names = append(names, entry.Name())
		}
	}
	return read(files, names)
}

// wheel is the text of a wheel's licence files.
func wheel(file string) (string, error) {
	archive, err := zip.OpenReader(file)
	if err != nil {
		return "", err
	}
	defer func() { _ = archive.Close() }()
	var names []string
	for _, entry := range archive.File {
		if strings.Contains(entry.Name, ".dist-info/") && texts.MatchString(path.Base(entry.Name)) {
			names = append(names, entry.Name)
		}
	}
	return read(archive, names)
}

// read returns the texts of files, one after the other; none is an error.
func read(files fs.FS, names []string) (string, error) {
	var all strings.Builder
	for _, name := range names {
		file, err := files.Open(name)
		if err != nil {
			return "", err
		}
		text, err := io.ReadAll(io.LimitReader(file, maxText))
		if err := errors.Join(err, file.Close()); err != nil {
			return "", err
		}
		all.WriteString(strings.TrimSpace(string(text)) + "\n\n")
	}
	if all.Len() == 0 {
		return "", errors.New("has no licence file")
	}
	return all.String(), nil
}
