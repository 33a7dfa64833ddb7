package volplugin

import (
	"fmt"
	"maps"
	"os"
	"slices"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"
	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/volplugin/tree"
)

// Metrics tells the disk space that handle's own files take, and that space
// together with the image's. A raw root belongs to somebody else and counts
// nothing.
func (s *Store) Metrics(_ lager.Logger, handle string, _ bool) (garden.ContainerDiskStat, error) {
	v, ok := s.lookup(handle)
	if !ok {
		return garden.ContainerDiskStat{}, fmt.Errorf("volume %s: unknown", handle)
	}
	if v.Raw != "" {
		return garden.ContainerDiskStat{}, nil
	}
	own, err := tree.Usage(s.upperDir(handle))
	if err != nil {
		return garden.ContainerDiskStat{}, fmt.Errorf("volume %s: %w", handle, err)
	}
	total := own
	for _, id := range v.Layers {
		l, _ := s.layers.get(id) // a layer set aside counts nothing
		total += l.Size
	}
	if v.Folder != "" {
		size, err := s.sizeOf(v.Folder)
		if err != nil {
			return garden.ContainerDiskStat{}, fmt.Errorf("volume %s: %w", handle, err)
		}
		total += size
	}
	return garden.ContainerDiskStat{TotalBytesUsed: total, ExclusiveBytesUsed: own}, nil
}

// sizeOf measures a folder that volumes lie on, once: it is not to change
// while they do.
func (s *Store) sizeOf(folder string) (uint64, error) {
	s.mu.Lock()
	size, ok := s.sizes[folder]
	s.mu.Unlock()
	if ok {
		return size, nil
	}
	size, err := tree.Usage(folder)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sizes[folder] = size
	return size, nil
}

// GC removes what failed unpackings left behind. Layers stay, also those that
// no volume lies on now: the next container will ask for the same.
func (s *Store) GC(lager.Logger) error { return s.scratch.sweep() }

// Capacity tells the size of the file system that the store is on.
func (s *Store) Capacity(lager.Logger) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: s.dir, Err: err}
	}
	return st.Blocks * uint64(st.Bsize), nil
}

// Handles lists the volumes, also those that could not be removed.
func (s *Store) Handles() ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.volumes)), nil
}
