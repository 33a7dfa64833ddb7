package volplugin

import (
	"bufio"
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// formats are the compressions of archives by their first bytes.
var formats = []struct {
	magic string
	name  string
	open  func(io.Reader) (io.ReadCloser, error) // nil: not supported
}{
	{"\x1f\x8b", "gzip", func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }},
	{"\x28\xb5\x2f\xfd", "zstd", openZstd},
	{"\xfd7zXZ\x00", "xz", nil},
	{"BZh", "bzip2", nil},
	{"\x04\x22\x4d\x18", "lz4", nil},
}

// maxWindow bounds the memory that a zstd stream may ask for.
const maxWindow = 128 << 20

func openZstd(r io.Reader) (io.ReadCloser, error) {
	d, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}

// decompress tells the compression of r by its content and undoes it.
func decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 256<<10)
	head, err := br.Peek(8)
	if err != nil && err != io.EOF {
		return nil, err
	}
	for _, f := range formats {
		if !bytes.HasPrefix(head, []byte(f.magic)) {
			continue
		}
		if f.open == nil {
			return nil, fmt.Errorf("compressed by %s, which is not supported: use gzip or zstd", f.name)
		}
		return f.open(br)
	}
	return io.NopCloser(br), nil
}
