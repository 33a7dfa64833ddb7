package volplugin

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"code.cloudfoundry.org/lager/v3"

	"github.com/verger-garden/verger/internal/handle"
	"github.com/verger-garden/verger/volplugin/overlay"
	"github.com/verger-garden/verger/volplugin/tree"
)

// Destroy removes the volume of handle with all that was written to it. A
// volume that is not there is not an error. After an error the volume is
// still listed, and Destroy may be called again.
func (s *Store) Destroy(log lager.Logger, h string) error {
	start := time.Now()
	if err := handle.Validate(h); err != nil {
		return err
	}
	defer s.busy.Lock(h)()
	if _, ok := s.lookup(h); !ok {
		return nil
	}
	if err := s.remove(log, h); err != nil {
		return err
	}
	log.Info("volume-destroyed", lager.Data{"handle": h, "took": time.Since(start).String()})
	return nil
}

// remove undoes make, whatever part of it was done. The record goes last.
func (s *Store) remove(log lager.Logger, h string) error {
	dir := s.volumeDir(h)
	lazy, err := overlay.Unmount(s.mountPoint(h))
	if err != nil {
		return err // nothing may be deleted through the mount
	}
	if lazy {
		log.Info("volume-busy", lager.Data{"handle": h, "effect": "unmounted when its last user ends"})
	}
	err = os.Remove(s.mountPoint(h))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	err = errors.Join(err, tree.Remove(s.upperDir(h)), tree.Remove(filepath.Join(dir, "work")))
	if err != nil {
		return err
	}
	if err := tree.Remove(dir); err != nil {
		return err
	}
	s.forget(h)
	return nil
}
