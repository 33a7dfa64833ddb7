// Package unpack writes the tar stream of an image layer into a folder, in
// the form that overlayfs takes as a layer.
//
// A layer comes from strangers. Every path is resolved by the kernel with the
// folder as its root, so neither "..", nor an absolute name, nor a symlink of
// the layer leads out of it; nothing is changed through a name that the layer
// could have made a symlink.
package unpack

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNotTar means the stream does not begin like a tar archive.
var ErrNotTar = errors.New("not a tar archive")

// maxEntries bounds the files of one layer.
const maxEntries = 4 << 20

// Options of Layer; the zero value is usable.
type Options struct {
	// Below are the folders of the layers beneath, the nearest first. They
	// tell what a folder that the archive uses but does not describe is like.
	Below []string

	// Room is how many bytes all files may have together. 0: no bound.
	Room int64
}

// Result is what there is to know about an unpacked layer.
type Result struct {
	// Implicit are the folders that the archive uses but does not describe.
	// Without the layers beneath they were made as root's, mode 0755.
	Implicit []string

	// Opaque is true if the layer hides all layers beneath it.
	Opaque bool
}

// Layer unpacks the uncompressed tar stream r into the existing, empty folder
// dir, which nobody else may reach meanwhile. Owners, modes with setuid bits,
// times, file capabilities and user attributes are kept. Whiteouts become
// overlayfs's. After an error dir holds part of the layer.
func Layer(dir string, r io.Reader, o Options) (Result, error) {
	l := &layer{root: -1, implicit: map[string]bool{}, room: o.Room, bounded: o.Room > 0, buf: make([]byte, 128<<10)}
	defer l.close()
	var err error
	if l.root, err = openFolder(dir); err != nil {
		return Result{}, fmt.Errorf("open %s: %w", dir, err)
	}
	for _, b := range o.Below {
		fd, err := openFolder(b)
		if err != nil {
			return Result{}, fmt.Errorf("open %s: %w", b, err)
		}
		l.below = append(l.below, fd)
	}
	if err := l.unpack(r); err != nil {
		return Result{}, err
	}
	l.restoreTimes()
	return Result{Implicit: slices.Sorted(maps.Keys(l.implicit)), Opaque: l.opaque}, nil
}

// A layer is the state of one unpacking.
type layer struct {
	root     int
	below    []int
	room     int64
	bounded  bool
	buf      []byte
	implicit map[string]bool // by path without symlinks
	folders  []*tar.Header   // their times are set last
	opaque   bool

	// The folder opened last: archives list a folder's files together.
	parentName string
	parent     int // -1 or 0: none
}

func (l *layer) close() {
	l.forget()
	for _, fd := range append(l.below, l.root) {
		if fd >= 0 {
			_ = unix.Close(fd) // read only
		}
	}
}

func (l *layer) unpack(r io.Reader) error {
	counted := &countingReader{r: r}
	tr := tar.NewReader(counted)
	for n := 0; ; n++ {
		hdr, err := tr.Next()
		switch {
		case errors.Is(err, io.EOF) && counted.n > 0:
			return nil
		case n == 0 && (errors.Is(err, io.EOF) || errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF)):
			return ErrNotTar
		case err != nil:
			return fmt.Errorf("read tar: %w", err)
		case n == maxEntries:
			return fmt.Errorf("more than %d files", maxEntries)
		}
		if err := l.entry(hdr, tr); err != nil {
			return fmt.Errorf("%s %.200q: %w", kind(hdr.Typeflag), hdr.Name, err)
		}
	}
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// kind names a type of entry in errors.
func kind(flag byte) string {
	switch flag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return "file"
	case tar.TypeDir:
		return "folder"
	case tar.TypeSymlink:
		return "symlink"
	case tar.TypeLink:
		return "hard link"
	case tar.TypeChar, tar.TypeBlock:
		return "device"
	case tar.TypeFifo:
		return "pipe"
	}
	return fmt.Sprintf("entry of unknown type %q", flag)
}

func (l *layer) entry(hdr *tar.Header, data io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name := clean(hdr.Name)
	dir, base := path.Split(name)
	dir = path.Clean(dir)
	if strings.HasPrefix(base, whiteoutPrefix) {
		return l.whiteout(dir, base)
	}
	if base == "" {
		if hdr.Typeflag != tar.TypeDir {
			return errors.New("would replace the root")
		}
		return nil // whoever mounts the layer says what the root is like
	}
	if err := check(hdr); err != nil {
		return err
	}
	parent, err := l.folder(dir)
	if err != nil {
		return err
	}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return l.file(parent, base, hdr, data)
	case tar.TypeDir:
		return l.dir(parent, base, name, hdr)
	case tar.TypeSymlink:
		return l.symlink(parent, base, hdr)
	case tar.TypeLink:
		return l.hardlink(parent, base, name, hdr)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return l.node(parent, base, hdr)
	}
	return errors.ErrUnsupported
}

// clean makes name relative to the layer's root; ".." stops there.
func clean(name string) string {
	return path.Clean("/" + name)[1:]
}

// check refuses ids that the kernel would take for "leave as it is", or cut
// to another id.
func check(hdr *tar.Header) error {
	for _, id := range []int{hdr.Uid, hdr.Gid} {
		if id < 0 || int64(id) >= 1<<32-1 {
			return fmt.Errorf("owner %d:%d is out of range", hdr.Uid, hdr.Gid)
		}
	}
	return nil
}
