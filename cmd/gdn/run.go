package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"code.cloudfoundry.org/garden"
)

// What "gdn run", "exec" and "attach" exit with when the process gave no
// exit code.
const (
	exitTrouble     = 125 // gdn or the server met a problem
	exitNotFound    = 127 // the command is not in the image
	exitInterrupted = 130 // a signal came before the process was there
)

// processOptions describe a process to start.
type processOptions struct {
	terminalOptions
	User string `long:"user" short:"u" value-name:"USER" description:"Run as this user, a name or UID[:GID] (default: root)"`
	Dir  string `long:"dir" short:"w" value-name:"DIR" description:"Start in this directory (default: the user's home)"`
}

func (o processOptions) spec(command, env []string) garden.ProcessSpec {
	s := garden.ProcessSpec{Path: command[0], Args: command[1:], User: o.User, Dir: o.Dir, Env: env}
	if o.TTY {
		s.TTY = &garden.TTYSpec{WindowSize: windowSize()}
	}
	return s
}

// terminalType adds this terminal's TERM to env, unless env has one.
func (o processOptions) terminalType(env []string) []string {
	term := os.Getenv("TERM")
	given := slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, "TERM=") })
	if !o.TTY || term == "" || given {
		return env
	}
	return append(env, "TERM="+term)
}

type runCommand struct {
	clientOptions
	containerOptions
	processOptions
	Remove bool `long:"rm" description:"Destroy the container at the end"`
	Args   struct {
		Command []string `positional-arg-name:"COMMAND" required:"1"`
	} `positional-args:"yes"`
}

// Execute implements flags.Commander.
func (c *runCommand) Execute([]string) error {
	s := newSession(c.clientOptions, c.terminalOptions)
	defer s.close()
	server := c.connect()

	container := c.containerOptions.spec()
	container.Env = c.terminalType(container.Env)
	handle, err := server.Create(container)
	if err != nil {
		return failure{c.explain(err), exitTrouble}
	}
	destroy := func() error { return ignoreMissing(server.Destroy(handle)) }

	if s.interrupted() {
		if err := destroy(); err != nil {
			return failure{c.explain(err), exitInterrupted}
		}
		return exitCode(exitInterrupted)
	}
	code, err := s.follow(handle, func(io garden.ProcessIO) (garden.Process, error) {
		return server.Run(handle, c.processOptions.spec(c.Args.Command, nil), io)
	})
	_, unstarted := errors.AsType[startError](err)
	switch {
	case c.Remove || unstarted:
		err = errors.Join(err, c.explain(destroy()))
	case c.Handle == "":
		fmt.Fprintf(os.Stderr, "gdn: container %s stays: remove it with \"gdn rm %s\"\n", handle, handle)
	}
	return outcome(code, err)
}

// ignoreMissing takes a container that somebody else destroyed as destroyed.
func ignoreMissing(err error) error {
	if _, ok := errors.AsType[garden.ContainerNotFoundError](err); ok {
		return nil
	}
	return err
}

// outcome is the error that makes gdn exit as the process did.
func outcome(code int, err error) error {
	if _, ok := errors.AsType[garden.ExecutableNotFoundError](err); ok {
		return failure{err, exitNotFound}
	}
	if err != nil {
		return failure{err, exitTrouble}
	}
	if code != 0 {
		return exitCode(code)
	}
	return nil
}

type execCommand struct {
	clientOptions
	processOptions
	Env  []variable `long:"env" short:"e" value-name:"NAME=VALUE" description:"Set a variable for this process. Can be given again"`
	Args struct {
		Handle  string   `positional-arg-name:"HANDLE" required:"yes"`
		Command []string `positional-arg-name:"COMMAND" required:"1"`
	} `positional-args:"yes"`
}

// Execute implements flags.Commander.
func (c *execCommand) Execute([]string) error {
	command := c.command()
	if len(command) == 0 {
		return failure{errors.New("no command to run: see \"gdn exec --help\""), exitTrouble}
	}
	s := newSession(c.clientOptions, c.terminalOptions)
	defer s.close()
	code, err := s.follow(c.Args.Handle, func(io garden.ProcessIO) (garden.Process, error) {
		return c.connect().Run(c.Args.Handle, c.spec(command, c.terminalType(texts(c.Env))), io)
	})
	return outcome(code, err)
}

// command is what to run, without the "--" that may stand before it.
func (c *execCommand) command() []string {
	if c.Args.Command[0] == "--" {
		return c.Args.Command[1:]
	}
	return c.Args.Command
}

type attachCommand struct {
	clientOptions
	terminalOptions
	Args struct {
		Handle  string `positional-arg-name:"HANDLE"`
		Process string `positional-arg-name:"PROCESS"`
	} `positional-args:"yes" required:"yes"`
}

// Execute implements flags.Commander.
func (c *attachCommand) Execute([]string) error {
	s := newSession(c.clientOptions, c.terminalOptions)
	defer s.close()
	code, err := s.follow(c.Args.Handle, func(io garden.ProcessIO) (garden.Process, error) {
		return c.connect().Attach(c.Args.Handle, c.Args.Process, io)
	})
	return outcome(code, err)
}
