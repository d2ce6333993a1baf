// Command sbom adds Python wheels to a CycloneDX bill of materials in JSON, as
// components with their package URL and SHA-256: what made the bill reads
// the Go modules of a program, and not the wheels that are embedded in it.
//
//	go run ./tools/sbom sbom.cdx.json ray/worker/wheels/*.whl
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: sbom BILL.json WHEEL.whl...")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

// run adds the wheels to the bill in a file.
func run(bill string, wheels []string) error {
	content, err := os.ReadFile(bill) //nolint:gosec // whoever runs it names the file
	if err != nil {
		return err
	}
	document := make(map[string]any)
	if err := json.Unmarshal(content, &document); err != nil {
		return err
	}
	components, ok := document["components"].([]any)
	if !ok {
		return errors.New(bill + " has no components: it is not a CycloneDX bill of materials in JSON")
	}
	for _, wheel := range wheels {
		component, err := describe(wheel)
		if err != nil {
			return err
		}
		components = append(components, component)
	}
	document["components"] = components
	content, err = json.MarshalIndent(document, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(bill, append(content, '\n'), 0o644) //nolint:gosec // a release is for everybody
}

// describe is the component of a wheel. Its file's name says what it is:
// <name>-<version>-<tags>.whl, with _ for - in the name
// (https://packaging.python.org/en/latest/specifications/binary-distribution-format/).
func describe(wheel string) (map[string]any, error) {
	parts := strings.Split(filepath.Base(wheel), "-")
	if len(parts) < 5 || filepath.Ext(wheel) != ".whl" {
		return nil, errors.New(wheel + " is not a wheel")
	}
	content, err := os.ReadFile(wheel) //nolint:gosec // whoever runs it names the file
	if err != nil {
		return nil, err
	}
	name, version := strings.ReplaceAll(parts[0], "_", "-"), parts[1]
	digest := sha256.Sum256(content)
	url := fmt.Sprintf("pkg:pypi/%s@%s", strings.ToLower(name), version)
	return map[string]any{
		"bom-ref": url, "type": "library", "name": name, "version": version, "purl": url,
		"hashes": []any{map[string]any{"alg": "SHA-256", "content": hex.EncodeToString(digest[:])}},
	}, nil
}
