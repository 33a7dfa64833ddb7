package unpack

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/volplugin/tree"
)

// place runs create until nothing is in its way. It tells what was there.
func (l *layer) place(parent int, base string, create func() error) (was what, err error) {
	err = create()
	if !errors.Is(err, unix.EEXIST) {
		return missing, err
	}
	if was, err = kindAt(parent, base); err != nil {
		return was, err
	}
	if was == folder || was == symlink {
		defer l.forget() // the kept folder may have been reached through it
	}
	if err := tree.RemoveAt(parent, base); err != nil {
		return was, err
	}
	return was, create()
}

func (l *layer) file(parent int, base string, hdr *tar.Header, data io.Reader) error {
	if l.bounded {
		if hdr.Size > l.room {
			return fmt.Errorf("%d bytes do not fit: %d bytes of room are left", hdr.Size, l.room)
		}
		l.room -= hdr.Size
	}
	fd := -1
	_, err := l.place(parent, base, func() (err error) {
		fd, err = unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	err = l.fill(fd, hdr, data)
	return errors.Join(err, unix.Close(fd))
}

// fill writes the content and the attributes of a file. The owner comes
// before mode and capabilities, as chown clears those.
func (l *layer) fill(fd int, hdr *tar.Header, data io.Reader) error {
	if err := l.copy(fd, data, hdr.Size); err != nil {
		return err
	}
	if err := unix.Fchown(fd, hdr.Uid, hdr.Gid); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, uint32(hdr.Mode)&0o7777); err != nil {
		return err
	}
	if err := setXattrs(fmt.Sprintf("/proc/self/fd/%d", fd), hdr, unix.Setxattr); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), times(hdr), 0)
}

// copy writes size bytes of data to fd and leaves holes where whole blocks
// are zero.
func (l *layer) copy(fd int, data io.Reader, size int64) error {
	holes := false
	for left := size; left > 0; {
		block := l.buf[:min(left, int64(len(l.buf)))]
		if _, err := io.ReadFull(data, block); err != nil {
			return noEOF(err)
		}
		left -= int64(len(block))
		if len(block) == len(l.buf) && zero(block) {
			holes = true
			if _, err := unix.Seek(fd, int64(len(block)), io.SeekCurrent); err != nil {
				return err
			}
		} else if err := write(fd, block); err != nil {
			return err
		}
	}
	if holes {
		return unix.Ftruncate(fd, size)
	}
	return nil
}

// noEOF makes the end of a stream in the middle of a file an error.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func zero(b []byte) bool {
	return b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}

func write(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err != nil && err != unix.EINTR {
			return err
		}
		b = b[max(n, 0):]
	}
	return nil
}

func (l *layer) dir(parent int, base, name string, hdr *tar.Header) error {
	mkdir := func() error { return unix.Mkdirat(parent, base, 0o700) }
	err := mkdir()
	if errors.Is(err, unix.EEXIST) {
		var was what
		if was, err = kindAt(parent, base); err == nil && was != folder {
			if _, err = l.place(parent, base, mkdir); err == nil && was == whiteout {
				err = setOpaque(parent, base)
			}
		}
	}
	if err != nil {
		return err
	}
	delete(l.implicit, name)
	l.folders = append(l.folders, &tar.Header{Name: name, ModTime: hdr.ModTime, AccessTime: hdr.AccessTime})
	if err := setOwner(parent, base, hdr.Uid, hdr.Gid, uint32(hdr.Mode)); err != nil {
		return err
	}
	return setXattrs(fmt.Sprintf("/proc/self/fd/%d/%s", parent, base), hdr, unix.Lsetxattr)
}

func (l *layer) symlink(parent int, base string, hdr *tar.Header) error {
	if hdr.Linkname == "" {
		return errors.New("no target")
	}
	if _, err := l.place(parent, base, func() error { return unix.Symlinkat(hdr.Linkname, parent, base) }); err != nil {
		return err
	}
	if err := unix.Fchownat(parent, base, hdr.Uid, hdr.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return unix.UtimesNanoAt(parent, base, times(hdr), unix.AT_SYMLINK_NOFOLLOW)
}

// hardlink gives a file of this layer a second name. Owner and mode are the
// file's: the link's header changes nothing, least of all through a symlink.
func (l *layer) hardlink(parent int, base, name string, hdr *tar.Header) error {
	target := clean(hdr.Linkname)
	if target == name {
		return nil
	}
	dir, file := path.Split(target)
	if file == "" {
		return errors.New("links to the root")
	}
	from, err := openAt(l.root, path.Clean("./"+dir), unix.O_DIRECTORY, inRoot)
	if err != nil {
		return fmt.Errorf("target %.200q: %w", hdr.Linkname, err)
	}
	defer func() { _ = unix.Close(from) }() // by path only
	if is, err := kindAt(from, file); err != nil || is == folder || is == whiteout {
		return fmt.Errorf("target %.200q: no such file in this layer", hdr.Linkname)
	}
	_, err = l.place(parent, base, func() error { return unix.Linkat(from, file, parent, base, 0) })
	return err
}

func (l *layer) node(parent int, base string, hdr *tar.Header) error {
	mode := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[hdr.Typeflag]
	var dev uint64
	if hdr.Typeflag != tar.TypeFifo {
		if hdr.Devmajor < 0 || hdr.Devmajor >= 1<<12 || hdr.Devminor < 0 || hdr.Devminor >= 1<<20 {
			return fmt.Errorf("number %d:%d is out of range", hdr.Devmajor, hdr.Devminor)
		}
		dev = unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))
	}
	if _, err := l.place(parent, base, func() error { return unix.Mknodat(parent, base, mode|0o600, int(dev)) }); err != nil {
		return err
	}
	if err := setOwner(parent, base, hdr.Uid, hdr.Gid, uint32(hdr.Mode)); err != nil {
		return err
	}
	return unix.UtimesNanoAt(parent, base, times(hdr), unix.AT_SYMLINK_NOFOLLOW)
}

// setOwner sets owner and mode of name, which was just made and is no symlink.
func setOwner(parent int, name string, uid, gid int, mode uint32) error {
	if err := unix.Fchownat(parent, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return unix.Fchmodat(parent, name, mode&0o7777, 0)
}

// setXattrs sets the extended attributes that an image may carry. trusted.*
// steers overlayfs and security.* the host's security modules, so of those
// only file capabilities pass.
func setXattrs(path string, hdr *tar.Header, set func(string, string, []byte, int) error) error {
	for key, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		if name != "security.capability" && !strings.HasPrefix(name, "user.") {
			continue
		}
		err := set(path, name, []byte(value), 0)
		if errors.Is(err, unix.ENOTSUP) && name != "security.capability" {
			continue // tmpfs before Linux 6.6
		}
		if err != nil {
			return fmt.Errorf("set attribute %.200q: %w", name, err)
		}
	}
	return nil
}

// restoreTimes sets the times of the folders, which filling them changed. A
// folder that a later entry replaced has none to restore.
func (l *layer) restoreTimes() {
	for _, hdr := range l.folders {
		dir, base := path.Split(hdr.Name)
		parent, err := openAt(l.root, path.Clean("./"+dir), unix.O_DIRECTORY, inRoot)
		if err != nil {
			continue
		}
		_ = unix.UtimesNanoAt(parent, base, times(hdr), unix.AT_SYMLINK_NOFOLLOW) // replaced, as above
		_ = unix.Close(parent)                                                    // by path only
	}
}

// times are access and modification time, within what every file system keeps.
func times(hdr *tar.Header) []unix.Timespec {
	access := hdr.AccessTime
	if access.IsZero() {
		access = hdr.ModTime
	}
	return []unix.Timespec{timespec(access), timespec(hdr.ModTime)}
}

func timespec(t time.Time) unix.Timespec {
	if s := t.Unix(); s < 0 || s >= 1<<33 {
		return unix.Timespec{}
	}
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return unix.Timespec{}
	}
	return ts
}
