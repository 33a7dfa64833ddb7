package tree

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// usageDepth bounds the folders held open while a tree is measured.
const usageDepth = 128

// Usage tells how many bytes of disk path and everything below it take,
// counting a file with several links once and following neither symlinks nor
// mounts. The tree may change meanwhile: what vanishes is not counted. What
// lies deeper than 128 folders is not counted either.
func Usage(path string) (uint64, error) {
	parent, err := openParent(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = parent.Close() }() // read only
	var st unix.Stat_t
	fd, name := int(parent.Fd()), filepath.Base(path)
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	m := meter{device: st.Dev, linked: map[uint64]struct{}{}}
	if err := m.add(fd, name, 0); err != nil {
		return 0, &os.PathError{Op: "measure", Path: path, Err: err}
	}
	return m.bytes, nil
}

type meter struct {
	device uint64
	linked map[uint64]struct{} // inodes with several links, counted already
	bytes  uint64
}

func (m *meter) add(parent int, name string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Dev != m.device {
		return ignoreGone(err)
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if !isDir && st.Nlink > 1 {
		if _, ok := m.linked[st.Ino]; ok {
			return nil
		}
		m.linked[st.Ino] = struct{}{}
	}
	m.bytes += uint64(st.Blocks) * 512
	if !isDir || depth == usageDepth {
		return nil
	}
	dir, err := openDir(parent, name)
	if err != nil {
		return ignoreGone(err)
	}
	defer func() { _ = dir.Close() }() // read only
	for {
		names, err := dir.Readdirnames(batch)
		for _, n := range names {
			if err := m.add(int(dir.Fd()), n, depth+1); err != nil {
				return err
			}
		}
		if err != nil || len(names) == 0 {
			return nil // io.EOF, or the folder was deleted
		}
	}
}

// ignoreGone drops the errors of a race with a program that changes the tree.
func ignoreGone(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	return err
}
