package gate

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"io"
)

// frames reads the messages of gRPC, gRPC-Web and Connect's streams, each of which
// follows a flag and its length, and returns them decompressed. So their
// decompressed size is counted, and no library decompresses more than that.
type frames struct {
	from *body
	left int64        // of a message that is passed on as it arrives
	out  bytes.Buffer // what is to be returned before that
}

const (
	prefixBytes    = 5
	compressedFlag = 1
)

// Read implements io.Reader.
func (f *frames) Read(p []byte) (int, error) {
	if f.out.Len() == 0 && f.left == 0 {
		if err := f.next(); err != nil {
			return 0, err
		}
	}
	if f.out.Len() > 0 {
		return f.out.Read(p)
	}
	n, err := f.from.source.Read(p[:min(int64(len(p)), f.left)])
	f.left -= int64(n)
	return n, err
}

// next reads as much of the next message as its kind wants.
func (f *frames) next() error {
	var prefix [prefixBytes]byte
	if _, err := io.ReadFull(f.from.source, prefix[:]); err != nil {
		return err
	}
	f.out.Reset()
	size := int64(binary.BigEndian.Uint32(prefix[1:]))
	if prefix[0]&compressedFlag == 0 || size == 0 {
		f.out.Write(prefix[:])
		f.left = size
		return nil
	}
	prefix[0] &^= compressedFlag
	f.out.Write(prefix[:])
	if err := f.inflate(size); err != nil {
		return err
	}
	binary.BigEndian.PutUint32(f.out.Bytes()[1:], uint32(f.out.Len()-prefixBytes))
	return nil
}

// inflate decompresses a message of a size, as far as the limit goes.
func (f *frames) inflate(size int64) error {
	if size > f.from.door.MaxBody {
		return errBody
	}
	compressed := io.LimitReader(f.from.source, size)
	reader, err := f.from.unzip(compressed)
	if err != nil {
		return malformed(err)
	}
	part := make([]byte, 4<<10)
	for {
		n, err := reader.Read(part)
		if counting := f.from.need(f.from.read + int64(f.out.Len()+n)); counting != nil {
			return counting
		}
		f.out.Write(part[:n])
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, compressed) // what follows the last block
			return err
		}
		if err != nil {
			return malformed(err)
		}
	}
}

func isCorrupt(err error) bool {
	_, corrupt := errors.AsType[flate.CorruptInputError](err)
	return corrupt
}
