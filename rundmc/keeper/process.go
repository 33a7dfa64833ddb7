package keeper

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Start asks for one process. All ids are the container's, but for PipeUID
// and PipeGID.
type Start struct {
	ID   string // at most 255 bytes
	Args []string
	Env  []string
	Dir  string // absolute; made, as the user, if absent

	UID, GID uint32
	Groups   []uint32

	// Capability masks. Init cuts them to what the sandbox has.
	Bounding, Inheritable, Permitted uint64

	TTY           bool
	Columns, Rows uint16

	// PipeUID and PipeGID are the host's ids for UID and GID: they own the
	// pipes, so that the process can reopen /dev/stdout.
	PipeUID, PipeGID int

	// Limit, if not nil, is called with the process's pid on the host before
	// it executes; an error kills it.
	Limit func(pid int) error
}

// A Process is one that init keeps. Its files are the caller's to close; Conn
// does not use them after it handed them out.
type Process struct {
	ID  string
	TTY bool

	// Master is the terminal. Without a terminal the other three are set;
	// Stdin is nil once it has been closed.
	Master, Stdin, Stdout, Stderr *os.File

	conn  *Conn
	token uint64
	pidfd *os.File // nil if it had ended before we could hold it

	once   sync.Once
	ended  chan struct{}
	status int
}

// Start runs a process and returns once it executes. The error is a
// *StartError if init could not do it, ErrGone if init has ended.
func (c *Conn) Start(s Start) (_ *Process, err error) {
	q, payload, err := encode(s)
	if err != nil {
		return nil, err
	}
	memfd, err := unix.MemfdCreate("gdn-start", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make memfd: %w", err)
	}
	defer unix.Close(memfd)
	for rest := payload; len(rest) > 0; {
		n, err := unix.Write(memfd, rest)
		if err != nil {
			return nil, fmt.Errorf("write memfd: %w", err)
		}
		rest = rest[n:]
	}
	p := &Process{ID: s.ID, TTY: s.TTY, conn: c, ended: make(chan struct{})}
	defer func() {
		if err != nil {
			p.CloseFiles()
		}
	}()
	fds := []int{memfd}
	if !s.TTY {
		pipes, err := p.makePipes(s.PipeUID, s.PipeGID)
		if err != nil {
			return nil, err
		}
		fds = append(fds, pipes...)
		defer closeAll([]int{pipes[0], pipes[3], pipes[5]}) // the process's ends
	}

	ch := make(chan answer, 2)
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return nil, ErrGone
	}
	c.next++
	p.token = c.next
	q.token = p.token
	c.waiting[p.token] = ch
	c.processes[p.token] = p
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.waiting, p.token)
		if err != nil {
			delete(c.processes, p.token)
		}
	}()

	if err := c.send(q, fds); err != nil {
		return nil, err
	}
	a, err := wait(ch)
	if err == nil && a.reply.kind == msgHeld {
		a, err = c.release(p, a, ch, s.Limit)
	}
	if err != nil {
		return nil, err
	}
	if a.reply.stage != 0 {
		closeAll(a.fds)
		return nil, &StartError{Stage(a.reply.stage), unix.Errno(a.reply.errno)}
	}
	streams := 0
	if s.TTY {
		streams = 1
	}
	return p, p.take(a.fds, a.reply.state, streams)
}

func wait(ch chan answer) (answer, error) {
	deadline := time.NewTimer(replyTimeout)
	defer deadline.Stop()
	select {
	case a, ok := <-ch:
		if !ok {
			return answer{}, ErrGone
		}
		return a, nil
	case <-deadline.C:
		return answer{}, fmt.Errorf("init did not answer within %s", replyTimeout)
	}
}

// release sets the limits of a held process and lets it execute.
func (c *Conn) release(p *Process, held answer, ch chan answer, limit func(int) error) (answer, error) {
	defer closeAll(held.fds)
	if err := checkFDs(held.fds, true, false, 0); err != nil {
		return answer{}, err
	}
	pidfd := held.fds[0]
	pid, err := pidOf(pidfd)
	if err == nil {
		err = limit(pid)
	}
	if err != nil {
		_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0) // it waits for us and does nothing else
		return answer{}, err
	}
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return answer{}, ErrGone
	}
	c.waiting[p.token] = ch
	c.mu.Unlock()
	if err := c.send(&request{kind: msgGo, token: p.token}, nil); err != nil {
		return answer{}, err
	}
	return wait(ch)
}

// pidOf reads the process's pid, as this process sees it, from its pidfd.
func pidOf(pidfd int) (int, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", pidfd))
	if err != nil {
		return 0, err
	}
	return parsePid(raw)
}

// take checks and keeps the descriptors that came with a reply.
func (p *Process) take(fds []int, state uint32, streams int) error {
	hasPidfd := state != stateEnded
	if err := checkFDs(fds, hasPidfd, p.TTY, streams); err != nil {
		closeAll(fds)
		return err
	}
	if hasPidfd {
		p.pidfd = os.NewFile(uintptr(fds[0]), "pidfd")
		fds = fds[1:]
	}
	for _, fd := range fds {
		_ = unix.SetNonblock(fd, true) // a pipe or terminal takes it
	}
	switch {
	case p.TTY && len(fds) == 1:
		p.Master = os.NewFile(uintptr(fds[0]), "terminal")
	case len(fds) == 3:
		p.Stdin = os.NewFile(uintptr(fds[0]), "stdin")
		fds = fds[1:]
		fallthrough
	case len(fds) == 2:
		p.Stdout = os.NewFile(uintptr(fds[0]), "stdout")
		p.Stderr = os.NewFile(uintptr(fds[1]), "stderr")
	}
	return nil
}

// makePipes returns six descriptors, read and write end of each stream, for
// init and the process; the server's own copies go into p.
func (p *Process) makePipes(uid, gid int) (fds []int, err error) {
	defer func() {
		if err != nil {
			closeAll(fds)
			fds = nil
		}
	}()
	for i, at := range []**os.File{&p.Stdin, &p.Stdout, &p.Stderr} {
		var pair [2]int
		if err := unix.Pipe2(pair[:], unix.O_CLOEXEC); err != nil {
			return fds, fmt.Errorf("make pipe: %w", err)
		}
		fds = append(fds, pair[0], pair[1])
		if err := unix.Fchown(pair[0], uid, gid); err != nil {
			return fds, fmt.Errorf("give pipe to %d:%d: %w", uid, gid, err)
		}
		ours := pair[1] // stdin: the write end
		if i > 0 {
			ours = pair[0]
		}
		if err := unix.SetNonblock(ours, true); err != nil {
			return fds, fmt.Errorf("set pipe non-blocking: %w", err)
		}
		*at = os.NewFile(uintptr(ours), [...]string{"stdin", "stdout", "stderr"}[i])
	}
	return fds, nil
}

// adopt makes a Process of what init says it keeps.
func (c *Conn) adopt(r reply, fds []int) {
	p := &Process{
		ID:    r.processID(),
		TTY:   r.flags&flagTTY != 0,
		conn:  c,
		token: r.token,
		ended: make(chan struct{}),
	}
	streams := 2
	if p.TTY {
		streams = 1
	} else if r.flags&flagStdinOpen != 0 {
		streams = 3
	}
	if r.stage != 0 { // it never came to be, and nobody waits for it
		closeAll(fds)
		return
	}
	if err := p.take(fds, r.state, streams); err != nil {
		return // a lie: this process stays unknown
	}
	if r.state == stateEnded {
		p.end(int(r.status))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next = max(c.next, r.token)
	c.processes[r.token] = p
	c.listed = append(c.listed, p)
}

func (p *Process) end(status int) {
	p.once.Do(func() {
		p.status = status
		close(p.ended)
	})
}

// Ended is closed when the process has ended and its status is known. It
// stays open if the connection is lost first.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Status is the exit code, or 128 + signal. Valid once Ended is closed.
func (p *Process) Status() int { return p.status }

// Signal sends sig to the process. One that has ended takes none: no error.
func (p *Process) Signal(sig unix.Signal) error {
	if p.pidfd == nil {
		return nil
	}
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return nil // closed: it has ended
	}
	var sent error
	if err := conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return nil // closed: it has ended
	}
	if errors.Is(sent, unix.ESRCH) {
		return nil
	}
	return sent
}

// CloseStdin lets the process read end of file. Without effect on a terminal.
func (p *Process) CloseStdin() error {
	if p.Stdin == nil {
		return nil
	}
	_ = p.Stdin.Close() // a pipe: nothing to flush
	return p.conn.send(&request{kind: msgCloseStdin, token: p.token}, nil)
}

// Forget lets init close its ends of the streams and drop the exit status.
// Only for a process that has ended.
func (p *Process) Forget() error {
	p.conn.mu.Lock()
	delete(p.conn.processes, p.token)
	p.conn.mu.Unlock()
	return p.conn.send(&request{kind: msgForget, token: p.token}, nil)
}

// CloseFiles closes the server's copies of the process's descriptors.
func (p *Process) CloseFiles() {
	for _, f := range []*os.File{p.Master, p.Stdin, p.Stdout, p.Stderr, p.pidfd} {
		if f != nil {
			_ = f.Close() // may be closed already
		}
	}
}

// Resize sets the terminal's size. Without effect where there is none.
func (p *Process) Resize(columns, rows uint16) error {
	if p.Master == nil {
		return nil
	}
	conn, err := p.Master.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = conn.Control(func(fd uintptr) {
		set = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows})
	})
	return errors.Join(err, set)
}
