// Package overlay mounts layers as one writable folder, and shows folders
// with their owners shifted to those of a user namespace.
//
// Layers are handed to the kernel by name or, where a name is too long or
// would need quoting, by descriptor, so neither length nor characters of a
// path matter. What older kernels cannot do is probed once, not guessed.
package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Kernel tells which features of overlayfs may be used. The zero value is
// for the oldest, and right for all.
type Kernel struct {
	// AppendLayers: layers are given one by one, without a limit on the
	// length of them all (Linux 6.5).
	AppendLayers bool

	// Volatile: nothing is synced at unmount, as the writable layer is
	// never used again (Linux 5.10).
	Volatile bool

	// DetachedViews: a View can be a layer without being attached (Linux 6.15).
	DetachedViews bool
}

// A Mount says what to mount.
type Mount struct {
	Layers      []string // read-only, the uppermost first; at least one
	Upper, Work string   // writable layer and scratch folder, on one file system
	Target      string   // an empty folder
	NoDevices   bool     // device files do not open
}

// Mount makes m. The new mount is private: what is mounted below it does not
// spread to other mount namespaces.
func (k Kernel) Mount(m Mount) error {
	if err := k.attach(m, m.Target); err != nil {
		return fmt.Errorf("mount %s: %w", m.Target, err)
	}
	if err := unix.Mount("", m.Target, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mount %s private: %w", m.Target, err)
	}
	return nil
}

// attach mounts m at target. With AppendLayers an empty target makes the
// mount and drops it, to see whether it can be made.
func (k Kernel) attach(m Mount, target string) error {
	n := &names{}
	defer n.close()
	o := options{upper: n.name(m.Upper), work: n.name(m.Work), volatile: k.Volatile}
	for _, l := range m.Layers {
		if k.AppendLayers {
			o.layers = append(o.layers, n.name(l))
		} else {
			o.layers = append(o.layers, n.short(l))
		}
	}
	if n.err != nil {
		return n.err
	}
	if k.AppendLayers {
		return o.mountByContext(target, m.NoDevices)
	}
	return o.mountByString(target, m.NoDevices)
}

// options are those of one overlay mount, in names the kernel takes as they are.
type options struct {
	layers      []string
	upper, work string
	volatile    bool
}

func (o options) mountByContext(target string, noDevices bool) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open overlay: %w", err)
	}
	defer func() { _ = unix.Close(fs) }() // configured or failed
	set := func(key, value string) {
		if err == nil {
			if err = unix.FsconfigSetString(fs, key, value); err != nil {
				err = fmt.Errorf("%s %s: %w", key, value, err)
			}
		}
	}
	set("source", "overlay")
	for _, l := range o.layers {
		set("lowerdir+", l)
	}
	set("upperdir", o.upper)
	set("workdir", o.work)
	if err == nil && o.volatile {
		err = unix.FsconfigSetFlag(fs, "volatile")
	}
	if err == nil {
		err = unix.FsconfigCreate(fs)
	}
	if err != nil {
		return explain(fs, err)
	}
	attrs := 0
	if noDevices {
		attrs = unix.MOUNT_ATTR_NODEV
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return explain(fs, err)
	}
	defer func() { _ = unix.Close(fd) }() // by path only
	if target == "" {
		return nil
	}
	return unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// explain adds what the kernel has to say to err.
func explain(fs int, err error) error {
	buf := make([]byte, 512)
	n, rerr := unix.Read(fs, buf)
	if rerr != nil || n <= 0 {
		return err
	}
	said := strings.TrimSpace(string(buf[:n]))
	if len(said) > 2 && said[1] == ' ' {
		said = said[2:] // the level: "e", "w" or "i"
	}
	return fmt.Errorf("%w (%s)", err, strings.TrimPrefix(said, "overlay: "))
}

func (o options) mountByString(target string, noDevices bool) error {
	data := "lowerdir=" + strings.Join(o.layers, ":") + ",upperdir=" + o.upper + ",workdir=" + o.work
	if o.volatile {
		data += ",volatile"
	}
	if limit := os.Getpagesize() - 1; len(data) > limit {
		return fmt.Errorf("%d layers are more than a kernel before Linux 6.5 can mount: %w", len(o.layers), unix.E2BIG)
	}
	var flags uintptr
	if noDevices {
		flags = unix.MS_NODEV
	}
	return unix.Mount("overlay", target, "overlay", flags, data)
}

// names turns paths into what the kernel takes, and keeps descriptors open
// for those that it does not.
type names struct {
	open []int
	err  error
}

// maxName is the longest value of fsconfig.
const maxName = 255

// name is path itself if it is short and needs no quoting.
func (n *names) name(path string) string {
	if len(path) <= maxName && !strings.ContainsAny(path, `\:,`) {
		return path
	}
	return n.short(path)
}

// short is a name of at most 24 bytes for the folder path.
func (n *names) short(path string) string {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		n.err = errors.Join(n.err, &os.PathError{Op: "open", Path: path, Err: err})
		return ""
	}
	n.open = append(n.open, fd)
	return fmt.Sprintf("/proc/self/fd/%d", fd)
}

func (n *names) close() {
	for _, fd := range n.open {
		_ = unix.Close(fd) // by path only
	}
}

// Unmount takes away what is mounted at target, waiting a little for it to
// become idle. If it does not, it is detached at once and goes when its last
// user does; lazy tells so. A target that is missing or no mount is not an error.
func Unmount(target string) (lazy bool, err error) {
	for pause := time.Millisecond; ; pause *= 2 {
		err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return lazy, nil
		case err == nil, errors.Is(err, unix.EINTR):
			continue // another may lie beneath
		case !errors.Is(err, unix.EBUSY):
			return lazy, fmt.Errorf("unmount %s: %w", target, err)
		case pause > 256*time.Millisecond:
			lazy = true
			if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
				return lazy, fmt.Errorf("detach %s: %w", target, err)
			}
		default:
			time.Sleep(pause)
		}
	}
}

// Probe finds out, in a folder of its own in dir, what the kernel can do with
// layers in dir and, if ids is not nil, with views of them.
func Probe(dir string, ids *IDs) (k Kernel, err error) {
	top, err := os.MkdirTemp(dir, "probe-")
	if err != nil {
		return Kernel{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(top)) }()
	m := Mount{
		Layers: []string{filepath.Join(top, "layer")},
		Target: filepath.Join(top, "merged"),
	}
	for _, d := range []string{m.Layers[0], m.Target} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return Kernel{}, err
		}
	}
	try := func(k Kernel) error {
		// Each attempt has folders of its own: volatile marks them as used.
		scratch, err := os.MkdirTemp(top, "scratch-")
		if err != nil {
			return err
		}
		m.Upper, m.Work = filepath.Join(scratch, "upper"), filepath.Join(scratch, "work")
		if err := errors.Join(os.Mkdir(m.Upper, 0o700), os.Mkdir(m.Work, 0o700)); err != nil {
			return err
		}
		if k.AppendLayers {
			return k.attach(m, "")
		}
		if err := k.attach(m, m.Target); err != nil {
			return err
		}
		_, err = Unmount(m.Target)
		return err
	}
	for _, k = range []Kernel{{AppendLayers: true, Volatile: true}, {AppendLayers: true}, {Volatile: true}, {}} {
		if err = try(k); err == nil {
			break
		}
	}
	if err != nil {
		return Kernel{}, fmt.Errorf("%s cannot hold overlays: %w", dir, err)
	}
	if ids == nil {
		return k, nil
	}
	view, err := ids.View(m.Layers[0])
	if err != nil {
		return Kernel{}, err
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	m.Layers[0] = view.Path()
	if err := try(k); err == nil {
		k.DetachedViews = true
		return k, nil
	}
	at := filepath.Join(top, "view")
	if err := os.Mkdir(at, 0o700); err != nil {
		return Kernel{}, err
	}
	if err := view.Attach(at); err != nil {
		return Kernel{}, err
	}
	m.Layers[0] = at
	if err := try(k); err != nil {
		return Kernel{}, fmt.Errorf("overlays in %s cannot have id-mapped layers (needs Linux 5.19): %w", dir, err)
	}
	return k, nil
}
