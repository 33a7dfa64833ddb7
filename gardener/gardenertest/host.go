// Package gardenertest has in-memory components for tests of gardener: a
// Host that outlives servers, and Servers, each with a containerizer, a
// networker, a volumizer and properties that act on it.
//
// Every call of a component is a step that can be made to fail, before or
// after it acts, or to kill the server: from then on nothing that server
// does has any effect, as after SIGKILL, while the Host stays as it is.
package gardenertest

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"

	"code.cloudfoundry.org/garden"

	"github.com/verger-garden/verger/gardener"
	"github.com/verger-garden/verger/gardener/spec"
)

// ErrKilled is what the components of a killed server answer.
var ErrKilled = errors.New("the server is dead")

// A Host is what containers are made of. It keeps accounts of what must not
// happen: see Violations.
type Host struct {
	mu         sync.Mutex
	sandboxes  map[string]*sandbox
	networks   map[string]bool
	volumes    map[string]bool
	peas       map[string]bool
	peak       int
	violations []string
	pids       int

	// Records outlive servers, too.
	Records Records
}

// Records is where properties are kept.
type Records interface {
	gardener.PropertyManager
	gardener.PropertySaver
	gardener.HandleLister
}

type sandbox struct {
	pid     int // 0: destroyed, only the bundle is left
	stopped bool
	desired spec.DesiredContainerSpec
}

// NewHost returns a Host with nothing on it but the records.
func NewHost(records Records) *Host {
	return &Host{
		sandboxes: map[string]*sandbox{},
		networks:  map[string]bool{},
		volumes:   map[string]bool{},
		peas:      map[string]bool{},
		Records:   records,
	}
}

// Left answers everything that is on the host, in order, such as "volume h".
func (h *Host) Left() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := []string{}
	add := func(kind string, handles []string) {
		for _, handle := range handles {
			left = append(left, kind+" "+handle)
		}
	}
	add("bundle", slices.Sorted(maps.Keys(h.sandboxes)))
	add("network", slices.Sorted(maps.Keys(h.networks)))
	add("volume", slices.Sorted(maps.Keys(h.volumes)))
	records, err := h.Records.Handles()
	if err != nil {
		left = append(left, err.Error())
	}
	add("record", records)
	return left
}

// Whole tells whether the container runs with a network and a volume.
func (h *Host) Whole(handle string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.sandboxes[handle]
	return s != nil && s.pid != 0 && h.networks[handle] && h.volumes[handle]
}

// AddPea puts a running process with an own image on the host.
func (h *Host) AddPea(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.peas[id] = true
	h.volumes[id] = true
}

// Peak is the highest number of volumes there ever was at a time.
func (h *Host) Peak() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.peak
}

// Violations are things that happened and never should: something made twice,
// or taken away from under a running container.
func (h *Host) Violations() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.violations)
}

func (h *Host) violated(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	h.violations = append(h.violations, err.Error())
	return err
}

// A Fault is what happens at a step.
type Fault int

const (
	None       Fault = iota
	FailBefore       // fails and has done nothing
	FailAfter        // fails and has done all the same
	KillBefore       // the server dies as the step begins
	KillAfter        // the server dies as the step has been done
)

// ErrInjected is the error of a step that was made to fail.
var ErrInjected = errors.New("injected")

// A Server is one life of a server's components.
type Server struct {
	host *Host

	mu     sync.Mutex
	dead   bool
	inject func(step string) Fault
	wait   map[string]chan struct{}
	steps  []string

	Containerizer *Containerizer
	Networker     *Networker
	Volumizer     *Volumizer
	Properties    *Properties
}

// Boot returns the components of a new server.
func (h *Host) Boot() *Server {
	s := &Server{host: h, wait: map[string]chan struct{}{}}
	s.Containerizer = &Containerizer{server: s}
	s.Networker = &Networker{server: s}
	s.Volumizer = &Volumizer{server: s}
	s.Properties = &Properties{server: s}
	return s
}

// Inject asks fn at each step what is to happen; nil: nothing.
func (s *Server) Inject(fn func(step string) Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inject = fn
}

// At is a function for Inject: fault at the nth call, from 0, of the named
// step, or of any if step is empty.
func At(step string, nth int, fault Fault) func(string) Fault {
	return func(at string) Fault {
		if step != "" && at != step {
			return None
		}
		nth--
		if nth == -1 {
			return fault
		}
		return None
	}
}

// Block makes the step wait, each time, until the returned function is called.
func (s *Server) Block(step string) (unblock func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gate := make(chan struct{})
	s.wait[step] = gate
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.wait, step)
		close(gate)
	})
}

// Steps answers which steps there were, in order.
func (s *Server) Steps() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.steps)
}

// Dead tells whether the server was killed.
func (s *Server) Dead() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dead
}

// step does one step, with whatever was injected.
func (s *Server) step(name string, act func() error) error {
	s.mu.Lock()
	s.steps = append(s.steps, name)
	gate := s.wait[name]
	fault := None
	if s.inject != nil {
		fault = s.inject(name)
	}
	s.dead = s.dead || fault == KillBefore
	dead := s.dead
	s.mu.Unlock()
	if gate != nil {
		<-gate
	}
	runtime.Gosched() // whoever else can run may do so between any two steps
	switch {
	case dead:
		return ErrKilled
	case fault == FailBefore:
		return fmt.Errorf("%s: %w", name, ErrInjected)
	}
	err := s.host.do(act)
	switch fault {
	case FailAfter:
		return errors.Join(err, fmt.Errorf("%s: %w", name, ErrInjected))
	case KillAfter:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.dead = true
		return ErrKilled
	}
	return err
}

func (h *Host) do(act func() error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return act()
}

func notFound(handle string) error { return garden.ContainerNotFoundError{Handle: handle} }
