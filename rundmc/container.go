package rundmc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/internal/atomicfile"
	"github.com/verger-garden/verger/internal/cgroups"
	"github.com/verger-garden/verger/rundmc/keeper"
	"github.com/verger-garden/verger/rundmc/replay"
)

// Files in a container's folder in the depot.
const (
	recordFile = "container.json"
	bundleFile = "config.json"
	socketFile = "init.sock"
	exitsFile  = "exits"
	replayDir  = "replay"
)

// A record is all that a restart needs beside the bundle.
type record struct {
	Handle     string
	Created    time.Time
	Privileged bool
	Limits     garden.Limits
	CgroupName string // absolute within each hierarchy

	// Set once the sandbox runs.
	Pid     int           `json:",omitempty"`
	Started uint64        `json:",omitempty"` // clock ticks since boot, as in /proc/<pid>/stat: tells a reused pid
	Cgroups cgroups.Paths `json:",omitempty"`

	Stopped bool `json:",omitempty"`
}

// A container is one sandbox and the processes in it.
type container struct {
	handle, dir string
	log         lager.Logger
	replaySize  int
	shutdown    <-chan struct{}
	exits       exitLog
	work        sync.WaitGroup // the goroutines of its processes

	// closing is closed by close: no client is waited for any more.
	closing chan struct{}
	once    sync.Once

	// inUse is held, shared, by whoever uses proc, pidfd or conn outside mu;
	// close takes it alone.
	inUse sync.RWMutex

	mu        sync.Mutex
	record    record
	bundle    specs.Spec // without what only the runtime needs
	proc      *os.File   // /proc/<pid> of init, which no later process can take over
	pidfd     *os.File   // of init
	conn      *keeper.Conn
	dead      bool // init has ended
	closed    bool // work takes no more goroutines
	starting  map[string]bool
	processes map[string]*process
	ended     []string // ids, oldest first
}

func newContainer(handle, dir string, c *Containerizer) *container {
	return &container{
		handle: handle, dir: dir, log: c.log.Session("container", lager.Data{"handle": handle}),
		replaySize: c.config.ReplayBuffer, shutdown: c.shutdown, closing: make(chan struct{}),
		exits:    exitLog{path: filepath.Join(dir, exitsFile)},
		starting: map[string]bool{}, processes: map[string]*process{},
	}
}

func (c *container) path(name string) string { return filepath.Join(c.dir, name) }

// save writes the record; mu is held, or nobody else has c yet.
func (c *container) save() error {
	return atomicfile.WriteJSON(c.path(recordFile), c.record, 0o600)
}

// hold opens what keeps pid from being mistaken for a later process.
func (c *container) hold(pid int) error {
	proc, err := os.Open(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		return fmt.Errorf("init %d: %w", pid, err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		_ = proc.Close() // read only
		return fmt.Errorf("init %d: %w", pid, err)
	}
	c.inUse.Lock()
	defer c.inUse.Unlock()
	c.proc, c.pidfd = proc, os.NewFile(uintptr(fd), "pidfd")
	return nil
}

// meet waits for init's answer on conn, which it takes over, and adopts the
// processes that init keeps.
func (c *container) meet(conn *keeper.Conn) error {
	kept, err := conn.Hello()
	if err != nil {
		_ = conn.Close() // the first error tells more
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		for _, k := range kept {
			k.CloseFiles()
		}
		_ = conn.Close() // nothing was asked on it
		return errShutdown
	}
	c.conn = conn
	for _, k := range kept {
		if validateProcessID(k.ID) != nil || c.processes[k.ID] != nil {
			// Its exit is on record already, or no server of ours started it.
			c.forget(k)
			continue
		}
		p := c.newProcess(k, c.openReplay)
		c.processes[k.ID] = p
		c.watch(p)
	}
	c.work.Go(c.watchInit)
	return nil
}

func (c *container) forget(k *keeper.Process) {
	select {
	case <-k.Ended():
		_ = k.Forget() // init has ended: nothing to forget
	default:
	}
	k.CloseFiles()
}

// watchInit notices init's end, and ends an init that broke off by itself:
// nothing in the sandbox can be trusted then.
func (c *container) watchInit() {
	select {
	case <-c.shutdown:
		return
	case <-c.conn.Done():
	}
	select {
	case <-c.shutdown:
		return
	default:
	}
	if !waitPidfd(c.pidfd, time.Second) {
		c.log.Error("init-misbehaved", errors.New("it closed the connection and lives on"))
		_ = signalPidfd(c.pidfd, unix.SIGKILL) // ended meanwhile
		waitPidfd(c.pidfd, destroyTimeout)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = true
}

// openReplay takes up the buffer at path. One that cannot be read is no
// reason to give up the process.
func (c *container) openReplay(path string, size int) *replay.Buffer {
	buffer, err := replay.Open(path, size)
	if err != nil {
		c.log.Error("load-replay", err)
		return replay.New(path, size)
	}
	return buffer
}

// newProcess wraps one that init keeps, with the replay buffers that open gives.
func (c *container) newProcess(k *keeper.Process, open func(string, int) *replay.Buffer) *process {
	p := &process{id: k.ID, tty: k.TTY, kept: k, done: make(chan struct{}), shutdown: c.shutdown}
	out := open(c.path(filepath.Join(replayDir, k.ID+".out")), c.replaySize)
	errBuf := open(c.path(filepath.Join(replayDir, k.ID+".err")), c.replaySize)
	if k.TTY {
		p.stdout, p.stderr = newStream(k.Master, out, c.closing), endedStream(errBuf)
	} else {
		p.stdout, p.stderr = newStream(k.Stdout, out, c.closing), newStream(k.Stderr, errBuf, c.closing)
	}
	return p
}

// endedProcess is one of which only the exit code, and perhaps output that
// nobody took, is left.
func (c *container) endedProcess(e exit) *process {
	p := &process{id: e.ID, status: e.Status, done: make(chan struct{}), shutdown: c.shutdown}
	close(p.done)
	p.stdout = endedStream(c.openReplay(c.path(filepath.Join(replayDir, e.ID+".out")), c.replaySize))
	p.stderr = endedStream(c.openReplay(c.path(filepath.Join(replayDir, e.ID+".err")), c.replaySize))
	return p
}

// watch starts the goroutines that see p through to its end; mu is held.
func (c *container) watch(p *process) {
	for _, s := range p.streams() {
		if s.src != nil {
			c.work.Go(s.pump)
		}
	}
	c.work.Go(func() { c.finish(p) })
}

// terminalGrace is how long a terminal may take to pass on the last output
// after its session has ended; the kernel hangs it up on its own.
const terminalGrace = time.Second

// finish waits for p's end, drains its streams and records the exit code
// before anybody is told.
func (c *container) finish(p *process) {
	select {
	case <-p.kept.Ended():
		p.status = p.kept.Status()
	case <-c.conn.Done():
		select {
		case <-p.kept.Ended(): // just before
			p.status = p.kept.Status()
		case <-c.shutdown:
			return
		default:
			p.status = 128 + int(unix.SIGKILL) // it died with init
		}
	case <-c.shutdown:
		return
	}
	if p.tty {
		timer := time.NewTimer(terminalGrace)
		select {
		case <-p.stdout.eof:
		case <-timer.C:
		}
		timer.Stop()
	}
	for _, s := range p.streams() {
		s.drain()
	}
	for _, s := range p.streams() {
		select {
		case <-s.drained:
		case <-c.shutdown:
			return // init still has the exit code and what is in the pipes
		}
	}
	recorded := c.exits.add(exit{p.id, p.status})
	if recorded != nil {
		c.log.Error("record-exit", recorded, lager.Data{"process": p.id})
	}
	c.mu.Lock()
	c.ended = append(c.ended, p.id)
	c.trim()
	c.mu.Unlock()
	c.log.Info("process-ended", lager.Data{"process": p.id, "status": p.status})
	close(p.done)

	for _, s := range p.streams() {
		select {
		case <-s.eof:
		case <-c.shutdown:
			return
		case <-c.closing:
			return
		}
	}
	if recorded != nil {
		p.kept.CloseFiles() // init keeps the exit code for the next server
		return
	}
	c.forget(p.kept)
}

// maxReplays is how many ended processes may leave output for a client that
// never came.
const maxReplays = 16

// trim forgets the oldest ended processes beyond what is kept; mu is held.
func (c *container) trim() {
	for len(c.ended) > maxExits {
		c.drop(c.ended[0])
	}
	if old := len(c.ended) - maxReplays - 1; old >= 0 {
		if p := c.processes[c.ended[old]]; p != nil {
			p.dropReplay()
		}
	}
}

// drop forgets an ended process; mu is held.
func (c *container) drop(id string) {
	if p := c.processes[id]; p != nil {
		p.dropReplay()
	}
	delete(c.processes, id)
	for i, e := range c.ended {
		if e == id {
			c.ended = append(c.ended[:i:i], c.ended[i+1:]...)
			break
		}
	}
}

func (p *process) dropReplay() {
	for _, s := range p.streams() {
		s.mu.Lock()
		_ = s.replay.Remove() // goes with the container at the latest
		s.mu.Unlock()
	}
}

// closeGrace is how long clients have to take the last words of processes
// that were killed.
const closeGrace = time.Second

// close lets go of everything and waits for the goroutines, but not for
// clients that take nothing. The container goes on unless it has been killed;
// shutdown must be closed or init be dead.
func (c *container) close() {
	c.mu.Lock()
	c.closed = true
	conn := c.conn
	processes := make([]*process, 0, len(c.processes))
	for _, p := range c.processes {
		processes = append(processes, p)
	}
	c.mu.Unlock()
	if conn != nil {
		_ = conn.Close() // closed already if init has ended
	}
	grace := time.NewTimer(closeGrace)
	defer grace.Stop()
	for _, p := range processes {
		select {
		case <-p.done:
			continue
		case <-c.shutdown:
		case <-grace.C:
		}
		break
	}
	c.once.Do(func() { close(c.closing) })
	for _, p := range processes {
		if p.kept != nil {
			p.kept.CloseFiles() // whoever else holds the pipes: we do not read on
		}
	}
	c.work.Wait()
	for _, p := range processes {
		for _, s := range p.streams() {
			s.mu.Lock()
			_ = s.replay.Close() // the file stays
			s.mu.Unlock()
		}
	}
	c.inUse.Lock()
	defer c.inUse.Unlock()
	for _, f := range []**os.File{&c.proc, &c.pidfd} {
		if *f != nil {
			_ = (*f).Close() // read only
			*f = nil
		}
	}
}

// waitPidfd waits until the process has ended and tells whether it has.
func waitPidfd(f *os.File, timeout time.Duration) bool {
	if f == nil {
		return true
	}
	deadline := time.Now().Add(timeout)
	for {
		left := time.Until(deadline)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}, int(max(0, left.Milliseconds())))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || n > 0:
			return err == nil
		case left <= 0:
			return false
		}
	}
}

func signalPidfd(f *os.File, sig unix.Signal) error {
	if f == nil {
		return nil
	}
	if err := unix.PidfdSendSignal(int(f.Fd()), sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}
