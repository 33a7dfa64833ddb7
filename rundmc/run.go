package rundmc

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"
	"github.com/google/uuid"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/rundmc/bundle"
	"github.com/verger-garden/verger/rundmc/keeper"
	"github.com/verger-garden/verger/rundmc/replay"
	"github.com/verger-garden/verger/rundmc/users"
)

// Run starts a process in the container and attaches pio to it. It returns
// once the program executes; a program that is not there is
// garden.ExecutableNotFoundError.
func (c *Containerizer) Run(log lager.Logger, h string, s garden.ProcessSpec, pio garden.ProcessIO) (garden.Process, error) {
	found, err := c.get(h)
	if err != nil {
		return nil, err
	}
	if s.Image != (garden.ImageRef{}) {
		return nil, errors.New("run: this server does not run processes with an image of their own yet")
	}
	if len(s.BindMounts) > 0 {
		return nil, errors.New("Running a process with bind mounts and no image provided is not allowed") //lint:ignore ST1005 clients match this text
	}
	if s.ID == "" {
		s.ID = uuid.NewString()
	}
	if err := validateProcessID(s.ID); err != nil {
		return nil, err
	}
	if err := found.reserve(s.ID); err != nil {
		return nil, err
	}
	defer found.release(s.ID)
	at := time.Now()
	p, err := found.run(s, pio)
	outcome := lager.Data{"process": s.ID, "took": time.Since(at).String()}
	if err != nil {
		log.Error("run-failed", err, outcome)
		return nil, err
	}
	log.Info("started", outcome)
	return c.attachment(found, p), nil
}

func (c *Containerizer) attachment(of *container, p *process) attachment {
	a := attachment{process: p}
	if c.config.CleanupProcessDirsOnWait {
		a.onWait = func() {
			of.mu.Lock()
			defer of.mu.Unlock()
			if of.processes[p.id] != p {
				return // forgotten already
			}
			of.drop(p.id)
			if err := of.exits.remove(p.id); err != nil {
				of.log.Error("forget-process", err, lager.Data{"process": p.id})
			}
		}
	}
	return a
}

// Attach connects pio to a process that runs, or has run, in the container.
// It receives what no client took, then all output from now on.
func (c *Containerizer) Attach(log lager.Logger, h, id string, pio garden.ProcessIO) (garden.Process, error) {
	found, err := c.get(h)
	if err != nil {
		return nil, err
	}
	found.mu.Lock()
	p := found.processes[id]
	found.mu.Unlock()
	if p == nil {
		return nil, garden.ProcessNotFoundError{ProcessID: id}
	}
	p.attach(pio)
	log.Info("attached", lager.Data{"process": id})
	return c.attachment(found, p), nil
}

// reserve claims the id, so that of several Runs with one id one wins.
func (c *container) reserve(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.dead:
		return fmt.Errorf("container %s has no init any more: destroy it", c.handle)
	case c.conn == nil:
		return fmt.Errorf("container %s is not running yet", c.handle)
	case c.processes[id] != nil || c.starting[id]:
		return fmt.Errorf("process ID '%s' already in use", id)
	}
	c.starting[id] = true
	return nil
}

func (c *container) release(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.starting, id)
}

func (c *container) run(s garden.ProcessSpec, pio garden.ProcessIO) (*process, error) {
	c.inUse.RLock()
	defer c.inUse.RUnlock()
	if c.proc == nil {
		return nil, fmt.Errorf("container %s is being destroyed", c.handle)
	}
	uids, gids := c.bundle.Linux.UIDMappings, c.bundle.Linux.GIDMappings
	// Through the descriptor of /proc/<pid>, which a later process cannot
	// take over.
	root := fmt.Sprintf("/proc/self/fd/%d/root", c.proc.Fd())
	user, err := users.LookupMapped(root, s.User, uids, gids)
	if err != nil {
		return nil, err
	}
	caps := bundle.ProcessCapabilities(c.bundle, user.UID)
	start := keeper.Start{
		ID: s.ID, Args: append([]string{s.Path}, s.Args...),
		Env: environment(c.bundle.Process.Env, s.Env, s.User, user),
		Dir: path.Join("/", cmp.Or(s.Dir, user.Home)),
		UID: user.UID, GID: user.GID, Groups: user.Groups,
		Bounding: caps.Bounding, Inheritable: caps.Inheritable, Permitted: caps.Permitted,
		PipeUID: hostID(uids, user.UID), PipeGID: hostID(gids, user.GID),
		Limit: limiter(s.Limits),
	}
	if s.TTY != nil {
		start.TTY = true
		start.Columns, start.Rows = windowSize(s.TTY)
	}
	kept, err := c.conn.Start(start)
	if err != nil {
		return nil, c.explain(err, s, start)
	}
	p := c.newProcess(kept, replay.New)
	p.attach(pio) // before the first read: it misses nothing
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed { // meanwhile: the next server finds the process
		kept.CloseFiles()
		return nil, errShutdown
	}
	c.processes[p.id] = p
	c.watch(p)
	return p, nil
}

// explain turns init's errno into what a client can act on.
func (c *container) explain(err error, s garden.ProcessSpec, start keeper.Start) error {
	failure, ok := errors.AsType[*keeper.StartError](err)
	if !ok {
		if errors.Is(err, keeper.ErrGone) {
			return fmt.Errorf("container %s has no init any more: destroy it", c.handle)
		}
		return err
	}
	switch {
	case failure.Stage == keeper.AtExec && (failure.Errno == unix.ENOENT || failure.Errno == unix.ENOTDIR):
		return garden.ExecutableNotFoundError{Message: fmt.Sprintf("exec %s: no such executable in the container", s.Path)}
	case failure.Stage == keeper.AtExec:
		return fmt.Errorf("exec %s: %w", s.Path, failure.Errno)
	case failure.Stage == keeper.AtDir:
		return fmt.Errorf("working directory %s as user %s: %w", start.Dir, cmp.Or(s.User, "root"), failure.Errno)
	case failure.Stage == keeper.AtFork && failure.Errno == unix.EAGAIN:
		return fmt.Errorf("%w: the container's limit of processes is reached", err)
	default:
		return err
	}
}

// environment is the container's, then the process's, then what every process
// can count on; the later value of a name wins.
func environment(container, process []string, asked string, user users.User) []string {
	name, _, _ := strings.Cut(asked, ":")
	searched := "/usr/local/bin:/usr/bin:/bin"
	if user.UID == 0 {
		searched = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	defaults := []string{
		"USER=" + cmp.Or(name, "root"),
		"PATH=" + searched,
		"HOME=" + user.Home,
	}
	at := map[string]int{}
	var env []string
	for i, list := range [][]string{container, process, defaults} {
		for _, entry := range list {
			key, _, _ := strings.Cut(entry, "=")
			have, known := at[key]
			switch {
			case !known:
				at[key] = len(env)
				env = append(env, entry)
			case i < 2:
				env[have] = entry
			}
		}
	}
	return env
}

// hostID maps a container's id; without a map it is the host's already.
func hostID(ids []specs.LinuxIDMapping, id uint32) int {
	for _, m := range ids {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return int(m.HostID + (id - m.ContainerID))
		}
	}
	return int(id)
}

// rlimits pairs the API's names with the kernel's.
var rlimits = []struct {
	name     string
	resource int
	value    func(garden.ResourceLimits) *uint64
}{
	{"as", unix.RLIMIT_AS, func(l garden.ResourceLimits) *uint64 { return l.As }},
	{"core", unix.RLIMIT_CORE, func(l garden.ResourceLimits) *uint64 { return l.Core }},
	{"cpu", unix.RLIMIT_CPU, func(l garden.ResourceLimits) *uint64 { return l.Cpu }},
	{"data", unix.RLIMIT_DATA, func(l garden.ResourceLimits) *uint64 { return l.Data }},
	{"fsize", unix.RLIMIT_FSIZE, func(l garden.ResourceLimits) *uint64 { return l.Fsize }},
	{"locks", unix.RLIMIT_LOCKS, func(l garden.ResourceLimits) *uint64 { return l.Locks }},
	{"memlock", unix.RLIMIT_MEMLOCK, func(l garden.ResourceLimits) *uint64 { return l.Memlock }},
	{"msgqueue", unix.RLIMIT_MSGQUEUE, func(l garden.ResourceLimits) *uint64 { return l.Msgqueue }},
	{"nice", unix.RLIMIT_NICE, func(l garden.ResourceLimits) *uint64 { return l.Nice }},
	{"nofile", unix.RLIMIT_NOFILE, func(l garden.ResourceLimits) *uint64 { return l.Nofile }},
	{"nproc", unix.RLIMIT_NPROC, func(l garden.ResourceLimits) *uint64 { return l.Nproc }},
	{"rss", unix.RLIMIT_RSS, func(l garden.ResourceLimits) *uint64 { return l.Rss }},
	{"rtprio", unix.RLIMIT_RTPRIO, func(l garden.ResourceLimits) *uint64 { return l.Rtprio }},
	{"sigpending", unix.RLIMIT_SIGPENDING, func(l garden.ResourceLimits) *uint64 { return l.Sigpending }},
	{"stack", unix.RLIMIT_STACK, func(l garden.ResourceLimits) *uint64 { return l.Stack }},
}

// limiter returns what sets the limits asked for on a process that waits to
// execute; nil if there are none, so that most processes need not wait.
func limiter(l garden.ResourceLimits) func(pid int) error {
	if l == (garden.ResourceLimits{}) {
		return nil
	}
	return func(pid int) error {
		for _, r := range rlimits {
			v := r.value(l)
			if v == nil {
				continue
			}
			if err := unix.Prlimit(pid, r.resource, &unix.Rlimit{Cur: *v, Max: *v}, nil); err != nil {
				return fmt.Errorf("set rlimit %s to %d: %w", r.name, *v, err)
			}
		}
		return nil
	}
}

// A PeaCleaner removes what processes with an image of their own left behind.
// This server starts none, so there is nothing to remove.
type PeaCleaner struct{}

// CleanAll does nothing.
func (PeaCleaner) CleanAll(lager.Logger) error { return nil }

// Clean does nothing.
func (PeaCleaner) Clean(lager.Logger, string) error { return nil }
