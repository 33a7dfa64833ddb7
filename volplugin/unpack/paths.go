package unpack

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// inRoot resolves symlinks as a process whose root is the layer would.
	inRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

	// exact takes no symlink and no way out at all.
	exact = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV

	// maxLinks bounds the symlinks on one way, as the kernel does.
	maxLinks = 40
)

func openFolder(dir string) (int, error) {
	return unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// openAt opens name below root by path only.
func openAt(root int, name string, flags, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | flags, Resolve: resolve}
	for {
		fd, err := unix.Openat2(root, name, &how)
		// EAGAIN: somebody renamed something, anywhere on the host, while
		// the kernel followed a "..".
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// folder opens the folder dir of the layer, makes it where it is missing, and
// keeps the descriptor until the next call.
func (l *layer) folder(dir string) (int, error) {
	if dir == "." {
		return l.root, nil
	}
	if l.parent > 0 && l.parentName == dir {
		return l.parent, nil
	}
	l.forget()
	fd, err := openAt(l.root, dir, unix.O_DIRECTORY, inRoot)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		fd, err = l.makeFolder(dir)
	}
	if err != nil {
		return -1, err
	}
	l.parent, l.parentName = fd, dir
	return fd, nil
}

// forget drops the kept folder: what its name means may have changed.
func (l *layer) forget() {
	if l.parent > 0 {
		_ = unix.Close(l.parent) // by path only
	}
	l.parent, l.parentName = -1, ""
}

// makeFolder makes dir and its parents. It walks name by name, through
// symlinks of this layer and, where this one has nothing, of those below, and
// gives a new folder the owner and mode that it has below.
func (l *layer) makeFolder(dir string) (int, error) {
	todo := strings.Split(dir, "/")
	var done []string
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			done = done[:max(0, len(done)-1)]
			continue
		}
		target, err := l.step(done, name)
		if err != nil {
			return -1, fmt.Errorf("folder %.200q: %w", path.Join(path.Join(done...), name), err)
		}
		if target == "" {
			done = append(done, name)
			continue
		}
		if links++; links > maxLinks {
			return -1, unix.ELOOP
		}
		if path.IsAbs(target) {
			done = nil
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	if len(done) == 0 {
		return openAt(l.root, ".", unix.O_DIRECTORY, exact)
	}
	return openAt(l.root, path.Join(done...), unix.O_DIRECTORY, exact)
}

// step makes sure that name is a folder in done. If it is a symlink, it
// answers the target instead.
func (l *layer) step(done []string, name string) (target string, err error) {
	full := path.Join(path.Join(done...), name)
	own, err := look(l.root, full)
	if err != nil {
		return "", err
	}
	switch own.kind {
	case folder:
		return "", nil
	case symlink:
		return own.target, nil
	case other:
		return "", unix.ENOTDIR
	}
	parent, err := openAt(l.root, path.Join(".", path.Join(done...)), unix.O_DIRECTORY, exact)
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(parent) }() // by path only
	if own.kind == whiteout {
		if err := unix.Unlinkat(parent, name, 0); err != nil {
			return "", err
		}
		if err := unix.Mkdirat(parent, name, 0o755); err != nil {
			return "", err
		}
		return "", setOpaque(parent, name)
	}
	beneath, err := l.lookBelow(done, name)
	if err != nil {
		return "", err
	}
	if beneath.kind == symlink {
		return beneath.target, nil
	}
	if err := unix.Mkdirat(parent, name, 0o755); err != nil {
		return "", err
	}
	if beneath.kind == folder {
		st := &beneath.stat
		err = setOwner(parent, name, int(st.Uid), int(st.Gid), st.Mode)
		if err == nil {
			err = unix.UtimesNanoAt(parent, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
		}
	} else {
		err = setOwner(parent, name, 0, 0, 0o755)
	}
	l.implicit[full] = true
	return "", err
}

// What a name in a layer is.
type what int

const (
	missing what = iota
	folder
	symlink
	whiteout
	other
)

type found struct {
	kind   what
	target string // of a symlink
	opaque bool   // a folder that hides what is beneath
	stat   unix.Stat_t
}

// look tells what name is in the layer root, without following a symlink.
func look(root int, name string) (found, error) {
	fd, err := openAt(root, name, unix.O_NOFOLLOW, exact)
	switch {
	case errors.Is(err, unix.ENOENT):
		return found{}, nil
	case err != nil:
		return found{}, err
	}
	defer func() { _ = unix.Close(fd) }() // by path only
	var f found
	if err := unix.Fstat(fd, &f.stat); err != nil {
		return found{}, err
	}
	switch f.stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		f.kind = folder
		var value [1]byte
		n, err := unix.Lgetxattr(fmt.Sprintf("/proc/self/fd/%d/.", fd), opaqueXattr, value[:])
		f.opaque = err == nil && n == 1 && value[0] == 'y'
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, "", buf)
		if err != nil {
			return found{}, err
		}
		f.kind, f.target = symlink, string(buf[:n])
	case unix.S_IFCHR:
		f.kind = other
		if f.stat.Rdev == 0 {
			f.kind = whiteout
		}
	default:
		f.kind = other
	}
	return f, nil
}

// lookBelow tells what name in the folder done, which has no symlinks, is in
// the layers beneath as they show through.
func (l *layer) lookBelow(done []string, name string) (found, error) {
	visible := l.below
	for i := range len(done) + 1 {
		full := path.Join(append(slices.Clone(done[:i]), name)...)
		if i < len(done) {
			full = path.Join(done[:i+1]...)
			if own, err := look(l.root, full); err != nil {
				return found{}, err
			} else if own.opaque {
				visible = nil
			}
		}
		var first found
		for n, root := range visible {
			f, err := look(root, full)
			if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
				f, err = found{kind: other}, nil // an ancestor is no folder here
			}
			if err != nil {
				return found{}, err
			}
			if first.kind == missing {
				first = f
			}
			if f.kind != missing && (f.kind != folder || f.opaque) {
				visible = visible[:n+1] // nothing shows through this one
				break
			}
		}
		if i == len(done) {
			return first, nil
		}
	}
	return found{}, nil
}
