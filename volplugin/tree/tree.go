// Package tree removes and measures folders that hostile programs filled.
//
// Every step is relative to an open folder and follows no symlink, so a name
// cannot lead out of the tree; the number of descriptors held is bounded
// however deep the tree is.
package tree

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// openDir opens the folder name in parent for reading, unless it is a symlink.
func openDir(parent int, name string) (*os.File, error) {
	for {
		fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NOATIME, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

// openParent opens the folder that holds path.
func openParent(path string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Dir(path), unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Remove deletes path and everything below it. A missing path is not an
// error; immutable and append-only files are no obstacle. Whatever can be
// deleted is, even if something else cannot.
func Remove(path string) error {
	parent, err := openParent(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = parent.Close() }() // read only
	if err := RemoveAt(int(parent.Fd()), filepath.Base(path)); err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}
