// Package properties keeps the properties of containers: names and values,
// one small record per container.
//
// Every change is in the record, written atomically, before the call that
// made it returns, so a server that is killed loses nothing it acknowledged.
// Reading touches no file and waits for no writer.
package properties

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"code.cloudfoundry.org/garden"
)

// A Manager keeps the properties of all containers. It is safe for
// concurrent use; changes of different handles do not wait for one another.
type Manager struct {
	files  *folder  // nil: in memory only
	spaces sync.Map // handle -> *space
}

// NewManager returns a Manager that keeps its records in dir, which is made
// when it is needed. Load reads what is there.
func NewManager(dir string) *Manager {
	return &Manager{files: &folder{path: dir}}
}

// NewMemory returns a Manager that saves nothing.
func NewMemory() *Manager { return &Manager{} }

// A space is the properties of one handle. Readers take the current map,
// which is never changed; a writer puts a changed copy in its place.
type space struct {
	current atomic.Pointer[garden.Properties]

	writing sync.Mutex // guards what follows, and the record
	gone    bool       // forgotten; writers must look for the next space
	unsaved error      // why the last Set is not in the record
}

// All answers a copy of the handle's properties, empty if there are none.
func (m *Manager) All(handle string) (garden.Properties, error) {
	props := maps.Clone(m.read(handle))
	if props == nil {
		props = garden.Properties{}
	}
	return props, nil
}

// Get answers the value of a property and whether there is one.
func (m *Manager) Get(handle, name string) (string, bool) {
	value, ok := m.read(handle)[name]
	return value, ok
}

// MatchesAll is true if every pair of props is among the handle's. A missing
// property compares as the empty string.
func (m *Manager) MatchesAll(handle string, props garden.Properties) bool {
	have := m.read(handle)
	for name, value := range props {
		if have[name] != value {
			return false
		}
	}
	return true
}

// Set sets one property. It cannot answer an error: a value that could not
// be saved is kept in memory, Unsaved tells why, and the next change of the
// handle saves it too. Use SetAll where it matters.
func (m *Manager) Set(handle, name, value string) {
	_ = m.change(handle, true, func(props garden.Properties) bool { // Unsaved tells
		props[name] = value
		return true
	})
}

// SetAll merges props into the handle's properties, in one write. It makes
// the record if there is none, also for no props at all. After an error
// nothing has changed.
func (m *Manager) SetAll(handle string, props garden.Properties) error {
	return m.change(handle, false, func(current garden.Properties) bool {
		maps.Copy(current, props)
		return true
	})
}

// Remove removes a property; one that does not exist is not an error.
func (m *Manager) Remove(handle, name string) error {
	if _, ok := m.Get(handle, name); !ok {
		return nil
	}
	return m.change(handle, false, func(props garden.Properties) bool {
		_, ok := props[name]
		delete(props, name)
		return ok
	})
}

// Unsaved answers why the last Set of the handle could not be saved; nil
// once it is.
func (m *Manager) Unsaved(handle string) error {
	s, ok := m.space(handle)
	if !ok {
		return nil
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.unsaved
}

// DestroyKeySpace forgets the handle. A handle without properties is not an
// error.
func (m *Manager) DestroyKeySpace(handle string) error {
	return m.inSpace(handle, func(*space) (keep bool, err error) {
		if err := m.files.remove(handle); err != nil {
			return true, fmt.Errorf("forget properties of %s: %w", handle, err)
		}
		return false, nil
	})
}

// Handles answers every handle that has a record, in order.
func (m *Manager) Handles() ([]string, error) {
	var handles []string
	m.spaces.Range(func(handle, s any) bool {
		if s.(*space).current.Load() != nil {
			handles = append(handles, handle.(string))
		}
		return true
	})
	slices.Sort(handles)
	return handles, nil
}

func (m *Manager) space(handle string) (*space, bool) {
	s, ok := m.spaces.Load(handle)
	if !ok {
		return nil, false
	}
	return s.(*space), true
}

// read answers the current properties, not to be changed; nil if none.
func (m *Manager) read(handle string) garden.Properties {
	if s, ok := m.space(handle); ok {
		if current := s.current.Load(); current != nil {
			return *current
		}
	}
	return nil
}

// change gives edit a copy of the handle's properties and, if edit answers
// true, saves and publishes it. keep publishes what cannot be saved.
func (m *Manager) change(handle string, keep bool, edit func(garden.Properties) bool) error {
	return m.inSpace(handle, func(s *space) (bool, error) {
		props := garden.Properties{}
		if current := s.current.Load(); current != nil {
			maps.Copy(props, *current)
		}
		if !edit(props) {
			return true, nil
		}
		err := check(props)
		if err != nil {
			keep = false // no later change could be saved either
		} else {
			err = m.files.write(handle, props)
		}
		if err != nil {
			err = fmt.Errorf("save properties of %s: %w", handle, err)
		}
		if err == nil || keep {
			s.current.Store(&props)
			s.unsaved = err
		}
		return true, err
	})
}

// inSpace lets fn write the handle's space, alone, and forgets the space if
// fn does not want to keep it or left it empty.
func (m *Manager) inSpace(handle string, fn func(*space) (keep bool, err error)) error {
	for {
		latest, _ := m.spaces.LoadOrStore(handle, &space{})
		s := latest.(*space)
		if alive, err := s.enter(fn, func() { m.spaces.Delete(handle) }); alive {
			return err
		}
	}
}

func (s *space) enter(fn func(*space) (bool, error), forget func()) (alive bool, err error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.gone {
		return false, nil
	}
	keep, err := fn(s)
	if !keep || s.current.Load() == nil {
		s.gone = true
		forget()
	}
	return true, err
}

// check refuses what a record cannot hold. It names no property, for errors
// are logged.
func check(props garden.Properties) error {
	for name, value := range props {
		if !utf8.ValidString(name) || !utf8.ValidString(value) {
			return errors.New("a property is not valid UTF-8")
		}
	}
	return nil
}
