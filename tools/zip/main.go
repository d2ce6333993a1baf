// Command zip writes programs into a zip file, byte for byte the same for the
// same programs: nothing of when and by whom it was made is in it.
//
//	go run ./tools/zip bootstrap.zip bootstrap
package main

import (
	"archive/zip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: zip TO.zip PROGRAM...")
		os.Exit(2)
	}
	if err := pack(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "zip:", err)
		os.Exit(1)
	}
}

// pack writes programs into a new zip file.
func pack(to string, programs []string) error {
	file, err := os.Create(to) //nolint:gosec // whoever runs it names the file
	if err != nil {
		return err
	}
	archive := zip.NewWriter(file)
	for _, program := range programs {
		if err := add(archive, program); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return file.Close()
}

func add(archive *zip.Writer, program string) error {
	from, err := os.Open(program) //nolint:gosec // whoever runs it names the file
	if err != nil {
		return err
	}
	defer from.Close()
	header := &zip.FileHeader{
		Name: filepath.Base(program), Method: zip.Deflate,
		Modified: time.Date(1980, time.January, 1, 0, 0, 0, 0, time.UTC), // as early as zip can say
	}
	header.SetMode(0o755) // Lambda starts it
	entry, err := archive.CreateHeader(header)
	if err != nil {
		return err
	}
	_, err = io.Copy(entry, from)
	return err
}
