package overlay

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// IDs is a mapping of user and group ids, in the form the kernel wants it: a
// user namespace that nobody lives in.
type IDs struct {
	userns *os.File
}

// NewIDs makes the namespace with these maps, which are also those of the
// containers that will see the files.
func NewIDs(uids, gids []specs.LinuxIDMapping) (*IDs, error) {
	// A child stops before its first instruction, lives long enough for its
	// namespace to be opened, and dies. The tracer is this thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"gdn-ids"}, &syscall.ProcAttr{
		Env: []string{},
		Sys: &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: procMap(uids),
			GidMappings: procMap(gids),
			Ptrace:      true,
			Pdeathsig:   syscall.SIGKILL,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make user namespace: %w", err)
	}
	userns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
	err = errors.Join(err, end(pid))
	if err != nil {
		return nil, fmt.Errorf("open user namespace: %w", err)
	}
	return &IDs{userns}, nil
}

func procMap(maps []specs.LinuxIDMapping) []syscall.SysProcIDMap {
	var out []syscall.SysProcIDMap
	for _, m := range maps {
		out = append(out, syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)})
	}
	return out
}

// end kills the traced child pid and waits until it is gone.
func end(pid int) error {
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		return err
	}
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(pid, &status, 0, nil)
		switch {
		case errors.Is(err, unix.ECHILD):
			return nil // the embedding program ignores SIGCHLD
		case err != nil && !errors.Is(err, unix.EINTR):
			return err
		case err == nil && (status.Exited() || status.Signaled()):
			return nil
		}
	}
}

// Close gives the namespace up. Mounts made with it stay.
func (ids *IDs) Close() error { return ids.userns.Close() }

// A View is a folder with the ids of its files shifted. It is not in any
// mount table unless attached, and ends with Close.
type View struct {
	fd int
	at string // where it is attached
}

// View makes one of dir. What is mounted below dir is not in it.
func (ids *IDs) View(dir string) (*View, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("view %s: %w", dir, err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ids.userns.Fd())}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		_ = unix.Close(fd) // by path only
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
			return nil, fmt.Errorf("the file system of %s cannot be id-mapped by this kernel: %w", dir, err)
		}
		return nil, fmt.Errorf("map ids of %s: %w", dir, err)
	}
	return &View{fd: fd}, nil
}

// Path names the view's folder within this process.
func (v *View) Path() string {
	if v.at != "" {
		return v.at
	}
	return fmt.Sprintf("/proc/self/fd/%d", v.fd)
}

// Attach puts the view at the empty folder at, where kernels that cannot use
// a detached one find it.
func (v *View) Attach(at string) error {
	if err := unix.MoveMount(v.fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach view at %s: %w", at, err)
	}
	v.at = at
	return nil
}

// Close ends the view. Overlays that have it as a layer are not affected.
func (v *View) Close() error {
	err := unix.Close(v.fd)
	if v.at != "" {
		err = errors.Join(err, unix.Unmount(v.at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW))
	}
	return err
}
