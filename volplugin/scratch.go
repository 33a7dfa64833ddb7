package volplugin

import (
	"errors"
	"os"
	"path/filepath"
	"sync"

	"github.com/verger-garden/verger/volplugin/tree"
)

// scratch is the folder for what is not finished. What is in it and not in
// use is left over and may go at any time.
type scratch struct {
	dir   string
	mu    sync.Mutex
	inUse map[string]bool
}

// folder makes an empty folder that stays until release.
func (s *scratch) folder(prefix string) (dir string, release func() error, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if dir, err = os.MkdirTemp(s.dir, prefix+"-"); err != nil {
		return "", nil, err
	}
	s.inUse[dir] = true
	return dir, func() error {
		err := tree.Remove(dir)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.inUse, dir)
		return err
	}, nil
}

// sweep removes what is left over.
func (s *scratch) sweep() error {
	s.mu.Lock()
	entries, err := os.ReadDir(s.dir)
	var left []string
	for _, e := range entries {
		if path := filepath.Join(s.dir, e.Name()); !s.inUse[path] {
			left = append(left, path)
		}
	}
	s.mu.Unlock()
	for _, path := range left {
		err = errors.Join(err, tree.Remove(path))
	}
	return err
}
