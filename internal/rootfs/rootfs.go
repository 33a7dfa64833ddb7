// Package rootfs opens files inside a container's root file system as the
// container itself would: absolute and relative links are followed within the
// root and can never lead out of it, whatever the container does meanwhile.
//
// Nothing that a container can plant makes a caller wait or touches a device:
// a name is first resolved without opening it, and only a regular file is
// then opened.
//
// It needs openat2(2), Linux 5.6.
package rootfs

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// MaxFile is the usual bound for files such as /etc/passwd, in bytes.
const MaxFile = 1 << 20

var (
	// ErrNotRegular means the name leads to a folder, a device, a pipe or a socket.
	ErrNotRegular = errors.New("not a regular file")

	// ErrTooLarge means the file is larger than the caller reads.
	ErrTooLarge = errors.New("file is too large")
)

// A Root is an open root folder. It keeps meaning the same folder after a
// rename, and after the process whose /proc/<pid>/root it was has ended.
type Root struct {
	fd int
}

// OpenRoot opens the folder at path, e.g. /proc/<pid>/root. Path is the
// server's own: it is resolved as any path of the host is.
func OpenRoot(path string) (*Root, error) {
	fd, err := retry(func() (int, error) {
		return unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, fmt.Errorf("open root %s: %w", path, err)
	}
	return &Root{fd: fd}, nil
}

// Close gives the root back. Files opened through it stay open.
func (r *Root) Close() error {
	return unix.Close(r.fd)
}

// Open opens the regular file called name for reading. The error wraps
// fs.ErrNotExist if there is none, ErrNotRegular if name leads to anything else.
func (r *Root) Open(name string) (*os.File, error) {
	fd, err := r.open(name)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// ReadFile reads the whole regular file called name. The error wraps
// fs.ErrNotExist, ErrNotRegular, or ErrTooLarge if it has more than max bytes.
func (r *Root) ReadFile(name string, max int64) ([]byte, error) {
	fd, err := r.open(name)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	defer unix.Close(fd)
	content, err := readAll(fd, max)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return content, nil
}

// Open is Root.Open for a single file below the folder root.
func Open(root, name string) (*os.File, error) {
	r, err := OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.Open(name)
}

// ReadFile is Root.ReadFile for a single file below the folder root.
func ReadFile(root, name string, max int64) ([]byte, error) {
	r, err := OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.ReadFile(name, max)
}

// open resolves name to an O_PATH descriptor, looks at what it found, and
// opens that very thing: a device is never opened, not even for a moment,
// since for some (a watchdog, a tape) opening is acting.
func (r *Root) open(name string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	found, err := retry(func() (int, error) { return unix.Openat2(r.fd, name, &how) }, raced)
	if err != nil {
		return -1, err
	}
	defer unix.Close(found)

	var st unix.Stat_t
	if err := unix.Fstat(found, &st); err != nil {
		return -1, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return -1, ErrNotRegular
	}
	// O_NONBLOCK: a lease that the container holds on its file would
	// otherwise keep us waiting for /proc/sys/fs/lease-break-time.
	return retry(func() (int, error) {
		return unix.Open("/proc/self/fd/"+strconv.Itoa(found), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	})
}

// raced is openat2's answer when a rename elsewhere on the host met a ".." on
// its way; attempts bounds how often we try again.
const (
	raced    = unix.EAGAIN
	attempts = 128
)

// retry makes a call again while it answers EINTR or one of the others.
func retry(call func() (int, error), others ...unix.Errno) (fd int, err error) {
	for range attempts {
		fd, err = call()
		if errno, _ := err.(unix.Errno); errno != unix.EINTR && !slices.Contains(others, errno) {
			break
		}
	}
	return fd, err
}

// readAll reads to the end or one byte past max, whichever comes first: the
// size that fstat tells may be outdated.
func readAll(fd int, max int64) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Size > max {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", ErrTooLarge, st.Size, max)
	}
	content := make([]byte, 0, st.Size+1)
	for {
		if len(content) == cap(content) {
			content = append(content, 0)[:len(content)]
		}
		n, err := unix.Read(fd, content[len(content):cap(content)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, err
		case n == 0:
			return content, nil
		}
		content = content[:len(content)+n]
		if int64(len(content)) > max {
			return nil, fmt.Errorf("%w: at most %d bytes are read", ErrTooLarge, max)
		}
	}
}
