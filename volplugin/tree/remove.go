package tree

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// batch is how many names are read before they are deleted.
	batch = 1024

	// maxDepth is how many folders are held open at a time. What lies
	// deeper is moved up to the top of the tree and deleted from there.
	maxDepth = 32
)

// RemoveAt is Remove for name, a single path element, in the open folder parent.
func RemoveAt(parent int, name string) error {
	r := &remover{top: -1}
	return r.remove(parent, name, 0)
}

// A remover deletes one tree.
type remover struct {
	top   int // the tree's root while it is open
	moved int // numbers the names of what was moved up to it
}

func (r *remover) remove(parent int, name string, depth int) error {
	err := unlink(parent, name, 0)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case !errors.Is(err, unix.EISDIR):
		return &os.PathError{Op: "unlink", Path: name, Err: err}
	}
	if unlink(parent, name, unix.AT_REMOVEDIR) == nil {
		return nil // an empty folder, most often
	}
	if depth > maxDepth {
		return r.moveUp(parent, name)
	}
	dir, err := openDir(parent, name)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	fd := int(dir.Fd())
	if depth == 0 {
		r.top = fd
	}
	failure := r.empty(dir, depth)
	_ = dir.Close() // read only
	err = unlink(parent, name, unix.AT_REMOVEDIR)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if failure != nil {
		return fmt.Errorf("%s: %w", name, failure)
	}
	return &os.PathError{Op: "rmdir", Path: name, Err: err}
}

// empty deletes the content of dir, round by round: a folder that changes
// while it is read may hide entries, and what lay too deep comes up.
func (r *remover) empty(dir *os.File, depth int) error {
	for {
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return err
		}
		var first error
		seen, gone := 0, 0
		for {
			names, err := dir.Readdirnames(batch)
			for _, name := range names {
				seen++
				if err := r.remove(int(dir.Fd()), name, depth+1); err == nil {
					gone++
				} else if first == nil {
					first = err
				}
			}
			if err != nil || len(names) == 0 {
				break // io.EOF; anything else shows when the folder will not go
			}
		}
		if seen == 0 || gone == 0 {
			return first
		}
	}
}

// moveUp moves a folder that lies too deep to the root of the tree, where the
// loop over the root's entries finds it.
func (r *remover) moveUp(parent int, name string) error {
	for {
		r.moved++
		to := fmt.Sprintf(".deep-%d", r.moved)
		err := unix.Renameat2(parent, name, r.top, to, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EPERM) && unlock(parent, name) {
			err = unix.Renameat2(parent, name, r.top, to, unix.RENAME_NOREPLACE)
		}
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
}

// unlink is unlinkat; where an attribute forbids it, the attribute is cleared.
func unlink(parent int, name string, flags int) error {
	for {
		err := unix.Unlinkat(parent, name, flags)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EPERM && unlock(parent, name):
			return unix.Unlinkat(parent, name, flags)
		}
		return err
	}
}

// Inode flags of <linux/fs.h> that forbid deletion.
const (
	immutable  = 0x10
	appendOnly = 0x20
)

// unlock clears the immutable and append-only attributes of name and of the
// folder parent, and tells whether it cleared any.
func unlock(parent int, name string) bool {
	cleared := clearFlags(parent)
	var st unix.Stat_t
	if unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return cleared
	}
	if t := st.Mode & unix.S_IFMT; t != unix.S_IFREG && t != unix.S_IFDIR {
		return cleared // opening a device or a pipe has effects
	}
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return cleared
	}
	defer func() { _ = unix.Close(fd) }() // read only
	return clearFlags(fd) || cleared
}

func clearFlags(fd int) bool {
	flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	if err != nil || flags&(immutable|appendOnly) == 0 {
		return false
	}
	return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags&^(immutable|appendOnly)) == nil
}
