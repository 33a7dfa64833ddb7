// Package replay keeps the last output that no client took, in a ring within
// a shared mapping of a file. On a tmpfs it costs no more than memory, and
// what was put in outlives a kill of the process that put it there.
package replay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// header precedes the ring. begin and end count bytes since the file was
// made; end-begin is at most the ring's size.
const header = 16

// A Buffer is one stream's ring. It is not safe for concurrent use.
type Buffer struct {
	path string
	size uint64
	mem  []byte // nil until the first Put, or until Open found a file
}

// New returns an empty buffer of size bytes; the first Put makes, or empties,
// its file at path. A size of 0 keeps nothing.
func New(path string, size int) *Buffer {
	return &Buffer{path: path, size: uint64(size)}
}

// Open returns the buffer that path holds, with what an earlier process put
// into it; a missing file is what New returns.
func Open(path string, size int) (*Buffer, error) {
	b := New(path, size)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return b, nil
	case err != nil:
		return nil, err
	}
	defer f.Close() // the mapping holds it
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() <= header {
		return nil, fmt.Errorf("replay %s: %d bytes are too few", path, info.Size())
	}
	b.size = uint64(info.Size()) - header
	if err := b.mapFile(f); err != nil {
		return nil, err
	}
	if begin, end := b.begin().Load(), b.end().Load(); begin > end || end-begin > b.size {
		_ = b.Close() // the finding matters
		return nil, fmt.Errorf("replay %s: from %d to %d in a ring of %d bytes", path, begin, end, b.size)
	}
	return b, nil
}

func (b *Buffer) mapFile(f *os.File) (err error) {
	b.mem, err = unix.Mmap(int(f.Fd()), 0, int(b.size)+header, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map %s: %w", b.path, err)
	}
	return nil
}

func (b *Buffer) begin() *atomic.Uint64 { return (*atomic.Uint64)(unsafe.Pointer(&b.mem[0])) }
func (b *Buffer) end() *atomic.Uint64   { return (*atomic.Uint64)(unsafe.Pointer(&b.mem[8])) }

// Put appends p; what no longer fits is lost from the front.
func (b *Buffer) Put(p []byte) error {
	if b.size == 0 || len(p) == 0 {
		return nil
	}
	if b.mem == nil {
		f, err := os.OpenFile(b.path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		defer f.Close() // the mapping holds it
		if err := f.Truncate(int64(b.size) + header); err != nil {
			return err
		}
		if err := b.mapFile(f); err != nil {
			return err
		}
	}
	if over := uint64(len(p)); over > b.size {
		p = p[over-b.size:]
	}
	ring, end := b.mem[header:], b.end().Load()
	// Give up the front first: a kill in between loses old bytes, and never
	// shows new ones as old.
	if need := end + uint64(len(p)); need > b.size && b.begin().Load() < need-b.size {
		b.begin().Store(need - b.size)
	}
	n := copy(ring[end%b.size:], p)
	copy(ring, p[n:])
	b.end().Store(end + uint64(len(p)))
	return nil
}

// Take returns what is in the buffer and empties it.
func (b *Buffer) Take() []byte {
	if b.mem == nil {
		return nil
	}
	begin, end := b.begin().Load(), b.end().Load()
	if begin == end {
		return nil
	}
	out := make([]byte, end-begin)
	n := copy(out, b.mem[header+begin%b.size:])
	copy(out[n:], b.mem[header:])
	b.begin().Store(end)
	return out
}

// Empty tells whether Take would return nothing.
func (b *Buffer) Empty() bool {
	return b.mem == nil || b.begin().Load() == b.end().Load()
}

// Close unmaps the buffer; its file stays for the next Open.
func (b *Buffer) Close() error {
	if b.mem == nil {
		return nil
	}
	mem := b.mem
	b.mem = nil
	return unix.Munmap(mem)
}

// Remove closes the buffer and removes its file.
func (b *Buffer) Remove() error {
	if b.mem == nil {
		return nil // no file
	}
	err := b.Close()
	if rm := os.Remove(b.path); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	return err
}
