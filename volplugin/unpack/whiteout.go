package unpack

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// whiteoutPrefix before a name deletes that name of the layers beneath.
	whiteoutPrefix = ".wh."

	// opaqueMarker in a folder hides its content in the layers beneath.
	opaqueMarker = ".wh..wh..opq"

	// metaPrefix begins names that only the aufs file system knows.
	metaPrefix = ".wh..wh."

	// opaqueXattr "y" is overlayfs's form of the opaque marker.
	opaqueXattr = "trusted.overlay.opaque"
)

// whiteout turns a marker file into overlayfs's form of it. What this layer
// itself puts at the place stays, whatever the order in the archive.
func (l *layer) whiteout(dir, base string) error {
	if base == opaqueMarker {
		if dir == "." {
			l.opaque = true // overlayfs does not look at a layer's root
			return nil
		}
		fd, err := l.folder(dir)
		if err != nil {
			return err
		}
		return setOpaque(fd, ".")
	}
	if strings.HasPrefix(base, metaPrefix) {
		return nil
	}
	name := strings.TrimPrefix(base, whiteoutPrefix)
	if name == "" || name == "." || name == ".." {
		return errors.New("whiteout of nothing")
	}
	parent, err := l.folder(dir)
	if err != nil {
		return err
	}
	err = unix.Mknodat(parent, name, unix.S_IFCHR, 0)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if is, err := kindAt(parent, name); err != nil || is != folder {
		return err // a file hides what is beneath anyway
	}
	return setOpaque(parent, name)
}

// setOpaque hides what layers beneath have in the folder name.
func setOpaque(parent int, name string) error {
	return unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", parent, name), opaqueXattr, []byte("y"), 0)
}

// kindAt tells what name in the open folder parent is.
func kindAt(parent int, name string) (what, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return missing, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return folder, nil
	case unix.S_IFLNK:
		return symlink, nil
	case unix.S_IFCHR:
		if st.Rdev == 0 {
			return whiteout, nil
		}
	}
	return other, nil
}
