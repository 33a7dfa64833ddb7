package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"code.cloudfoundry.org/garden"
)

// terminalOptions say what of this terminal a process gets.
type terminalOptions struct {
	Interactive bool `long:"interactive" short:"i" description:"Pass standard input on. It is text for the Garden protocol: bytes that are not UTF-8 change on the way"`
	TTY         bool `long:"tty" short:"t" description:"Give the process a terminal"`
}

// A session is one process followed by one person: output to here, input and
// signals to there. It holds the signals from its start on, so that none ends
// gdn between two steps and leaves a container or a raw terminal behind.
type session struct {
	clientOptions
	terminalOptions
	signals chan os.Signal
	resized chan os.Signal
	ended   chan struct{} // closed by close
}

func newSession(server clientOptions, terminal terminalOptions) *session {
	s := &session{
		clientOptions:   server,
		terminalOptions: terminal,
		signals:         make(chan os.Signal, 4),
		resized:         make(chan os.Signal, 1),
		ended:           make(chan struct{}),
	}
	signal.Notify(s.signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	signal.Notify(s.resized, syscall.SIGWINCH)
	signal.Ignore(syscall.SIGPIPE) // a write error tells, and ends the process inside
	return s
}

func (s *session) close() {
	signal.Stop(s.signals)
	signal.Stop(s.resized)
	close(s.ended)
}

// interrupted tells whether a signal is waiting, and takes it.
func (s *session) interrupted() bool {
	select {
	case <-s.signals:
		return true
	default:
		return false
	}
}

// startError wraps the reason why there is no process.
type startError struct{ error }

func (e startError) Unwrap() error { return e.error }

// follow starts a process, stays with it and returns its exit code. The
// terminal is as before when it returns.
func (s *session) follow(handle string, start func(garden.ProcessIO) (garden.Process, error)) (int, error) {
	restore := func() {}
	if s.TTY && s.Interactive {
		var err error
		if restore, err = rawTerminal(); err != nil {
			return 0, startError{err}
		}
	}
	defer restore()

	process, err := start(s.streams())
	if err != nil {
		return 0, startError{s.explain(err)}
	}
	type verdict struct {
		code int
		err  error
	}
	exited := make(chan verdict, 1)
	go func() {
		code, err := process.Wait()
		exited <- verdict{code, err}
	}()
	if s.TTY {
		s.resized <- syscall.SIGWINCH // the size may have changed since it was asked, or never been told
	}
	for asked := 0; ; {
		select {
		case v := <-exited:
			return v.code, lost(v.err, handle, process.ID())
		case <-s.resized:
			go s.resize(handle, process.ID())
		case sig := <-s.signals:
			asked++
			if asked > 2 {
				return 0, fmt.Errorf("%v: left process %s of container %s behind: the server does not answer", sig, process.ID(), handle)
			}
			go s.forward(handle, process.ID(), asked == 2)
		}
	}
}

// streams connects the process's streams with ours. Without -i it reads
// the end of its input at once.
func (s *session) streams() garden.ProcessIO {
	var input io.Reader = strings.NewReader("")
	if s.Interactive {
		input = &wholeRunes{from: os.Stdin}
	}
	broken := sync.OnceFunc(func() {
		select {
		case s.signals <- syscall.SIGPIPE:
		case <-s.ended:
		}
	})
	return garden.ProcessIO{
		Stdin:  input,
		Stdout: &outlet{to: os.Stdout, broken: broken},
		Stderr: &outlet{to: os.Stderr, broken: broken},
	}
}

// forward asks the process to end, or kills it. An error is not reported:
// either the process has ended, or Wait is about to say that the server has.
func (s *session) forward(handle, process string, kill bool) {
	how := garden.SignalTerminate
	if kill {
		how = garden.SignalKill
	}
	_ = s.control(handle, process, func(p garden.Process) error { return p.Signal(how) })
}

// resize tells the process the size of this terminal. As in forward, an error
// is no news.
func (s *session) resize(handle, process string) {
	size := windowSize()
	if size == nil {
		return
	}
	_ = s.control(handle, process, func(p garden.Process) error {
		return p.SetTTY(garden.TTYSpec{WindowSize: size})
	})
}

// lost explains why there is no exit code.
func lost(err error, handle, process string) error {
	if err == nil {
		return nil
	}
	text := strings.TrimPrefix(err.Error(), "connection: ")
	if strings.HasSuffix(text, io.EOF.Error()) || strings.HasSuffix(text, syscall.ECONNRESET.Error()) {
		return fmt.Errorf("the server went away, process %s of container %s did not: follow it again with \"gdn attach %[2]s %[1]s\"", process, handle)
	}
	return errors.New(strings.TrimPrefix(text, "process error: "))
}

// An outlet passes output on. When nobody reads it any more it calls broken,
// and swallows the rest so that the process does not hang.
type outlet struct {
	to     io.Writer
	broken func()
	shut   bool
}

func (o *outlet) Write(p []byte) (int, error) {
	if !o.shut {
		if _, err := o.to.Write(p); err != nil {
			o.shut = true
			o.broken()
		}
	}
	return len(p), nil
}
