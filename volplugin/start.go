package volplugin

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"code.cloudfoundry.org/lager/v3"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/internal/atomicfile"
	"github.com/verger-garden/verger/internal/handle"
	"github.com/verger-garden/verger/volplugin/overlay"
	"github.com/verger-garden/verger/volplugin/tree"
)

// Start makes the store's folders, or takes over an existing store: what a
// crash left half done is finished or undone, volumes of before a reboot are
// removed, those of living containers stay as they are. Only one server may
// have a store at a time.
func (s *Store) Start() (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("image store %s: %w", s.dir, err), s.release())
		}
	}()
	if err := s.makeFolders(); err != nil {
		return err
	}
	if s.boot, err = bootID(); err != nil {
		return err
	}
	s.scratch = &scratch{dir: s.tmpDir(), inUse: map[string]bool{}}
	s.layers = newLayers(s.layersDir(), s.scratch, s.log)
	if err := s.emptyTmp(); err != nil {
		return err
	}
	if len(s.uids) > 0 {
		if s.ids, err = overlay.NewIDs(s.uids, s.gids); err != nil {
			return err
		}
	}
	if s.kernel, err = overlay.Probe(s.tmpDir(), s.ids); err != nil {
		return err
	}
	if s.ids != nil && s.kernel.DetachedViews {
		if s.view, err = s.ids.View(s.layersDir()); err != nil {
			return err
		}
	}
	if err := s.layers.load(s.asideDir()); err != nil {
		return err
	}
	if err := s.layers.loadFiles(s.filesDir()); err != nil {
		return err
	}
	if err := s.recover(); err != nil {
		return err
	}
	s.log.Info("image-store-started", lager.Data{
		"store": s.dir, "layers": len(s.layers.known), "volumes": len(s.volumes), "kernel": fmt.Sprintf("%+v", s.kernel),
	})
	return nil
}

// Close gives the store up for another server. Volumes stay, and so do their
// containers.
func (s *Store) Close() error { return s.release() }

func (s *Store) release() (err error) {
	if s.view != nil {
		err = errors.Join(err, s.view.Close())
	}
	if s.ids != nil {
		err = errors.Join(err, s.ids.Close())
	}
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
	}
	s.view, s.ids, s.lock = nil, nil, nil
	return err
}

// makeFolders makes what is missing and sets owners and modes anew: only root
// looks into the store, and the containers' root passes to its volumes.
func (s *Store) makeFolders() error {
	switch entries, err := os.ReadDir(s.dir); {
	case errors.Is(err, fs.ErrNotExist):
		if err := mkdirPassable(s.dir); err != nil {
			return err
		}
	case err != nil:
		return err
	case !isStore(entries):
		return errors.New("the folder is neither empty nor an image store")
	}
	var err error
	if s.dir, err = filepath.EvalSymlinks(s.dir); err != nil { // as the mount table names it
		return err
	}
	if s.lock, err = os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return err
	}
	if err := unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("in use by another server: %w", err)
	}
	for _, f := range []struct {
		path   string
		shared bool // the containers' root passes through
	}{
		{s.dir, true},
		{s.volumesDir(), true},
		{s.layersDir(), false},
		{s.filesDir(), false},
		{s.tmpDir(), false},
		{s.asideDir(), false},
		{s.emptyDir(), false},
	} {
		if err := os.Mkdir(f.path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		mode, gid := fs.FileMode(0o700), 0
		if f.shared {
			mode, gid = 0o710, s.rootGID
		}
		if err := errors.Join(os.Lchown(f.path, 0, gid), os.Chmod(f.path, mode)); err != nil {
			return err
		}
	}
	if len(s.uids) == 0 {
		return nil
	}
	return passable(filepath.Dir(s.dir), s.rootUID, s.rootGID)
}

// isStore tells a store, or a new file system, from a folder of somebody else.
func isStore(entries []fs.DirEntry) bool {
	for _, e := range entries {
		if e.Name() == "lock" {
			return true
		}
	}
	return len(entries) == 0 || len(entries) == 1 && entries[0].Name() == "lost+found"
}

// mkdirPassable makes dir and what is missing above it, for all to pass
// through whatever the umask is.
func mkdirPassable(dir string) error {
	err := os.Mkdir(dir, 0o711)
	if errors.Is(err, fs.ErrNotExist) {
		if err := mkdirPassable(filepath.Dir(dir)); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o711)
	}
	if err != nil {
		return err
	}
	return os.Chmod(dir, 0o711)
}

// passable is nil if the user can pass through dir and all above it.
func passable(dir string, uid, gid int) error {
	for ; ; dir = filepath.Dir(dir) {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return &os.PathError{Op: "stat", Path: dir, Err: err}
		}
		bit := uint32(0o001)
		switch {
		case int(st.Uid) == uid:
			bit = 0o100
		case int(st.Gid) == gid:
			bit = 0o010
		}
		if st.Mode&bit == 0 {
			return fmt.Errorf("the containers' root (%d:%d on the host) cannot pass through %s: chmod o+x %s", uid, gid, dir, dir)
		}
		if dir == "/" {
			return nil
		}
	}
}

// emptyTmp removes what a crash left unfinished, after what it left mounted.
func (s *Store) emptyTmp() error {
	mounted, err := mountsBelow(s.tmpDir())
	if err != nil {
		return err
	}
	points := slices.Sorted(maps.Keys(mounted))
	for _, p := range slices.Backward(points) {
		if _, err := overlay.Unmount(p); err != nil {
			return err
		}
	}
	return s.scratch.sweep()
}

// recover compares records and mounts.
func (s *Store) recover() error {
	mounted, err := mountsBelow(s.volumesDir())
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(s.volumesDir())
	if err != nil {
		return err
	}
	for _, e := range entries {
		h := e.Name()
		if !e.IsDir() {
			if err := tree.Remove(s.volumeDir(h)); err != nil {
				return err
			}
			continue
		}
		var v volume
		err := atomicfile.ReadJSON(s.recordFile(h), &v)
		if err == nil && (v.Handle != h || handle.Validate(h) != nil) {
			err = fmt.Errorf("volume %s: its record is for %q", h, v.Handle)
		}
		alive := err == nil && v.Boot == s.boot && (v.Raw != "" || mounted[s.mountPoint(h)])
		if alive {
			s.volumes[h] = v
			continue
		}
		reason := "no longer mounted"
		if err != nil {
			reason = err.Error()
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			if err := setAside(s.recordFile(h), s.asideDir(), "volume-"+shorten(h)+"-"); err != nil {
				s.log.Error("record-not-set-aside", err, lager.Data{"handle": h})
			}
		}
		s.volumes[h] = volume{Handle: h} // until it is gone
		if err := s.remove(s.log, h); err != nil {
			s.log.Error("volume-left", err, lager.Data{"handle": h, "reason": reason})
			continue
		}
		s.log.Info("volume-undone", lager.Data{"handle": h, "reason": reason})
	}
	return s.emptyAside()
}

// shorten keeps names made of a handle within the limit of a file's name.
func shorten(h string) string { return h[:min(len(h), 200)] }

// mountsBelow lists the mount points in dir.
func mountsBelow(dir string) (map[string]bool, error) {
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return nil, fmt.Errorf("mounts: %w", err)
	}
	points := map[string]bool{}
	for _, i := range infos {
		points[i.Mountpoint] = true
	}
	return points, nil
}

// emptyAside deletes layers set aside that no volume lies on. Records set
// aside are small and stay for whoever wants to know.
func (s *Store) emptyAside() error {
	inUse := map[string]bool{}
	for _, v := range s.volumes {
		for _, id := range v.Layers {
			inUse[id] = true
		}
	}
	layers, err := filepath.Glob(filepath.Join(s.asideDir(), "layer-*", "*"))
	if err != nil {
		return err
	}
	for _, l := range layers {
		if !inUse[filepath.Base(l)] {
			err = errors.Join(err, tree.Remove(filepath.Dir(l)))
		}
	}
	return err
}
