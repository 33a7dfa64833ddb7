// Package volplugin is the volumizer: it turns an image's URI into a root file
// system of a container's own, and takes it back.
//
// Images are kept as read-only layers, named by the digest of their content
// and unpacked once for all who ask. A volume is an overlay over such layers,
// mounted by this process. Layers keep the owners that the image gives; a
// container with a user namespace sees them through an id-mapped view, so
// nothing is copied or changed for it.
//
// Every volume has a record that is written before anything else is done. So
// a server killed at any instant leaves nothing that the next Start does not
// finish or undo.
package volplugin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"code.cloudfoundry.org/lager/v3"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/verger-garden/verger/volplugin/ocilayout"
	"github.com/verger-garden/verger/volplugin/overlay"
)

// Config of a Store.
type Config struct {
	// Dir is the store's folder; required. Start makes it.
	Dir string

	// DefaultRootfs is the URI used when a container names none. Empty: a
	// container has to name one.
	DefaultRootfs string

	// UIDMappings and GIDMappings are those of containers with a user
	// namespace. Empty: there are no such containers.
	UIDMappings, GIDMappings []specs.LinuxIDMapping

	// Log takes what Start and Close have to say. nil: silent.
	Log lager.Logger
}

// A Store keeps images and volumes in one folder. Its methods may be called
// at any time from any goroutine between Start and Close.
type Store struct {
	dir           string
	defaultRootfs string
	uids, gids    []specs.LinuxIDMapping
	rootUID       int // what a container's root is on the host
	rootGID       int
	log           lager.Logger

	// Set by Start.
	boot   string
	lock   *os.File
	kernel overlay.Kernel
	ids    *overlay.IDs  // nil: no user namespaces
	view   *overlay.View // of all layers, if the kernel takes it detached

	scratch *scratch
	layers  *layers
	busy    keyedLock // by handle

	mu      sync.Mutex
	volumes map[string]volume
	images  map[v1.Hash]ocilayout.Image // by digest of the manifest
	sizes   map[string]uint64           // of folders used as layers
}

// New checks c and touches nothing.
func New(c Config) (*Store, error) {
	if c.Dir == "" {
		return nil, errors.New("image store: no folder given: set --store-dir")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("image store %s: %w", c.Dir, err)
	}
	s := &Store{
		dir:           dir,
		defaultRootfs: c.DefaultRootfs,
		uids:          c.UIDMappings,
		gids:          c.GIDMappings,
		log:           c.Log,
		volumes:       map[string]volume{},
		images:        map[v1.Hash]ocilayout.Image{},
		sizes:         map[string]uint64{},
	}
	if s.log == nil {
		s.log = lager.NewLogger("volplugin")
	}
	if (len(s.uids) == 0) != (len(s.gids) == 0) {
		return nil, errors.New("image store: uid and gid mappings go together")
	}
	if len(s.uids) > 0 {
		if s.rootUID, err = hostID(s.uids); err != nil {
			return nil, fmt.Errorf("image store: uid mapping: %w", err)
		}
		if s.rootGID, err = hostID(s.gids); err != nil {
			return nil, fmt.Errorf("image store: gid mapping: %w", err)
		}
	}
	return s, nil
}

// hostID tells what the container's id 0 is on the host.
func hostID(maps []specs.LinuxIDMapping) (int, error) {
	for _, m := range maps {
		if m.ContainerID == 0 && m.Size > 0 {
			return int(m.HostID), nil
		}
	}
	return 0, errors.New("has no id for the container's root")
}

// Paths within the store.
func (s *Store) layersDir() string               { return filepath.Join(s.dir, "layers") }
func (s *Store) filesDir() string                { return filepath.Join(s.dir, "files") }
func (s *Store) tmpDir() string                  { return filepath.Join(s.dir, "tmp") }
func (s *Store) asideDir() string                { return filepath.Join(s.dir, "aside") }
func (s *Store) emptyDir() string                { return filepath.Join(s.dir, "empty") }
func (s *Store) volumesDir() string              { return filepath.Join(s.dir, "volumes") }
func (s *Store) volumeDir(handle string) string  { return filepath.Join(s.volumesDir(), handle) }
func (s *Store) mountPoint(handle string) string { return filepath.Join(s.volumeDir(handle), "rootfs") }
func (s *Store) upperDir(handle string) string   { return filepath.Join(s.volumeDir(handle), "upper") }

// keyedLock is a mutex per name.
type keyedLock struct {
	mu   sync.Mutex
	held map[string]*waiters
}

type waiters struct {
	sync.Mutex
	n int
}

// Lock locks name and returns its unlock.
func (k *keyedLock) Lock(name string) (unlock func()) {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[string]*waiters{}
	}
	w := k.held[name]
	if w == nil {
		w = &waiters{}
		k.held[name] = w
	}
	w.n++
	k.mu.Unlock()
	w.Lock()
	return func() {
		w.Unlock()
		k.mu.Lock()
		if w.n--; w.n == 0 {
			delete(k.held, name)
		}
		k.mu.Unlock()
	}
}
