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
	path     string
	size     uint64
	mem      []byte // nil until the first Put, or until Open found a file
	reserved int64  // bytes of the file, from its start, that have space
	closed   bool
}

// New returns an empty buffer of size bytes; the first Put makes its file at
// path, in place of any that was there. A size of 0 keeps nothing.
func New(path string, size int) *Buffer {
	return &Buffer{path: path, size: uint64(size)}
}

// Open returns the buffer that path holds, with what an earlier process put
// into it; without a file, or with one that a kill left before anything was in
// it, it is what New returns.
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
	if info.Size() == 0 {
		return b, nil
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

// Put appends p; what no longer fits is lost from the front. After Close or
// Remove it keeps nothing.
func (b *Buffer) Put(p []byte) error {
	if b.size == 0 || len(p) == 0 || b.closed {
		return nil
	}
	if b.mem == nil {
		if err := b.make(); err != nil {
			return err
		}
	}
	if over := uint64(len(p)); over > b.size {
		p = p[over-b.size:]
	}
	ring, end := b.mem[header:], b.end().Load()
	if err := b.reserve(min(end%b.size+uint64(len(p)), b.size)); err != nil {
		return err
	}
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

// make maps a new file. It never empties one that exists: whoever has that
// mapped would be killed by SIGBUS.
func (b *Buffer) make() error {
	if err := os.Remove(b.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(b.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close() // the mapping holds it
	if err := f.Truncate(int64(b.size) + header); err != nil {
		return err
	}
	if err := allocate(f, 0, header); err != nil {
		return err
	}
	return b.mapFile(f)
}

// step is how much space is reserved at once.
const step = 64 << 10

// reserve finds space for the first n bytes of the ring. A write into a
// mapping that has none would be SIGBUS.
func (b *Buffer) reserve(n uint64) error {
	want := int64(n) + header
	if want <= b.reserved {
		return nil
	}
	want = min((want+step-1)/step*step, int64(b.size)+header)
	f, err := os.OpenFile(b.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close() // nothing was written
	if err := allocate(f, b.reserved, want-b.reserved); err != nil {
		return err
	}
	b.reserved = want
	return nil
}

func allocate(f *os.File, from, n int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, from, n)
		switch {
		case errors.Is(err, unix.EINTR):
		case err == nil, errors.Is(err, errors.ErrUnsupported): // a file system that cannot promise
			return nil
		default:
			return fmt.Errorf("replay %s: %w", f.Name(), err)
		}
	}
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
	b.closed = true
	if b.mem == nil {
		return nil
	}
	mem := b.mem
	b.mem = nil
	return unix.Munmap(mem)
}

// Remove closes the buffer and removes its file.
func (b *Buffer) Remove() error {
	known := b.mem != nil
	err := b.Close()
	if !known {
		return err // no file, or let go of
	}
	if rm := os.Remove(b.path); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	return err
}
