package gardener

import (
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"

	"code.cloudfoundry.org/garden"
)

// errMaxContainers means that as many containers exist, or are being made,
// as are allowed.
var errMaxContainers = errors.New("max containers reached")

// handles knows which handles are taken and by what. Reading takes no lock;
// mu is only ever held for a few map operations, never over all handles.
type handles struct {
	mu    sync.Mutex
	taken sync.Map // string -> *holder
	count uint64
}

// A holder is one life of a handle: another container that later gets the
// same handle gets another holder.
type holder struct {
	handle string

	// visible is false while the container is being created.
	visible atomic.Bool

	// Guarded by handles.mu. busy is closed when the operation under way
	// ends, nil if there is none; gone is true once nothing is left.
	busy chan struct{}
	gone bool

	// records is held shared by who uses properties, exclusively by who
	// forgets them, so that no late writer revives a dead container's record.
	records   sync.RWMutex
	forgotten bool
}

// claim takes a free handle for a create, unless limit (0: none) containers
// exist already. The caller ends its operation with release or drop.
func (h *handles) claim(handle string, limit uint64) (*holder, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.taken.Load(handle); ok {
		return nil, fmt.Errorf("Handle '%s' already in use", handle)
	}
	if limit > 0 && h.count >= limit {
		return nil, errMaxContainers
	}
	ho := &holder{handle: handle, busy: make(chan struct{})}
	h.taken.Store(handle, ho)
	h.count++
	return ho, nil
}

// adopt takes note of a container that exists, and answers whether nobody
// works on it.
func (h *handles) adopt(handle string) (ho *holder, idle bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if known, ok := h.get(handle); ok {
		return known, known.busy == nil
	}
	ho = &holder{handle: handle}
	ho.visible.Store(true)
	h.taken.Store(handle, ho)
	h.count++
	return ho, true
}

// seize waits until nobody works on the container and then takes it for an
// operation that ends with release or drop. It answers false if the
// container, this one and not a later one of the same handle, is gone.
func (h *handles) seize(ho *holder) bool {
	for {
		h.mu.Lock()
		busy, gone := ho.busy, ho.gone
		if busy == nil && !gone {
			ho.busy = make(chan struct{})
		}
		h.mu.Unlock()
		if gone {
			return false
		}
		if busy == nil {
			return true
		}
		<-busy
	}
}

// release ends an operation; the container, or what is left of it, can be
// seen and destroyed.
func (h *handles) release(ho *holder) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ho.visible.Store(true)
	close(ho.busy)
	ho.busy = nil
}

// drop ends an operation and frees the handle.
func (h *handles) drop(ho *holder) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.taken.Delete(ho.handle)
	h.count--
	ho.visible.Store(false)
	ho.gone = true
	close(ho.busy)
	ho.busy = nil
}

// get answers the holder of a taken handle.
func (h *handles) get(handle string) (*holder, bool) {
	v, ok := h.taken.Load(handle)
	if !ok {
		return nil, false
	}
	return v.(*holder), true
}

// visible lists the handles of all containers but those being created.
func (h *handles) visible() iter.Seq[string] {
	return func(yield func(string) bool) {
		h.taken.Range(func(_, v any) bool {
			ho := v.(*holder)
			return !ho.visible.Load() || yield(ho.handle)
		})
	}
}

// use runs fn, which reads or writes properties of the container, unless they
// have been forgotten.
func (ho *holder) use(fn func() error) error {
	ho.records.RLock()
	defer ho.records.RUnlock()
	if ho.forgotten {
		return garden.ContainerNotFoundError{Handle: ho.handle}
	}
	return fn()
}

// forget runs fn, which forgets the properties of the container.
func (ho *holder) forget(fn func() error) error {
	ho.records.Lock()
	defer ho.records.Unlock()
	err := fn()
	ho.forgotten = err == nil
	return err
}

// find answers the holder of a container that clients may see.
func (g *Gardener) find(handle string) (*holder, error) {
	if err := g.learn(); err != nil {
		return nil, err
	}
	if ho, ok := g.handles.get(handle); ok && ho.visible.Load() {
		return ho, nil
	}
	return nil, garden.ContainerNotFoundError{Handle: handle}
}

// learn asks the containerizer, once, which containers exist, for a Gardener
// that is used without Start.
func (g *Gardener) learn() error {
	if g.learned.Load() {
		return nil
	}
	g.learning.Lock()
	defer g.learning.Unlock()
	if g.learned.Load() {
		return nil
	}
	existing, err := g.Containerizer.Handles()
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	for _, handle := range existing {
		g.handles.adopt(handle)
	}
	g.learned.Store(true)
	return nil
}
