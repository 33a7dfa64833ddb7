package rundmc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"code.cloudfoundry.org/garden"
	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/rundmc/keeper"
)

// errShutdown is what Wait answers when the server goes and the process stays.
var errShutdown = errors.New("the server is shutting down; the process goes on")

const maxProcessID = 200

// validateProcessID keeps process ids usable as file names and in URLs.
func validateProcessID(id string) error {
	bad := func(r rune) bool { return r == '/' || !unicode.IsPrint(r) }
	if id == "" || len(id) > maxProcessID || id[0] == '.' || !utf8.ValidString(id) || strings.ContainsFunc(id, bad) {
		return fmt.Errorf("invalid process id %.64q: use 1 to %d bytes of printable characters without '/', not starting with '.'", id, maxProcessID)
	}
	return nil
}

// A process is one that runs in a container, or has run there.
type process struct {
	id   string
	tty  bool
	kept *keeper.Process // nil: known from the record of exits alone

	// stderr never has output of a process with a terminal.
	stdout, stderr *stream

	status   int
	done     chan struct{} // ended; all its output was handed on; status is set
	shutdown <-chan struct{}
}

func (p *process) streams() []*stream { return []*stream{p.stdout, p.stderr} }

func (p *process) hasEnded() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// An attachment is one client's garden.Process.
type attachment struct {
	*process
	onWait func() // called once the exit code was given out
}

var _ garden.Process = attachment{}

func (a attachment) ID() string { return a.id }

// Wait returns the exit code once the process has ended and its output has
// been handed to every attached writer. It may be called repeatedly.
func (a attachment) Wait() (int, error) {
	select {
	case <-a.done:
	default:
		select {
		case <-a.done:
		case <-a.shutdown:
			return 0, errShutdown
		}
	}
	if a.onWait != nil {
		a.onWait()
	}
	return a.status, nil
}

func (a attachment) Signal(s garden.Signal) error {
	sig, ok := map[garden.Signal]unix.Signal{
		garden.SignalTerminate: unix.SIGTERM,
		garden.SignalKill:      unix.SIGKILL,
	}[s]
	if !ok {
		return fmt.Errorf("unknown signal %d: use 0 (terminate) or 1 (kill)", s)
	}
	if a.hasEnded() || a.kept == nil {
		return nil
	}
	return a.kept.Signal(sig)
}

func (a attachment) SetTTY(spec garden.TTYSpec) error {
	if a.hasEnded() || a.kept == nil {
		return nil
	}
	columns, rows := windowSize(&spec)
	return a.kept.Resize(columns, rows)
}

func windowSize(tty *garden.TTYSpec) (columns, rows uint16) {
	if tty == nil || tty.WindowSize == nil || tty.WindowSize.Columns == 0 || tty.WindowSize.Rows == 0 {
		return 80, 24
	}
	return tty.WindowSize.Columns, tty.WindowSize.Rows
}

// attach connects a client's IO. It ends when the process does, or when the
// client's Stdin fails, which is how a lost connection shows.
func (p *process) attach(pio garden.ProcessIO) {
	sinks := []*sink{p.stdout.attach(pio.Stdout), p.stderr.attach(pio.Stderr)}
	if pio.Stdin == nil || p.kept == nil || p.hasEnded() {
		return
	}
	stdin := p.kept.Stdin
	if p.tty {
		stdin = p.kept.Master
	}
	// The client owns this goroutine: it ends when Stdin does.
	go func() {
		err := p.feed(stdin, pio.Stdin)
		if err != nil {
			for i, s := range p.streams() {
				s.detach(sinks[i])
			}
		}
	}()
}

// feed copies the client's input until its end, which closes the process's
// stdin. The error is the client's: its connection is lost.
func (p *process) feed(stdin *os.File, from io.Reader) error {
	if stdin == nil { // closed before a restart
		_, err := io.Copy(io.Discard, from)
		return err
	}
	in := &input{w: stdin}
	_, err := io.Copy(in, from)
	if err == nil && !p.tty {
		_ = p.kept.CloseStdin() // the process, or init, has ended
	}
	return err
}

// An input swallows what the process no longer reads, so that a lost client
// is still noticed.
type input struct {
	w      io.Writer
	closed bool
}

func (in *input) Write(b []byte) (int, error) {
	if !in.closed {
		_, err := in.w.Write(b)
		in.closed = err != nil
	}
	return len(b), nil
}
