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

// lockDir takes the one lock of dir, which it makes if need be. The lock ends
// with the returned file, at the latest when this process ends, however that
// happens; programs that this process starts do not inherit it.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	switch err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		locked := &LockedError{Dir: dir, Holder: holder(file)}
		_ = file.Close() // nothing was written
		return nil, locked
	case err != nil:
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), file.Close())
	}
	// The process id is for people only, so it need not be there in one piece.
	if err := file.Truncate(0); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if _, err := fmt.Fprintln(file, os.Getpid()); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// holder is the process id that the lock's owner wrote into file; 0 if none.
func holder(file *os.File) int {
	text := make([]byte, 20)
	n, _ := file.ReadAt(text, 0) // a short file is the usual case
	pid, err := strconv.Atoi(strings.TrimSpace(string(text[:n])))
	if err != nil {
		return 0
	}
	return pid
}
