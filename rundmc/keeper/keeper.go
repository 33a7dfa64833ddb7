// Package keeper speaks with gdn-init, PID 1 of a sandbox and the keeper of
// its processes.
//
// A Conn starts processes and tells when they end. Init holds the far ends of
// every pipe and each exit status until Forget, so that a new Conn, made by a
// restarted server, finds all of it again. Nothing init says is trusted
// beyond its own container: messages are bounded, descriptors are checked.
package keeper

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone means that init, and so every process of the sandbox, has ended.
var ErrGone = errors.New("the container's init has ended")

// replyTimeout bounds each wait for init's answer. Init never blocks, so only
// a stopped or hostile one is that slow.
const replyTimeout = 30 * time.Second

// Listen makes the socket that init inherits. The caller closes the file once
// the runtime has it. Paths of any length work.
func Listen(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), path)
	err = viaDir(path, func(short string) error {
		return unix.Bind(fd, &unix.SockaddrUnix{Name: short})
	})
	if err == nil {
		err = unix.Listen(fd, 8)
	}
	if err != nil {
		_ = f.Close() // the first error tells more
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return f, nil
}

// viaDir calls f with a path that fits a socket address, however long the
// real one is.
func viaDir(path string, f func(short string) error) error {
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return f("/proc/self/fd/" + strconv.Itoa(dir) + "/" + filepath.Base(path))
}

// A Conn is the server's connection to one init. Its methods may be called
// concurrently.
type Conn struct {
	sock *net.UnixConn
	done chan struct{} // closed when the read loop has ended

	mu        sync.Mutex
	err       error // why the connection ended
	next      uint64
	processes map[uint64]*Process
	waiting   map[uint64]chan answer // token -> who waits for HELD or STARTED
	listing   chan int               // number of processes that init announced
	listed    []*Process
}

type answer struct {
	reply reply
	fds   []int
}

// Dial connects to the init that listens, or will, at path, and greets it.
// Call Hello before all else. Dialling before init runs saves waiting for it
// afterwards: the greeting is there when it looks.
func Dial(path string) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close() // FileConn duplicates it
	err = viaDir(path, func(short string) error {
		return unix.Connect(fd, &unix.SockaddrUnix{Name: short})
	})
	switch {
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOENT):
		return nil, ErrGone
	case err != nil:
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	sock, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	c := &Conn{
		sock:      sock.(*net.UnixConn),
		done:      make(chan struct{}),
		processes: map[uint64]*Process{},
		waiting:   map[uint64]chan answer{},
		listing:   make(chan int, 1),
	}
	go c.read()
	if err := c.send(&request{kind: msgHello}, nil); err != nil {
		_ = c.Close() // the first error tells more
		return nil, err
	}
	return c, nil
}

// Close ends the connection and waits for its goroutine. Processes and init
// go on.
func (c *Conn) Close() error {
	err := c.sock.Close()
	<-c.done
	return err
}

// Done is closed when the connection has ended, by Close or with init.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Hello waits for init's answer to the greeting and returns the processes it
// keeps. It fails with ErrGone if init ends before it answers. Call it once.
func (c *Conn) Hello() ([]*Process, error) {
	deadline := time.NewTimer(replyTimeout)
	defer deadline.Stop()
	select {
	case <-c.listing:
		c.mu.Lock()
		defer c.mu.Unlock()
		listed := c.listed
		c.listed = nil
		return listed, nil
	case <-c.done:
		return nil, ErrGone
	case <-deadline.C:
		return nil, fmt.Errorf("init did not answer within %s", replyTimeout)
	}
}

func (c *Conn) send(r *request, fds []int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	// Init never blocks; only a frozen one lets the socket fill up.
	_ = c.sock.SetWriteDeadline(time.Now().Add(replyTimeout)) // closed: the write says so
	_, _, err := c.sock.WriteMsgUnix(r.bytes(), oob, nil)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET), errors.Is(err, net.ErrClosed):
		return ErrGone
	default:
		return fmt.Errorf("send to init: %w", err)
	}
}

// maxKept is how many processes init may say that it keeps: each costs the
// server four descriptors.
const maxKept = 16384

// read dispatches what init says until the connection ends.
func (c *Conn) read() {
	defer close(c.done)
	greeted := false
	buf, oob := make([]byte, 512), make([]byte, unix.CmsgSpace(4*maxFDs))
	remaining := -1 // PROCESS messages still to come; -1 before WELCOME
	for {
		n, oobn, flags, _, err := c.sock.ReadMsgUnix(buf, oob)
		var fds []int
		if err == nil {
			fds, err = rights(oob[:oobn])
		}
		if err == nil && n == 0 {
			err = io.EOF
		}
		var r reply
		if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
			err = errors.New("message too long")
		}
		if err == nil {
			r, err = parseReply(buf[:n])
		}
		if err == nil {
			switch {
			case r.kind == msgWelcome && greeted:
				err = errors.New("init greets a second time")
			case r.kind == msgWelcome && r.state != version:
				err = fmt.Errorf("init speaks version %d, not %d", r.state, version)
			case r.kind == msgWelcome && r.status > maxKept:
				err = fmt.Errorf("init says that it keeps %d processes: at most %d", r.status, maxKept)
			case r.kind == msgProcess && remaining <= 0:
				err = errors.New("init tells of a process that it did not announce")
			}
		}
		if err != nil {
			closeAll(fds)
			_ = c.sock.Close() // ended already, or by us, or we cannot talk to it
			c.lose(err)
			return
		}
		switch r.kind {
		case msgWelcome:
			greeted = true
			remaining = int(r.status)
		case msgProcess:
			c.adopt(r, fds)
			fds = nil
			remaining--
		case msgHeld, msgStarted:
			fds = c.answer(r, fds)
		case msgExited:
			c.mu.Lock()
			p := c.processes[r.token]
			c.mu.Unlock()
			if p != nil {
				p.end(int(r.status))
			}
		}
		closeAll(fds)
		if remaining == 0 {
			remaining = -1
			c.listing <- 0
		}
	}
}

// lose tells everyone that waits that the connection is no more.
func (c *Conn) lose(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	for token, ch := range c.waiting {
		delete(c.waiting, token)
		close(ch)
	}
}

func (c *Conn) answer(r reply, fds []int) []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch, ok := c.waiting[r.token]
	if !ok {
		// Asked for by a server that is gone: a failed start is an end.
		if p := c.processes[r.token]; p != nil && r.stage != 0 {
			p.end(255)
		}
		return fds
	}
	delete(c.waiting, r.token)
	ch <- answer{r, fds} // has room for one
	return nil
}

func rights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var all []int
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // other control data
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
		}
		all = append(all, fds...)
	}
	return all, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd) // nothing was written
	}
}

// checkFDs returns an error unless the descriptors are what they should be: a
// hostile init could send anything.
func checkFDs(fds []int, pidfd, tty bool, streams int) error {
	want := streams
	if pidfd {
		want++
	}
	if len(fds) != want {
		return fmt.Errorf("init sent %d descriptors instead of %d", len(fds), want)
	}
	for i, fd := range fds {
		if pidfd && i == 0 {
			if err := checkPidfd(fd); err != nil {
				return err
			}
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return fmt.Errorf("check descriptor: %w", err)
		}
		kind := st.Mode & unix.S_IFMT
		ptmx := kind == unix.S_IFCHR && st.Rdev == unix.Mkdev(5, 2)
		if tty && !ptmx || !tty && kind != unix.S_IFIFO {
			return fmt.Errorf("init sent a descriptor of mode %o", st.Mode)
		}
	}
	return nil
}

// checkPidfd returns an error unless fd is the pidfd of a process in a pid
// namespace below the server's. Init can come by others, the server's own
// among them, and would have it signalled or limited in a process's place.
func checkPidfd(fd int) error {
	info, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return fmt.Errorf("check descriptor: %w", err)
	}
	var isPidfd bool
	for line := range strings.Lines(string(info)) {
		key, pids, _ := strings.Cut(line, ":")
		fields := strings.Fields(pids)
		switch {
		case key == "Pid":
			isPidfd = true
		case key == "NSpid" && len(fields) == 1 && fields[0] != "-1" && fields[0] != "0": // -1: ended; 0: not visible here
			return fmt.Errorf("init sent the pidfd of process %s outside the container", fields[0])
		}
	}
	if !isPidfd {
		return errors.New("init sent another descriptor instead of a pidfd")
	}
	return nil
}
