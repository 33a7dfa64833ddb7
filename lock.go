package verger

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// LockedError means that another server has the directory.
type LockedError struct {
	Dir    string
	Holder int // the other server's process id; 0 if it did not say
}

func (e *LockedError) Error() string {
	who := "another server"
	if e.Holder != 0 {
		who = fmt.Sprintf("the server with process id %d", e.Holder)
	}
	return fmt.Sprintf("%s is in use by %s: stop it or choose another directory", e.Dir, who)
}

// TagTakenError means that another server on this host has the tag.
type TagTakenError struct {
	Tag    string
	Holder int // the other server's process id; 0 if it did not say
}

func (e *TagTakenError) Error() string {
	return fmt.Sprintf("tag %q is in use by the server with process id %d: give each server on a host a --tag and a --network-pool of its own", e.Tag, e.Holder)
}

// lockDir takes the one lock of dir, which it makes if need be. The lock ends
// with the returned file, at the latest when this process ends, however that
// happens; programs that this process starts do not inherit it.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	file, holder, err := lockFile(filepath.Join(dir, "lock"))
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, &LockedError{Dir: dir, Holder: holder}
	}
	return file, err
}

// lockTag takes the one lock of tag: what two servers with one tag make in
// one network namespace has the same names, and each would take the other's
// for its own leftovers. unlockTag ends it.
func lockTag(tag string) (*os.File, error) {
	var namespace unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &namespace); err != nil {
		return nil, &os.PathError{Op: "stat", Path: "/proc/self/ns/net", Err: err}
	}
	path := fmt.Sprintf("/run/gdn-%d-%s.lock", namespace.Ino, tag)
	for {
		file, holder, err := lockFile(path)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &TagTakenError{Tag: tag, Holder: holder}
		}
		if err != nil {
			return nil, err
		}
		locked, err := file.Stat()
		if err != nil {
			return nil, errors.Join(err, file.Close())
		}
		if now, err := os.Stat(path); err == nil && os.SameFile(now, locked) {
			return file, nil
		}
		_ = file.Close() // its last holder removed it after we opened it
	}
}

func unlockTag(file *os.File) error {
	return errors.Join(os.Remove(file.Name()), file.Close())
}

// lockFile makes and locks the file at path and writes our process id into
// it. If it is locked it returns EWOULDBLOCK and its holder's process id.
func lockFile(path string) (_ *os.File, holder int, err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			_ = file.Close() // nothing was written, or that is the error
		}
	}()
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, holderOf(file), fmt.Errorf("lock %s: %w", path, err)
	}
	// The process id is for people only, so it need not be there in one piece.
	if err := file.Truncate(0); err != nil {
		return nil, 0, err
	}
	if _, err := fmt.Fprintln(file, os.Getpid()); err != nil {
		return nil, 0, err
	}
	return file, 0, nil
}

// holderOf is the process id that the lock's owner wrote into file; 0 if none.
func holderOf(file *os.File) int {
	text := make([]byte, 20)
	n, _ := file.ReadAt(text, 0) // a short file is the usual case
	pid, err := strconv.Atoi(strings.TrimSpace(string(text[:n])))
	if err != nil {
		return 0
	}
	return pid
}
